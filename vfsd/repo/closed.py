"""Local files that others write: when there is a version of one to be had, and whether it was read whole.

A version is what a file is while nobody has it open for writing. The kernel knows that: fcntl(2) refuses a read lease
(F_SETLEASE, F_RDLCK) with EAGAIN then. Where it gives no leases (another owner's file without CAP_LEASE, network and
FUSE filesystems) a file counts as closed, and only a change while it is read is noticed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import time

BEING_WRITTEN = "it is being written"
TICK_NS = 20_000_000  # two changes nearer than this may have the same times: twice the kernel's slowest clock tick
_NO_LEASES = {errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


class BeingWritten(Exception):
    """Raised instead of an entry: somebody has the file open for writing, or changed it while it was read."""


class ClosedFile:
    """A file opened for reading that nobody writes. The caller owns `fd`; `status` is the file's as it was opened."""

    def __init__(self, fd: int) -> None:
        """BeingWritten; OSError."""
        self._fd = fd
        if _is_written(fd):
            raise BeingWritten
        self.status = os.fstat(fd)
        if not stat.S_ISREG(self.status.st_mode):
            raise BeingWritten  # by something else, just now
        self._outlast_tick()

    def _outlast_tick(self) -> None:
        """Wait until a further change shows in the file's times."""
        age = time.time_ns() - self.status.st_ctime_ns
        if 0 <= age < TICK_NS:
            time.sleep((TICK_NS - age) / 1e9)

    def check(self) -> None:
        """BeingWritten when what was read since it was opened may be of two versions."""
        now = os.fstat(self._fd)
        if _version(now) != _version(self.status) or _is_written(self._fd):
            raise BeingWritten


def obstacle(path: bytes) -> str:
    """Why no version of what is at `path` can be had now; empty when one can, or nothing is there any more."""
    try:
        if not stat.S_ISREG(status := os.lstat(path).st_mode) and not stat.S_ISDIR(status):
            return ""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return error.strerror or str(error)
    try:
        return BEING_WRITTEN if _is_written(fd) else ""
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.close(fd)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_written(fd: int) -> bool:
    try:
        # Who opens the file between these calls waits for the third, and we are sent a signal: the default one would
        # end this process, this one is ignored unless somebody handles it.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LEASES:
            raise
    return False
