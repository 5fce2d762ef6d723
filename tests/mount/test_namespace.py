"""What the mount shows: repos, branches, snapshots, global ids, and what may be made where."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted


def test_a_directory_made_at_the_root_is_a_repo_with_branch_main(mounted: Mounted) -> None:
    assert os.listdir(mounted.path) == ["data"]
    assert os.listdir(mounted.path / "data") == ["main"]
    assert [row["id"] for row in mounted.facts("repo", "list")] == ["data"]


def test_a_directory_made_in_a_repo_is_a_branch(mounted: Mounted) -> None:
    (mounted.path / "data/draft").mkdir()
    assert sorted(os.listdir(mounted.path / "data")) == ["draft", "main"]
    (mounted.path / "data/draft/a").write_text("a")
    assert os.listdir(mounted.path / "data/main") == []


def test_a_repo_made_by_the_command_line_is_there_at_once(mounted: Mounted) -> None:
    assert not (mounted.path / "other").exists()
    mounted.run("repo", "create", "other")
    assert os.listdir(mounted.path / "other") == ["main"]


def test_a_snapshot_keeps_what_the_branch_loses(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    (live / "a").write_text("first")
    first = mounted.run("commit", "data/main").stdout.strip()
    (live / "a").write_text("second")
    (live / "b").write_text("new")
    mounted.run("commit", "data/main")
    assert (mounted.path / f"data/main@{first}/a").read_text() == "first"
    assert os.listdir(mounted.path / f"data/main@{first}") == ["a"]
    assert (live / "a").read_text() == "second"


@pytest.mark.parametrize("rev", ["{id}", "{prefix}", "v1", "~1", "^1", "v1~0", "{time}"])
def test_a_rev_of_every_kind_names_the_snapshot(mounted: Mounted, rev: str) -> None:
    live = mounted.path / "data/main"
    (live / "a").write_text("first")
    first = mounted.run("commit", "data/main").stdout.strip()
    mounted.run("tag", "create", "data/main", "v1")
    time = mounted.facts("show", "data/main")["time"]
    (live / "a").write_text("second")
    mounted.run("commit", "data/main")
    text = rev.format(id=first, prefix=first[:12], time=time)
    assert (mounted.path / f"data/main@{text}/a").read_text() == "first"


def test_a_rev_that_is_not_there_is_no_such_file(mounted: Mounted) -> None:
    (mounted.path / "data/main/a").write_text("a")
    mounted.run("commit", "data/main")
    for rev in ("ffffffff", "no-such-tag", "~7", "1999-01-01", "@@", ""):
        assert not (mounted.path / f"data/main@{rev}").exists()


def test_a_snapshot_refuses_every_change_with_erofs(mounted: Mounted) -> None:
    (mounted.path / "data/main/a").write_text("a")
    mounted.run("commit", "data/main")
    snapshot = mounted.path / "data/main@~0"
    for change in (
        lambda: (snapshot / "b").write_text("b"),
        (snapshot / "a").unlink,
        (snapshot / "d").mkdir,
        lambda: (snapshot / "a").rename(snapshot / "b"),
        lambda: os.truncate(snapshot / "a", 0),
        lambda: os.symlink("a", snapshot / "l"),
        lambda: os.utime(snapshot / "a"),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_a_global_id_shows_every_repo_as_it_stood(mounted: Mounted) -> None:
    (mounted.path / "other").mkdir()
    (mounted.path / "other/main/o").write_text("old")
    mounted.run("commit", "other/main")
    (mounted.path / "data/main/a").write_text("a")
    mounted.run("commit", "data/main")
    gid = mounted.facts("show", "data/main")["global_id"]
    (mounted.path / "other/main/o").write_text("new")
    mounted.run("commit", "other/main")
    assert (mounted.path / f"@{gid}/data/a").read_text() == "a"
    assert (mounted.path / f"@{gid}/other/o").read_text() == "old"
    assert not (mounted.path / f"@{'0' * 32}").exists()


def test_files_cannot_be_made_outside_a_branch(mounted: Mounted) -> None:
    for place in (mounted.path / "file", mounted.path / "data/file"):
        with pytest.raises(OSError) as caught:
            place.write_text("x")
        assert caught.value.errno == errno.EPERM


def test_a_read_only_mount_refuses_writes_and_shows_everything(mounted: Mounted) -> None:
    (mounted.path / "data/main/a").write_text("a")
    mounted.umount()
    mounted.mount("--read-only")
    assert (mounted.path / "data/main/a").read_text() == "a"
    with pytest.raises(OSError) as caught:
        (mounted.path / "data/main/b").write_text("b")
    assert caught.value.errno == errno.EROFS


def test_names_of_any_bytes_come_back_as_they_were(mounted: Mounted) -> None:
    live = os.fsencode(mounted.path / "data/main")
    names = [b"\xff\xfe", "ünï 漢字".encode(), b"new\nline", b"a*b?[c]", b"-rf", b"n" * 255, b"@at"]
    for name in names:
        Path(os.fsdecode(live + b"/" + name)).write_bytes(name)
    mounted.run("commit", "data/main")
    snapshot = os.fsencode(mounted.path / "data/main@~0")
    assert sorted(os.listdir(snapshot)) == sorted(names)
    assert all(Path(os.fsdecode(snapshot + b"/" + name)).read_bytes() == name for name in names)


def test_a_commit_made_elsewhere_shows_up_in_the_mount(mounted: Mounted, tmp_path: Path) -> None:
    live = mounted.path / "data/main"
    (live / "mine").write_text("mine")
    (live / "shared").write_text("before")
    mounted.run("commit", "data/main")
    assert (live / "shared").read_text() == "before"
    source = tmp_path / "source"
    source.write_text("after, and longer")
    mounted.run("put", source, "data/main/shared")
    mounted.run("put", source, "data/main/new")
    # The command has returned: the branch stands at its commit, and the daemon follows it when it is asked to commit.
    mounted.run("commit", "data/main", check=False)
    wait_for(lambda: (live / "shared").read_text() == "after, and longer")
    wait_for(lambda: sorted(os.listdir(live)) == ["mine", "new", "shared"])


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Ask again until it holds, or fail. It does not hold where a file is not there: what comes to be in a mount may be
    looked at while it changes."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, "it did not come to be in time"
        time.sleep(0.005)  # which leaves the processor to those that it waits for
