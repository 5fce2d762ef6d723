"""A bounded set of files kept open for reading, safe from any thread: opening costs more than a small read."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict


class OpenFile:
    """An open file, closed when nobody uses it any more: a reader in another thread keeps it open while it reads."""

    __slots__ = ("fd",)

    def __init__(self, path: str) -> None:
        self.fd = -1
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def is_gone(self) -> bool:
        """Whether the file has lost its name, so that this is not what others read."""
        return os.fstat(self.fd).st_nlink == 0

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class OpenFiles:
    """The `most` files that were used last, by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> OpenFile | None:
        with self._lock:
            file = self._files.get(key)
            if file is not None:
                self._files.move_to_end(key)
            return file

    def add(self, key: str, file: OpenFile) -> OpenFile:
        with self._lock:
            self._files[key] = file
            if len(self._files) > self._most:
                self._files.popitem(last=False)
        return file

    def discard(self, key: str) -> None:
        with self._lock:
            self._files.pop(key, None)

    def clear(self) -> None:
        with self._lock:
            self._files.clear()
