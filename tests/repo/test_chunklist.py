"""Chunk lists: their form depends on the chunks alone, long ones are trees, and any byte is found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.parts import PLACE, Blobs, boundary_bits, file_entry
from vfsd.model.entry import EMPTY_FILE, Chunk, chunks_digest
from vfsd.model.errors import Damaged
from vfsd.model.ids import ChunkId, hash_bytes
from vfsd.model.node import INLINE_CHUNKS, ChunkInner, ChunkLeaf, Leaf, chunk_level
from vfsd.repo.chunklist import ChunkListBuilder, Content, content_of, iter_chunks


def chunks_of(sizes: list[int]) -> list[Chunk]:
    return [Chunk(ChunkId(hash_bytes(b"%d" % number)), size, PLACE) for number, size in enumerate(sizes)]


def build(blobs: Blobs, chunks: list[Chunk]) -> Content:
    builder = ChunkListBuilder(blobs)
    for chunk in chunks:
        builder.add(chunk)
    return builder.finish(blobs)


def test_a_short_list_stays_in_the_entry_and_a_longer_one_becomes_a_node() -> None:
    blobs = Blobs()
    chunks = chunks_of([10] * (INLINE_CHUNKS + 1))
    short = build(blobs, chunks[:INLINE_CHUNKS])
    assert (short.chunks, short.node) == (tuple(chunks[:INLINE_CHUNKS]), None)
    assert short.digest == chunks_digest(short.chunks)
    assert not blobs.nodes
    long = build(blobs, chunks)
    assert long.chunks == ()
    assert long.node is not None
    assert (long.node.count, long.node.size, long.size) == (17, 170, 170)
    assert long.digest == long.node.id
    assert blobs.get(long.node) == ChunkLeaf(chunks)


def test_a_list_of_nothing_is_the_empty_file() -> None:
    assert build(Blobs(), []) == Content(0, EMPTY_FILE)


@settings(max_examples=60)
@given(sizes=st.lists(st.integers(1, 9), max_size=120), bits=st.sampled_from([1, 2, 3]), data=st.data())
def test_every_chunk_is_found_from_any_byte(sizes: list[int], bits: int, data: st.DataObject) -> None:
    with boundary_bits(bits):
        blobs = Blobs()
        chunks = chunks_of(sizes)
        content = build(blobs, chunks)
        starts = [sum(sizes[:number]) for number in range(len(sizes))]
        expected = list(zip(starts, chunks, strict=True))
        assert content.size == sum(sizes)
        assert list(iter_chunks(blobs, content)) == expected
        offset = data.draw(st.integers(0, content.size + 3))
        assert list(iter_chunks(blobs, content, offset)) == [
            (start, chunk) for start, chunk in expected if start + chunk.size > offset
        ]


@settings(max_examples=60)
@given(count=st.integers(17, 150), keep=st.floats(0, 1), bits=st.sampled_from([1, 2, 3]))
def test_taking_over_whole_nodes_gives_the_same_list_as_adding_each_chunk(count: int, keep: float, bits: int) -> None:
    with boundary_bits(bits):
        blobs = Blobs()
        chunks = chunks_of([5] * count)
        content = build(blobs, chunks)
        if content.node is None or not isinstance(root := blobs.get(content.node), ChunkInner):
            return
        builder = ChunkListBuilder(blobs)
        done = 0
        for child in root.items[:-1]:  # each of them ends with a boundary
            last = chunks[done + child.count - 1].id
            assert chunk_level(last) >= root.level
            if keep > 0.5 and builder.takes_node(root.level - 1):
                builder.add_node(child, root.level - 1, last)
            else:
                for chunk in chunks[done : done + child.count]:
                    builder.add(chunk)
            done += child.count
        for chunk in chunks[done:]:
            builder.add(chunk)
        assert builder.finish(blobs) == content


def test_looking_into_a_long_list_reads_one_node_a_level() -> None:
    with boundary_bits(2):
        blobs = Blobs()
        content = build(blobs, chunks_of([1] * 5_000))
        blobs.read.clear()
        start, _ = next(iter_chunks(blobs, content, 4_321))
        assert start == 4_321
        assert 3 <= len(blobs.read) <= 12


def test_a_pointer_to_a_directory_is_no_chunk_list() -> None:
    blobs = Blobs()
    ref = blobs.add_node(Leaf([file_entry(b"a")]))
    with pytest.raises(Damaged):
        list(iter_chunks(blobs, Content(1, ref.digest, (), ref)))


def test_content_is_what_an_entry_says() -> None:
    entry = file_entry(b"a", b"hello")
    assert content_of(entry) == Content(5, entry.digest, entry.chunks, None)
