"""Cutting around edits gives what cutting everything anew gives, and reads little."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyfastcdc import FastCDC

from tests.repo.parts import SMALL_CHUNKS, Blobs, boundary_bits
from vfsd.model.commit import StoreFormat
from vfsd.model.ids import hash_bytes
from vfsd.repo import chunker
from vfsd.repo.chunker import NOTHING, Chunker
from vfsd.repo.chunklist import Content, iter_chunks
from vfsd.repo.content import read_content

CHUNKER = Chunker(SMALL_CHUNKS)


class Bytes:
    """A Reader over bytes that counts what it gives."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.given = 0

    def __call__(self, offset: int, size: int) -> bytes:
        part = self.data[offset : offset + size]
        self.given += len(part)
        return part


def whole(blobs: Blobs, content: Content) -> bytes:
    return b"".join(blobs.chunk(chunk) for _, chunk in iter_chunks(blobs, content))


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 300, 1024, 1025, 5_000, 60_000])
def test_what_was_cut_reads_back_and_no_chunk_is_larger_than_allowed(size: int) -> None:
    blobs, data = Blobs(), random.Random(size).randbytes(size)
    content = CHUNKER.cut_bytes(data, blobs, blobs)
    assert content.size == size
    assert whole(blobs, content) == data
    sizes = [chunk.size for _, chunk in iter_chunks(blobs, content)]
    assert all(64 <= size <= 1024 for size in sizes[:-1])
    assert max(sizes, default=0) <= 1024


def test_an_empty_file_has_no_chunks() -> None:
    assert CHUNKER.cut_bytes(b"", Blobs(), Blobs()) == NOTHING


@pytest.mark.parametrize("size", [0, 64, 65, 10_000, 300_000])
def test_a_stream_is_cut_like_bytes_at_hand(size: int) -> None:
    blobs, data = Blobs(), random.Random(size).randbytes(size)
    assert CHUNKER.cut_reader(Bytes(data), size, blobs, blobs) == CHUNKER.cut_bytes(data, blobs, blobs)


@pytest.mark.parametrize("size", [4096, 4097, 10_000, 300_000])
def test_a_file_is_cut_in_runs_as_it_would_be_whole(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunker, "RUN", 4096)
    blobs, data = Blobs(), random.Random(size).randbytes(size)
    content = CHUNKER.cut_reader(Bytes(data), size, blobs, blobs)
    whole_cut = [hash_bytes(piece.data) for piece in FastCDC(256, min_size=64, max_size=1024).cut_buf(data)]
    assert [chunk.id for _, chunk in iter_chunks(blobs, content)] == whole_cut


def test_a_file_that_is_shorter_than_it_was_ends_where_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunker, "RUN", 4096)
    blobs, data = Blobs(), random.Random(3).randbytes(9_000)
    assert whole(blobs, CHUNKER.cut_reader(Bytes(data), 50_000, blobs, blobs)) == data


def test_inserting_a_byte_at_the_start_leaves_most_chunks_as_they_were() -> None:
    blobs, data = Blobs(), random.Random(1).randbytes(100_000)
    old = {chunk.id for _, chunk in iter_chunks(blobs, CHUNKER.cut_bytes(data, blobs, blobs))}
    new = {chunk.id for _, chunk in iter_chunks(blobs, CHUNKER.cut_bytes(b"x" + data, blobs, blobs))}
    assert len(new - old) <= 5 < len(old)


def test_a_stores_chunks_have_the_sizes_of_its_format() -> None:
    blobs, data = Blobs(), random.Random(2).randbytes(200_000)
    large = StoreFormat(id="0" * 32, created=0, chunk_min=1024, chunk_avg=4096, chunk_max=16384)
    count = len(list(iter_chunks(blobs, Chunker(large).cut_bytes(data, blobs, blobs))))
    assert 200_000 / 16384 <= count <= 200_000 / 1024


@settings(max_examples=150)
@given(
    seed=st.integers(0, 1 << 32),
    size=st.integers(0, 20_000),
    new_size=st.none() | st.integers(0, 25_000),
    edits=st.lists(st.tuples(st.integers(0, 20_000), st.integers(1, 2_500), st.booleans()), max_size=6),
    repetitive=st.booleans(),
    bits=st.sampled_from([1, 2, 7]),
)
def test_cutting_around_edits_equals_cutting_anew(
    seed: int, size: int, new_size: int | None, edits: list[tuple[int, int, bool]], repetitive: bool, bits: int
) -> None:
    """An edit is (offset, length, whether the bytes differ from the old ones); a new size cuts off or adds zeros."""
    dice = random.Random(seed)
    old = dice.randbytes(37) * (size // 37) if repetitive else dice.randbytes(size)
    new = bytearray(old)
    if new_size is not None:
        new[new_size:] = bytes(max(0, new_size - len(old)))
    dirty: list[tuple[int, int]] = []
    for offset, length, differs in sorted(edits):
        start = max(offset, dirty[-1][1] if dirty else 0)
        end = min(start + length, len(new))
        if start < end:
            dirty.append((start, end))
            if differs:
                new[start:end] = dice.randbytes(end - start)
    blobs = Blobs()
    with boundary_bits(bits):
        base = CHUNKER.cut_bytes(old, blobs, blobs)
        got = CHUNKER.recut(base, dirty, Bytes(bytes(new)), len(new), blobs, blobs)
        assert got == CHUNKER.cut_bytes(bytes(new), blobs, blobs)
        assert whole(blobs, got) == new


def test_a_block_written_again_unchanged_before_another_edit_loses_nothing() -> None:
    """Whole parts of the old list are taken over between two edits; cutting goes on behind them, not before."""
    dice = random.Random(3)
    old = dice.randbytes(30_000)
    blobs = Blobs()
    with boundary_bits(2):
        base = CHUNKER.cut_bytes(old, blobs, blobs)
        found = list(iter_chunks(blobs, base))
        for start, chunk in found[:40]:
            for later, _ in found[45:]:
                new = old[:later] + b"changed" + old[later + 7 :]
                dirty = [(start, start + chunk.size), (later, later + 7)]
                got = CHUNKER.recut(base, dirty, Bytes(new), len(new), blobs, blobs)
                assert got.size == len(new)
                assert whole(blobs, got) == new


def test_an_edit_right_behind_a_cut_may_move_the_cut() -> None:
    """FastCDC looks one byte ahead: each chunk's first byte decides with those before it where the last chunk ends."""
    blobs, old = Blobs(), random.Random(4).randbytes(40_000)
    base = CHUNKER.cut_bytes(old, blobs, blobs)
    for start, _ in list(iter_chunks(blobs, base))[1:]:
        for value in (0, 85, 170):
            new = old[:start] + bytes([value]) + old[start + 1 :]
            got = CHUNKER.recut(base, [(start, start + 1)], Bytes(new), len(new), blobs, blobs)
            assert got == CHUNKER.cut_bytes(new, blobs, blobs)


def test_appending_to_a_long_file_reads_only_its_end() -> None:
    blobs, old = Blobs(), random.Random(5).randbytes(1_000_000)
    base = CHUNKER.cut_bytes(old, blobs, blobs)
    assert base.node is not None
    reader = Bytes(old + b"more")
    blobs.read.clear()
    got = CHUNKER.recut(base, [(1_000_000, 1_000_004)], reader, 1_000_004, blobs, blobs)
    assert whole(blobs, got) == old + b"more"
    assert reader.given <= 2 * 1024 + 4
    stored = len(blobs.chunks)
    assert stored - len({chunk.id for _, chunk in iter_chunks(blobs, base)}) <= 2


def test_any_range_of_a_long_file_can_be_read() -> None:
    blobs, data = Blobs(), random.Random(6).randbytes(100_000)
    dice = random.Random(7)
    for bits in (2, 7):
        with boundary_bits(bits):
            content = CHUNKER.cut_bytes(data, blobs, blobs)
            for _ in range(100):
                offset, size = dice.randrange(110_000), dice.randrange(5_000)
                found = read_content(blobs, blobs.many, content, offset, size)
                assert found == data[offset : offset + size]


@settings(max_examples=100)
@given(data=st.binary(max_size=6000), stops=st.lists(st.integers(0, 6000), max_size=5))
def test_a_file_that_is_cut_while_it_grows_is_cut_as_if_it_had_been_whole(data: bytes, stops: list[int]) -> None:
    blobs, begun = Blobs(), []
    for stop in sorted(min(stop, len(data)) for stop in stops):
        begun += CHUNKER.cut_on(Bytes(data[:stop]), sum(chunk.size for chunk in begun), stop, blobs)
    rest = Bytes(data)
    assert CHUNKER.cut_reader(rest, len(data), blobs, blobs, begun) == CHUNKER.cut_bytes(data, blobs, blobs)
    assert not stops or rest.given <= 2 * (len(data) - sum(chunk.size for chunk in begun))
