"""What happens in a job: a synchronous state machine, events in, instructions out. No I/O, no clock, no threads.

It promises that never more than `parallelism` datums run, that each gets up to `tries` tries, that a failed datum does
not keep the others from running, and that a job ends exactly once, when nothing of it runs any more. It leaves forming
datums, running processes, merging and all records to whoever carries out the instructions.

    created ── Begin ──> starting ── first datum ──> running ── all done ──> finishing ── OutputCommitted ──> success
       │                     └───────────┬──────────────┘                       │ └── MergeFailed ──> failure
       │                                 │               OutputCommitted, with an egress ──> egressing
       │                                 │                       Egressed ──> success ───────┤
       │                                 │                       EgressFailed ──> failure ───┘
       │                                 ├── a datum failed, or DatumsUnformable ──> failure
       └── UpstreamFailed ─> unrunnable  └── StopRequested, in any of these states ──> killed

Memory is bounded by what waits and what runs: datums are asked for in batches, and finished ones leave only counts. The
style is that of dask distributed's worker_state_machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

import msgspec

from vfsd.model.datum import DatumState
from vfsd.model.job import DatumCounts, JobState

D = TypeVar("D")  # a datum: whatever the driver hands in and wants back; shown to users by str()
LOW_WATER = 1024  # datums that wait; with fewer, the next batch is asked for


class Begin(msgspec.Struct, frozen=True):
    """Event: the job's inputs are there. committed: so is its output commit, made before an interruption."""

    committed: bool = False


class UpstreamFailed(msgspec.Struct, frozen=True):
    """Event: a job that this one needs did not succeed."""

    reason: str


class DatumsFormed(msgspec.Struct, Generic[D], frozen=True):
    """Event: the answer to FormDatums. skipped: how many more were found done already. more: whether to ask again."""

    datums: Iterable[D]
    skipped: int
    more: bool


class DatumsUnformable(msgspec.Struct, frozen=True):
    """Event: the other answer to FormDatums: the rest of the input cannot be read."""

    reason: str


class DatumStarted(msgspec.Struct, frozen=True):
    """Event: the process of a try runs."""

    ticket: int


class DatumFinished(msgspec.Struct, frozen=True):
    """Event: a try is over, and nothing of it runs any more. reason: one line, for a failure. recovered: it was the
    last one, and what the spec has for that case did its work."""

    ticket: int
    ok: bool
    reason: str = ""
    recovered: bool = False


class StopRequested(msgspec.Struct, frozen=True):
    """Event: a user, or the job's time limit, ends the job."""

    reason: str


class OutputCommitted(msgspec.Struct, frozen=True):
    """Event: an answer to MergeOutputs."""


class MergeFailed(msgspec.Struct, frozen=True):
    """Event: the other answer to MergeOutputs, also after CancelMerge; there is no output commit."""

    reason: str


class Egressed(msgspec.Struct, frozen=True):
    """Event: an answer to Egress."""


class EgressFailed(msgspec.Struct, frozen=True):
    """Event: the other answer to Egress, also after CancelEgress; the output commit stays."""

    reason: str


Event = (
    Begin | UpstreamFailed | DatumsFormed[D] | DatumsUnformable | DatumStarted | DatumFinished | StopRequested
    | OutputCommitted | MergeFailed | Egressed | EgressFailed
)  # fmt: skip


class FormDatums(msgspec.Struct, frozen=True):
    """Instruction: form the next batch; answer with one DatumsFormed or DatumsUnformable."""


class StartDatum(msgspec.Struct, Generic[D], frozen=True):
    """Instruction: run a datum; report DatumStarted, then DatumFinished, under the ticket. attempt: 1, 2, ..."""

    ticket: int
    datum: D
    attempt: int


class KillDatum(msgspec.Struct, frozen=True):
    """Instruction: end a try; its DatumFinished is still awaited."""

    ticket: int


class RecordDatum(msgspec.Struct, Generic[D], frozen=True):
    """Instruction: this is how a datum ended. attempts: how often it was tried."""

    datum: D
    state: DatumState
    attempts: int
    reason: str


class MergeOutputs(msgspec.Struct, frozen=True):
    """Instruction: make the output commit; answer with one OutputCommitted or MergeFailed."""


class CancelMerge(msgspec.Struct, frozen=True):
    """Instruction: give the merge up unless it is committed by now; its answer is still awaited."""


class Egress(msgspec.Struct, frozen=True):
    """Instruction: send the output commit where the spec says; answer with one Egressed or EgressFailed."""


class CancelEgress(msgspec.Struct, frozen=True):
    """Instruction: give the egress up; its answer is still awaited."""


class Finish(msgspec.Struct, frozen=True):
    """Instruction: the job has ended; always the last one."""

    state: JobState
    reason: str


Instruction = (
    FormDatums | StartDatum[D] | KillDatum | RecordDatum[D] | MergeOutputs | CancelMerge | Egress | CancelEgress
    | Finish
)  # fmt: skip


class _Try(msgspec.Struct, Generic[D]):
    datum: D
    attempt: int
    state: DatumState = DatumState.STARTING


class JobMachine(Generic[D]):
    """One job. `handle` is the only way in; the attributes may be read at any time. egress: its output goes elsewhere
    too."""

    def __init__(self, *, parallelism: int, tries: int, egress: bool = False) -> None:
        self.parallelism = parallelism
        self.tries = tries
        self.egress = egress
        self.state = JobState.CREATED
        self.counts = DatumCounts()
        self.reason = ""
        self._waiting: deque[tuple[D, int]] = deque()  # with the number of the next attempt
        self._running: dict[int, _Try[D]] = {}
        self._first_failure = ""
        self._tickets = 0
        self._forming = False  # FormDatums is out, its answer not in
        self._more = True  # there may be datums that are not formed yet
        self._merging = False  # MergeOutputs is out, its answer not in
        self._egressing = False  # Egress is out, its answer not in
        self._ending: JobState | None = None  # no more datums start: the job ends so once nothing runs any more

    @property
    def running(self) -> int:
        """How many datums are being worked on."""
        return len(self._running)

    def handle(self, event: Event[D]) -> list[Instruction[D]]:
        """Take in an event; ValueError for one that cannot happen now, which is a mistake in the driver."""
        out: list[Instruction[D]] = []
        match event:
            case Begin(committed):
                self._expect(self.state is JobState.CREATED, event)
                self.state = JobState.STARTING
                if committed:
                    self._committed(out)
            case UpstreamFailed(reason):
                self._expect(self.state is JobState.CREATED, event)
                self._end_as(JobState.UNRUNNABLE, reason)
            case DatumsFormed(datums, skipped, more):
                self._formed(event, datums, skipped, more)
            case DatumsUnformable(reason):
                self._expect(self._forming, event)
                self._forming = False
                self._end_as(JobState.FAILURE, reason)
            case DatumStarted(ticket):
                self._try_of(ticket).state = DatumState.RUNNING
            case DatumFinished():
                self._datum_finished(event, out)
            case StopRequested(reason):
                self._stop(reason, out)
            case OutputCommitted():
                self._expect(self._merging, event)
                self._merging = False
                self._committed(out)
            case MergeFailed(reason):
                self._expect(self._merging, event)
                self._merging = False
                self._end_as(JobState.FAILURE, reason)
            case Egressed():
                self._expect(self._egressing, event)
                self._egressing = False
                self._ending, self.reason = JobState.SUCCESS, ""  # also when a stop came too late
            case EgressFailed(reason):
                self._expect(self._egressing, event)
                self._egressing = False
                self._end_as(JobState.FAILURE, reason)
        self._advance(out)
        return out

    def _expect(self, condition: bool, event: Event[D]) -> None:
        if not condition:
            raise ValueError(f"{type(event).__name__} cannot come to a job that is {self.state.value}")

    def _try_of(self, ticket: int) -> _Try[D]:
        if ticket not in self._running:
            raise ValueError(f"no datum runs under ticket {ticket}")
        return self._running[ticket]

    def _end_as(self, state: JobState, reason: str) -> None:
        """Start no more datums. What was decided first stays."""
        if self._ending is None:
            self._ending, self.reason = state, reason
        self._waiting.clear()
        self._more = False

    def _formed(self, event: Event[D], datums: Iterable[D], skipped: int, more: bool) -> None:
        self._expect(self._forming, event)
        self._forming = False
        if self._ending is not None:
            return
        before = len(self._waiting)
        self._waiting.extend((datum, 1) for datum in datums)
        total = self.counts.total + len(self._waiting) - before + skipped
        self.counts = msgspec.structs.replace(self.counts, total=total).plus(DatumState.SKIPPED, skipped)
        self._more = more

    def _datum_finished(self, event: DatumFinished, out: list[Instruction[D]]) -> None:
        done = self._try_of(event.ticket)
        del self._running[event.ticket]
        reason = event.reason
        if event.ok:
            self._record(done, DatumState.SUCCESS, "", out)
        elif self._ending is JobState.KILLED:
            pass  # it did not fail, it was not let finish
        elif done.attempt < self.tries and self._ending is None:
            self._waiting.appendleft((done.datum, done.attempt + 1))
        elif event.recovered:
            self._record(done, DatumState.RECOVERED, reason, out)
        else:
            self._first_failure = self._first_failure or f"{done.datum}: {reason}"
            self._record(done, DatumState.FAILED, reason, out)

    def _record(self, done: _Try[D], state: DatumState, reason: str, out: list[Instruction[D]]) -> None:
        self.counts = self.counts.plus(state)
        out.append(RecordDatum(done.datum, state, done.attempt, reason))

    def _committed(self, out: list[Instruction[D]]) -> None:
        self._more = False
        if not self.egress:
            self._ending, self.reason = JobState.SUCCESS, ""  # also when a stop came too late
        elif self._ending is None:
            self.state = JobState.EGRESSING
            self._egressing = True
            out.append(Egress())

    def _stop(self, reason: str, out: list[Instruction[D]]) -> None:
        if self.state.final or self._ending is JobState.KILLED:
            return
        if self._merging:
            out.append(CancelMerge())
        if self._egressing:
            out.append(CancelEgress())
        self._ending = None  # a stop goes before any other ending
        self._end_as(JobState.KILLED, reason)
        out.extend(KillDatum(ticket) for ticket in self._running)

    def _advance(self, out: list[Instruction[D]]) -> None:
        """Do what the present state calls for."""
        if self.state.final or (self.state is JobState.CREATED and self._ending is None):
            return
        if self._ending is None:
            self._start_datums(out)
        if self._running or self._waiting or self._forming or self._merging or self._egressing:
            return
        if self._ending is None and not self._more:
            if not self.counts.failed:
                self.state = JobState.FINISHING
                self._merging = True
                out.append(MergeOutputs())
                return
            counts = self.counts
            why = f"{counts.failed} of {counts.total} datums failed; the first was {self._first_failure}"
            self._end_as(JobState.FAILURE, why)
        if self._ending is not None:
            self.state = self._ending
            out.append(Finish(self.state, self.reason))

    def _start_datums(self, out: list[Instruction[D]]) -> None:
        while self._waiting and len(self._running) < self.parallelism:
            datum, attempt = self._waiting.popleft()
            self._tickets += 1
            self._running[self._tickets] = _Try(datum, attempt)
            self.state = JobState.RUNNING
            out.append(StartDatum(self._tickets, datum, attempt))
        if self._more and not self._forming and not self._merging and len(self._waiting) < LOW_WATER:
            self._forming = True
            out.append(FormDatums())

    def validate(self) -> None:
        """AssertionError when the machine contradicts itself; tests call it after each step."""
        running = [one.state for one in self._running.values()]
        assert len(running) <= self.parallelism
        assert all(state in {DatumState.STARTING, DatumState.RUNNING} for state in running)
        assert all(1 <= one.attempt <= self.tries for one in self._running.values())
        assert all(1 <= attempt <= self.tries for _, attempt in self._waiting)
        unfinished = self.counts.total - self.counts.done
        assert unfinished >= len(running) + len(self._waiting)
        if self._ending is None:
            assert unfinished == len(running) + len(self._waiting), "a datum is lost or counted twice"
        else:
            assert not self._waiting and not self._more
        if self.state in {JobState.STARTING, JobState.RUNNING} and self._ending is None:
            assert running or self._waiting or self._forming, "nothing will ever move this job"
            assert not self._waiting or len(running) == self.parallelism, "a datum waits beside a free place"
            assert not self._more or self._forming or len(self._waiting) >= LOW_WATER
        assert self._merging == (self.state is JobState.FINISHING)
        assert self._egressing == (self.state is JobState.EGRESSING)
        if self.state.final or self.state in {JobState.CREATED, JobState.FINISHING, JobState.EGRESSING}:
            assert not running and not self._waiting and not self._forming
        if self.state is JobState.SUCCESS:
            assert not self.counts.failed and not unfinished
        if self.state.final:
            assert bool(self.reason) == (self.state is not JobState.SUCCESS)
