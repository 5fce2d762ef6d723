"""A kernel that is short of memory forgets inodes; programs see nothing of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_links import forget
from tests.mount.test_namespace import wait_for


def known(path: Path) -> tuple[int, ...]:
    """What programs compare to find out whether a name is what it was when they looked last."""
    info = os.lstat(path)
    return (info.st_ino, info.st_mode, info.st_nlink, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@pytest.fixture
def live(mounted: Mounted) -> Path:
    """A committed branch with one of each; that they were changed is later than what was written."""
    live = mounted.path / "data/main"
    (live / "d").mkdir()
    for folder in (live, live / "d"):
        (folder / "file").write_text("1")
        (folder / "file").chmod(0o600)
        (folder / "link").symlink_to("file")
        (folder / "renamed").touch()
        (folder / "renamed").rename(folder / "more")
        (folder / "one").touch()
        (folder / "two").hardlink_to(folder / "one")
    mounted.run("commit", "data/main")
    return live


def test_numbers_and_times_are_as_they_were(mounted: Mounted, live: Path) -> None:
    paths = [live, *live.rglob("*")]
    before = {path: known(path) for path in paths}
    for _ in range(2):
        forget(mounted)
        assert {path: known(path) for path in reversed(paths)} == before


def test_a_commit_is_no_change_of_what_is_in_it(mounted: Mounted, live: Path) -> None:
    (live / "file").chmod(0o640)
    before = known(live / "file")
    mounted.run("commit", "data/main")
    forget(mounted)
    assert known(live / "file") == before


@pytest.mark.parametrize("name", ["file", "one"])
def test_what_somebody_else_changed_is_changed(mounted: Mounted, live: Path, tmp_path: Path, name: str) -> None:
    before = known(live / name)
    (tmp_path / "other").write_text("2")
    os.utime(tmp_path / "other", ns=(0, before[4]))
    for _ in range(2):
        forget(mounted)
        mounted.run("put", tmp_path / "other", f"data/main/{name}")
        wait_for(lambda: (live / name).read_text() == (tmp_path / "other").read_text())
        assert known(live / name)[4:] != before[4:]
        (tmp_path / "other").write_text("3")


def test_git_finds_nothing_changed_when_nothing_is(mounted: Mounted, live: Path) -> None:
    """It looks at symlinks twice, and what is another inode at the second time it calls modified."""
    git = ["git", "-c", "safe.directory=*", "-c", "user.name=n", "-c", "user.email=e", "-C", str(live)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    mounted.run("commit", "data/main")
    subprocess.run([*git, "status"], check=True, capture_output=True)
    forget(mounted)
    found = subprocess.run([*git, "diff-files"], check=True, capture_output=True, text=True)
    assert found.stdout == ""
