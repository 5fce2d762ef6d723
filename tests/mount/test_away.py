"""A node that was away for longer than what it knew was kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mount.conftest import Mounted


@pytest.mark.parametrize("has_changes", [False, True])
def test_a_node_comes_back_when_the_commit_that_it_stood_at_was_dropped(
    node: Mounted, tmp_path: Path, *, has_changes: bool
) -> None:
    other = Mounted(tmp_path / "other", node.store)
    other.run("repo", "create", "r")
    old = tmp_path / "old"
    old.mkdir()
    for number in range(300):
        (old / f"{number}").write_bytes(b"old %d" % number)
    other.run("put", old, "r/main/d")
    node.mount()
    branch = node.path / "r/main"
    assert (branch / "d/7").read_bytes() == b"old 7"
    if has_changes:
        (branch / "d/7").write_bytes(b"changed here")
        (branch / "d/new").write_bytes(b"new here")
        node.kill()
        node.run("umount", node.path, check=False)
    else:
        node.umount()
    other.run("rm", "-r", "r/main/d")
    new = tmp_path / "new"
    new.mkdir()
    (new / "f").write_bytes(b"new")
    other.run("put", new, "r/main/e")
    other.run("drop", "--yes", "r/main@~1", "r/main@~2")
    for _ in range(2):
        other.run("gc", "--delete", "--grace", "0s")
    node.run("index", "rebuild")
    node.mount()
    assert (branch / "e/f").read_bytes() == b"new"
    if has_changes:
        assert (branch / "d/7").read_bytes() == b"changed here"
        assert (branch / "d/new").read_bytes() == b"new here"
