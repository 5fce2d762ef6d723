"""Commands that work on many datums, one after the other, and ask for each (`transform.datum_batching`).

The first process of such a command (vfsd.pipeline.first_process) says when it asks, which ends its datum, and is told
of the next one. A command that is given none any more is expected to end; else it is made to.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import socket
from collections.abc import Callable

import trio

from vfsd.model.spec_transform import DatumSetSpec
from vfsd.pipeline.cgroups import Group
from vfsd.pipeline.executor import GRACE_S, BoundedLog, DatumOutcome, reason_of, stdin_file
from vfsd.pipeline.sandbox import DatumRun, SandboxRoom
from vfsd.pipeline.wardens import Datum, in_memory

_READ = 64 << 10
_EARLY = 64 << 10  # bytes that are kept of what a command prints before its first datum

Groups = Callable[[], contextlib.AbstractContextManager[Group | None]]


class ManyDatums:
    """The commands of one job. nursery: for their output. groups: of a cgroup for each. sets: how
    many datums each is given."""

    def __init__(
        self, room: SandboxRoom, nursery: trio.Nursery, groups: Groups, stdin: bytes, sets: DatumSetSpec
    ) -> None:
        self._room = room
        self._nursery = nursery
        self._groups = groups
        self._stdin = stdin
        self._sets = sets
        self._idle: list[_Worker] = []

    async def work(self, run: DatumRun, log: BoundedLog, timeout_s: float | None) -> DatumOutcome:
        """Have a datum worked on, by a command that waits for one or by a new one; see run_datum."""
        began = trio.current_time()
        log.begin()
        worker = await self._waiting()
        try:
            if worker is None:
                worker = _Worker(self._room, self._groups)
                await worker.start(run, self._stdin, self._nursery)
            with trio.move_on_after(float("inf") if timeout_s is None else timeout_s) as limit:
                why = await worker.work(run, log)
        except OSError as error:
            name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
            why = f"it could not be started: {name}{error.strerror}"
            return DatumOutcome(None, trio.current_time() - began, False, why)
        finally:
            if worker is not None:
                worker.leave(log)
                worker.datums, worker.size = worker.datums + 1, worker.size + run.size
                if worker.asking and self._has_all(worker):
                    self._nursery.start_soon(worker.dismiss)
                elif worker.asking:
                    self._idle.append(worker)
                else:
                    await worker.end(GRACE_S)
        took = trio.current_time() - began
        if limit.cancelled_caught:
            return DatumOutcome(worker.exit_code, took, True, f"timed out after {timeout_s:g} s", worker.lost, ran=True)
        return DatumOutcome(worker.exit_code, took, False, why or log.error, worker.lost, ran=worker.ended)

    def _has_all(self, worker: _Worker) -> bool:
        """Whether it has had its set of datums."""
        number, size = self._sets.number, self._sets.size_bytes
        return bool((number and worker.datums >= number) or (size and worker.size >= size))

    async def _waiting(self) -> _Worker | None:
        """One that waits for a datum, and has not been killed meanwhile."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.ended:
                return worker
            await worker.end(GRACE_S)
        return None

    async def end(self) -> None:
        """Tell all that there are no more, and see them out."""
        async with trio.open_nursery() as nursery:
            while self._idle:
                nursery.start_soon(self._idle.pop().dismiss)


class _Worker:
    """One command. asking: whether it waits for a datum. datums, size: that it was given, and bytes of their inputs."""

    def __init__(self, room: SandboxRoom, groups: Groups) -> None:
        self.asking = False
        self.datums = 0
        self.size = 0
        self._room = room
        self._groups = groups
        self._log: BoundedLog | None = None
        self._early = b""
        self._output = -1
        self._talk: socket.socket
        self._running: Datum
        self._group: Group | None = None
        self._close = contextlib.ExitStack()

    @property
    def exit_code(self) -> int | None:
        """0 while it runs: nobody complained."""
        return self._running.exit_code

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._running.ended

    @property
    def lost(self) -> bool:
        """See vfsd.pipeline.executor.Running."""
        return self._running.lost

    async def start(self, run: DatumRun, stdin: bytes, nursery: trio.Nursery) -> None:
        """Start it. OSError."""
        with contextlib.ExitStack() as made:
            self._group = made.enter_context(self._groups())
            self._output, writable = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            made.callback(os.close, self._output)
            os.set_blocking(writable, True)
            self._talk, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made.enter_context(self._talk)
            self._talk.setblocking(False)
            with theirs, stdin_file(stdin) as reading:
                try:
                    cgroup = None if self._group is None else self._group.fd
                    self._running = await self._room.start_many(run, (reading, writable, theirs.fileno()), cgroup)
                finally:
                    os.close(writable)
            self._close = made.pop_all()
        nursery.start_soon(self._pump)

    async def work(self, run: DatumRun, log: BoundedLog) -> str:
        """Give it a datum once it asks, and wait until it asks again or ends; why the datum failed, empty when it did
        not."""
        asked = self.asking or await self._asks() is not None
        self._log = log
        log.write(self._early)
        self._early = b""
        if not asked:
            return f"it asked for no datum: {reason_of(self._running, log) or 'it ended'}"
        self.asking = False
        request = in_memory(self._room.next_datum(run))
        try:
            socket.send_fds(self._talk, [b"ok\n"], [request])
        finally:
            os.close(request)
        complaint = await self._asks()
        if complaint is not None:
            self.asking = True
            return complaint
        if self._group is not None and self._group.ran_out():
            return "it had no more memory than resource_limits.memory"
        return reason_of(self._running, log)

    async def _asks(self) -> str | None:
        """Wait until it asks for a datum, why the last one failed, or None when it ends instead."""
        complaint: list[str] = []
        async with trio.open_nursery() as nursery:

            async def until_it_ends() -> None:
                await self._running.exited()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_it_ends)
            await trio.lowlevel.wait_readable(self._talk)
            with contextlib.suppress(OSError, EOFError):
                complaint.append(marshal.loads(self._talk.recv(_READ)).decode(errors="replace"))
            if not complaint:
                await trio.sleep_forever()  # it has hung up: its end will be told
            nursery.cancel_scope.cancel()
        return complaint[0] if complaint else None

    def leave(self, log: BoundedLog) -> None:
        """What it prints from now on does not belong to this datum any more."""
        if self._log is log:
            self._drain()
            self._log = None

    async def dismiss(self) -> None:
        """There are no more datums for it."""
        try:
            with contextlib.suppress(OSError):
                self._talk.send(b"none\n")
            with trio.move_on_after(GRACE_S):
                await self._running.exited()
        finally:
            await self.end(GRACE_S)

    async def end(self, grace_s: float) -> None:
        """Make sure that it is gone. Not to be cancelled."""
        if hasattr(self, "_running"):
            await self._running.end(grace_s)
            trio.lowlevel.notify_closing(self._output)
        self._close.close()
        self._output = -1

    async def _pump(self) -> None:
        while self._output >= 0:
            try:
                await trio.lowlevel.wait_readable(self._output)
            except (trio.ClosedResourceError, OSError):
                return
            if not self._drain():
                return

    def _drain(self) -> bool:
        """Take what it has printed; whether there may be more later."""
        while self._output >= 0:
            try:
                data = os.read(self._output, _READ)
            except BlockingIOError:
                return True
            if not data:
                return False
            if self._log is not None:
                self._log.write(data)
            elif len(self._early) < _EARLY:
                self._early += data
        return False
