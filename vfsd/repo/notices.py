"""What the kernel tells of a local directory, gathered as paths to look at.

Notices only say where to look, so it does no harm that they come twice, late, or for something that is gone again.
Where some may be missing (listening begins, the kernel's queue may have run over, a name is no text), everything is
looked at.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

import trio
import watchfiles

from vfsd.repo.compare import MANY, Look

STEP_MS = 50  # how long notices are gathered
TICK_MS = 250  # the longest time without a word from the thread that listens
DRAIN_S = 5.0  # how long `drain` waits for it
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0  # between tries to listen
OVERFLOW = 4096  # paths at once behind which more may be lost: a new file takes four of the kernel's queue of 16,384

_log = logging.getLogger(__name__)


class Notices:
    """Listens to the kernel about the directory `top` and what is in it. Good for one `run`.

    first, last: times in seconds of trio's clock of the first and the last notice that was not taken yet; first is None
    when there is none.
    """

    def __init__(self, top: bytes) -> None:
        self._top = top
        self.first: float | None = None
        self.last = 0.0
        self._look = Look()
        self._count = 0
        self._ticks_left = 0  # until what happened before `drain` was called is surely noticed
        self._lock = threading.Lock()  # of the three
        self._woken = trio.Event()
        self._drained = trio.Event()
        self._begun = trio.Event()
        self._stop = threading.Event()
        self._token: trio.lowlevel.TrioToken

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; started once the kernel tells, or is known not to."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run_thread)
                await self._begun.wait()
                task_status.started()
        finally:
            self._stop.set()

    async def _run_thread(self) -> None:
        await trio.to_thread.run_sync(self._listen, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)

    # In the event loop

    async def wait(self) -> None:
        """Return when something more was noticed, or `wake` was called."""
        await self._woken.wait()
        self._woken = trio.Event()

    def wake(self) -> None:
        """Have `wait` return."""
        self._woken.set()

    def take(self) -> Look:
        """What is to be looked at; from now on that is nothing."""
        with self._lock:
            look, self._look, self._count = self._look, Look(), 0
        self.first = None
        return look

    async def drain(self) -> None:
        """Return when all that happened until now is noticed."""
        self._drained = trio.Event()
        with self._lock:
            self._ticks_left = 2
        with trio.move_on_after(DRAIN_S) as scope:
            await self._drained.wait()
        if scope.cancelled_caught:  # nobody listens just now
            with self._lock:
                self._look.set_whole()

    def _noticed(self) -> None:
        self.last = trio.current_time()
        if self.first is None:
            self.first = self.last
        self._woken.set()

    # In the thread that listens

    def _listen(self) -> None:
        retry_s, said, shown = FIRST_RETRY_S, "", os.fsdecode(self._top)
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                self._follow()
            except (OSError, RuntimeError, UnicodeError) as error:
                # No watches are left, the filesystem has none, or a name is no text.
                if str(error) != said:
                    said = str(error)
                    _log.warning("%s: the kernel does not tell everything (%s): comparing it now and then", shown, said)
                self._note_all()
                self._tell(self._begun.set)
            if time.monotonic() > begun + LAST_RETRY_S:
                retry_s = FIRST_RETRY_S
            self._stop.wait(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _follow(self) -> None:
        """Take in what the kernel tells, until told to stop."""
        is_first = True
        for changes in watchfiles.watch(
            os.fsdecode(self._top), stop_event=self._stop, step=STEP_MS, rust_timeout=TICK_MS, yield_on_timeout=True,
            raise_interrupt=False, watch_filter=None, ignore_permission_denied=True,
        ):  # fmt: skip
            if is_first or len(changes) >= OVERFLOW:
                self._note_all()
            self._note(changes)
            if is_first:
                self._tell(self._begun.set)
            is_first = False
            self._tick()

    def _note(self, changes: set[tuple[watchfiles.Change, str]]) -> None:
        if not changes:
            return
        with self._lock:
            self._count += len(changes)
            if self._count > MANY:
                self._look.set_whole()
            for change, path in changes:
                inner = os.fsencode(path)[len(self._top) + 1 :]
                if inner:
                    # What is new may be a directory that was moved here, or filled before the kernel watched it.
                    self._look.add(tuple(inner.split(b"/")), whole=change == watchfiles.Change.added)
        self._tell(self._noticed)

    def _note_all(self) -> None:
        with self._lock:
            self._look.set_whole()
        self._tell(self._noticed)

    def _tick(self) -> None:
        with self._lock:
            if not self._ticks_left:
                return
            self._ticks_left -= 1
            if self._ticks_left:
                return
        self._tell(self._drained.set)

    def _tell(self, what: Callable[[], object]) -> None:
        try:
            self._token.run_sync_soon(what)
        except trio.RunFinishedError:
            pass  # nobody is left to tell
