"""A store that counts what is asked of the one below it: for `--stats` and the benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from vfsd.store.api import ObjectStore
from vfsd.store.wrapped import WrappedStore

T = TypeVar("T")


class Traffic(msgspec.Struct, frozen=True):
    """Requests of one kind, failed ones included, and the content bytes that they moved."""

    requests: int = 0
    sent: int = 0
    received: int = 0


class CountingStore(WrappedStore):
    """Passes every call on to `inner` and counts it. A listing is one request, however many pages it takes."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self._traffic: dict[str, Traffic] = {}
        self._lock = threading.Lock()

    def traffic(self) -> Mapping[str, Traffic]:
        """What was counted since the last `reset`, by the name of the method that was called."""
        with self._lock:
            return dict(self._traffic)

    def total(self) -> Traffic:
        """All kinds together."""
        kinds = self.traffic().values()
        return Traffic(
            sum(kind.requests for kind in kinds), sum(kind.sent for kind in kinds), sum(kind.received for kind in kinds)
        )

    def reset(self) -> None:
        """Begin at zero."""
        with self._lock:
            self._traffic.clear()

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        self._count(kind, 1, sent, 0)
        result = act()
        content = result[0] if isinstance(result, tuple) else result
        if isinstance(content, bytes | memoryview):
            self._count(kind, 0, 0, len(content))
        return result

    def _count(self, kind: str, requests: int, sent: int, received: int) -> None:
        with self._lock:
            now = self._traffic.get(kind, Traffic())
            self._traffic[kind] = Traffic(now.requests + requests, now.sent + sent, now.received + received)
