"""What all connections of the proxy share: its options, the choice of mishaps, the counts, the bandwidth."""

from __future__ import annotations

import random
import threading
import time

import msgspec

from tests.proxy import Counts, Mishap, Options, Planned, Traffic

DEPTH_S = 0.1


class Ledger:
    """Counts of all connections, and the choice of mishaps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._waiting = 0
        self._planned: list[Planned] = []
        self._chance = random.Random()
        self.options = Options()
        self.bandwidth = Bandwidth(0)

    def set(self, options: Options) -> None:
        """Go by these from now on."""
        with self._lock:
            self.options = options
            self.bandwidth = Bandwidth(options.mb_per_s * 1e6)
            self._chance = random.Random(options.seed)

    def expect(self, planned: Planned) -> None:
        """Have it happen once it is its turn."""
        with self._lock:
            self._planned.append(planned)

    def counts(self, *, reset: bool) -> Counts:
        """All so far."""
        with self._lock:
            counts = msgspec.json.decode(msgspec.json.encode(self._counts), type=Counts)
            if reset:
                self._counts = Counts(peak=self._waiting)
            return counts

    def connected(self) -> None:
        """A client has connected."""
        with self._lock:
            self._counts.connections += 1

    def begins(self, method: str, kind: str) -> Mishap | None:
        """A request has come; what is to happen to it."""
        with self._lock:
            self._traffic(method, kind).requests += 1
            self._waiting += 1
            self._counts.peak = max(self._counts.peak, self._waiting)
            mishap = self._choose(method, kind)
            if mishap is not None:
                self._counts.mishaps[mishap] = self._counts.mishaps.get(mishap, 0) + 1
            return mishap

    def answered(self) -> None:
        """One of the requests that have begun gets its answer now, or never will."""
        with self._lock:
            self._waiting -= 1

    def moved(self, method: str, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Bytes of a request or its answer pass. Said before they are sent: who has an answer finds it counted."""
        with self._lock:
            traffic = self._traffic(method, kind)
            traffic.up += up
            traffic.down += down

    def _traffic(self, method: str, kind: str) -> Traffic:
        return self._counts.by.setdefault(method, {}).setdefault(kind, Traffic())

    def _choose(self, method: str, kind: str) -> Mishap | None:
        for planned in self._planned:
            if planned.method in {"", method} and planned.kind in {"", kind}:
                planned.times -= 1
                if not planned.times:
                    self._planned.remove(planned)
                return planned.mishap
        if not self.options.mishaps:
            return None
        drawn = self._chance.random()
        for mishap, share in sorted(self.options.mishaps.items()):
            drawn -= share
            if drawn < 0:
                return mishap
        return None


class Bandwidth:
    """A token bucket, DEPTH_S deep, that all connections take from. rate: bytes a second; 0: no limit."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, size: int) -> None:
        """Return when `size` bytes may pass."""
        if not self.rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - DEPTH_S) + size / self.rate
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)
