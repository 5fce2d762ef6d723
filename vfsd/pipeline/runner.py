"""Runs one job: carries out what the state machine says, with processes, threads and the store.

Everything that decides runs in the event loop and does not block; trees, blobs and records are the threads' work.
Results are kept as they come, at most a second apart, so that an interrupted job goes on where it was.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator

import msgspec
import trio

from vfsd.model.datum import DatumState
from vfsd.model.errors import AccessDenied, InvalidArgument, NotFound, Unavailable, VfsdError
from vfsd.model.ids import DatumId
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.quantities import parse_quantity
from vfsd.pipeline import job_state as machine
from vfsd.pipeline.cgroups import Group
from vfsd.pipeline.egress import Egress
from vfsd.pipeline.executor import BoundedLog, DatumOutcome, run_datum
from vfsd.pipeline.formation import Batch, Work
from vfsd.pipeline.lease import Tenure
from vfsd.pipeline.ledger import DatumResult, DatumStats, datum_result, encode_result
from vfsd.pipeline.many import ManyDatums
from vfsd.pipeline.outcome import Start
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.sandbox import DatumRun, SandboxRoom
from vfsd.pipeline.try_folder import emptied, is_within
from vfsd.pipeline.workplace import Quarters, Workplace
from vfsd.repo.refs import Head, ref_key
from vfsd.repo.repository import now_ns

KEEP_S = 1.0  # seconds between two keepings of results: what a kill may cost
LOST_TRIES = 3  # how often a command is begun again that ended with the process that had started it
PARTIAL_FILES, PARTIAL_BYTES = 10_000, 1 << 30  # what a datum that failed may have written, to be kept for looking at
KEEP_DATUMS = 512  # results that are kept earlier than that
SHARE_S = 5.0  # seconds between two times that the store is told of results, so that another node may go on with them
SHARE_PART = 1 / 64  # of a job's time, when that is longer: few parts, however long it takes
SHARE_DATUMS = 4096  # results that the store is told of earlier than that


class JobRun:
    """One job from its beginning, or from where it was interrupted, to its end."""

    def __init__(
        self, place: Workplace, spec: PipelineSpec, record: JobRecord, last: JobRecord | None, tenure: Tenure
    ) -> None:
        self.record = record
        self.logs: dict[DatumId, tuple[int, bytes]] = {}  # of datums that run: number of the try, path
        self._tenure = tenure
        self._place = place
        self._spec = spec
        self._last = last
        self._machine: machine.JobMachine[Work] = machine.JobMachine(
            parallelism=spec.workers(place.cores), tries=spec.datum_tries, egress=spec.egress is not None
        )
        self._scratch = place.scratch + b"/" + record.id.encode()
        self._refused = ""  # why no datum can run here, if so
        self._is_open = False  # datums can run
        self._writer = place.repository.writer()
        self._start: Start | None = None
        self._complete = False  # all datums are formed
        self._folders: list[bytes] = []  # each with empty directories `out` and `scratch`, for the next tries
        self._scopes: dict[int, trio.CancelScope] = {}  # ticket → the try's
        self._ended_tries: dict[DatumId, DatumResult] = {}  # until the machine says whether they were the last
        self._pending: list[tuple[DatumId, DatumResult]] = []  # results that are not kept yet
        self._unshared: list[tuple[str, bytes]] = []  # results that are kept, and the store does not know of
        self._began = self._shared = trio.current_time()
        self._news = trio.Event()  # something to keep
        self._many = trio.Event()  # enough to keep at once
        self._keeping = trio.Lock()
        self._given_up = trio.Event()
        self._output = record.output  # once it is made
        self._batching: ManyDatums | None = None  # for a command that takes many datums
        self._ended = trio.Event()
        self._trouble: VfsdError | None = None  # nothing can be stored any more
        self._nursery: trio.Nursery
        self._quarters: Quarters

    async def run(self) -> JobRecord:
        """The job's last record. VfsdError when the store or the index does not take what the job brings: then the job
        is still in flight, and another run goes on with what was kept."""
        limit = self._spec.job_timeout_s()
        try:
            await trio.to_thread.run_sync(self._begin)
            async with contextlib.AsyncExitStack() as stack:
                if self._output is None:
                    await self._open(stack)
                self._nursery = await stack.enter_async_context(trio.open_nursery())
                if limit is not None:
                    self._nursery.start_soon(self._stop_after, limit)
                self._nursery.start_soon(self._keep)
                self._batch()
                if not self._machine.state.final:
                    self._feed(machine.Begin(committed=self._output is not None))
                await self._ended.wait()
                if self._batching is not None:
                    await self._batching.end()
                self._nursery.cancel_scope.cancel()
            if self._trouble is not None:
                raise self._trouble
            self.record = await trio.to_thread.run_sync(self._write_down)
            return self.record
        finally:
            with trio.CancelScope(shield=True):
                await self._save()
                await trio.to_thread.run_sync(self._clean_up)

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        """Make the room in which datums run."""
        try:
            self._quarters = await stack.enter_async_context(self._place.quarters(self._spec, self._scratch))
            self._is_open = True
        except (OSError, InvalidArgument) as error:
            self._refused = str(error)

    def _batch(self) -> None:
        transform = self._spec.transform
        if not transform.datum_batching or not self._is_open:
            return
        room, sets = self._quarters.room, self._spec.datum_set_spec
        assert isinstance(room, SandboxRoom)
        self._batching = ManyDatums(room, self._nursery, self._group, room.stdin(transform), sets)

    def stop(self, reason: str) -> None:
        """End the job; nothing happens when it has ended."""
        if not self._machine.state.final:
            self._feed(machine.StopRequested(reason))

    def interrupt(self, error: VfsdError) -> None:
        """Break off. Nothing that the writer took since the last keeping may be relied on: it is done again."""
        self._trouble = self._trouble or error
        self._ended.set()

    # What the machine says

    def _feed(self, event: machine.Event[Work]) -> None:
        for instruction in self._machine.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: machine.Instruction[Work]) -> None:
        match instruction:
            case machine.FormDatums():
                self._nursery.start_soon(self._form)
            case machine.StartDatum(ticket, work, attempt):
                self._scopes[ticket] = trio.CancelScope()
                self._nursery.start_soon(self._try, ticket, work, attempt)
                self._news.set()
            case machine.KillDatum(ticket):
                self._scopes[ticket].cancel()
            case machine.RecordDatum(work, state, _, _):
                self._record(work.datum.id, state)
            case machine.MergeOutputs():
                self._nursery.start_soon(self._merge)
            case machine.Egress():
                self._nursery.start_soon(self._egress)
            case machine.CancelMerge() | machine.CancelEgress():
                self._given_up.set()
            case machine.Finish():
                self._ended.set()

    async def _form(self) -> None:
        if self._refused:
            self._feed(machine.DatumsUnformable(self._refused))
            return
        try:
            batch = await trio.to_thread.run_sync(self._next_batch)
        except Unavailable as error:
            self.interrupt(error)
            return
        except VfsdError as error:
            self._feed(machine.DatumsUnformable(str(error)))
            return
        self._complete = not batch.more
        self._feed(machine.DatumsFormed(batch.work, batch.skipped, batch.more))

    async def _try(self, ticket: int, work: Work, attempt: int) -> None:
        state, reason = DatumState.FAILED, "stopped"
        with self._scopes[ticket]:
            self._feed(machine.DatumStarted(ticket))
            state, reason = await self._run(work, attempt)
        del self._scopes[ticket]
        recovered = state is DatumState.RECOVERED
        self._feed(machine.DatumFinished(ticket, state is DatumState.SUCCESS, reason, recovered))

    async def _run(self, work: Work, attempt: int) -> tuple[DatumState, str]:
        """How a try ended, and why not well. Its result is in `_ended_tries`."""
        state = DatumState.FAILED
        started = now_ns()
        folder = self._folders.pop() if self._folders else None
        try:
            if folder is None:
                folder = await trio.to_thread.run_sync(self._new_folder)
            if any(one.empty for one in work.datum.inputs):
                await trio.to_thread.run_sync(self._place.make_hollow, work, folder)
            need, masked = self._quarters.need, self._quarters.masked
            async with self._place.budget.taken(need) as gpus, self._place.turns.taken(self.record.pipeline):
                started = now_ns()
                with self._told(work.datum.id, attempt, folder), BoundedLog(folder + b"/log", masked) as log:
                    state, outcome = await self._commands(self._datum_run(folder, work, gpus), attempt, log)
        except OSError as error:
            why = f"{os.fsdecode(error.filename or self._scratch)}: {error.strerror}"
            outcome = DatumOutcome(None, 0.0, False, why)
        stats = DatumStats(self.record.id, state, attempt, started, now_ns(), outcome.exit_code, outcome.reason)
        try:
            result, stats = await trio.to_thread.run_sync(
                self._store, folder, work, stats, limiter=self._place.storing
            )
        except VfsdError as error:
            self.interrupt(error)
            return DatumState.FAILED, str(error)
        self._ended_tries[work.datum.id] = result
        return stats.state, stats.reason

    @contextlib.contextmanager
    def _told(self, datum: DatumId, attempt: int, folder: bytes) -> Iterator[None]:
        """Let people see where the log of a try is, from its beginning until all of it is there."""
        self.logs[datum] = (attempt, folder + b"/log")
        try:
            yield
        finally:
            del self.logs[datum]

    async def _commands(self, run: DatumRun, attempt: int, log: BoundedLog) -> tuple[DatumState, DatumOutcome]:
        """Run the command, and when its last try has failed the err_cmd; how that leaves the datum, and how the
        command ended."""
        outcome = await self._command(run, log, failed=False)
        if outcome.ok or (outcome.code_alone and outcome.exit_code in run.transform.accept_return_code):
            return DatumState.SUCCESS, msgspec.structs.replace(outcome, reason="")
        last = attempt == self._spec.datum_tries
        if last and run.transform.err_cmd and (await self._command(run, log, failed=True)).ok:
            return DatumState.RECOVERED, outcome
        return DatumState.FAILED, outcome

    async def _command(self, run: DatumRun, log: BoundedLog, *, failed: bool) -> DatumOutcome:
        """Run one; once more for each time that it was ended from outside, which is no try of its own."""
        limit = self._spec.datum_timeout_s()
        for _ in range(LOST_TRIES):
            if self._batching is not None and not failed:
                outcome = await self._batching.work(run, log, limit)
                if not outcome.lost:
                    break
                continue
            with self._group() as group:
                command = self._quarters.room.prepare(run, failed=failed, cgroup=None if group is None else group.fd)
                outcome = await run_datum(command, log, timeout_s=limit)
                if group is not None and group.ran_out():
                    why = f"it had no more memory: resource_limits.memory is {self._spec.resource_limits.memory}"
                    return msgspec.structs.replace(outcome, reason=why, ran=False)
            if not outcome.lost:
                break
        return outcome

    def _group(self) -> contextlib.AbstractContextManager[Group | None]:
        return self._place.group(self._spec)

    def _datum_run(self, folder: bytes, work: Work, gpus: tuple[int, ...] = ()) -> DatumRun:
        return DatumRun(
            transform=self._spec.transform,
            inputs=self._place.mounted(work, folder),
            out=folder + b"/out", scratch=folder + b"/scratch", job=self.record.id, datum=work.datum.id,
            output=self.record.global_id, gpus=gpus, size=sum(one.size for one in work.datum.inputs),
        )  # fmt: skip

    def _record(self, datum: DatumId, state: DatumState) -> None:
        result = self._ended_tries.pop(datum, None)
        if result is not None:  # none: nothing of a failed datum could be stored
            assert result.state is state
            self._pending.append((datum, result))
        self._news.set()
        if len(self._pending) >= KEEP_DATUMS:
            self._many.set()

    async def _merge(self) -> None:
        async with self._keeping:
            try:
                head = await trio.to_thread.run_sync(self._merge_now)
                await self._place.show(head)
            except Unavailable as error:
                self.interrupt(error)
            except VfsdError as error:
                self._feed(machine.MergeFailed(str(error)))
            else:
                self._feed(machine.OutputCommitted())

    async def _egress(self) -> None:
        record, place = self._standing(), self._place
        try:
            await trio.to_thread.run_sync(self._announce, record)
        except VfsdError as error:
            self.interrupt(error)
            return
        egress = Egress(place.repository, place.secrets, place.reach, self._spec, record, self._last)
        try:
            await egress.run(self._given_up)
        except VfsdError as error:
            self._feed(machine.EgressFailed(f"egress: {error}"))
        else:
            self._feed(machine.Egressed())

    async def _stop_after(self, limit: float) -> None:
        await trio.sleep(limit)
        self.stop(f"timed out after {self._spec.job_timeout}")

    # Keeping results while the job runs

    async def _keep(self) -> None:
        while True:
            with trio.move_on_at(self._due() if self._unshared else math.inf):
                await self._news.wait()
            await self._save()
            with trio.move_on_after(KEEP_S):
                await self._many.wait()

    async def _save(self) -> None:
        """Write down, for a restart, what there is."""
        async with self._keeping:
            if self._machine.state.final or self._trouble is not None:
                return
            self._news, self._many = trio.Event(), trio.Event()
            pending, self._pending = self._pending, []
            try:
                await trio.to_thread.run_sync(self._save_now, pending, self._standing(), self._must_share(len(pending)))
            except VfsdError as error:
                self.interrupt(error)

    def _must_share(self, more: int) -> bool:
        """Whether it is time to tell the store how the job stands."""
        now = trio.current_time()
        if now < self._due() and len(self._unshared) + more < SHARE_DATUMS:
            return False
        self._shared = now
        return True

    def _due(self) -> float:
        """When that is to be told at the latest, by the event loop's clock."""
        return self._shared + max(SHARE_S, (trio.current_time() - self._began) * SHARE_PART)

    def _standing(self) -> JobRecord:
        """The record as the job stands."""
        if self._output is not None:
            state, reason = self._machine.state, self._machine.reason
            return msgspec.structs.replace(self.record, state=state, reason=reason, output=self._output)
        counts = self._machine.counts
        if self._start is not None:
            # Those that this job did before it was interrupted were its own successes, not another job's.
            again = self._start.formation.finished
            counts = msgspec.structs.replace(
                counts, skipped=counts.skipped - again, success=counts.success + again
            )
        return msgspec.structs.replace(
            self.record, state=self._machine.state, datums=counts, reason=self._machine.reason
        )

    # In threads

    def _begin(self) -> None:
        os.makedirs(self._scratch)
        self._announce(self.record)

    def _announce(self, record: JobRecord) -> None:
        """Let all nodes know how the job stands."""
        self._tenure.note(record)
        self._place.records.note(record)

    def _next_batch(self) -> Batch:
        if self._start is None:
            self._start = self._place.outcomes.start(self._spec, self.record, self._last)
        return self._start.formation.batch()

    def _new_folder(self) -> bytes:
        folder = b"%s/%s" % (self._scratch, secrets.token_hex(4).encode())
        for path in (folder, folder + b"/out", folder + b"/scratch"):
            os.mkdir(path)
        os.chown(folder + b"/out", self._quarters.account.uid, self._quarters.account.gid)
        return folder

    def _store(self, folder: bytes | None, work: Work, stats: DatumStats) -> tuple[DatumResult, DatumStats]:
        """Store what a try came to; that it failed, when its output cannot be kept. folder: None when nothing ran."""
        repository, writer, datum = self._place.repository, self._writer, work.datum
        if folder is None:
            return datum_result(repository, writer, datum, stats, None, None), stats
        log, out = folder + b"/log", folder + b"/out"
        try:
            if not self._is_kept(stats, out):
                return datum_result(repository, writer, datum, stats, log, None), stats
            try:
                if stats.state is DatumState.SUCCESS:
                    self._check_size(out)
                seen = self._quarters.room.seen(self._datum_run(folder, work))
                return datum_result(repository, writer, datum, stats, log, out, seen), stats
            except (AccessDenied, NotFound, InvalidArgument) as error:
                if stats.state is DatumState.SUCCESS:
                    reason = f"its output cannot be kept: {error}"
                    stats = msgspec.structs.replace(stats, state=DatumState.FAILED, reason=reason)
                return datum_result(repository, writer, datum, stats, log, None), stats
        finally:
            if emptied(folder):
                self._folders.append(folder)

    def _check_size(self, out: bytes) -> None:
        limit = self._spec.resource_limits.disk
        if limit and not is_within(out, sys.maxsize, parse_quantity(limit)):
            raise InvalidArgument(f"it is more than resource_limits.disk, {limit}")

    def _is_kept(self, stats: DatumStats, out: bytes) -> bool:
        """Whether what a try wrote is stored: that of a success, and of the last try of a datum that fails, which
        people want to look at, when it is not too much."""
        if stats.state is DatumState.FAILED:
            return stats.attempts == self._spec.datum_tries and is_within(out, PARTIAL_FILES, PARTIAL_BYTES)
        return stats.state is DatumState.SUCCESS

    def _save_now(self, pending: list[tuple[DatumId, DatumResult]], record: JobRecord, share: bool) -> None:
        self._place.outcomes.remember(record.id, pending, self._writer)
        self._place.records.note(record)
        self._unshared += ((datum, encode_result(result)) for datum, result in pending)
        if share:
            self._tenure.note(record, self._unshared)
            self._unshared = []

    def _merge_now(self) -> Head:
        assert self._start is not None
        self.record, committed = self._place.outcomes.commit(
            self._spec, self._standing(), self._start, self._pending, self._writer, self._tenure,
            self._given_up.is_set,
        )
        self._output = committed.commit.id
        self._pending = []
        self._place.tell(ref_key(committed.head.repo, committed.head.branch))
        return committed.head

    def _write_down(self) -> JobRecord:
        outcomes = self._place.outcomes
        if self._output is not None:
            return outcomes.committed(self._standing(), self._tenure)
        return outcomes.failure(
            self._standing(), self._start, self._tenure, complete=self._complete, pending=self._pending,
            writer=self._writer,
        )

    def _clean_up(self) -> None:
        self._writer.close()
        shutil.rmtree(self._scratch, ignore_errors=True)
