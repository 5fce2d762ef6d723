"""Runs one job: carries out what the state machine says, with processes, threads and the store.

Everything that decides runs in the event loop and does not block; trees, blobs and records are the threads' work.
Results are kept as they come, at most a second apart, so that an interrupted job goes on where it was.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable

import msgspec
import trio

from vfsd.model.commit import Provenance
from vfsd.model.datum import Datum, DatumState
from vfsd.model.errors import AccessDenied, NotFound, Unavailable, VfsdError
from vfsd.model.ids import CommitId, DatumId, JobId
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline import job_state as machine
from vfsd.pipeline.executor import DatumOutcome, run_datum
from vfsd.pipeline.formation import Batch, Work
from vfsd.pipeline.ledger import DatumResult, DatumStats, datum_result
from vfsd.pipeline.outcome import Outcomes, Start
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import PipelineHead
from vfsd.pipeline.sandbox import DatumRun, Mounted, Sandbox, Unsandboxed
from vfsd.repo.refs import ref_key
from vfsd.repo.repository import Repository, now_ns

KEEP_S = 1.0  # seconds between two keepings of results: what a kill may cost
KEEP_DATUMS = 512  # results that are kept earlier than that


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What a node gives to its jobs.

    snapshot: (repo, branch, commit) → where that commit lies as a directory on this machine. scratch: a directory on a
    local disk for what datums write. maker: of the datums' commands. cores: how many datums run at a time when a spec
    does not say. storing: threads that store results at a time. tell: called with the key of a ref that was moved.
    """

    repository: Repository
    outcomes: Outcomes
    records: JobRecords
    snapshot: Callable[[str, str, CommitId], bytes]
    scratch: bytes
    maker: Sandbox | Unsandboxed
    cores: int
    storing: trio.CapacityLimiter
    tell: Callable[[str], None]


class JobRun:
    """One job from its beginning, or from where it was interrupted, to its end."""

    def __init__(self, place: Workplace, spec: PipelineSpec, record: JobRecord, last: JobRecord | None) -> None:
        self.record = record
        self._place = place
        self._spec = spec
        self._last = last
        self._machine: machine.JobMachine[Work] = machine.JobMachine(
            parallelism=spec.workers(place.cores), tries=spec.datum_tries
        )
        self._scratch = place.scratch + b"/" + record.id.encode()
        self._writer = place.repository.writer()
        self._start: Start | None = None
        self._complete = False  # all datums are formed
        self._folders: list[bytes] = []  # each with empty directories `out` and `scratch`, for the next tries
        self._scopes: dict[int, trio.CancelScope] = {}  # ticket → the try's
        self._ended_tries: dict[DatumId, DatumResult] = {}  # until the machine says whether they were the last
        self._pending: list[tuple[DatumId, DatumResult]] = []  # results that are not kept yet
        self._news = trio.Event()  # something to keep
        self._many = trio.Event()  # enough to keep at once
        self._keeping = trio.Lock()
        self._given_up = False
        self._output: CommitId | None = None  # once it is made
        self._ended = trio.Event()
        self._trouble: VfsdError | None = None  # nothing can be stored any more
        self._nursery: trio.Nursery

    async def run(self) -> JobRecord:
        """The job's last record. VfsdError when the store or the index does not take what the job brings: then the job
        is still in flight, and another run goes on with what was kept."""
        limit = self._spec.job_timeout_s()
        try:
            await trio.to_thread.run_sync(self._begin)
            async with trio.open_nursery() as self._nursery:
                if limit is not None:
                    self._nursery.start_soon(self._stop_after, limit)
                self._nursery.start_soon(self._keep)
                if not self._machine.state.final:
                    self._feed(machine.Begin())
                await self._ended.wait()
                self._nursery.cancel_scope.cancel()
            if self._trouble is not None:
                raise self._trouble
            self.record = await trio.to_thread.run_sync(self._write_down)
            return self.record
        finally:
            with trio.CancelScope(shield=True):
                await self._save()
                await trio.to_thread.run_sync(self._clean_up)

    def stop(self, reason: str) -> None:
        """End the job; nothing happens when it has ended."""
        if not self._machine.state.final:
            self._feed(machine.StopRequested(reason))

    def _interrupt(self, error: VfsdError) -> None:
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
            case machine.CancelMerge():
                self._given_up = True
            case machine.Finish():
                self._ended.set()

    async def _form(self) -> None:
        try:
            batch = await trio.to_thread.run_sync(self._next_batch)
        except Unavailable as error:
            self._interrupt(error)
            return
        except VfsdError as error:
            self._feed(machine.DatumsUnformable(str(error)))
            return
        self._complete = not batch.more
        self._feed(machine.DatumsFormed(batch.work, batch.skipped, batch.more))

    async def _try(self, ticket: int, work: Work, attempt: int) -> None:
        ok, reason = False, "stopped"
        with self._scopes[ticket]:
            self._feed(machine.DatumStarted(ticket))
            ok, reason = await self._run(work, attempt)
        del self._scopes[ticket]
        self._feed(machine.DatumFinished(ticket, ok, reason))

    async def _run(self, work: Work, attempt: int) -> tuple[bool, str]:
        """Whether a try was a success, and why not. Its result is in `_ended_tries`."""
        started = now_ns()
        folder = self._folders.pop() if self._folders else None
        try:
            if folder is None:
                folder = await trio.to_thread.run_sync(self._new_folder)
            command = self._place.maker.prepare(self._datum_run(folder, work))
            outcome = await run_datum(command, timeout_s=self._spec.datum_timeout_s(), log_path=folder + b"/log")
        except OSError as error:
            why = f"{os.fsdecode(error.filename or self._scratch)}: {error.strerror}"
            outcome = DatumOutcome(None, 0.0, False, why)
        try:
            self._ended_tries[work.datum.id] = await trio.to_thread.run_sync(
                self._store, folder, work.datum, attempt, started, outcome, limiter=self._place.storing
            )
        except (AccessDenied, NotFound) as error:
            return False, f"its output cannot be read: {error}"
        except VfsdError as error:
            self._interrupt(error)
            return False, str(error)
        return outcome.ok, outcome.reason

    def _datum_run(self, folder: bytes, work: Work) -> DatumRun:
        return DatumRun(
            transform=self._spec.transform,
            inputs=tuple(
                Mounted(
                    one.name, one.path, self._place.snapshot(one.repo, one.branch, one.commit) + one.path.rstrip(b"/"),
                    one.commit, target,
                )
                for one, target in zip(work.datum.inputs, work.targets, strict=True)
            ),
            out=folder + b"/out", scratch=folder + b"/scratch", job=self.record.id, datum=work.datum.id,
            output=self.record.global_id,
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
                await trio.to_thread.run_sync(self._merge_now)
            except Unavailable as error:
                self._interrupt(error)
            except VfsdError as error:
                self._feed(machine.MergeFailed(str(error)))
            else:
                self._feed(machine.OutputCommitted())

    async def _stop_after(self, limit: float) -> None:
        await trio.sleep(limit)
        self.stop(f"timed out after {self._spec.job_timeout}")

    # Keeping results while the job runs

    async def _keep(self) -> None:
        while True:
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
                await trio.to_thread.run_sync(self._save_now, pending, self._standing())
            except VfsdError as error:
                self._interrupt(error)

    def _standing(self) -> JobRecord:
        """The record as the job stands."""
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
        self._place.records.note(self.record)

    def _next_batch(self) -> Batch:
        if self._start is None:
            self._start = self._place.outcomes.start(self._spec, self.record, self._last)
        return self._start.formation.batch()

    def _new_folder(self) -> bytes:
        folder = b"%s/%s" % (self._scratch, secrets.token_hex(4).encode())
        os.makedirs(folder + b"/out")
        os.mkdir(folder + b"/scratch")
        return folder

    def _store(
        self, folder: bytes | None, datum: Datum, attempt: int, started: int, outcome: DatumOutcome
    ) -> DatumResult:
        state = DatumState.SUCCESS if outcome.ok else DatumState.FAILED
        stats = DatumStats(self.record.id, state, attempt, started, now_ns(), outcome.exit_code, outcome.reason)
        log = None if folder is None else folder + b"/log"
        out = None if folder is None or not outcome.ok else folder + b"/out"
        try:
            return datum_result(self._place.repository, self._writer, datum, stats, log, out)
        finally:
            if folder is not None and _emptied(folder):
                self._folders.append(folder)

    def _save_now(self, pending: list[tuple[DatumId, DatumResult]], record: JobRecord) -> None:
        self._place.outcomes.remember(record.id, pending, self._writer)
        self._place.records.note(record)

    def _merge_now(self) -> None:
        assert self._start is not None
        self.record, committed = self._place.outcomes.commit(
            self._spec, self._standing(), self._start, self._pending, self._writer, lambda: self._given_up
        )
        self._output = committed.commit.id
        self._place.tell(ref_key(committed.head.repo, committed.head.branch))

    def _write_down(self) -> JobRecord:
        outcomes = self._place.outcomes
        if self._output is not None:
            return outcomes.success(self.record, self._output)
        return outcomes.failure(
            self._standing(), self._start, complete=self._complete, pending=self._pending, writer=self._writer
        )

    def _clean_up(self) -> None:
        self._writer.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _emptied(folder: bytes) -> bool:
    """Make a try's folder as good as new; whether that could be done. Making folders costs more than emptying them."""
    try:
        for inner in (folder + b"/out", folder + b"/scratch"):
            os.chmod(inner, 0o755)
            with os.scandir(inner) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder + b"/log")
    except OSError:
        return False  # it is removed with the others when the job ends
    return True


def new_record(head: PipelineHead, repository: Repository, commit: CommitId) -> JobRecord:
    """A job over an input commit, not begun yet. NotFound when there is no such commit."""
    pfs = head.spec.input.pfs
    header = repository.commits.get(commit).header
    return JobRecord(
        id=JobId(secrets.token_hex(16)),
        pipeline=head.name,
        version=head.version,
        state=JobState.STARTING,
        global_id=header.global_id,
        inputs=(Provenance(pfs.repo, pfs.branch, commit, pfs.name),),
        created=now_ns(),
        started=now_ns(),
        datums=DatumCounts(),
        run=head.run,
    )
