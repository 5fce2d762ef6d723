"""The time of day, and waiting for a moment of it: without looking again and again, and also when the clock is set."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from vfsd.model.errors import VfsdError
from vfsd.model.schedule import SECOND

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0  # after something failed
_REALTIME, _ABSOLUTE, _CANCEL_ON_SET = 0, 1, 2  # CLOCK_REALTIME, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET
_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger(__name__)


class Clock(Protocol):
    """The time of day, in ns since 1970."""

    def now(self) -> int:
        """What time it is."""

    async def reached(self, moment: int) -> None:
        """Return when it is `moment`, or when the clock was set: look at it then."""


class WallClock:
    """The machine's clock. A timer of the kernel (timerfd_create(2)) wakes who waits, also after a sleep of the machine
    and when somebody sets the clock."""

    def now(self) -> int:
        """As time.time_ns()."""
        return time.time_ns()

    async def reached(self, moment: int) -> None:
        """See Clock."""
        fd = _timer(max(moment, 1))
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)


def _timer(moment: int) -> int:
    """A descriptor that can be read from `moment` on, or once the clock is set."""
    fd = _checked(_libc.timerfd_create(_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
    setting = (ctypes.c_long * 4)(0, 0, *divmod(moment, SECOND))  # struct itimerspec: no interval, then the first time
    _checked(_libc.timerfd_settime(fd, _ABSOLUTE | _CANCEL_ON_SET, setting, None))
    return fd


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Alarm:
    """Wakes one task, at a time or because something has changed."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._rung = trio.Event()

    def ring(self) -> None:
        """Wake who waits, or let the next one not wait."""
        self._rung.set()

    async def wait(self, moment: int | None = None) -> None:
        """Return when it rang, when it is `moment`, or when the clock was set."""
        async with trio.open_nursery() as nursery:
            if moment is not None:
                nursery.start_soon(self._ring_at, moment)
            await self._rung.wait()
            nursery.cancel_scope.cancel()
        self._rung = trio.Event()

    async def _ring_at(self, moment: int) -> None:
        await self.clock.reached(moment)
        self.ring()


async def do_when_due(
    alarm: Alarm, due: Callable[[], int | None], act: Callable[[], Awaitable[None]], what: str
) -> None:
    """Call `act` whenever it is due, for good. due: when that is, None for not now; asked again when the alarm rings.
    What fails is logged, as what `what` names, and tried again."""
    retry_s = FIRST_RETRY_S
    while True:
        try:
            moment = due()
            if moment is None or moment > alarm.clock.now():
                await alarm.wait(moment)
                continue
            await act()
            retry_s = FIRST_RETRY_S
        except Exception as error:
            # Also what nobody foresaw: what goes on beside must not end with it.
            foreseen = isinstance(error, VfsdError)
            _log.warning("%s: %s: trying again in %g s", what, error, retry_s, exc_info=not foreseen)
            with trio.move_on_after(retry_s):
                await alarm.wait()
            retry_s = min(retry_s * 2, LAST_RETRY_S)
