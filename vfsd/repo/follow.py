"""Follows a local directory: what is closed in it becomes a commit once it has been quiet, or has waited long enough.

Each run begins with a comparison of everything, and goes on with what the kernel tells. What the store does not take is
tried again with backoff; what is being written is looked at again until it is closed. What a commit is made of is
repo.mirror's.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable

import msgspec
import trio

from vfsd.model.errors import NotFound, Unavailable, VfsdError
from vfsd.repo.closed import BEING_WRITTEN
from vfsd.repo.compare import Look
from vfsd.repo.mirror import Mirror, Round
from vfsd.repo.notices import Notices
from vfsd.repo.tree import Path, show

RECHECK_S, LAST_RECHECK_S = 0.25, 10.0  # between looks at files that are being written
COMPARE_S = 60.0  # at least between comparisons of everything, which find what the kernel tells nobody (mmap)
COMPARE_SHARE = 100  # the same as a multiple of what the last one took
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0  # after a failed commit, as the mount does
LAST_COMMIT_S = 60.0  # how long `stop` may take

log = logging.getLogger(__name__)


class Timing(msgspec.Struct, frozen=True):
    """When changes become a commit: quiet_s after the last one, at the latest max_wait_s after the first one."""

    quiet_s: float
    max_wait_s: float


class Follower:
    """Keeps a mirror at its directory. Good for one `run`; everything but the rounds happens in the event loop."""

    def __init__(self, mirror: Mirror, timing: Timing) -> None:
        self._mirror = mirror
        self._timing = timing
        self._notices = Notices(mirror.top)
        self._pending = Look(whole=True)  # what a round has to look at before any notice
        self._obstacles: dict[Path, str] = {}
        self._recheck_s = RECHECK_S
        self._recheck_at = math.inf
        self._compare_at = math.inf
        self._retry_at = -math.inf
        self._retries = 0
        self._error = ""
        self._is_stopping = False

    async def run(self, ready: Callable[[], None]) -> Exception | None:
        """Follow until `stop`, or until the local directory is gone; `ready` is called once the kernel is listened to.

        Gives what the last round failed with, NotFound when the directory is gone; None when all is committed.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._notices.run)
            ready()
            error = await self._follow()
            nursery.cancel_scope.cancel()
        return error

    def stop(self) -> None:
        """Have `run` commit what is closed and return. Asked twice, it leaves that to the next run."""
        self._mirror.deadline = time.monotonic() + (0.0 if self._is_stopping else LAST_COMMIT_S)
        self._is_stopping = True
        self._notices.wake()

    async def _follow(self) -> Exception | None:
        while not self._is_stopping:
            if trio.current_time() < (due := self._due()):
                with trio.move_on_at(due):
                    await self._notices.wait()
                continue
            error = await self._look()
            if error is not None and self._mirror.is_gone():
                return error
        await self._notices.drain()
        error = await self._look()
        while error is None and self._pending and time.monotonic() < self._mirror.deadline:
            error = await self._look()
        if error is None and self._pending:
            return Unavailable("not everything could be committed in time: the next run goes on")
        return error

    def _due(self) -> float:
        """When to look next."""
        timing, first = self._timing, self._notices.first
        due = min(self._recheck_at, self._compare_at)
        if first is not None:
            due = min(due, self._notices.last + timing.quiet_s, first + timing.max_wait_s)
        return max(-math.inf if self._pending else due, self._retry_at)

    async def _look(self) -> Exception | None:
        """Make a round of all that there is to look at; why that failed."""
        begun = trio.current_time()
        look, self._pending = self._pending, Look()
        look.merge(self._notices.take())
        if begun >= self._compare_at:
            look.set_whole()
        settled = await trio.to_thread.run_sync(self._mirror.settled, list(self._obstacles))
        for path in settled:
            look.add(path, whole=True)
        if not look and not self._mirror.is_gone():
            self._recheck_later()
            return None
        try:
            done = await trio.to_thread.run_sync(self._mirror.round, look)
        except Exception as error:
            # Also what nobody foresaw: what is in the directory is still there, and may be taken later.
            self._failed(error)
            self._pending = look
            if isinstance(error, NotFound):
                look.set_whole()  # a branch that comes back is not the one that had the rest
            return error
        self._succeeded(done, look, set(settled), begun)
        return None

    def _succeeded(self, done: Round, look: Look, settled: set[Path], begun: float) -> None:
        now = trio.current_time()
        if self._error:
            log.info("committing again")
        self._error, self._retries, self._retry_at = "", 0, -math.inf
        self._pending = done.rest
        if look.whole and not done.rest:
            self._compare_at = now + max(COMPARE_S, COMPARE_SHARE * (now - begun))
        before, self._recheck_s = self._obstacles, RECHECK_S
        is_anew = look.whole and not look.start
        left = {} if is_anew else {path: why for path, why in before.items() if path not in settled}
        self._obstacles = left | done.obstacles
        for path, why in done.obstacles.items():
            if why not in {BEING_WRITTEN, before.get(path)}:
                log.warning("%s: left out until it can be read: %s", show((self._mirror.top, *path)), why)
        self._recheck_later()

    def _recheck_later(self) -> None:
        self._recheck_at = trio.current_time() + self._recheck_s if self._obstacles else math.inf
        self._recheck_s = min(2 * self._recheck_s, LAST_RECHECK_S)

    def _failed(self, error: Exception) -> None:
        if str(error) != self._error:
            foreseen = isinstance(error, VfsdError | OSError)
            log.warning("cannot commit, will try again: %s", error, exc_info=not foreseen)
        self._error = str(error)
        delay = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._retries, 10))
        self._retries += 1
        self._retry_at = trio.current_time() + random.uniform(delay / 2, delay)
