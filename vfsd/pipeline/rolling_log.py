"""The log of a command that goes on for ever: a file of its last output, and one of what came before.

The files stay while the job is in flight, also when the daemon is killed, and are gone on with by the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from typing import Self

from vfsd.pipeline.executor import BoundedLog

SIZE = 512 * 1024  # bytes of each of the two files at most, and so what is kept at least once there was so much


def before(path: str | bytes) -> bytes:
    """Where what was printed before stands."""
    return os.fsencode(path) + b".old"


class RollingLog(BoundedLog):
    """See BoundedLog. `rolled` is called when the file at the path is a new one."""

    def __init__(self, path: bytes, masked: tuple[bytes, ...], rolled: Callable[[], None]) -> None:
        super().__init__(path, masked)
        self._rolled = rolled
        self._size = 0

    def __enter__(self) -> Self:
        with self.noting_errors():
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._size = os.fstat(self._fd).st_size
        return self

    def keep(self, data: bytes) -> None:
        """See BoundedLog."""
        for at in range(0, len(data), SIZE):
            part = data[at : at + SIZE]
            if self._size + len(part) > SIZE:
                self._roll()
            self._size += len(part)
            self.append(part)

    def _roll(self) -> None:
        with self.noting_errors():
            os.replace(self.path, before(self.path))
            self.open_anew()
        self._size = 0
        self._rolled()


def log_in(folder: bytes) -> bytes:
    """The path of the log in a job's folder."""
    return folder + b"/log"


def leave_log(folder: bytes) -> None:
    """Remove what is in a job's folder but its log, and the folder where there is none."""
    log = log_in(folder)
    kept = {os.path.basename(log), os.path.basename(before(log))}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name not in kept:
                os.unlink(entry.path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def whole(path: bytes) -> bytes:
    """Put what there is of a log into one file; its path. OSError."""
    there = path + b".whole"
    with open(there, "wb") as out:
        for part in (before(path), path):
            if os.path.exists(part):
                with open(part, "rb") as file:
                    shutil.copyfileobj(file, out)
    return there
