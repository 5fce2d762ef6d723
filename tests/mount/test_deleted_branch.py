"""What was not committed when its branch was deleted: it is named, brought back with the branch, or given up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for

NAME = "data/draft"
LARGE = 1 << 20


@pytest.fixture
def left(node: Mounted) -> Mounted:
    """A mount whose branch data/draft was deleted while it had a small and a large file that no commit has."""
    Path(node.environ["VFSD_CONFIG"]).write_text("quiet_s = 1000\nmax_wait_s = 1000\npoll_s = 0.2\n")
    node.mount()
    (node.path / "data").mkdir()
    draft = node.path / NAME
    draft.mkdir()
    (draft / "small").write_text("x")
    (draft / "large").write_bytes(bytes(LARGE))
    node.run("branch", "delete", NAME)
    wait_for(lambda: not draft.exists())
    return node


def states(node: Mounted) -> dict[str, str]:
    return {f"{row['repo']}/{row['branch']}": row["state"] for row in node.facts("status")["branches"]}


def test_status_names_the_branch_and_what_to_do(left: Mounted) -> None:
    for change in (lambda: None, left.umount, left.mount):
        change()
        assert states(left)[NAME] == "deleted"
        told = left.run("status").stdout
        assert f"`vfsd branch create {NAME}`" in told and f"`vfsd commit discard {NAME}`" in told
    assert (left.path / "data/main").is_dir()


@pytest.mark.parametrize("how", ["at once", "after a mount", "without a daemon"])
def test_what_is_discarded_is_gone_with_its_bytes(left: Mounted, how: str) -> None:
    if how != "at once":
        left.umount()
    if how == "after a mount":
        left.mount()
    left.run("commit", "discard", NAME)
    assert NAME not in states(left)
    if how == "without a daemon":
        left.mount()
    assert left.facts("status")["staging"]["used"] < LARGE
    assert not list((left.folder / "state").glob("*/staging/f*"))
    (left.path / NAME).mkdir()
    assert os.listdir(left.path / NAME) == []
    done = left.run("commit", "discard", NAME, check=False)
    assert done.returncode == 2
    assert done.stderr == f"vfsd: {NAME} is no deleted branch: what is closed there is committed\n"


def test_nothing_left_is_nothing_to_discard(left: Mounted) -> None:
    done = left.run("commit", "discard", "data/other", check=False)
    assert done.returncode == 1
    assert done.stderr == "vfsd: nothing is left of a branch data/other\n"


@pytest.mark.parametrize("mounted_anew", [False, True])
def test_a_branch_that_is_made_anew_commits_what_was_left(left: Mounted, mounted_anew: bool) -> None:
    if mounted_anew:
        left.umount()
        left.mount()
    left.run("branch", "create", NAME)
    wait_for(lambda: states(left)[NAME] == "clean")
    assert left.run("cat", f"{NAME}/small").stdout == "x"
