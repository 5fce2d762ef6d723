"""What is done to files of the staging folder."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

_COPY = 8 << 20  # bytes that are in memory at once
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # of fallocate(2)
_libc = ctypes.CDLL(None, use_errno=True)


def write_all(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of the bytes. OSError."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Have zeros there that take no room, within the file. OSError."""
    if _libc.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unlink(path: str) -> None:
    """Remove a file that may be gone."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def copy_ranges(source: str, target: str, ranges: Iterable[tuple[int, int]]) -> bool:
    """Copy parts, from byte to byte, of one file into another; False when either is gone: their names are not used
    twice. OSError."""
    try:
        with open(source, "rb", buffering=0) as old, open(target, "r+b", buffering=0) as new:
            for start, end in ranges:
                for at in range(start, end, _COPY):
                    write_all(new.fileno(), os.pread(old.fileno(), min(_COPY, end - at), at), at)
    except FileNotFoundError:
        return False
    return True


def nothing() -> None:
    """Do nothing more."""
