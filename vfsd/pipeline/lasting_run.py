"""Runs a job that has no end of its own: the command of a service or a spout, begun again whenever it ends.

It goes on until it is stopped, or its pipeline is, or, for a service, another commit is to be served; then the command
and all that it started get SIGTERM, and SIGKILL some seconds later. A daemon that ends leaves the job in flight, and
whoever has the pipeline next goes on with it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil

import msgspec
import trio

from vfsd.model.datum import DatumState
from vfsd.model.errors import Unavailable, VfsdError
from vfsd.model.ids import DatumId
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_lasting import LOOPBACK
from vfsd.pipeline.door import Door
from vfsd.pipeline.executor import DatumOutcome, run_datum
from vfsd.pipeline.formation import Work
from vfsd.pipeline.lease import Tenure
from vfsd.pipeline.ledger import DatumStats
from vfsd.pipeline.own_network import OwnNetwork
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.rolling_log import RollingLog, before, leave_log, log_in, whole
from vfsd.pipeline.sandbox import DatumRun
from vfsd.pipeline.workplace import Quarters, Workplace
from vfsd.repo.repository import now_ns

FIRST_WAIT_S, LAST_WAIT_S = 0.5, 60.0  # until a command that has ended is begun again
SOUND_S = 60.0  # seconds for which one has run that is begun again soon


class LastingRun:
    """One job from its beginning, or from where it was interrupted, to its end. door: the pipeline's; nursery: for the
    door."""

    def __init__(
        self, place: Workplace, spec: PipelineSpec, record: JobRecord, tenure: Tenure, door: Door,
        nursery: trio.Nursery,
    ) -> None:
        self.record = record
        self.logs: dict[DatumId, tuple[int, bytes]] = {}  # of its one datum: number of the log's file, path
        self._place = place
        self._spec = spec
        self._tenure = tenure
        self._door = door
        self._nursery = nursery
        self._scratch = place.scratch + b"/" + record.id.encode()
        self._scope = trio.CancelScope()  # of the command
        self._end_state: JobState | None = None
        self._end_reason = ""
        self._trouble: VfsdError | None = None
        self._work: Work | None = None
        self._out: bytes | None = None  # where a spout writes
        self._last = DatumOutcome(None, 0.0, False, "")
        self._attempts = 0

    async def run(self) -> JobRecord:
        """The job's last record. VfsdError when the store does not take what is to be said of the job: then it is
        still in flight."""
        try:
            await trio.to_thread.run_sync(self._begin)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._mind_cancelling)
                with trio.CancelScope(shield=True):  # the room is there until the command has ended
                    await self._attend()
                nursery.cancel_scope.cancel()
            if self._trouble is not None:
                raise self._trouble
            self.record = await trio.to_thread.run_sync(self._write_down)
            return self.record
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._clean_up)

    def stop(self, reason: str) -> None:
        """End the job for good; nothing happens when it has ended."""
        self._end(JobState.KILLED, reason)

    def finish(self) -> None:
        """End the job, because its time is over: another one may follow."""
        self._end(JobState.SUCCESS, "")

    def interrupt(self, error: VfsdError) -> None:
        """Break off, and write nothing down."""
        self._trouble = self._trouble or error
        self._scope.cancel()

    def _end(self, state: JobState, reason: str) -> None:
        if self._end_state is None:
            self._end_state, self._end_reason = state, reason
            self._scope.cancel()

    async def _mind_cancelling(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._scope.cancel()

    async def _attend(self) -> None:
        await self._note(JobState.STARTING, self.record.reason)
        async with contextlib.AsyncExitStack() as stack:
            try:
                self._work = await trio.to_thread.run_sync(self._place.outcomes.only_datum, self._spec, self.record)
                quarters = await stack.enter_async_context(self._place.quarters(self._spec, self._scratch))
                if self._spec.spout is not None:
                    outlet = self._place.outlet(self._spec, self.record.id, quarters)
                    self._out = await stack.enter_async_context(outlet)
            except Unavailable as error:
                self.interrupt(error)
                return
            except (OSError, VfsdError) as error:
                self._end(JobState.FAILURE, str(error))
                return
            datum, path = self._work.datum.id, log_in(self._scratch)

            def rolled() -> None:
                self.logs[datum] = (self.logs[datum][0] + 1, path)

            self.logs[datum] = (1 + os.path.exists(before(path)), path)
            with self._scope, RollingLog(path, quarters.masked, rolled) as log:
                async with self._place.budget.taken(quarters.need) as gpus:
                    await self._go_on(quarters, self._work, gpus, log)

    async def _go_on(self, quarters: Quarters, work: Work, gpus: tuple[int, ...], log: RollingLog) -> None:
        """Begin the command again whenever it ends."""
        wait_s = FIRST_WAIT_S
        while True:
            self._attempts += 1
            outcome = self._last = await self._once(quarters, work, gpus, log)
            if outcome.duration_s >= SOUND_S:
                wait_s = FIRST_WAIT_S
            await self._note(JobState.STARTING, f"{outcome.reason or 'it ended'}: begun again after {wait_s:g} s")
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_WAIT_S)

    async def _once(
        self, quarters: Quarters, work: Work, gpus: tuple[int, ...], log: RollingLog
    ) -> DatumOutcome:
        with contextlib.ExitStack() as stack:
            try:
                run = await trio.to_thread.run_sync(self._prepare, work, gpus)
                group = stack.enter_context(self._place.group(self._spec))
                network = await self._open_door(stack)
                command = quarters.room.prepare(
                    run, cgroup=None if group is None else group.fd,
                    sockets=None if network is None else network.theirs.fileno(),
                )  # fmt: skip
            except OSError as error:
                name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
                return DatumOutcome(None, 0.0, False, f"{name}{error.strerror}")
            await self._note(JobState.RUNNING, self.record.reason)
            outcome = await run_datum(command, log, timeout_s=None)
            if group is not None and group.ran_out():
                why = f"it had no more memory: resource_limits.memory is {self._spec.resource_limits.memory}"
                outcome = msgspec.structs.replace(outcome, reason=why)
            return outcome

    async def _open_door(self, stack: contextlib.ExitStack) -> OwnNetwork | None:
        """Let others come in while the stack is there, where the command does not listen itself at the port that they
        come to; its network, where it has one of its own. OSError."""
        port, offline = self._spec.port, not self._spec.transform.network
        if port is None or not (offline or port.place[1] != port.internal_port):
            return None
        network = stack.enter_context(OwnNetwork()) if offline else None
        await self._door.open(self._nursery, port.place)

        async def connect() -> trio.SocketStream:
            if network is not None:
                return await network.connect(port.internal_port)
            return await trio.open_tcp_stream(LOOPBACK, port.internal_port)

        stack.enter_context(self._door.leading_to(connect))
        return network

    async def _note(self, state: JobState, reason: str) -> None:
        """Let all nodes know how the job stands."""
        counts = DatumCounts(total=1)
        record = msgspec.structs.replace(self.record, state=state, reason=reason, datums=counts)
        if record == self.record:
            return
        try:
            await trio.to_thread.run_sync(self._tenure.note, record)
            await trio.to_thread.run_sync(self._place.records.note, record)
        except VfsdError as error:
            self.interrupt(error)
            return
        self.record = record

    # In threads

    def _begin(self) -> None:
        os.makedirs(self._scratch, exist_ok=True)  # an earlier daemon's, with the log

    def _clean_up(self) -> None:
        if self.record.finished:
            shutil.rmtree(self._scratch, ignore_errors=True)
        else:
            leave_log(self._scratch)

    def _prepare(self, work: Work, gpus: tuple[int, ...]) -> DatumRun:
        folder = b"%s/%s" % (self._scratch, secrets.token_hex(4).encode())
        os.makedirs(folder + b"/scratch")
        self._place.make_hollow(work, folder)
        return DatumRun(
            transform=self._spec.transform, inputs=self._place.mounted(work, folder), out=self._out,
            scratch=folder + b"/scratch", job=self.record.id, datum=work.datum.id, output=self.record.global_id,
            gpus=gpus, size=sum(one.size for one in work.datum.inputs),
        )  # fmt: skip

    def _write_down(self) -> JobRecord:
        assert self._end_state is not None
        record = msgspec.structs.replace(
            self.record, state=self._end_state, reason=self._end_reason,
            datums=DatumCounts(total=1, success=int(self._end_state is JobState.SUCCESS)),
        )  # fmt: skip
        datum, log = None if self._work is None else self._work.datum, log_in(self._scratch)
        stats = DatumStats(
            record.id, DatumState.SUCCESS, self._attempts, record.started, now_ns(), self._last.exit_code,
            self._last.reason,
        )
        kept = whole(log) if os.path.exists(log) else None
        return self._place.outcomes.lasting_ended(record, datum, stats, kept, self._tenure)
