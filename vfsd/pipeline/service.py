"""Runs the pipelines of a store on this node: one task a pipeline, woken when its input moves or its head is changed.

Told of both by whoever watches the store (`changed`), it needs no polling and reads nothing to find out what to do. A
pipeline's jobs run one after another, each over what its input branch holds when the job begins: of commits that come
while a job runs, the newest is next and the others are passed over. Two nodes that both run a store's pipelines would
do the same work twice; the state directory's lock keeps a second process of this node away.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable

import trio

from vfsd.model.commit import BranchHead, decode
from vfsd.model.errors import VfsdError
from vfsd.model.ids import SHORT, CommitId
from vfsd.pipeline.outcome import Outcomes
from vfsd.pipeline.records import JobRecord, JobRecords, is_current
from vfsd.pipeline.registry import PipelineHead, PipelineState, pipeline_of, read_head
from vfsd.pipeline.runner import JobRun, Workplace, new_record
from vfsd.pipeline.sandbox import Sandbox, Unsandboxed, sandbox_works
from vfsd.repo.refs import ref_key
from vfsd.repo.repository import Repository
from vfsd.repo.watch import RefChange

WATCHED = ("refs/", "pipelines/")  # prefixes of the keys that `changed` wants to hear of
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0  # after the store did not answer

_log = logging.getLogger(__name__)


class PipelineService:
    """All pipelines of one store. For one event loop; `run` once."""

    def __init__(
        self,
        repository: Repository,
        *,
        snapshot: Callable[[str, str, CommitId], bytes],
        scratch: str,
        hidden: Iterable[str],
        author: str,
        tell: Callable[[str], None] = lambda key: None,
        on_job: Callable[[JobRecord], None] = lambda record: None,
        cores: int | None = None,
    ) -> None:
        """snapshot: (repo, branch, commit) → the directory of that commit on this machine, in the mount. scratch: a
        directory on a local disk that is nobody else's. hidden: directories that datums may not see; they exist, with
        no symbolic links in their paths. tell: called, from any thread, with the key of a ref that was moved. on_job:
        called with the record of each job that ended.
        """
        self._repository = repository
        self._snapshot = snapshot
        self._scratch = os.fsencode(scratch)
        self._hidden = [os.fsencode(path) for path in hidden]
        self._tell = tell
        self._on_job = on_job
        self._cores = cores or os.cpu_count() or 1
        self._outcomes = Outcomes(repository, author)
        self._records = JobRecords(repository)
        self._heads: dict[str, CommitId | None] = {}  # key of a ref → its commit
        self._runners: dict[str, _Runner] = {}
        self._nursery: trio.Nursery | None = None
        self._place: Workplace
        self.sandbox_problem = ""  # why datums run without a sandbox; empty when they have one

    def changed(self, changes: Iterable[RefChange]) -> None:
        """Take in what happened to refs and pipelines; other keys are passed over. In the event loop. Call it once
        with all there is before `run`."""
        for change in changes:
            if change.key.startswith("refs/"):
                self._ref_changed(change)
            elif (name := pipeline_of(change.key)) is not None:
                self._pipeline_changed(name, change)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run pipelines until cancelled; then jobs in flight are left for the next run. Started once jobs may run."""
        self._place = await trio.to_thread.run_sync(self._prepare)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for runner in self._runners.values():
                nursery.start_soon(runner.run)
            task_status.started()
            await trio.sleep_forever()

    @property
    def running(self) -> list[JobRecord]:
        """The jobs that run now."""
        return [runner.job.record for runner in self._runners.values() if runner.job is not None]

    # What runners ask

    def input_of(self, head: PipelineHead) -> CommitId | None:
        """The commit that a pipeline's input branch stands at."""
        pfs = head.spec.input.pfs
        return self._heads.get(ref_key(pfs.repo, pfs.branch))

    def ended(self, record: JobRecord) -> None:
        """A job ended."""
        datums = record.datums
        _log.info(
            "pipeline %s: job %s: %s (%d datums, %d skipped, %d failed)%s", record.pipeline, record.id[:SHORT],
            record.state.value, datums.total, datums.skipped, datums.failed, f": {record.reason}" * bool(record.reason),
        )  # fmt: skip
        self._on_job(record)

    def forget(self, runner: _Runner) -> None:
        """A deleted pipeline's runner is at its end."""
        del self._runners[runner.name]

    # What happens

    def _ref_changed(self, change: RefChange) -> None:
        commit = None
        if change.data is not None:
            try:
                commit = decode(change.data, BranchHead, change.key).commit
            except VfsdError as error:
                _log.error("%s", error)
                return
        self._heads[change.key] = commit
        for runner in self._runners.values():
            pfs = runner.head.spec.input.pfs if runner.head is not None else None
            if pfs is not None and ref_key(pfs.repo, pfs.branch) == change.key:
                runner.wake()

    def _pipeline_changed(self, name: str, change: RefChange) -> None:
        head = None
        if change.data is not None:
            try:
                head = read_head(change.data, change.key)
            except VfsdError as error:
                _log.error("%s", error)
                return
        runner = self._runners.get(name)
        if runner is not None:
            runner.follow(head)
        elif head is not None:
            runner = self._runners[name] = _Runner(self, head)
            if self._nursery is not None:
                self._nursery.start_soon(runner.run)

    def _prepare(self) -> Workplace:
        shutil.rmtree(self._scratch, ignore_errors=True)  # what an interrupted run left
        os.makedirs(self._scratch, mode=0o700)
        problem = sandbox_works()
        if problem is not None:
            self.sandbox_problem = problem
            _log.warning("datums run without a sandbox, with paths in their environment: %s", problem)
        for data in self._repository.index.jobs(in_flight=True):
            record = decode(data, JobRecord, "the record of a job in flight")
            if record.pipeline not in self._runners:
                done = self._outcomes.abandoned(record, "the pipeline was deleted")
                trio.from_thread.run_sync(self.ended, done)
        return Workplace(
            repository=self._repository,
            outcomes=self._outcomes,
            records=self._records,
            snapshot=self._snapshot,
            scratch=self._scratch,
            maker=Unsandboxed() if problem is not None else Sandbox([*self._hidden, self._scratch]),
            cores=self._cores,
            storing=trio.CapacityLimiter(self._cores),
            tell=self._tell,
        )

    @property
    def place(self) -> Workplace:
        """What jobs work with."""
        return self._place


class _Runner:
    """The task of one pipeline."""

    def __init__(self, service: PipelineService, head: PipelineHead) -> None:
        self.name = head.name
        self.head: PipelineHead | None = head  # None once it is deleted
        self.job: JobRun | None = None
        self._service = service
        self._last: JobRecord | None = None  # that has ended
        self._interrupted: JobRecord | None = None  # in flight when the last run of vfsd ended
        self._woken = trio.Event()

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    def follow(self, head: PipelineHead | None) -> None:
        """Take in what the pipeline's head says now; None when it was deleted."""
        self.head = head
        self._obey()
        self.wake()

    async def run(self) -> None:
        """Run jobs until the pipeline is deleted."""
        retry_s = FIRST_RETRY_S
        known = False
        while self.head is not None:
            self._woken = trio.Event()
            try:
                if not known:
                    await trio.to_thread.run_sync(self._look_back)
                    known = True
                await self._work(self.head)
                retry_s = FIRST_RETRY_S
            except Exception as error:
                # Also what nobody foresaw: the filesystem beside must not end with it.
                foreseen = isinstance(error, VfsdError)
                _log.warning(
                    "pipeline %s: %s: trying again in %g s", self.name, error, retry_s, exc_info=not foreseen
                )
                known = False
                with trio.move_on_after(retry_s):
                    await self._woken.wait()
                retry_s = min(retry_s * 2, LAST_RETRY_S)
        self._service.forget(self)

    async def _work(self, head: PipelineHead) -> None:
        """Go on with a job that was interrupted, begin one if there is a reason to, or wait for one."""
        place = self._service.place
        if self._interrupted is not None:
            record, self._interrupted = self._interrupted, None
        else:
            commit = self._service.input_of(head)
            if commit is None or head.state is not PipelineState.RUNNING or is_current(self._last, head, commit):
                await self._woken.wait()
                return
            record = await trio.to_thread.run_sync(new_record, head, place.repository, commit)
        self.job = JobRun(place, head.spec, record, self._last)
        try:
            self._obey()
            self._last = await self.job.run()
        finally:
            self.job = None
        self._service.ended(self._last)

    def _obey(self) -> None:
        """End the job when the head says so."""
        if self.job is None:
            return
        if self.head is None:
            self.job.stop("the pipeline was deleted")
        elif self.head.version != self.job.record.version:
            self.job.stop("the pipeline was updated")
        elif self.head.stop == self.job.record.id:
            self.job.stop("stopped by a user")

    def _look_back(self) -> None:
        """In a thread: what this pipeline's jobs came to before, and which of them was interrupted."""
        place, head = self._service.place, self.head
        self._interrupted = None
        if head is None:
            return
        for record in reversed(place.records.in_flight(self.name)):
            done = place.outcomes.completed(record, head.spec)
            if done is None and record.version != head.version:
                done = place.outcomes.abandoned(record, "the pipeline was updated")
            if done is None:
                self._interrupted = record
            else:
                trio.from_thread.run_sync(self._service.ended, done)
        self._last = place.outcomes.last(head.spec)
