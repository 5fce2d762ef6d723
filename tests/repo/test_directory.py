"""Directories as prolly trees against plain dicts: same names, same shape, small cost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.parts import Blobs, boundary_bits, file_entry
from vfsd.model.entry import EMPTY_DIR, Chunk, Entry, Place, Ref, count_below, directory, likeness
from vfsd.model.errors import Damaged
from vfsd.model.ids import PackId
from vfsd.model.node import ChunkLeaf, Inner, Leaf, name_level, node_digest
from vfsd.repo.directory import DirectoryBuilder, edit, entries, lookup

names = st.binary(min_size=1, max_size=2)
some_names = st.sets(st.integers(0, 400).map(lambda number: b"n%d" % number) | names, max_size=80)
bits = st.sampled_from([1, 2, 3])


def build(blobs: Blobs, found: dict[bytes, Entry]) -> Ref | None:
    builder = DirectoryBuilder(blobs)
    for _, entry in sorted(found.items()):
        builder.add(entry)
    return builder.finish()


def folder(names: set[bytes], data: bytes = b"") -> dict[bytes, Entry]:
    return {name: file_entry(name, data) for name in names}


def check_shape(blobs: Blobs, ref: Ref) -> list[Entry]:
    """The entries below a node whose boundaries, counts, sizes and last names are as the format has them."""
    node = blobs.get(ref)
    if isinstance(node, Leaf):
        found = list(node.items)
        inside = [entry.name for entry in found[:-1]]
        level = 0
    else:
        assert isinstance(node, Inner)
        found = []
        for child in node.items:
            below = check_shape(blobs, child.ref)
            assert child.last == below[-1].name
            found += below
        inside = [child.last for child in node.items[:-1]]
        level = node.level
    assert all(name_level(name) <= level for name in inside), "a boundary within a node"
    assert ref.count == sum(map(count_below, found))
    assert ref.size == sum(entry.size for entry in found)
    assert ref.digest == node_digest(node)
    return found


@settings(max_examples=150)
@given(before=some_names, removed=some_names, added=some_names, bits=bits)
def test_an_edited_directory_equals_one_built_from_nothing(
    before: set[bytes], removed: set[bytes], added: set[bytes], bits: int
) -> None:
    with boundary_bits(bits):
        blobs = Blobs()
        old = folder(before)
        changes: dict[bytes, Entry | None] = {**dict.fromkeys(removed), **folder(added, b"new")}
        expected = {name: entry for name, entry in {**old, **changes}.items() if entry is not None}
        root = edit(blobs, blobs, build(blobs, old), changes)
        assert root == build(blobs, expected)
        if root is None:
            assert not expected
        else:
            assert check_shape(blobs, root) == [entry for _, entry in sorted(expected.items())]


@settings(max_examples=60)
@given(steps=st.lists(st.tuples(some_names, some_names), max_size=6), bits=bits)
def test_any_way_to_a_set_of_names_gives_the_same_tree(
    steps: list[tuple[set[bytes], set[bytes]]], bits: int
) -> None:
    with boundary_bits(bits):
        blobs = Blobs()
        root, reference = None, dict[bytes, Entry]()
        for number, (removed, added) in enumerate(steps):
            new = folder(added, b"%d" % number)
            root = edit(blobs, blobs, root, {**dict.fromkeys(removed), **new})
            reference = {name: entry for name, entry in reference.items() if name not in removed} | new
        assert root == build(blobs, reference)


@settings(max_examples=60)
@given(held=some_names, asked=names, bits=bits)
def test_lookup_and_iteration_answer_like_a_dict(held: set[bytes], asked: bytes, bits: int) -> None:
    with boundary_bits(bits):
        blobs = Blobs()
        reference = folder(held)
        root = build(blobs, reference)
        for name in (*held, asked):
            assert lookup(blobs, root, name) == reference.get(name)
        assert [entry.name for entry in entries(blobs, root)] == sorted(held)
        assert [entry.name for entry in entries(blobs, root, asked)] == sorted(name for name in held if name > asked)


@settings(max_examples=30)
@given(held=some_names, bits=bits)
def test_times_and_contents_never_move_a_boundary(held: set[bytes], bits: int) -> None:
    with boundary_bits(bits):
        blobs = Blobs()

        def shape(ref: Ref | None) -> object:
            if ref is None:
                return None
            node = blobs.get(ref)
            return [item.name if isinstance(item, Entry) else shape(item.ref) for item in node.items]  # type: ignore

        one = build(blobs, folder(held))
        other = build(blobs, {name: file_entry(name, name, mtime=len(name)) for name in held})
        assert shape(one) == shape(other)


def test_a_million_names_worth_of_shape_is_reached_at_the_real_setting() -> None:
    blobs = Blobs()
    reference = folder({b"file-%05d" % number for number in range(3_000)})
    root = build(blobs, reference)
    assert root is not None
    top = blobs.get(root)
    assert isinstance(top, Inner)
    assert len(check_shape(blobs, root)) == 3_000
    leaves = [len(node.items) for data in blobs.nodes if isinstance(node := blobs.get(_ref(data)), Leaf)]
    assert 60 < sum(leaves) / len(leaves) < 260


def _ref(name: bytes) -> Ref:
    return Ref(name, name, 0, 0, 0, 0, Place())  # type: ignore[arg-type]


def test_one_changed_name_costs_one_node_a_level() -> None:
    dice = random.Random(1)
    with boundary_bits(3):
        blobs = Blobs()
        reference = folder({b"%x" % number for number in range(5_000)})
        root = build(blobs, reference)
        assert root is not None
        height = 0
        node = blobs.get(root)
        while isinstance(node, Inner):
            height, node = height + 1, blobs.get(node.items[0].ref)
        for _ in range(50):
            name = dice.choice(sorted(reference))
            blobs.read.clear()
            stored = len(blobs.nodes)
            changed = edit(blobs, blobs, root, {name: file_entry(name, b"changed")})
            assert changed != root
            assert len(blobs.nodes) - stored == height + 1
            assert len(set(blobs.read)) <= 2 * (height + 1)


def test_looking_up_reads_one_node_a_level() -> None:
    with boundary_bits(3):
        blobs = Blobs()
        root = build(blobs, folder({b"%x" % number for number in range(5_000)}))
        blobs.read.clear()
        assert lookup(blobs, root, b"abc") is not None
        assert len(blobs.read) <= 8


def test_reading_on_behind_a_name_skips_what_is_before_it() -> None:
    with boundary_bits(3):
        blobs = Blobs()
        root = build(blobs, folder({b"%04d" % number for number in range(5_000)}))
        blobs.read.clear()
        assert next(entries(blobs, root, b"4321")).name == b"4322"
        assert len(blobs.read) <= 12


def test_a_directory_without_names_has_no_node() -> None:
    blobs = Blobs()
    root = edit(blobs, blobs, None, {b"a": file_entry(b"a")})
    assert root is not None
    assert edit(blobs, blobs, root, {b"a": None}) is None
    assert edit(blobs, blobs, None, {b"a": None}) is None
    assert edit(blobs, blobs, root, {}) == root
    assert directory(b"d", None).digest == EMPTY_DIR
    assert lookup(blobs, None, b"a") is None
    assert list(entries(blobs, None)) == []


@settings(max_examples=30)
@given(held=some_names.filter(bool), bits=bits)
def test_a_directorys_digest_is_over_contents_not_times_or_owners(held: set[bytes], bits: int) -> None:
    with boundary_bits(bits):
        blobs = Blobs()
        root = build(blobs, folder(held))
        later = build(blobs, {name: file_entry(name, mode=0o600, mtime=5) for name in held})
        other = build(blobs, folder(held, b"other bytes"))
        runnable = build(blobs, {name: file_entry(name, mode=0o755) for name in held})
        assert root is not None and later is not None and other is not None and runnable is not None
        assert later.id != root.id
        assert later.digest == root.digest
        assert len({root.digest, other.digest, runnable.digest}) == 3


def test_where_bytes_lie_is_no_part_of_an_id() -> None:
    blobs = Blobs()
    moved = Place(PackId(b"q" * 16), 999, 10)
    entry = file_entry(b"a", b"hello")
    chunks = tuple(Chunk(chunk.id, chunk.size, moved) for chunk in entry.chunks)
    other = Entry(b"a", 0, 0o644, 0, 0, 0, 5, entry.digest, chunks)
    one, two = edit(blobs, blobs, None, {b"a": entry}), edit(blobs, blobs, None, {b"a": other})
    assert one is not None and two is not None
    assert (one.id, one.digest) == (two.id, two.digest)
    assert likeness(entry) == likeness(other)


def test_a_pointer_to_a_chunk_list_is_no_directory() -> None:
    blobs = Blobs()
    ref = blobs.add_node(ChunkLeaf([]))
    for act in (
        lambda: lookup(blobs, ref, b"a"),
        lambda: list(entries(blobs, ref)),
        lambda: edit(blobs, blobs, ref, {b"a": file_entry(b"a")}),
    ):
        with pytest.raises(Damaged):
            act()
