"""When to ask a store again, and how much of it at once: what keeps clients from making a bad hour worse.

Three limits work together. Each call waits longer after each failure, a random part of the wait ("full jitter",
Brooker, "Exponential Backoff and Jitter", AWS 2015). All calls of a store draw their retries from one bucket, which
fills by successes, so that retries dry up when most requests fail. And a server that asks to slow down gets fewer
requests at once, then slowly more again (additive increase, multiplicative decrease, as in TCP). No I/O here.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from types import TracebackType

FIRST_WAIT = 0.05  # seconds at most before the first retry, doubled with each
FIRST_THROTTLED_WAIT = 0.5  # the same, when the server asked to slow down
LONGEST_WAIT = 5.0
BUCKET = 64.0  # retries that the bucket holds at most, and at first
EARNED = 0.1  # retries that one success earns: below this share of failures nothing is held back
RECOVERED = 2.0  # what a success of a retry earns: its own token and one more, so a store that is back is used at once
TRICKLE = 1.0  # retries a second that are always allowed: they find out whether the store is back
DECREASE = 0.7  # what is left of the requests at once when the server asks to slow down
DECREASE_EVERY = 0.5  # seconds: the answers to requests that were under way already count as one

Clock = Callable[[], float]


def backoff(attempt: int, *, throttled: bool = False) -> float:
    """Seconds to wait after `attempt` failures before this one: a random part of a limit that doubles."""
    first = FIRST_THROTTLED_WAIT if throttled else FIRST_WAIT
    return random.uniform(0, min(LONGEST_WAIT, first * 2 ** min(attempt, 16)))


class RetryBudget:
    """A bucket of retries, shared by all calls of one store."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = BUCKET
        self._filled = clock()

    def take(self) -> float:
        """0 when a retry may be sent now, and it is counted; else seconds after which to ask again."""
        with self._lock:
            now = self._clock()
            self._add((now - self._filled) * TRICKLE)
            self._filled = now
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return (1 - self._tokens) / TRICKLE

    def succeeded(self, *, was_retry: bool) -> None:
        """A request did what it should."""
        with self._lock:
            self._add(RECOVERED if was_retry else EARNED)

    def _add(self, tokens: float) -> None:
        self._tokens = min(BUCKET, self._tokens + tokens)


class Slots:
    """A context manager that at most `limit` threads are in at once; the others wait. `limit` follows the server."""

    def __init__(self, most: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._most = most
        self._limit = float(most)
        self._used = 0
        self._decreased = -DECREASE_EVERY + clock()
        self._free = threading.Condition(threading.Lock())

    @property
    def limit(self) -> int:
        """How many are let in now."""
        return int(self._limit)

    def __enter__(self) -> None:
        with self._free:
            while self._used >= int(self._limit):
                self._free.wait()
            self._used += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()

    def enter_at_once(self) -> bool:
        """Come in if there is room; `leave` ends it."""
        with self._free:
            if self._used >= int(self._limit):
                return False
            self._used += 1
            return True

    def leave(self) -> None:
        """Make room for one."""
        with self._free:
            self._used -= 1
            self._free.notify()

    def succeeded(self) -> None:
        """A request was answered: one more may come in after as many of them as there are now."""
        if self._limit < self._most:
            with self._free:
                self._limit = min(self._most, self._limit + 1 / self._limit)
                self._free.notify()

    def slow_down(self) -> None:
        """The server asked for it."""
        with self._free:
            now = self._clock()
            if now - self._decreased >= DECREASE_EVERY:
                self._decreased = now
                self._limit = max(1.0, self._limit * DECREASE)
