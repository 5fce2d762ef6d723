"""`vfsd watch` beside a mount: what happens in the directory shows there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import trio

from tests.mount.conftest import Mounted, commits_by_itself


async def shows(path: Path, content: str) -> None:
    """Return when a file in the mount has this content; the kernel tells nobody of changes that others make."""
    with trio.fail_after(60):
        while not (path.exists() and path.read_text() == content):
            await trio.sleep(0.02)


@commits_by_itself
async def test_what_is_closed_in_the_directory_shows_in_the_mount_and_both_write(mounted: Mounted) -> None:
    folder = mounted.folder / "dir"
    folder.mkdir()
    branch = mounted.path / "data" / "main"
    process = subprocess.Popen(
        [sys.executable, "-m", "vfsd", "watch", str(folder), "data/main/points"], env=mounted.environ,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        (folder / "1").write_text("one")
        await shows(branch / "points" / "1", "one")
        (branch / "mine").write_text("by the mount")
        (folder / ".2").write_text("two")
        (folder / ".2").rename(folder / "2")
        await shows(branch / "points" / "2", "two")
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait) == 0
    finally:
        process.kill()
        process.wait()
    mounted.run("commit", "data/main")
    assert mounted.run("ls", "data/main").stdout.split() == ["mine", "points/"]
    assert mounted.run("ls", "data/main/points").stdout.split() == ["1", "2"]


def test_a_directory_in_a_mount_or_around_one_is_refused(mounted: Mounted) -> None:
    inside = mounted.path / "data" / "main" / "dir"
    inside.mkdir()
    done = mounted.run("watch", inside, "data/main", check=False)
    assert done.returncode == 2
    assert done.stderr == f"vfsd: {inside} is in the mount {mounted.path}, where writes become commits anyway\n"
    done = mounted.run("watch", mounted.folder, "data/main", check=False)
    assert done.returncode == 2
    assert f"has the mount {mounted.path} in it" in done.stderr
