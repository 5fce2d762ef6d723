"""Files whose room is asked for, zeroed or given back, and files that get their names when they are whole."""

from __future__ import annotations

import errno
import itertools
import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

SIZES = [5_000, 300_000]  # of a file that stays in memory while it is written, and of one that does not


def fallocate(path: Path, *how: str) -> None:
    subprocess.run(["fallocate", *how, path], check=True, capture_output=True)


@pytest.fixture
def branch(mounted: Mounted) -> Path:
    return mounted.path / "data/main"


HOW = [
    ["--punch-hole", "--offset=1000", "--length=2500"], ["--zero-range", "--offset=4000", "--length=400000"],
    ["--zero-range", "--keep-size", "--offset=4000", "--length=400000"], ["--offset=0", "--length=700000"],
    ["--keep-size", "--offset=0", "--length=700000"], ["--punch-hole", "--offset=900000", "--length=10"],
]  # fmt: skip


@pytest.mark.parametrize("committed", [False, True])
def test_room_is_made_as_on_a_local_disk(mounted: Mounted, branch: Path, tmp_path: Path, *, committed: bool) -> None:
    kinds = list(itertools.product(SIZES, range(len(HOW))))
    for size, number in kinds:
        data = os.urandom(size)
        for folder in (branch, tmp_path):
            (folder / f"{size}-{number}").write_bytes(data)
    if committed:
        mounted.run("commit", "data/main")
    expected = {}
    for size, number in kinds:
        name = f"{size}-{number}"
        for folder in (branch, tmp_path):
            fallocate(folder / name, *HOW[number])
        expected[name] = (tmp_path / name).read_bytes()
        assert (branch / name).read_bytes() == expected[name], (size, HOW[number])
    mounted.kill()
    mounted.mount()
    mounted.run("commit", "data/main")
    for folder in (branch, mounted.path / "data/main@~0"):
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


def test_ranges_are_not_collapsed_and_the_file_stays_as_it_is(branch: Path) -> None:
    (branch / "f").write_bytes(b"x" * 10_000)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        fallocate(branch / "f", "--collapse-range", "--offset=0", "--length=4096")
    assert b"not supported" in caught.value.stderr.lower()
    assert (branch / "f").read_bytes() == b"x" * 10_000


def test_room_that_is_not_there_is_refused_when_it_is_asked_for(branch: Path) -> None:
    with (branch / "f").open("wb") as file:
        with pytest.raises(OSError) as caught:
            os.posix_fallocate(file.fileno(), 0, 1 << 50)
        assert caught.value.errno == errno.ENOSPC
    assert (branch / "f").stat().st_size == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_file_without_a_name_gets_one_when_it_is_whole(mounted: Mounted, branch: Path, size: int) -> None:
    data = os.urandom(size)
    fd = os.open(branch, os.O_TMPFILE | os.O_RDWR, 0o640)
    os.write(fd, data)
    mounted.run("commit", "data/main")
    assert os.listdir(branch) == []
    os.link(f"/proc/self/fd/{fd}", branch / "whole", src_dir_fd=fd)  # which has the link followed
    assert os.fstat(fd).st_nlink == 1
    assert (branch / "whole").read_bytes() == data
    os.close(fd)
    mounted.kill()
    mounted.mount()
    mounted.run("commit", "data/main")
    for path in (branch / "whole", mounted.path / "data/main@~0/whole"):
        assert path.read_bytes() == data and path.stat().st_mode | 0o200 == stat.S_IFREG | 0o640


def test_a_file_that_never_got_a_name_leaves_nothing(mounted: Mounted, branch: Path) -> None:
    fd = os.open(branch, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, bytes(300_000))
    os.close(fd)
    assert os.listdir(branch) == []
    assert mounted.run("commit", "data/main").stderr.startswith("nothing new")


def test_a_file_without_a_name_that_may_never_have_one_is_refused_it(branch: Path) -> None:
    fd = os.open(branch, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
    with pytest.raises(FileNotFoundError):
        os.link(f"/proc/self/fd/{fd}", branch / "name", src_dir_fd=fd)  # which has the link followed
    os.close(fd)

