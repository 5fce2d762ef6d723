"""Runs the pipelines of a store on this node: one task a pipeline, woken when an input moves or its head is changed.

Told of both by whoever watches the store (`changed`), it needs no polling and reads nothing to find out what to do. A
pipeline's jobs run one after another, each over what its input branches hold when the job begins: of commits that come
while a job runs, the newest is next and the others are passed over. Of several nodes one has a pipeline at a time:
vfsd.pipeline.lease_state says which, vfsd.pipeline.lease holds it in the store.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Container, Iterable, Sequence

import trio

from vfsd.model.commit import BranchHead, Provenance, decode
from vfsd.model.errors import VfsdError
from vfsd.model.ids import SHORT, CommitId, JobId
from vfsd.model.job import JobState
from vfsd.model.names import DEFAULT_BRANCH, key_part
from vfsd.model.spec_input import CronInput
from vfsd.pipeline.accounts import Accounts
from vfsd.pipeline.cgroups import Cgroups, open_cgroups
from vfsd.pipeline.clock import Clock, WallClock
from vfsd.pipeline.egress import Reach
from vfsd.pipeline.lease import (
    LIFE_S,
    PREFIX,
    Runner,
    Tenure,
    claim,
    head_event,
    read_beat,
    runner_of,
)
from vfsd.pipeline.lease_state import BeatSeen, Claimed, Event, Free, HeadGone, LeaseMachine, Lost, TimePassed
from vfsd.pipeline.orphans import end_orphans
from vfsd.pipeline.outcome import Outcomes
from vfsd.pipeline.pipeline_task import PipelineTask
from vfsd.pipeline.records import JobRecord, JobRecords, Standing, input_commits, is_current, pipeline_of_standing
from vfsd.pipeline.registry import PipelineHead, PipelineState, pipeline_of, read_head
from vfsd.pipeline.resources import Budget, Machine, machine
from vfsd.pipeline.rolling_log import leave_log
from vfsd.pipeline.sandbox import Sandbox, Unsandboxed, sandbox_works
from vfsd.pipeline.secrets import Secrets
from vfsd.pipeline.ticks import make_ticks
from vfsd.pipeline.triggers import Triggers
from vfsd.pipeline.turns import Turns
from vfsd.pipeline.workplace import Outlets, Show, Workplace
from vfsd.repo.refs import Head, ref_key
from vfsd.repo.repository import Repository
from vfsd.repo.watch import RefChange

WATCHED = ("refs/", "pipelines/", "runners/")  # prefixes of the keys that `changed` wants to hear of
TURNS_A_CORE = 4  # datums that run at a time, unless the node's setting says how many
GIVE_UP_S = 5.0  # seconds that the store has, at the end, to take in that others may go on
TASKS_A_CORE, LEAST_TASKS = 128, 1024  # processes and threads that one datum may have at a time

_log = logging.getLogger(__name__)


async def _nobody_looks(_: Head) -> None:
    """Nothing is mounted."""


class PipelineService:
    """All pipelines of one store. For one event loop; `run` once."""

    def __init__(
        self,
        repository: Repository,
        *,
        mount: str,
        snapshot: Callable[[str, str, CommitId], bytes],
        scratch: str,
        runner_file: str,
        hidden: Iterable[str],
        author: str,
        users: Sequence[str] = ("nobody",),
        secrets: str = "/nonexistent",
        tell: Callable[[str], None] = lambda key: None,
        show: Show = _nobody_looks,
        on_begin: Callable[[JobRecord], None] = lambda record: None,
        on_job: Callable[[JobRecord], None] = lambda record: None,
        cores: int | None = None,
        there: Machine | None = None,
        life_s: float = LIFE_S,
        most: int = 0,
        clock: Clock | None = None,
        reach: Reach | None = None,
        outlets: Outlets | None = None,
        descriptors: int | None = None,
    ) -> None:
        """mount: the directory below which `snapshot` is: (repo, branch, commit) → that commit's directory. scratch: a
        directory on a local disk that is nobody else's. runner_file: see lease.Runner. hidden: directories that datums
        may not see; they exist, with no symbolic links in their paths. users: see vfsd.pipeline.accounts. secrets: see
        vfsd.pipeline.secrets. tell: called, from any thread, with the key of a ref that was moved. show: awaited with
        the head of an output branch that was moved, before anybody hears that the job has ended. on_begin, on_job:
        called with the record of each job that begins, or goes on, and that ended. there: what the machine has; None
        to look. life_s: seconds of silence after which other nodes take over. most: datums that run at a time; 0 for
        some a core. clock: by which ticks are made; None for the machine's. reach: what output may leave the node by.
        outlets: by which spouts write. descriptors: see vfsd.pipeline.sandbox.Terms.
        """
        self._repository = repository
        self._mount = os.fsencode(mount)
        self._snapshot = snapshot
        self._scratch = os.fsencode(scratch)
        self._hidden = [os.fsencode(path) for path in hidden]
        self._tell = tell
        self._show = show
        self._on_begin = on_begin
        self._on_job = on_job
        self._machine = there
        self._accounts = Accounts(users)
        self._secrets = Secrets(secrets)
        self._cores = cores or os.cpu_count() or 1
        self._most = most
        self.clock = clock or WallClock()
        self._author = author
        self._reach = reach or Reach()
        self._outlets = outlets
        self._descriptors = descriptors
        self._outcomes = Outcomes(repository, author)
        self._records = JobRecords(repository)
        self._heads: dict[str, BranchHead] = {}  # by the keys of their refs
        self._triggers = Triggers(repository, self.clock, self._heads, self.moved)
        self._outputs: dict[str, str] = {}  # key of a ref → the pipeline whose output it is
        self._newest: dict[str, JobRecord] = {}  # pipeline → its newest job, as the store has it
        self._tasks: dict[str, PipelineTask] = {}
        self._nursery: trio.Nursery | None = None
        self._runner = Runner(repository, runner_file, life_s)
        self._leases = LeaseMachine(self._runner.id)
        self._beating = False
        self._beat_lock = trio.Lock()
        self._learnt = trio.Event()  # something of other runners
        self._place: Workplace
        self.limits_problem = ""  # why datums have no cgroups; empty when they can have them
        self.sandbox_problem = ""  # why datums run without a sandbox; empty when they have one

    def changed(self, changes: Iterable[RefChange]) -> None:
        """Take in what happened to refs and pipelines; other keys are passed over. In the event loop. Call it once
        with all there is before `run`."""
        for change in changes:
            try:
                self._take_in(change)
            except VfsdError as error:
                _log.error("%s", error)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run pipelines until cancelled; then jobs in flight are left for the next run. Started once jobs may run."""
        self._place = await trio.to_thread.run_sync(self._prepare)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._mind_others)
                nursery.start_soon(self._triggers.run)
                for task in self._tasks.values():
                    nursery.start_soon(task.run)
                task_status.started()
                await trio.sleep_forever()
        finally:
            with trio.move_on_after(GIVE_UP_S) as scope:
                scope.shield = True
                await trio.to_thread.run_sync(self._give_up, abandon_on_cancel=True)

    @property
    def running(self) -> list[JobRecord]:
        """The jobs that run now."""
        return [task.job.record for task in self._tasks.values() if task.job is not None]

    def logs(self, job: str) -> dict[str, tuple[int, str]]:
        """Of the datums of a job that run here now: the number of the try, and where its log grows."""
        found = (task.job for task in self._tasks.values() if task.job is not None and task.job.record.id == job)
        return {
            datum: (attempt, os.fsdecode(path)) for one in found for datum, (attempt, path) in one.logs.items()
        }

    # What tasks ask

    @property
    def place(self) -> Workplace:
        """What jobs work with."""
        return self._place

    def inputs_of(self, head: PipelineHead) -> tuple[Provenance, ...]:
        """Where a pipeline's input branches stand, those that have commits."""
        def commit(repo: str, branch: str) -> CommitId | None:
            found = self._heads.get(ref_key(repo, branch))
            return None if found is None else found.commit

        return input_commits(head.spec, commit)

    def ticked(self, cron: CronInput) -> int:
        """Until when the ticks of a cron input are made; for ever, where its branch is not known."""
        head = self._heads.get(ref_key(cron.repo, DEFAULT_BRANCH))
        return self.clock.now() if head is None else head.ticked

    def make_ticks(self, pipeline: str, cron: CronInput) -> Head:
        """In a thread: see vfsd.pipeline.ticks."""
        return make_ticks(self._repository, pipeline, cron, self.clock.now(), self._author)

    def moved(self, head: Head) -> None:
        """A branch was moved here: known before the watcher sees it."""
        key = ref_key(head.repo, head.branch)
        self._heads[key] = head.head
        self._tell(key)

    def began(self, record: JobRecord) -> None:
        """A job begins, or goes on after an interruption."""
        self._on_begin(record)

    def ended(self, record: JobRecord) -> None:
        """A job ended."""
        datums = record.datums
        _log.info(
            "pipeline %s: job %s: %s (%d datums, %d skipped, %d failed)%s", record.pipeline, record.id[:SHORT],
            record.state.value, datums.total, datums.skipped, datums.failed, f": {record.reason}" * bool(record.reason),
        )  # fmt: skip
        self._on_job(record)

    def forget(self, task: PipelineTask) -> None:
        """A deleted pipeline's task is at its end."""
        del self._tasks[task.name]

    def newest(self, pipeline: str) -> JobRecord | None:
        """The newest job of a pipeline, whichever node runs or ran it."""
        return self._newest.get(pipeline)

    def made_by(self, repo: str, branch: str) -> PipelineHead | None:
        """The pipeline that writes a branch; None for users."""
        task = self._tasks.get(repo)
        head = None if task is None else task.head
        return head if head is not None and head.spec.output_branch == branch else None

    def is_busy(self, repo: str, branch: str) -> bool:
        """Whether the pipeline that writes a branch, or one that it reads from, is at work or has something to do. One
        that lasts always is, and nobody waits for it."""
        head = self.made_by(repo, branch)
        if head is None or head.spec.is_lasting:
            return False
        newest = self._newest.get(head.name)
        if newest is not None and not newest.finished:
            return True
        if head.state is PipelineState.RUNNING and not is_current(newest, head, self.inputs_of(head)):
            return True
        return any(self.is_busy(pfs.repo, pfs.branch) for pfs in head.spec.pfs_inputs())

    def passing_over(self, pipeline: str) -> set[JobId]:
        """The newest job of a pipeline that does not work on each commit; nothing of one that does."""
        task, newest = self._tasks.get(pipeline), self._newest.get(pipeline)
        if newest is None or task is None or task.head is None or task.head.spec.every_commit:
            return set()
        return {newest.id}

    def late_and_new(self, head: PipelineHead, inputs: Sequence[Provenance]) -> list[str]:
        """Pipelines that a pipeline reads which have made nothing yet, are at work, and stand on what others among its
        inputs stand on."""
        there = {(edge.repo, edge.branch) for edge in inputs}
        stands = {one for branch in there for one in self._stands_on(*branch)}
        reads = dict.fromkeys((pfs.repo, pfs.branch) for pfs in head.spec.pfs_inputs())
        return [
            branch[0] for branch in reads
            if branch not in there and self.is_busy(*branch) and not stands.isdisjoint(self._stands_on(*branch))
        ]  # fmt: skip

    def _stands_on(self, repo: str, branch: str) -> set[tuple[str, str]]:
        """A branch, and all that pipelines make it of."""
        head = self.made_by(repo, branch)
        below = () if head is None else head.spec.pfs_inputs()
        return {(repo, branch)}.union(*(self._stands_on(pfs.repo, pfs.branch) for pfs in below))

    def blocked(self, head: PipelineHead) -> tuple[JobRecord, ...]:
        """The newest jobs of the pipelines that a pipeline reads from, as far as they did not succeed and nothing is
        left to do there."""
        repos = dict.fromkeys((pfs.repo, pfs.branch) for pfs in head.spec.pfs_inputs())
        tasks = (self._tasks.get(repo) for repo, _ in repos)
        heads = [task.head for task in tasks if task is not None and task.head is not None]
        found = [
            (other, newest)
            for other in heads
            if not other.spec.is_lasting
            and (other.name, other.spec.output_branch) in repos and (newest := self._newest.get(other.name)) is not None
        ]
        return tuple(
            newest
            for other, newest in found
            if newest.finished and newest.state is not JobState.SUCCESS and newest.output is None
            and is_current(newest, other, self.inputs_of(other))
        )  # fmt: skip

    # Who has a pipeline

    def may_claim(self, pipeline: str) -> bool:
        """Whether nobody who lives has a pipeline."""
        return self._leases.is_free(pipeline, trio.current_time())

    async def claim(self, head: PipelineHead) -> Tenure | None:
        """Have a pipeline given to this node; None when another one was faster."""
        await self._begin_to_beat()
        leases, name, branch = self._leases, head.name, head.spec.output_branch
        holder = leases.holder(name)
        found = await trio.to_thread.run_sync(
            claim, self._repository, self._runner.id, name, branch, holder, leases.last_beat(holder)
        )
        for event in found.seen:
            self._tell_machine(event)
            if isinstance(event, BeatSeen):
                self._tell(PREFIX + event.runner)  # the watcher may not know that one yet, and is to miss it once gone
        if found.tenure is not None:
            self._tell_machine(Claimed(name, found.tenure.epoch))
        return found.tenure

    def let_go(self, pipeline: str) -> None:
        """A task does not rely any more on what it knew of its pipeline."""
        self._tell_machine(HeadGone(pipeline))

    async def _begin_to_beat(self) -> None:
        async with self._beat_lock:
            if not self._beating:
                await trio.to_thread.run_sync(self._runner.beat)
                self._beating = True
                assert self._nursery is not None
                self._nursery.start_soon(self._beat)

    async def _beat(self) -> None:
        while True:
            await trio.sleep(self._runner.beat_s)
            try:
                await trio.to_thread.run_sync(self._runner.beat)
            except VfsdError as error:
                _log.warning("other nodes cannot be told that this one goes on: %s", error)

    async def _mind_others(self) -> None:
        """See when somebody who has a pipeline is silent for too long."""
        while True:
            self._learnt = trio.Event()
            with trio.move_on_at(self._leases.next_check(trio.current_time())):
                await self._learnt.wait()
            self._tell_machine(TimePassed())

    def _give_up(self) -> None:
        try:
            self._runner.give_up()
        except VfsdError as error:
            _log.warning("other nodes take over in a while only: %s", error)

    def _tell_machine(self, event: Event) -> None:
        for instruction in self._leases.handle(event, trio.current_time()):
            task = self._tasks.get(instruction.pipeline)
            if task is None:
                continue
            match instruction:
                case Lost():
                    task.lost()
                case Free():
                    task.wake()

    # What happens

    def _take_in(self, change: RefChange) -> None:
        key = change.key
        if key.startswith("refs/"):
            self._ref_changed(change)
        elif (runner := runner_of(key)) is not None:
            self._tell_machine(read_beat(runner, change.data))
            self._learnt.set()
        elif (name := pipeline_of_standing(key)) is not None:
            self._standing_changed(name, change)
        elif (name := pipeline_of(key)) is not None:
            self._pipeline_changed(name, change)

    def _ref_changed(self, change: RefChange) -> None:
        head = None if change.data is None else decode(change.data, BranchHead, change.key)
        if head is None:
            self._heads.pop(change.key, None)
        else:
            self._heads[change.key] = head
        self._triggers.changed(change.key)
        pipeline = (head.pipeline if head is not None else "") or self._outputs.get(change.key, "")
        if pipeline and not change.key.startswith(f"refs/{key_part(pipeline)}/"):
            pipeline = ""  # it has ticks
        if pipeline:
            self._outputs[change.key] = pipeline
            self._tell_machine(HeadGone(pipeline) if head is None else head_event(pipeline, head))
            self._learnt.set()
            if (task := self._tasks.get(pipeline)) is not None:
                task.wake()
        for task in self._tasks.values():
            inputs = () if task.head is None else task.head.spec.pfs_inputs()
            if any(ref_key(pfs.repo, pfs.branch) == change.key for pfs in inputs):
                task.wake()

    def _standing_changed(self, name: str, change: RefChange) -> None:
        if change.data is None:
            self._newest.pop(name, None)
        else:
            self._newest[name] = decode(change.data, Standing, change.key).record
        for task in self._tasks.values():
            if task.name == name or task.waited or (task.head is not None and task.head.reads(name)):
                task.wake()

    def _pipeline_changed(self, name: str, change: RefChange) -> None:
        head = None if change.data is None else read_head(change.data, change.key)
        task = self._tasks.get(name)
        if task is not None:
            task.follow(head)
        elif head is not None:
            task = self._tasks[name] = PipelineTask(self, head)
            if self._nursery is not None:
                self._nursery.start_soon(task.run)
        for other in self._tasks.values():
            if other.waited:
                other.wake()

    def _prepare(self) -> Workplace:
        begun = [
            decode(data, JobRecord, "the record of a job in flight")
            for data in self._repository.index.jobs(in_flight=True)
        ]
        end_orphans(self._scratch + b"/")
        self._clear_scratch({record.id for record in begun})
        self._runner.bury()
        problem = sandbox_works()
        if problem is not None:
            self.sandbox_problem = problem
            _log.warning("datums run without a sandbox, with paths in their environment: %s", problem)
        there = self._machine or machine(os.fsdecode(self._scratch))
        cgroups = open_cgroups()
        if isinstance(cgroups, str):
            self.limits_problem = cgroups
            _log.info("limits of memory hold for each process of a datum, limits of cpu do not: %s", cgroups)
        for record in begun:
            if record.pipeline not in self._tasks:
                done = self._outcomes.abandoned(record, "the pipeline was deleted", None)
                trio.from_thread.run_sync(self.ended, done)
        return Workplace(
            repository=self._repository,
            mount=self._mount,
            outcomes=self._outcomes,
            records=self._records,
            snapshot=self._snapshot,
            scratch=self._scratch,
            maker=Unsandboxed() if problem is not None else Sandbox([*self._hidden, self._scratch], self._mount),
            accounts=self._accounts,
            secrets=self._secrets,
            budget=Budget(there),
            turns=Turns(self._most or TURNS_A_CORE * self._cores),
            cgroups=cgroups if isinstance(cgroups, Cgroups) else None,
            tasks=max(LEAST_TASKS, TASKS_A_CORE * there.cpu),
            descriptors=self._descriptors,
            files_in_memory=there.memory // 2 // there.cpu,
            cores=self._cores,
            storing=trio.CapacityLimiter(self._cores),
            reach=self._reach,
            outlets=self._outlets,
            tell=self._tell,
            show=self._show,
        )

    def _clear_scratch(self, begun: Container[str]) -> None:
        """Remove what an interrupted run left, but for the logs of jobs that are begun and may go on."""
        os.makedirs(self._scratch, mode=0o700, exist_ok=True)
        for name in os.listdir(self._scratch):
            folder = self._scratch + b"/" + name
            if os.fsdecode(name) in begun:
                leave_log(folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
