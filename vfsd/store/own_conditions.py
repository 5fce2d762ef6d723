"""Conditional writes to a store that does not keep them, for the one node that may use it then: its processes exclude
each other by flock(2) on files of the node, and look themselves whether the condition holds.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vfsd.model.errors import AccessDenied, Conflict, NotFound
from vfsd.store.api import Buffer, ETag, ObjectStore
from vfsd.store.wrapped import WrappedStore

STRIPES = 64  # lock files: writers of different keys rarely meet
T = TypeVar("T")


class OwnConditions(WrappedStore):
    """`inner`, with conditions that hold among all processes that use the same `folder`, which the first write makes.
    What is written without a condition is as in `inner`."""

    def __init__(self, inner: ObjectStore, folder: str) -> None:
        super().__init__(inner)
        self._folder = folder

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        return act()

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        with self._locked(key):
            try:
                held, found = self.inner.get(key)
            except NotFound:
                return self.inner.put(key, data)
        if held != data:
            raise Conflict(f"{key} is there already, with other bytes")
        return found

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        with self._locked(key):
            try:
                held, found = self.inner.get(key)
            except NotFound:
                raise Conflict(f"{key} was deleted meanwhile") from None
            if held != data and found == etag:
                return self.inner.put(key, data)
        if held != data:
            raise Conflict(f"{key} was changed meanwhile")
        return found

    def delete(self, key: str) -> None:
        with self._locked(key):
            self.inner.delete(key)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        path = os.path.join(self._folder, f"{zlib.crc32(key.encode()) % STRIPES:02x}")
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AccessDenied(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
