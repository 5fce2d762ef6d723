"""What is read ahead comes with few requests, those first that bring what is wanted first."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from vfsd.model.entry import Chunk, Place, Ref
from vfsd.model.ids import ChunkId, Digest
from vfsd.model.node import Node
from vfsd.repo.chunklist import Content
from vfsd.serve.loads import Loads
from vfsd.serve.readahead import TOGETHER, Readahead, Reader, in_order

KIB = 1024
MIB = 1024 * KIB


def chunk(container: int, offset: int, size: int = 16 * KIB) -> Chunk:
    return Chunk(ChunkId(b"%d %d" % (container, offset)), size, Place(bytes([container]) * 16, offset, size + 1))


def test_a_file_in_pieces_is_a_request_for_each_pack_that_they_lie_in() -> None:
    # Every fifth chunk was replaced, by turns in two later versions.
    wanted = [chunk(1 + at % 2 if at % 5 == 0 else 0, at * 20 * KIB) for at in range(100)]
    found = in_order(wanted)
    assert sorted(one.id for run in found for one in run) == sorted(one.id for one in wanted)
    assert len(found) == 3
    assert found[0][0] is wanted[0]


def test_no_request_is_larger_than_it_should_be() -> None:
    found = in_order([chunk(0, at * 20 * KIB) for at in range(1000)])
    assert all(run[-1].place.offset - run[0].place.offset <= TOGETHER for run in found)
    assert [run[0].place.offset for run in found] == sorted(run[0].place.offset for run in found)
    assert len(found) == 3


def test_requests_begin_at_round_places() -> None:
    found = in_order([chunk(0, 3 * MIB + at * 20 * KIB) for at in range(1000)])
    assert [run[0].place.offset // TOGETHER for run in found] == [0, 1, 2]
    assert all(run[0].place.offset % TOGETHER < 20 * KIB for run in found[1:])


class NoNodes:
    def get(self, ref: Ref) -> Node:
        raise AssertionError(ref)


async def ahead(content: Content, asked: Sequence[tuple[int, int]]) -> list[int]:
    """Where in the pack what is loaded ends, after each of some reads: (offset, size)."""
    fetched: list[Chunk] = []
    found: list[int] = []
    reader = Reader()
    for offset, size in asked:
        async with trio.open_nursery() as nursery:
            loaded = {chunk.id for chunk in fetched}
            Readahead(
                NoNodes(), lambda chunks, loaded=loaded: [one for one in chunks if one.id not in loaded],
                fetched.extend, Loads(), nursery.start_soon,
            ).asked(reader, content, offset, size)  # fmt: skip
        found.append(max((one.place.offset for one in fetched), default=0))
    return found


async def test_who_asks_for_much_at_the_beginning_has_more_loaded_at_once() -> None:
    chunks = tuple(chunk(0, at * 20 * KIB, 20 * KIB - 1) for at in range(5000))
    content = Content(sum(one.size for one in chunks), Digest(bytes(32)), chunks)
    assert 1 * MIB < (await ahead(content, [(0, 4 * KIB)]))[0] < 3 * MIB
    [first, _, third] = await ahead(content, [(0, MIB), (MIB, MIB), (2 * MIB, MIB)])
    assert 16 * MIB < first < 24 * MIB
    assert third > 64 * MIB
    [jumped, after] = await ahead(content, [(40 * MIB, MIB), (41 * MIB, MIB)])
    assert jumped == 0
    assert 43 * MIB < after < 46 * MIB


async def test_a_large_window_ends_at_a_round_place() -> None:
    chunks = tuple(chunk(0, at * 20 * KIB, 20 * KIB - 1) for at in range(5000))
    content = Content(sum(one.size for one in chunks), Digest(bytes(32)), chunks)
    [end] = await ahead(content, [(0, MIB)])
    assert TOGETHER - end % TOGETHER <= 20 * KIB
