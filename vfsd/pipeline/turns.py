"""How many datums run at a time on a node, whatever their pipelines: whoever waits is served by turns, a pipeline each.

So a pipeline of a million datums does not keep one of three waiting, and a node with many pipelines is not overrun.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator

import trio


class Turns:
    """Places for `limit` datums. In one event loop."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: dict[str, deque[trio.Event]] = {}  # pipeline → its datums; the pipeline whose turn it is first

    @contextlib.asynccontextmanager
    async def taken(self, pipeline: str) -> AsyncIterator[None]:
        """Wait for a place and have it for the block."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(pipeline)
        try:
            yield
        finally:
            self._give_back()

    async def _wait(self, pipeline: str) -> None:
        mine = trio.Event()
        self._waiting.setdefault(pipeline, deque()).append(mine)
        try:
            await mine.wait()
        except trio.Cancelled:
            if mine.is_set():
                self._give_back()
            else:
                self._waiting[pipeline].remove(mine)
                if not self._waiting[pipeline]:
                    del self._waiting[pipeline]
            raise

    def _give_back(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        pipeline = next(iter(self._waiting))
        others = self._waiting.pop(pipeline)
        others.popleft().set()
        if others:
            self._waiting[pipeline] = others  # behind all others
