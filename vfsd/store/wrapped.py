"""A store around another store: every call goes through one method, `_around`, which a subclass overrides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from vfsd.store.api import Buffer, ETag, ObjectStore, Stat

T = TypeVar("T")


class WrappedStore:
    """An ObjectStore that passes every call on to `inner`."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        """Do one request. kind: the method's name. key: key or prefix. sent: bytes that go to the store."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        return self.inner.url

    @property
    def is_local(self) -> bool:
        return self.inner.is_local

    def get(self, key: str) -> tuple[bytes, ETag]:
        return self._around("get", key, 0, lambda: self.inner.get(key))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._around("get_range", key, 0, lambda: self.inner.get_range(key, offset, length))

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        return self._around("get_range", key, 0, lambda: self.inner.get_large(key, offset, length))

    def stat(self, key: str) -> Stat:
        return self._around("stat", key, 0, lambda: self.inner.stat(key))

    def put(self, key: str, data: Buffer) -> ETag:
        return self._around("put", key, len(data), lambda: self.inner.put(key, data))

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        return self._around("put_if_absent", key, len(data), lambda: self.inner.put_if_absent(key, data))

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        return self._around("put_if_match", key, len(data), lambda: self.inner.put_if_match(key, data, etag))

    def delete(self, key: str) -> None:
        return self._around("delete", key, 0, lambda: self.inner.delete(key))

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        yield from self._around("list", prefix, 0, lambda: self.inner.list(prefix, after=after))

    def list_folders(self, prefix: str) -> Iterator[str]:
        yield from self._around("list_folders", prefix, 0, lambda: self.inner.list_folders(prefix))

    def abort_uploads(self, prefix: str, older_s: float, *, dry_run: bool = False) -> int:
        return self._around(
            "abort_uploads", prefix, 0, lambda: self.inner.abort_uploads(prefix, older_s, dry_run=dry_run)
        )

    def close(self) -> None:
        self.inner.close()
