"""Changes of trees by path, against dicts of paths."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.parts import Blobs, file_entry
from vfsd.model.entry import EMPTY_DIR, Entry, Kind, count_below, directory
from vfsd.model.errors import NotFound, Refused
from vfsd.repo.tree import Path, Sub, apply, change_set, find, show, walk

EMPTY = directory(b"", None)
names = st.sampled_from([b"a", b"b", b"c"])
paths = st.lists(names, min_size=1, max_size=3).map(tuple)
changes = st.lists(st.tuples(paths, st.none() | st.sampled_from([b"", b"1", b"22"])), max_size=10)


def plant(blobs: Blobs, found: list[tuple[Path, bytes | None]], root: Entry = EMPTY, *, prune: bool = False) -> Entry:
    entries = [(path, None if data is None else file_entry(path[-1], data)) for path, data in found]
    return apply(blobs, blobs, root, change_set(entries), prune=prune)


def of_one_kind(found: list[tuple[Path, bytes | None]]) -> list[tuple[Path, bytes | None]]:
    """Without changes below a path that is itself changed before: what such a list means is not said."""
    kept: list[tuple[Path, bytes | None]] = []
    for path, data in found:
        if not any(path[: len(other)] == other != path for other, _ in kept):
            kept.append((path, data))
    return kept


class Reference:
    """A tree as a dict path → bytes, None for a directory."""

    def __init__(self) -> None:
        self.items: dict[Path, bytes | None] = {}

    def change(self, found: list[tuple[Path, bytes | None]], *, prune: bool) -> None:
        last = dict(found)
        last = {path: last[path] for path in last if not any(path[:depth] in last for depth in range(len(path)))}
        for path, data in sorted(last.items()):
            self.remove(path)
            if data is not None:
                for depth in range(1, len(path)):
                    if self.items.get(path[:depth], b"") is not None:
                        self.items[path[:depth]] = None
                self.items[path] = data
        if prune:
            touched = sorted({path[:depth] for path in last for depth in range(1, len(path))}, key=len, reverse=True)
            for path in touched:
                if path in self.items and self.items[path] is None and not self.below(path):
                    del self.items[path]

    def below(self, path: Path) -> list[Path]:
        return [other for other in self.items if other[: len(path)] == path != other]

    def remove(self, path: Path) -> None:
        for other in [path, *self.below(path)]:
            self.items.pop(other, None)


def dump(blobs: Blobs, root: Entry) -> dict[Path, bytes | None]:
    by_digest = {file_entry(b"x", data).digest: data for data in (b"", b"1", b"22")}
    return {path: None if entry.kind == Kind.DIR else by_digest[entry.digest] for path, entry in walk(blobs, root)}


@settings(max_examples=200)
@given(steps=st.lists(changes, max_size=4), prune=st.booleans())
def test_changing_a_tree_is_changing_a_dict_of_paths(
    steps: list[list[tuple[Path, bytes | None]]], prune: bool
) -> None:
    blobs, root, reference = Blobs(), EMPTY, Reference()
    for step in map(of_one_kind, steps):
        root = plant(blobs, step, root, prune=prune)
        reference.change(step, prune=prune)
        assert dump(blobs, root) == reference.items
        count = sum(data is not None for data in reference.items.values())
        assert count_below(root) == count
        assert root.size == sum(len(data) for data in reference.items.values() if data is not None)
        for path, entry in walk(blobs, root):
            assert find(blobs, root, path) == entry


def test_a_later_change_of_a_path_or_of_something_above_it_wins() -> None:
    blobs = Blobs()
    tree = plant(blobs, [((b"a", b"b"), b"1"), ((b"a", b"b"), b"22"), ((b"c", b"d"), b"1"), ((b"c",), b"22")])
    assert dump(blobs, tree) == {(b"a",): None, (b"a", b"b"): b"22", (b"c",): b"22"}


def test_equal_trees_have_equal_ids_however_they_came_about() -> None:
    blobs = Blobs()
    direct = plant(blobs, [((b"a", b"b"), b"1")])
    around = plant(blobs, [((b"a", b"b"), b"1"), ((b"a", b"x"), b"1"), ((b"y",), b"1")])
    around = plant(blobs, [((b"a", b"x"), None), ((b"y",), None)], around)
    assert direct == around


def test_removing_below_what_is_not_there_makes_nothing() -> None:
    blobs = Blobs()
    tree = plant(blobs, [((b"f",), b"1")])
    assert plant(blobs, [((b"no", b"such", b"path"), None), ((b"f", b"below"), None)], tree) == tree


def test_attributes_of_a_directory_are_kept_or_set() -> None:
    blobs = Blobs()
    special = directory(b"d", None, mode=0o700, uid=7, mtime=9)
    tree = apply(blobs, blobs, EMPTY, Sub({b"d": Sub({b"f": file_entry(b"f")}, special)}))
    tree = plant(blobs, [((b"d", b"g"), b"1")], tree)
    found = find(blobs, tree, (b"d",))
    assert (found.mode, found.uid, found.mtime, count_below(found)) == (0o700, 7, 9, 2)
    tree = apply(blobs, blobs, tree, Sub({}, directory(b"", None, mode=0o711)))
    assert (tree.mode, count_below(tree)) == (0o711, 2)


def test_an_empty_directory_can_be_made_and_pruned() -> None:
    blobs = Blobs()
    tree = apply(blobs, blobs, EMPTY, Sub({b"d": directory(b"d", None)}))
    assert find(blobs, tree, (b"d",)).digest == EMPTY_DIR
    assert plant(blobs, [((b"d", b"x"), None)], tree, prune=True).node is None
    assert plant(blobs, [((b"d", b"x"), None)], tree) == tree


def test_finding_names_the_part_that_is_missing_or_no_directory() -> None:
    blobs = Blobs()
    tree = plant(blobs, [((b"a", b"f"), b"1")])
    assert find(blobs, tree, ()) == tree
    with pytest.raises(NotFound, match=r"there is no a/x$"):
        find(blobs, tree, (b"a", b"x", b"y"))
    with pytest.raises(Refused, match="a/f is not a directory") as refused:
        find(blobs, tree, (b"a", b"f", b"y"))
    assert refused.value.errno == errno.ENOTDIR
    assert show(()) == "."
    assert show((b"a", b"\xff")) == "a/\\xff"


def test_walking_goes_in_order_of_names_directories_before_what_is_in_them() -> None:
    blobs = Blobs()
    tree = plant(blobs, [((b"b", b"y"), b"1"), ((b"a",), b"1"), ((b"b", b"x"), b"1"), ((b"c",), b"1")])
    assert [path for path, _ in walk(blobs, tree)] == [(b"a",), (b"b",), (b"b", b"x"), (b"b", b"y"), (b"c",)]
