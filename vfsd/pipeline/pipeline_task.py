"""The task of one pipeline on a node: claims it when there is something to do, then runs one job after another, and
makes the ticks of its cron inputs beside.

What there is to do follows from what every node sees: where the inputs stand, what the head asks for, how the newest
job stands. So nodes that do not have the pipeline know when it would be their turn, and ask the store nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from vfsd.model.commit import Provenance
from vfsd.model.errors import Unavailable, VfsdError
from vfsd.model.ids import JobId
from vfsd.pipeline.clock import FIRST_RETRY_S, LAST_RETRY_S, Alarm, do_when_due
from vfsd.pipeline.door import Door
from vfsd.pipeline.lasting_run import LastingRun
from vfsd.pipeline.lease import Tenure
from vfsd.pipeline.records import JobRecord, is_current, new_record, next_inputs
from vfsd.pipeline.registry import PipelineHead, PipelineState
from vfsd.pipeline.runner import JobRun
from vfsd.pipeline.ticks import next_tick
from vfsd.pipeline.together import agreement

if TYPE_CHECKING:
    from vfsd.pipeline.service import PipelineService

JOBS_TO_WAIT = 2  # of one that is behind: the one that runs, and the next, which sees all that was there

_log = logging.getLogger(__name__)


class PipelineTask:
    """One pipeline. All of it in the event loop, but for what is said to be in a thread."""

    def __init__(self, service: PipelineService, head: PipelineHead) -> None:
        self.name = head.name
        self.head: PipelineHead | None = head  # None once it is deleted
        self.job: JobRun | LastingRun | None = None
        self._service = service
        self._tenure: Tenure | None = None  # while this node has the pipeline
        self._last: JobRecord | None = None  # that has ended
        self._interrupted: JobRecord | None = None  # in flight when the pipeline was claimed
        self._unsure = False  # whether all was written down that this node did
        self._woken = trio.Event()
        self._door = Door()  # of a service
        self._nursery: trio.Nursery
        self._alarm = Alarm(service.clock)  # of the ticks
        self.waited: dict[str, set[JobId]] = {}  # pipelines that are waited for → their newest jobs meanwhile

    def wake(self) -> None:
        """There may be something to do."""
        self._obey()
        self._woken.set()
        self._alarm.ring()

    def follow(self, head: PipelineHead | None) -> None:
        """Take in what the pipeline's head says now; None when it was deleted."""
        self.head = head
        self.wake()

    def lost(self) -> None:
        """Another node has the pipeline now."""
        if self._tenure is None:
            return  # it let go itself
        self._tenure = None
        _log.warning("pipeline %s: another node has it now", self.name)
        if self.job is not None:
            self.job.interrupt(Unavailable("another node has it now"))
        self.wake()

    async def run(self) -> None:
        """Make ticks and run jobs until the pipeline is deleted."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(do_when_due, self._alarm, self._next_tick, self._tick, f"ticks of pipeline {self.name}")
            await self._run_jobs()
            await self._door.close()
            nursery.cancel_scope.cancel()
        self._let_go()
        self._service.forget(self)

    async def _run_jobs(self) -> None:
        retry_s = FIRST_RETRY_S
        while self.head is not None:
            self._woken = trio.Event()
            try:
                await self._work(self.head)
                retry_s = FIRST_RETRY_S
            except Exception as error:
                # Also what nobody foresaw: the filesystem beside must not end with it.
                foreseen = isinstance(error, VfsdError)
                _log.warning(
                    "pipeline %s: %s: trying again in %g s", self.name, error, retry_s, exc_info=not foreseen
                )
                self._unsure = True
                self._let_go()
                await self._door.close()
                with trio.move_on_after(retry_s):
                    await self._woken.wait()
                retry_s = min(retry_s * 2, LAST_RETRY_S)

    async def _work(self, head: PipelineHead) -> None:
        """Go on with a job that was interrupted, begin one if there is a reason to, or wait for one."""
        service, place = self._service, self._service.place
        if self._tenure is None:
            await self._claim(head)
            return
        if self._interrupted is not None:
            record, self._interrupted = self._interrupted, None
        else:
            inputs, blocked = service.inputs_of(head), service.blocked(head)
            ids = tuple(record.id for record in blocked)
            if head.state is not PipelineState.RUNNING or is_current(self._last, head, inputs):
                if head.state is PipelineState.RUNNING and _is_news(self._last, ids):
                    self._last = await trio.to_thread.run_sync(
                        place.outcomes.unrunnable, head, inputs, self._last, blocked, self._tenure
                    )
                    service.ended(self._last)
                else:
                    await self._door.close()
                    await self._woken.wait()
                return
            if head.spec.every_commit:
                inputs = await trio.to_thread.run_sync(next_inputs, place.repository, self._last, inputs)
            agreed = await self._together(head, inputs)
            if agreed is None:
                await self._woken.wait()
                return
            inputs = agreed
            record = await trio.to_thread.run_sync(new_record, head, place.repository, inputs, self._last, ids)
        if self._tenure is None:  # lost meanwhile
            return
        if head.spec.is_lasting:
            self.job = LastingRun(place, head.spec, record, self._tenure, self._door, self._nursery)
        else:
            self.job = JobRun(place, head.spec, record, self._last, self._tenure)
        service.began(record)
        try:
            self._obey()
            self._last = await self.job.run()
        finally:
            self.job = None
        service.ended(self._last)

    async def _together(
        self, head: PipelineHead, inputs: tuple[Provenance, ...]
    ) -> tuple[Provenance, ...] | None:
        """What a job is to read of what came: what agrees (vfsd.pipeline.together). None while a pipeline is at work on
        what is missing; but where it passes commits over, not for longer than it takes for what was there when that
        began: it may never work on one that the other side has. What lasts takes everything as it comes."""
        service = self._service
        if head.spec.is_lasting:
            return inputs
        late = service.late_and_new(head, inputs)
        common = None
        if not late and len(inputs) > 1 and any(service.made_by(edge.repo, edge.branch) for edge in inputs):
            last = () if self._last is None else self._last.inputs
            found = await trio.to_thread.run_sync(agreement, service.place.repository, inputs, last)
            late = [edge.repo for edge in found.behind if service.is_busy(edge.repo, edge.branch)]
            common = found.common
        if late and common is None:
            for name in late:
                self.waited.setdefault(name, set()).update(service.passing_over(name))
            if max(map(len, self.waited.values())) <= JOBS_TO_WAIT:
                return None
        self.waited = {}
        return common if late and common is not None else inputs

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
        elif isinstance(self.job, LastingRun):
            record, head = self.job.record, self.head
            if (head.state, head.run) != (PipelineState.RUNNING, record.run) or (
                self._service.inputs_of(head) != record.inputs
            ):
                self.job.finish()

    # Ticks

    def _next_tick(self) -> int | None:
        """When the next one is due."""
        head = self.head
        if head is None or head.state is not PipelineState.RUNNING:
            return None
        moments = (next_tick(cron, self._service.ticked(cron)) for cron in head.spec.cron_inputs())
        return min((moment for moment in moments if moment is not None), default=None)

    def _is_time(self) -> bool:
        moment = self._next_tick()
        return moment is not None and moment <= self._service.clock.now()

    async def _tick(self) -> None:
        """Make those that are due, if this node has the pipeline or can have it."""
        head = self.head
        if self._tenure is None or head is None:
            self._woken.set()
            await self._alarm.wait()
            return
        for cron in head.spec.cron_inputs():
            self._service.moved(await trio.to_thread.run_sync(self._service.make_ticks, self.name, cron))

    # Having the pipeline

    async def _claim(self, head: PipelineHead) -> None:
        """Claim the pipeline once there is something to do, and take in what was done for it before."""
        service = self._service
        if not self._is_wanted(head) or not service.may_claim(self.name):
            await self._woken.wait()
            return
        tenure = await service.claim(head)
        if tenure is None:
            if service.may_claim(self.name):
                with trio.move_on_after(FIRST_RETRY_S):  # somebody was faster just now, who that was will be seen
                    await self._woken.wait()
            return
        self._tenure = tenure
        self._alarm.ring()
        await trio.to_thread.run_sync(self._look_back, tenure, head)
        self._unsure = False

    def _is_wanted(self, head: PipelineHead) -> bool:
        newest = self._service.newest(self.name)
        if self._unsure or (newest is not None and not newest.finished):
            return True
        if head.state is not PipelineState.RUNNING:
            return False
        if self._is_time():
            return True
        ids = tuple(record.id for record in self._service.blocked(head))
        return not is_current(newest, head, self._service.inputs_of(head)) or _is_news(newest, ids)

    def _let_go(self) -> None:
        """Look at everything anew before anything is done again."""
        self._tenure = None
        self._service.let_go(self.name)

    def _look_back(self, tenure: Tenure, head: PipelineHead) -> None:
        """In a thread: what this pipeline's jobs came to before, and which of them was interrupted."""
        outcomes, records = self._service.place.outcomes, self._service.place.records
        self._interrupted = self._last = None
        newest = tenure.take_over()
        begun = records.in_flight(self.name)  # here
        for record in begun:
            if (newest is None or record.id != newest.id) and records.stored(self.name, record.id) is None:
                records.drop(record.id)
        if newest is None:
            self._last = outcomes.last(head.spec)
        elif newest.finished:
            self._last = outcomes.settled(newest)
            if any(record.id == newest.id for record in begun):
                trio.from_thread.run_sync(self._service.ended, newest)
        else:
            self._last = outcomes.before(newest, head.spec)
            records.note(newest)
            done = records.stored(self.name, newest.id) or outcomes.completed(newest, tenure)
            if done is not None and not done.finished:
                newest, done = done, None  # it has its output commit; what is left is its egress
            if done is None and newest.version != head.version:
                done = outcomes.abandoned(newest, "the pipeline was updated", tenure)
            if done is None:
                self._interrupted = newest
            else:
                self._last = done
                trio.from_thread.run_sync(self._service.ended, done)


def _is_news(last: JobRecord | None, blocked: tuple[JobId, ...]) -> bool:
    """Whether jobs that a pipeline waited for came to nothing, and no job of its own says so yet."""
    return not set(blocked).issubset(() if last is None else last.blocked)
