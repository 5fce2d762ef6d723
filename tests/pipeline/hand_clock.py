"""A clock that goes when a test says so."""

from __future__ import annotations

import trio

from vfsd.model.schedule import SECOND, parse_moment


class HandClock:
    """Stands at a time of RFC 3339 until it is set, forth or back."""

    def __init__(self, text: str) -> None:
        self._now = parse_moment(text)
        self._set = trio.Event()
        self.asked: list[int] = []  # moments that somebody waited for

    def now(self) -> int:
        return self._now

    async def reached(self, moment: int) -> None:
        self.asked.append(moment)
        if moment > self._now:
            await self._set.wait()

    def set(self, text: str) -> None:
        """It is this time now."""
        self._now = parse_moment(text)
        self._set.set()
        self._set = trio.Event()

    def go(self, seconds: float) -> None:
        """It is later now."""
        self._now += int(seconds * SECOND)
        self._set.set()
        self._set = trio.Event()
