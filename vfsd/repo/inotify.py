"""Which keys of a local store change, from the kernel: inotify(7) on the folders that hold them.

Used directly, through libc: an event is there within a fraction of a millisecond, nothing runs while nothing happens,
and a new folder is watched before it is listed, so that no file made in between is missed. Libraries that poll the
kernel from a thread take some 17 ms at their usual step, and may miss the first file in a new folder.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator, Sequence

from vfsd.store.keys import is_component

_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x8, 0x40, 0x80, 0x100, 0x200
_DELETE_SELF, _MOVE_SELF = 0x400, 0x800
_OVERFLOW, _IGNORED, _ONLYDIR, _ISDIR = 0x4000, 0x8000, 0x1000000, 0x40000000
_GONE = _DELETE_SELF | _MOVE_SELF | _IGNORED
_MASK = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_EVENT = struct.Struct("iIII")  # struct inotify_event: watch, mask, cookie, length of the name that follows

_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Watches what lies below the store's folder `root` under one of `prefixes` (which end in `/`).

    `fd` becomes readable when something happened; what is read from it goes to `keys`. Folders that are not there yet
    are waited for. OSError when the kernel has no watches left. Not safe for two threads at once, but for `fd`.
    """

    def __init__(self, root: str, prefixes: Sequence[str]) -> None:
        self._root = root
        self._prefixes = tuple(prefixes)
        self._wanted = [os.path.join(root, prefix).rstrip("/") for prefix in prefixes]
        self._folders: dict[int, str] = {}  # watch → its folder
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise _error("inotify")

    def close(self) -> None:
        """End all watches."""
        os.close(self.fd)

    def arm(self) -> None:
        """Watch every folder there is; where the topmost is missing, the nearest one above it."""
        for wanted in self._wanted:
            while not self._watch_below(wanted, set()):
                above = os.path.dirname(wanted)
                while not self._watch(above):
                    above = os.path.dirname(above)
                if not os.path.isdir(wanted):
                    break  # what is made from now on is noticed

    def keys(self, raw: bytes) -> set[str] | None:
        """The keys that may have changed according to `raw`; None when it may be any: then `arm`, and list."""
        found: set[str] = set()
        for watch, mask, name in _events(raw):
            if mask & _OVERFLOW:
                return None
            folder = self._folders.get(watch)
            if mask & _IGNORED:
                self._folders.pop(watch, None)
            if folder is None:
                continue
            if mask & _GONE:
                return None
            path = f"{folder}/{name}"
            if self._is_above(path):
                return None
            if not mask & _ISDIR:
                found.add(path)
            elif mask & (_CREATE | _MOVED_TO):
                self._watch_below(path, found)
            elif mask & _MOVED_FROM:
                return None
        return {key for key in (path[len(self._root) + 1 :] for path in found) if self._is_ours(key)}

    def _is_above(self, path: str) -> bool:
        """Whether a wanted folder is, or lies in, `path`."""
        return any(wanted == path or wanted.startswith(path + "/") for wanted in self._wanted)

    def _is_ours(self, key: str) -> bool:
        return key.startswith(self._prefixes) and all(map(is_component, key.split("/")))

    def _watch_below(self, folder: str, found: set[str]) -> bool:
        """Watch a folder and those in it, then put the files there into `found`; False when it is not there."""
        if not self._watch(folder):
            return False
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        self._watch_below(entry.path, found)
                    else:
                        found.add(entry.path)
        except FileNotFoundError:
            return False
        return True

    def _watch(self, folder: str) -> bool:
        watch: int = _libc.inotify_add_watch(self.fd, os.fsencode(folder), _MASK)
        if watch < 0:
            error = _error(folder)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return False
            raise error
        self._folders[watch] = folder
        return True


def _events(raw: bytes) -> Iterator[tuple[int, int, str]]:
    """(watch, mask, name) of what inotify's descriptor gave."""
    at = 0
    while at < len(raw):
        watch, mask, _, length = _EVENT.unpack_from(raw, at)
        at += _EVENT.size
        yield watch, mask, os.fsdecode(raw[at : at + length].rstrip(b"\0"))
        at += length


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)
