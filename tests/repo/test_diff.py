"""Diffs of directories and trees against diffs of dicts, and what they cost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.parts import Blobs, boundary_bits, file_entry
from vfsd.model.entry import Entry, Kind, directory
from vfsd.model.errors import Damaged
from vfsd.model.node import ChunkLeaf
from vfsd.repo.diff import changed_names, diff
from vfsd.repo.directory import edit
from vfsd.repo.tree import Path, apply, change_set, walk

contents = st.dictionaries(
    st.integers(0, 200).map(lambda number: b"n%d" % number), st.sampled_from([b"1", b"2"]), max_size=60
)


@settings(max_examples=100)
@given(old=contents, new=contents, shared=contents, bits=st.sampled_from([1, 2, 3]))
def test_a_diff_of_directories_equals_a_diff_of_dicts(
    old: dict[bytes, bytes], new: dict[bytes, bytes], shared: dict[bytes, bytes], bits: int
) -> None:
    old, new = {**old, **shared}, {**new, **shared}
    with boundary_bits(bits):
        blobs = Blobs()
        one = edit(blobs, blobs, None, {name: file_entry(name, data) for name, data in old.items()})
        two = edit(blobs, blobs, None, {name: file_entry(name, data) for name, data in new.items()})
        found = [
            (name, before and before.digest, after and after.digest)
            for name, before, after in changed_names(blobs, one, two)
        ]
    expected = [
        (name, *(files.get(name) and file_entry(name, files[name]).digest for files in (old, new)))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    assert found == expected


def test_a_small_difference_between_large_directories_reads_few_nodes() -> None:
    with boundary_bits(3):
        blobs = Blobs()
        held = {b"%x" % number: file_entry(b"%x" % number) for number in range(8_000)}
        one = edit(blobs, blobs, None, held)
        for name in (b"0", b"abc", b"fff", b"new"):
            two = edit(blobs, blobs, one, {name: file_entry(name, b"changed")})
            blobs.read.clear()
            assert [found[0] for found in changed_names(blobs, one, two)] == [name]
            assert len(blobs.read) <= 24, "some nodes a level on each side, of thousands"


def test_equal_directories_are_not_read_at_all() -> None:
    blobs = Blobs()
    root = directory(b"", edit(blobs, blobs, None, {b"a": file_entry(b"a")}))
    blobs.read.clear()
    assert list(diff(blobs, root, root)) == []
    assert blobs.read == []


paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(tuple)
trees = st.dictionaries(paths, st.sampled_from([b"", b"1", b"2"]), max_size=8)


def plant(blobs: Blobs, files: dict[Path, bytes]) -> Entry:
    """A tree of these files; where one is below another, the other is a directory."""
    above = {path[:depth] for path in files for depth in range(len(path))}
    kept = {path: data for path, data in files.items() if path not in above}
    changes = [(path, file_entry(path[-1], data)) for path, data in kept.items()]
    return apply(blobs, blobs, directory(b"", None), change_set(changes))


@settings(max_examples=100)
@given(old=trees, new=trees)
def test_a_diff_of_trees_names_every_path_that_differs_once_and_directories_first(
    old: dict[Path, bytes], new: dict[Path, bytes]
) -> None:
    blobs = Blobs()
    one, two = plant(blobs, old), plant(blobs, new)
    before, after = dict(walk(blobs, one)), dict(walk(blobs, two))
    found = list(diff(blobs, one, two))
    assert {path: (was, now) for path, was, now in found} == {
        path: (before.get(path), after.get(path))
        for path in before.keys() | after.keys()
        if before.get(path) != after.get(path)
    }
    order = [path for path, _, _ in found]
    assert order == sorted(order)


def test_against_no_tree_everything_is_new() -> None:
    blobs = Blobs()
    tree = plant(blobs, {(b"d", b"f"): b"1"})
    assert [(path, old) for path, old, _ in diff(blobs, None, tree)] == [((b"d",), None), ((b"d", b"f"), None)]
    assert [(path, new) for path, _, new in diff(blobs, tree, None)] == [((b"d",), None), ((b"d", b"f"), None)]


def test_a_directory_that_becomes_a_file_takes_its_contents_along() -> None:
    blobs = Blobs()
    one, two = plant(blobs, {(b"d", b"f"): b"1"}), plant(blobs, {(b"d",): b"2"})
    found = {path: (old and old.kind, new and new.kind) for path, old, new in diff(blobs, one, two)}
    assert found == {(b"d",): (Kind.DIR, Kind.FILE), (b"d", b"f"): (Kind.FILE, None)}


def test_a_pointer_to_a_chunk_list_is_no_directory() -> None:
    blobs = Blobs()
    ref = blobs.add_node(ChunkLeaf([]))
    with pytest.raises(Damaged):
        list(changed_names(blobs, None, ref))
