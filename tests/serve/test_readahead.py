"""What is read ahead comes with few requests, those first that bring what is wanted first."""

from __future__ import annotations

from vfsd.model.entry import Chunk, Place
from vfsd.model.ids import ChunkId
from vfsd.serve.readahead import TOGETHER, in_order

KIB = 1024


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
    assert all(run[-1].place.offset + run[-1].place.length - run[0].place.offset <= TOGETHER for run in found)
    assert [run[0].place.offset for run in found] == sorted(run[0].place.offset for run in found)
    assert len(found) == 3
