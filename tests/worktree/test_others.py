"""What others committed where a head has changes of its own: nothing of it vanishes unsaid."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.repo.parts import Blobs, Path_, file_entry
from vfsd.model.entry import Entry, Kind, Ref, directory
from vfsd.repo.diff import diff
from vfsd.repo.tree import apply, change_set, find, walk
from vfsd.worktree.freeze import Frozen, FrozenDirectory
from vfsd.worktree.others import Others, remember, settle_others
from vfsd.worktree.records import Attributes

BASE = {(b"d", b"x"): b"0", (b"d", b"sub", b"y"): b"0", (b"f",): b"0"}
AT = Attributes(0o755, 0, 0, 0, {})


def tree(blobs: Blobs, files: Mapping[Path_, bytes]) -> Entry:
    changes = [(path, file_entry(path[-1], data)) for path, data in files.items()]
    return apply(blobs, blobs, directory(b"", None), change_set(changes))


def files(blobs: Blobs, root: Entry) -> dict[Path_, int]:
    """path → size of each file."""
    return {path: entry.size for path, entry in walk(blobs, root) if entry.kind == Kind.FILE}


def frozen(renamed: Mapping[bytes, Ref | None]) -> Frozen:
    """A freeze in which these directories, of the root, were renamed: new name → committed listing."""
    items = {name: FrozenDirectory(AT, False, {}, True, ref) for name, ref in renamed.items()}
    return Frozen(FrozenDirectory(AT, False, dict(items), False, None), [], [], [], 0, [])


def settle(
    theirs: Mapping[Path_, bytes], ours: Mapping[Path_, bytes], renamed: Mapping[bytes, Path_] = {}
) -> tuple[dict[Path_, int], list[Path_]]:
    """The files afterwards, and what gave way; of trees that began as BASE. renamed: new name → old path."""
    blobs = Blobs()
    base, before, after = tree(blobs, BASE), tree(blobs, theirs), tree(blobs, ours)
    others: Others = {}
    remember(others, diff(blobs, base, before))
    moved = {name: find(blobs, base, path).node for name, path in renamed.items()}
    found = settle_others(blobs, blobs, before, after, frozen(moved), others)
    return files(blobs, found.root), found.gave_way


def test_what_is_new_in_a_directory_that_was_removed_here_stays() -> None:
    theirs = {**BASE, (b"d", b"new"): b"12", (b"d", b"sub", b"new"): b"12", (b"d", b"more", b"new"): b"12"}
    found, gave_way = settle(theirs, {(b"f",): b"0"})
    assert found == {(b"d", b"new"): 2, (b"d", b"sub", b"new"): 2, (b"d", b"more", b"new"): 2, (b"f",): 1}
    assert gave_way == []


def test_what_was_changed_in_a_directory_that_was_removed_here_gives_way_and_is_named() -> None:
    found, gave_way = settle({**BASE, (b"d", b"x"): b"12", (b"f",): b"123"}, {(b"f",): b"0"})
    assert found == {(b"f",): 1}
    assert gave_way == [(b"d", b"x"), (b"f",)]


def test_what_was_changed_in_a_directory_that_was_renamed_here_goes_along() -> None:
    theirs = {**BASE, (b"d", b"x"): b"12", (b"d", b"new"): b"123", (b"d", b"sub", b"y"): b"1234"}
    ours = {(b"e", b"x"): b"0", (b"e", b"sub", b"y"): b"0", (b"f",): b"0"}
    found, gave_way = settle(theirs, ours, {b"e": (b"d",)})
    assert found == {(b"e", b"x"): 2, (b"e", b"new"): 3, (b"e", b"sub", b"y"): 4, (b"f",): 1}
    assert gave_way == []


def test_what_was_changed_there_on_both_sides_is_as_here_and_named() -> None:
    ours = {(b"e", b"x"): b"12345", (b"e", b"sub", b"y"): b"0", (b"f",): b"0"}
    found, gave_way = settle({**BASE, (b"d", b"x"): b"12"}, ours, {b"e": (b"d",)})
    assert found[b"e", b"x"] == 5
    assert gave_way == [(b"d", b"x")]


def test_what_was_removed_there_goes_from_the_renamed_directory() -> None:
    theirs = {path: data for path, data in BASE.items() if path != (b"d", b"x")}
    ours = {(b"e", b"x"): b"0", (b"e", b"sub", b"y"): b"0", (b"f",): b"0"}
    assert settle(theirs, ours, {b"e": (b"d",)}) == ({(b"e", b"sub", b"y"): 1, (b"f",): 1}, [])


def test_a_directory_that_was_moved_out_of_another_takes_its_own_along() -> None:
    theirs = {**BASE, (b"d", b"sub", b"new"): b"12", (b"d", b"new"): b"123"}
    ours = {(b"s", b"y"): b"0", (b"f",): b"0"}  # d/sub was moved, and d removed
    found, gave_way = settle(theirs, ours, {b"s": (b"d", b"sub")})
    assert found == {(b"s", b"y"): 1, (b"s", b"new"): 2, (b"d", b"new"): 3, (b"f",): 1}
    assert gave_way == []


def test_nothing_is_put_where_a_file_stands_now() -> None:
    found, gave_way = settle({**BASE, (b"d", b"new"): b"12"}, {(b"d",): b"12345", (b"f",): b"0"})
    assert found == {(b"d",): 5, (b"f",): 1}
    assert gave_way == [(b"d", b"new")]


@pytest.mark.parametrize("count", [1, 3])
def test_what_others_changed_several_times_is_taken_as_it_is_now(count: int) -> None:
    blobs = Blobs()
    others: Others = {}
    before = tree(blobs, BASE)
    for number in range(count):
        later = tree(blobs, {**BASE, (b"d", b"new"): b"1" * (number + 1)})
        remember(others, diff(blobs, before, later))
        before = later
    found = settle_others(blobs, blobs, before, tree(blobs, {(b"f",): b"0"}), frozen({}), others)
    assert files(blobs, found.root) == {(b"d", b"new"): count, (b"f",): 1}
