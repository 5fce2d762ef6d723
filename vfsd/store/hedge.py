"""Hedged reads: a read that is later than 99 of 100 of its like is sent a second time, and the first answer counts.

After Dean and Barroso, "The Tail at Scale" (CACM 2013). A few reads in a thousand get stuck behind a slow disk or a
lost packet; sent again, they take as long as any other. No more than a share of all reads is doubled, so that a store
which is slow as a whole does not get twice the load, and no more than MOST_BYTES at once, so that memory is not doubled
either. The loser ends at its next look at `over`.
"""

from __future__ import annotations

import queue
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from vfsd.store.retry import Slots

T = TypeVar("T")
Over = Callable[[], bool]  # whether another answer has come, so that this one is of no use

ENOUGH = 100  # reads of a size class, without which nothing can be said about the slowest in a hundred
REMEMBERED = 500  # reads of a size class that are gone by
FLOOR = 0.05  # seconds: what is quicker than this is not worth a request
BURST = 8.0  # hedges that may be saved up
MOST_BYTES = 16 << 20  # of the reads that are under way a second time
WHOLE = 256 << 10  # bytes that a read of unknown size counts as
IDLE = 30.0  # seconds after which a thread without work ends


class Beaten(Exception):
    """Raised by a read that saw that it is `over`."""


class HedgeCounts(msgspec.Struct, frozen=True):
    """sent: reads that were sent a second time. won: where the second answer came first."""

    sent: int = 0
    won: int = 0


class Latencies:
    """What reads took lately, by size class: each is four times as large as the one before, and None, whole objects of
    unknown size, is one of its own. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._classes: dict[int | None, tuple[deque[float], list[float]]] = {}

    def add(self, size: int | None, seconds: float) -> None:
        """A read of `size` bytes took so long."""
        with self._lock:
            lately, ordered = self._classes.setdefault(_size_class(size), (deque(), []))
            if len(lately) == REMEMBERED:
                ordered.remove(lately.popleft())
            lately.append(seconds)
            insort(ordered, seconds)

    def late(self, size: int | None) -> float | None:
        """Seconds after which a read of `size` bytes is late: the 99th percentile of its class, at least FLOOR; None
        when there are too few to tell."""
        with self._lock:
            _, ordered = self._classes.get(_size_class(size), (None, []))
            if len(ordered) < ENOUGH:
                return None
            return max(FLOOR, ordered[len(ordered) * 99 // 100])


class Hedger:
    """Does reads, some of them twice. share: of all reads, how many may be. slots: room that a second one takes too,
    if there is any; the caller has taken that of the first."""

    def __init__(self, share: float, slots: Slots) -> None:
        self._share = share
        self._slots = slots
        self._latencies = Latencies()
        self._runners = _Runners()
        self._lock = threading.Lock()
        self._allowed = 0.0  # hedges
        self._bytes = 0  # of hedges under way
        self._counts = HedgeCounts()

    def counts(self) -> HedgeCounts:
        """What was done since this was made."""
        return self._counts

    def read(self, size: int | None, act: Callable[[Over], T]) -> T:
        """The result of `act`, a read of `size` bytes; what it raises when all that were sent failed."""
        late = self._latencies.late(size) if self._share else None
        if late is None:
            return self._timed(size, act, _never)
        with self._lock:
            self._allowed = min(BURST, self._allowed + self._share)
        race: _Race[T] = _Race()
        self._runners.submit(race.runner(lambda over: self._timed(size, act, over)))
        if not race.ended.wait(late) and self._may(size):
            second = race.runner(lambda over: self._timed(size, act, over), is_second=True)

            def hedge() -> None:
                try:
                    second()
                finally:
                    self._slots.leave()
                    with self._lock:
                        self._bytes -= WHOLE if size is None else size

            self._runners.submit(hedge)
        race.ended.wait()
        if race.second_won:
            with self._lock:
                self._counts = msgspec.structs.replace(self._counts, won=self._counts.won + 1)
        return race.result()

    def close(self) -> None:
        """End the threads, once they have done what they are at."""
        self._runners.close()

    def _may(self, size: int | None) -> bool:
        """Whether a hedge may be sent; it is counted then."""
        with self._lock:
            total = self._bytes + (WHOLE if size is None else size)
            if self._allowed < 1 or total > MOST_BYTES or not self._slots.enter_at_once():
                return False
            self._allowed -= 1
            self._bytes = total
            self._counts = msgspec.structs.replace(self._counts, sent=self._counts.sent + 1)
            return True

    def _timed(self, size: int | None, act: Callable[[Over], T], over: Over) -> T:
        begun = time.monotonic()
        try:
            result = act(over)
        except Beaten:
            self._latencies.add(size, time.monotonic() - begun)  # at least: it is not among the quick ones
            raise
        self._latencies.add(size, time.monotonic() - begun)
        return result


class _Race(Generic[T]):
    """Reads of the same thing, of which the first to succeed wins. It has ended when one has, or all have failed."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.second_won = False
        self._lock = threading.Lock()
        self._running = 0
        self._results: list[T] = []
        self._error: BaseException | None = None

    def runner(self, act: Callable[[Over], T], *, is_second: bool = False) -> Callable[[], None]:
        """What a thread has to do; it takes part in the race from now on."""
        with self._lock:
            self._running += 1

        def run() -> None:
            result: list[T] = []
            error: BaseException | None = None
            try:
                if not self.ended.is_set():
                    result.append(act(self.ended.is_set))
            except BaseException as failed:  # it is raised in the thread that waits
                error = failed
            with self._lock:
                self._running -= 1
                if not self._results and result:
                    self._results = result
                    self.second_won = is_second
                self._error = self._error or error
                if self._results or not self._running:
                    self.ended.set()

        return run

    def result(self) -> T:
        """Of the winner. What the first to fail raised, when nobody won."""
        with self._lock:
            if self._results:
                return self._results[0]
            assert self._error is not None
            raise self._error


class _Runners:
    """Threads that are kept for a while. They are daemons: a read that is stuck must not hold up the process's end."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0  # threads that nothing was put into the queue for
        self._threads = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Have a thread do it, now."""
        with self._lock:
            self._work.put(work)
            if self._idle:
                self._idle -= 1
                return
            self._threads += 1
        threading.Thread(target=self._run, name="vfsd-read", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            for _ in range(self._threads):
                self._work.put(None)

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE)
            except queue.Empty:
                with self._lock:
                    if not self._idle:
                        continue  # something was put there for it just now
                    self._idle -= 1
                    self._threads -= 1
                    return
            if work is None:
                with self._lock:
                    self._threads -= 1
                    self._idle = max(0, self._idle - 1)
                return
            work()
            del work  # and what it holds: the bytes that were read
            with self._lock:
                self._idle += 1


def _never() -> bool:
    return False


def _size_class(size: int | None) -> int | None:
    return None if size is None else max(0, (size - 1).bit_length() - 12) // 2  # up to 8 KiB, 32 KiB, 128 KiB, …
