"""Objects in this process's memory, for tests and trials. The plainest reading of the contract; keeps nothing."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import msgspec

from vfsd.model.errors import Conflict, NotFound
from vfsd.store.api import Buffer, ETag, Stat
from vfsd.store.keys import check_key, check_prefix


class _Object(msgspec.Struct, frozen=True):
    data: bytes
    etag: ETag
    modified: float


class MemoryStore:
    """An ObjectStore in a dict. Every version gets an ETag of its own, so there is no ABA here."""

    def __init__(self) -> None:
        self._objects: dict[str, _Object] = {}
        self._lock = threading.Lock()
        self._versions = itertools.count(1)

    @property
    def url(self) -> str:
        return "memory:"

    @property
    def is_local(self) -> bool:
        return True

    def _object(self, key: str) -> _Object:
        found = self._objects.get(check_key(key))
        if found is None:
            raise NotFound(f"{self.url} holds no object {key}")
        return found

    def _write(self, key: str, data: bytes) -> ETag:
        etag = ETag(f"v{next(self._versions)}")
        self._objects[key] = _Object(data, etag, time.time())
        return etag

    def get(self, key: str) -> tuple[bytes, ETag]:
        found = self._object(key)
        return found.data, found.etag

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._object(key).data[offset : offset + length]

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        return memoryview(self.get_range(key, offset, length))

    def stat(self, key: str) -> Stat:
        found = self._object(key)
        return Stat(key, len(found.data), found.etag, found.modified)

    def put(self, key: str, data: Buffer) -> ETag:
        check_key(key)
        with self._lock:
            return self._write(key, bytes(data))

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        check_key(key)
        with self._lock:
            held = self._objects.get(key)
            if held is None:
                return self._write(key, bytes(data))
            if held.data == data:
                return held.etag
        raise Conflict(f"{key} is there already, with other bytes")

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        check_key(key)
        with self._lock:
            held = self._objects.get(key)
            if held is not None and held.data == data:
                return held.etag
            if held is not None and held.etag == etag:
                return self._write(key, bytes(data))
        raise Conflict(f"{key} was changed meanwhile" if held else f"{key} was deleted meanwhile")

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._objects.pop(key, None)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        check_prefix(prefix)
        with self._lock:
            found = [item for item in self._objects.items() if item[0].startswith(prefix) and item[0] > after]
        for key, held in sorted(found, key=lambda item: item[0]):
            yield Stat(key, len(held.data), held.etag, held.modified)

    def list_folders(self, prefix: str) -> Iterator[str]:
        last = ""
        for item in self.list(prefix):
            folder, slash, _ = item.key[len(prefix) :].partition("/")
            if slash and folder != last:
                last = folder
                yield folder

    def abort_uploads(self, prefix: str, older_s: float, *, dry_run: bool = False) -> int:
        check_prefix(prefix)
        return 0

    def close(self) -> None:
        self._objects.clear()
