"""Runs an operation that may not block until it has what it needs: the other half of NotCached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from vfsd.model.errors import NotCached, Unavailable

T = TypeVar("T")
TRIES = 1000  # loads one operation may ask for; more means that the caches are too small to hold what it needs
THREADS = 32  # loads at once
AHEAD = 8  # more of those that nobody waits for yet, from a store that is far away
AHEAD_HERE = 2  # from a store on this machine: it is work, and more threads only fight for the interpreter


class Loads:
    """Loads in threads; operations that miss the same thing share one load."""

    def __init__(self, *, ahead: int = AHEAD) -> None:
        self.begun = 0  # loads that somebody waited for
        self._running: dict[object, trio.Event] = {}
        self._limit = trio.CapacityLimiter(THREADS)
        self._limit_ahead = trio.CapacityLimiter(ahead)

    async def run(self, operation: Callable[[], T]) -> T:
        """The operation's result. It is called again, from its start, after each load that it asked for."""
        for _ in range(TRIES):
            try:
                return operation()
            except NotCached as miss:
                await self.load(miss)
        raise Unavailable("the caches are too small for this operation: raise their limits")

    async def load(self, miss: NotCached) -> None:
        """Do one load, or wait for the one that is under way. Its error is raised to whoever began it; the others
        ask again and find out for themselves."""
        self.begun += 1
        running = self._running.get(miss.key)
        if running is not None:
            await running.wait()
            return
        await self._run([miss.key], miss.load, self._limit)

    async def ahead(self, keys: Sequence[object], load: Callable[[], object]) -> None:
        """Load what will be asked for by any of `keys`, none of which is under way."""
        await self._run(keys, load, self._limit_ahead)

    async def beside(self, look: Callable[[], T]) -> T:
        """What a look gives that takes long, in a thread."""
        return await trio.to_thread.run_sync(look, limiter=self._limit)

    async def _run(self, keys: Sequence[object], load: Callable[[], object], limit: trio.CapacityLimiter) -> None:
        done = trio.Event()
        for key in keys:
            self._running[key] = done
        try:
            await trio.to_thread.run_sync(load, limiter=limit)
        finally:
            for key in keys:
                self._running.pop(key, None)
            done.set()

    def any_running(self) -> bool:
        """Whether any load is under way."""
        return bool(self._running)

    def is_running(self, key: object) -> bool:
        """Whether a load of this key is under way."""
        return key in self._running
