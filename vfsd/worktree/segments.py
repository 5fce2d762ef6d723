"""Segments: files of the staging folder that many small files share (docs/decisions/0008).

A segment goes with its last user, and not before every branch is open whose journal records name it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping


class Segment:
    """An open segment. users: files with bytes in it, and who appends to it."""

    def __init__(self, name: str, fd: int, size: int) -> None:
        self.name = name
        self.fd = fd
        self.size = size
        self.synced = 0  # bytes that survive a power cut
        self.users = 0


class Segments:
    """The segments of one staging folder. `removed` is told the name of one whose file is to go. In any thread."""

    def __init__(self, folder: str, removed: Callable[[str], None]) -> None:
        self._folder = folder
        self._removed = removed
        self._lock = threading.Lock()
        self._open: dict[str, Segment] = {}
        self._awaited: dict[int, set[str]] = {}  # branch that is not open yet → segments that its records name

    def __contains__(self, name: str) -> bool:
        return name in self._open

    def expect(self, named: Mapping[int, Iterable[str]]) -> None:
        """Keep what journal records name (branch → names) until the branch is `opened`."""
        self._awaited = {branch: {name for name in names if name[0] == "s"} for branch, names in named.items()}

    def opened(self, branch: int) -> None:
        """What the records of a branch need is in use."""
        with self._lock:
            for name in self._awaited.pop(branch, set()):
                self._remove_unused(name)

    def use(self, name: str) -> Segment:
        """The segment, made when it is not there, with one user more."""
        with self._lock:
            found = self._open.get(name)
            if found is None:
                fd = os.open(os.path.join(self._folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                found = self._open[name] = Segment(name, fd, os.fstat(fd).st_size)
            found.users += 1
            return found

    def release(self, name: str) -> None:
        """A user is gone."""
        with self._lock:
            self._open[name].users -= 1
            self._remove_unused(name)

    def _remove_unused(self, name: str) -> None:
        found = self._open.get(name)
        if (found is not None and found.users) or any(name in names for names in self._awaited.values()):
            return
        if found is not None:
            del self._open[name]
            os.close(found.fd)
        self._removed(name)

    def sync(self) -> None:
        """Make all bytes durable against a power cut. In several threads at once too: none returns before what it
        found is durable."""
        for segment in list(self._open.values()):
            size = segment.size
            if segment.synced >= size:
                continue
            try:
                os.fsync(segment.fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # its last user is gone meanwhile
                    raise
            segment.synced = size

    def close(self) -> None:
        """Close descriptors; files stay."""
        for segment in self._open.values():
            os.close(segment.fd)
        self._open.clear()
