"""Tree nodes: encoding, identity, and where they are cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.test_entry import chunks, entries, names, places, refs
from vfsd.model.errors import Damaged
from vfsd.model.ids import hash_bytes
from vfsd.model.node import (
    BITS,
    Child,
    ChunkInner,
    ChunkLeaf,
    Inner,
    Leaf,
    Node,
    check_node,
    chunk_level,
    cut,
    decode_node,
    encode_node,
    name_level,
    node_digest,
    node_id,
)

levels = st.integers(1, 9)
nodes = st.one_of(
    st.builds(Leaf, st.lists(entries, max_size=3)),
    st.builds(Inner, levels, st.lists(st.builds(Child, names, refs), max_size=3)),
    st.builds(ChunkLeaf, chunks.map(list)),
    st.builds(ChunkInner, levels, st.lists(refs, max_size=3)),
)


@given(node=nodes)
def test_a_node_is_read_back_as_it_was_written(node: Node) -> None:
    data = encode_node(node)
    assert decode_node(data) == node
    assert node_id(decode_node(data)) == node_id(node)
    check_node(node, node_id(node))


@given(node=nodes, data=st.data())
def test_bytes_of_another_node_are_damaged(node: Node, data: st.DataObject) -> None:
    other = data.draw(nodes)
    if other != node and node_id(other) != node_id(node):
        with pytest.raises(Damaged, match=node_id(node).hex()[:12]):
            check_node(other, node_id(node))


@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_node_or_damaged(data: bytes) -> None:
    try:
        node = decode_node(data)
    except Damaged:
        return
    assert encode_node(node)[:1] == data[:1]


def test_the_kind_of_node_is_part_of_its_id() -> None:
    same: list[Node] = [Leaf([]), ChunkLeaf([]), Inner(1, []), ChunkInner(1, [])]
    assert len({node_id(node) for node in same}) == 4
    assert node_digest(Leaf([])) != node_digest(Inner(1, []))


@given(node=nodes, place=places)
def test_the_places_in_a_node_are_no_part_of_its_id(node: Node, place: object) -> None:
    before = node_id(node)
    for item in node.items:
        pointers = [item] if isinstance(node, ChunkLeaf | ChunkInner) else []
        if isinstance(node, Inner):
            pointers = [item.ref]  # type: ignore[union-attr]
        elif isinstance(node, Leaf):
            pointers = [*item.chunks, *([item.node] if item.node else [])]  # type: ignore[union-attr]
        for pointer in pointers:
            pointer.place.offset += 1  # type: ignore[union-attr]
            pointer.place.container = b"elsewhere"  # type: ignore[union-attr]
    assert node_id(node) == before


def test_levels_are_runs_of_seven_zero_bits_at_the_end_of_the_hash() -> None:
    assert BITS == 7
    found: dict[int, int] = {}
    for number in range(40_000):
        name = b"%d" % number
        level = name_level(name)
        tail = int.from_bytes(hash_bytes(name), "big")
        assert tail % (1 << 7 * level) == 0
        assert tail % (1 << 7 * (level + 1)) != 0
        found[level] = found.get(level, 0) + 1
    assert 200 < found[1] < 430, "one of 128"
    assert found.get(2, 0) < 12


def test_a_chunks_level_is_that_of_its_id() -> None:
    assert chunk_level(b"\xff" * 32) == 0
    assert chunk_level(b"\xff" * 31 + b"\x80") == 1
    assert chunk_level(b"\xff" * 30 + b"\x40\x00") == 2
    assert chunk_level(bytes(32)) == 9, "64 bits count, no more"


@given(found=st.lists(st.integers(0, 3), max_size=30), at=st.integers(0, 3))
def test_cutting_ends_a_part_behind_each_boundary_and_at_the_end(found: list[int], at: int) -> None:
    parts = [found[part] for part in cut(found, at)]
    assert [level for part in parts for level in part] == found
    assert all(parts)
    assert all(level <= at for part in parts for level in part[:-1])
    assert all(part[-1] > at for part in parts[:-1])
