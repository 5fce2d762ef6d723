"""Directories as programs in C see them: positions, `.` and `..`, counts of links, flags of renameat2."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long
LIBC.readdir.argtypes = LIBC.telldir.argtypes = LIBC.closedir.argtypes = [ctypes.c_void_p]
LIBC.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
NAME_AT = 19  # in glibc's struct dirent on 64-bit Linux
AT_FDCWD = -100
RENAME_WHITEOUT = 4


class Stream:
    """A directory stream of the C library."""

    def __init__(self, path: Path) -> None:
        self._stream = LIBC.opendir(os.fsencode(path))
        assert self._stream

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """(name, position behind it)."""
        while entry := LIBC.readdir(self._stream):
            yield ctypes.string_at(entry + NAME_AT).decode(), LIBC.telldir(self._stream)

    def seek(self, position: int) -> None:
        LIBC.seekdir(self._stream, position)

    def close(self) -> None:
        LIBC.closedir(self._stream)


@pytest.fixture
def full(mounted: Mounted) -> Path:
    """A directory of 3,000 files and a directory."""
    top = mounted.path / "data" / "main" / "full"
    top.mkdir()
    for number in range(3000):
        (top / f"{number:04}").touch()
    (top / "x").mkdir()
    return top


def test_a_position_is_behind_the_same_name_whatever_was_removed_before_it(full: Path) -> None:
    stream = Stream(full)
    positions = dict(stream)
    for number in range(1000):
        (full / f"{number:04}").unlink()
    for number in (2000, 1500, 2900):
        stream.seek(positions[f"{number:04}"])
        assert next(iter(stream))[0] == f"{number + 1:04}"
    stream.seek(0)
    assert [name for name, _ in stream] == [".", "..", *(f"{number:04}" for number in range(1000, 3000)), "x"]
    stream.close()


@pytest.mark.parametrize("committed", [False, True])
def test_a_directory_counts_those_in_it(mounted: Mounted, committed: bool) -> None:
    top = mounted.path / "data" / "main"

    def settle() -> None:
        if committed:
            mounted.run("commit", "data/main")

    assert top.stat().st_nlink == 2
    for name in ("a", "b", "c"):
        (top / name).mkdir()
    (top / "file").touch()
    settle()
    assert top.stat().st_nlink == 5
    (top / "a").rename(top / "b" / "inner")
    (top / "c").rename(top / "d")
    settle()
    assert (top.stat().st_nlink, (top / "b").stat().st_nlink) == (4, 3)
    (top / "d").rmdir()
    settle()
    assert top.stat().st_nlink == 3
    if committed:
        mounted.umount()
        mounted.mount()
        assert (mounted.path / "data/main@~0").stat().st_nlink == 3
        assert (mounted.path / "data/main@~0/b").stat().st_nlink == 3
        assert (top.stat().st_nlink, (top / "b").stat().st_nlink) == (3, 3)


def test_a_removed_directory_that_is_open_has_no_links(mounted: Mounted) -> None:
    gone = mounted.path / "data" / "main" / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY)
    gone.rmdir()
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def test_a_flag_of_rename_that_cannot_be_kept_is_refused(mounted: Mounted) -> None:
    top = mounted.path / "data" / "main"
    (top / "a").touch()
    done = LIBC.renameat2(AT_FDCWD, os.fsencode(top / "a"), AT_FDCWD, os.fsencode(top / "b"), RENAME_WHITEOUT)
    assert (done, ctypes.get_errno()) == (-1, errno.EINVAL)
    assert os.listdir(top) == ["a"]


@pytest.mark.parametrize("place", ["", "data", "data/main", "data/main/new", "data/main@~0"])
def test_a_name_of_more_than_255_bytes_is_too_long_everywhere(mounted: Mounted, place: str) -> None:
    (mounted.path / "data/main/old").touch()
    mounted.run("commit", "data/main")
    (mounted.path / "data/main/new").mkdir()
    with pytest.raises(OSError) as refused:
        (mounted.path / place / ("n" * 256)).stat()
    assert refused.value.errno == errno.ENAMETOOLONG


def test_times_before_1970_are_kept(mounted: Mounted) -> None:
    path = mounted.path / "data" / "main" / "old"
    path.touch()
    os.utime(path, ns=(-5_000_000_001, -7_000_000_002))
    mounted.run("commit", "data/main")
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (-5_000_000_001, -7_000_000_002)
    assert (mounted.path / "data/main@~0/old").stat().st_mtime_ns == -7_000_000_002


@pytest.mark.parametrize("how", ["umount", "kill"])
def test_times_of_directories_outlive_the_daemon(mounted: Mounted, how: str) -> None:
    top = mounted.path / "data" / "main"
    for name in ("made", "linked", "removed", "from", "to", "created"):
        (top / name).mkdir()
        (top / name / "old").touch()
        os.utime(top / name, ns=(1, 1))
    mounted.run("commit", "data/main")
    mounted.run("commit", "start", "data/main")
    (top / "made" / "new").mkdir()
    os.link(top / "linked" / "old", top / "linked" / "new")
    (top / "removed" / "old").unlink()
    (top / "from" / "old").rename(top / "to" / "new")
    (top / "created" / "new").write_text("new")
    times = {path: path.stat().st_mtime_ns for path in top.iterdir()}
    assert 1 not in times.values()
    getattr(mounted, how)()
    mounted.mount()
    assert {path: path.stat().st_mtime_ns for path in top.iterdir()} == times
