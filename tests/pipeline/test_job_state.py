from __future__ import annotations

import tracemalloc
from collections import Counter, deque
from itertools import islice

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from vfsd.model.datum import DatumState
from vfsd.model.job import JobState
from vfsd.pipeline.job_state import (
    Begin,
    CancelEgress,
    CancelMerge,
    DatumFinished,
    DatumsFormed,
    DatumStarted,
    DatumsUnformable,
    Egress,
    Egressed,
    EgressFailed,
    Finish,
    FormDatums,
    JobMachine,
    KillDatum,
    MergeFailed,
    MergeOutputs,
    OutputCommitted,
    RecordDatum,
    StartDatum,
    StopRequested,
    UpstreamFailed,
)


def begun(
    names: str, *, skipped: int = 0, parallelism: int = 2, tries: int = 3
) -> tuple[JobMachine[str], list[object]]:
    """A machine whose datums, one a letter, are formed, and what it said to that."""
    machine: JobMachine[str] = JobMachine(parallelism=parallelism, tries=tries)
    assert machine.handle(Begin()) == [FormDatums()]
    return machine, list(machine.handle(DatumsFormed(list(names), skipped, more=False)))


def test_a_job_runs_its_datums_and_merges_what_they_wrote() -> None:
    machine, out = begun("abc", skipped=4)
    assert out == [StartDatum(1, "a", 1), StartDatum(2, "b", 1)]
    assert machine.state is JobState.RUNNING
    assert machine.handle(DatumStarted(1)) == []
    done = RecordDatum("a", DatumState.SUCCESS, 1, "")
    assert machine.handle(DatumFinished(1, ok=True)) == [done, StartDatum(3, "c", 1)]
    machine.handle(DatumFinished(2, ok=True))
    assert machine.handle(DatumFinished(3, ok=True))[-1] == MergeOutputs()
    assert machine.state is JobState.FINISHING
    assert machine.handle(OutputCommitted()) == [Finish(JobState.SUCCESS, "")]
    assert (machine.counts.total, machine.counts.success, machine.counts.skipped) == (7, 3, 4)


def test_a_job_without_anything_to_do_goes_straight_to_merging() -> None:
    assert begun("", skipped=9)[1] == [MergeOutputs()]
    assert begun("")[1] == [MergeOutputs()]


def test_a_datum_is_tried_again_ahead_of_those_that_wait() -> None:
    machine, _ = begun("ab", parallelism=1, tries=2)
    assert machine.handle(DatumFinished(1, ok=False, reason="exit code 1")) == [StartDatum(2, "a", 2)]
    assert machine.handle(DatumFinished(2, ok=True)) == [
        RecordDatum("a", DatumState.SUCCESS, 2, ""),
        StartDatum(3, "b", 1),
    ]


def test_after_a_failed_datum_the_rest_still_run_and_then_the_job_fails() -> None:
    machine, _ = begun("ab", parallelism=1, tries=1)
    assert machine.handle(DatumFinished(1, ok=False, reason="exit code 1")) == [
        RecordDatum("a", DatumState.FAILED, 1, "exit code 1"),
        StartDatum(2, "b", 1),
    ]
    assert machine.handle(DatumFinished(2, ok=True)) == [
        RecordDatum("b", DatumState.SUCCESS, 1, ""),
        Finish(JobState.FAILURE, "1 of 2 datums failed; the first was a: exit code 1"),
    ]


def test_a_recovered_datum_does_not_fail_the_job() -> None:
    machine, _ = begun("a", parallelism=1, tries=1)
    assert machine.handle(DatumFinished(1, ok=False, reason="exit code 1", recovered=True)) == [
        RecordDatum("a", DatumState.RECOVERED, 1, "exit code 1"),
        MergeOutputs(),
    ]
    assert machine.handle(OutputCommitted()) == [Finish(JobState.SUCCESS, "")]


def test_a_stop_kills_what_runs_and_ends_when_it_is_gone() -> None:
    machine, _ = begun("abc")
    assert machine.handle(StopRequested("stopped by a user")) == [KillDatum(1), KillDatum(2)]
    assert machine.handle(StopRequested("again")) == []
    assert machine.handle(DatumFinished(1, ok=False, reason="ended by SIGTERM")) == []
    assert machine.handle(DatumFinished(2, ok=True)) == [
        RecordDatum("b", DatumState.SUCCESS, 1, ""),  # it got ready in time: it need not be done again
        Finish(JobState.KILLED, "stopped by a user"),
    ]
    assert machine.counts.failed == 0


def test_a_stop_before_the_beginning_ends_the_job_at_once() -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=1)
    assert machine.handle(StopRequested("no")) == [Finish(JobState.KILLED, "no")]
    assert machine.handle(StopRequested("no")) == []


def test_a_stop_waits_for_the_batch_that_is_being_formed() -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=1)
    machine.handle(Begin())
    assert machine.handle(StopRequested("no")) == []
    assert machine.handle(DatumsFormed(["a"], 1, more=True)) == [Finish(JobState.KILLED, "no")]


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (OutputCommitted(), Finish(JobState.SUCCESS, "")),
        (MergeFailed("given up"), Finish(JobState.KILLED, "no")),
    ],
)
def test_a_stop_while_merging_counts_only_if_nothing_was_committed(answer: OutputCommitted, end: Finish) -> None:
    machine, _ = begun("")
    assert machine.handle(StopRequested("no")) == [CancelMerge()]
    assert machine.handle(answer) == [end]


def test_a_merge_that_fails_fails_the_job() -> None:
    machine, _ = begun("")
    assert machine.handle(MergeFailed("/x: two datums wrote it")) == [
        Finish(JobState.FAILURE, "/x: two datums wrote it")
    ]


@pytest.mark.parametrize("committed", [True, False])
def test_an_egress_comes_behind_the_commit(committed: bool) -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=1, egress=True)
    out = machine.handle(Begin(committed))
    if not committed:
        machine.handle(DatumsFormed([], 0, more=False))
        out = machine.handle(OutputCommitted())
    assert out == [Egress()]
    assert machine.state is JobState.EGRESSING
    assert machine.handle(Egressed()) == [Finish(JobState.SUCCESS, "")]


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        (Egressed(), Finish(JobState.SUCCESS, "")),
        (EgressFailed("given up"), Finish(JobState.KILLED, "no")),
    ],
)
def test_a_stop_while_egressing_counts_only_if_it_is_not_done(answer: Egressed, end: Finish) -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=1, egress=True)
    machine.handle(Begin(committed=True))
    assert machine.handle(StopRequested("no")) == [CancelEgress()]
    assert machine.handle(answer) == [end]


def test_an_egress_that_fails_fails_the_job() -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=1, egress=True)
    machine.handle(Begin(committed=True))
    assert machine.handle(EgressFailed("no such bucket")) == [Finish(JobState.FAILURE, "no such bucket")]


def test_a_job_whose_upstream_failed_does_not_run() -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=1)
    assert machine.handle(UpstreamFailed("job 12 failed")) == [Finish(JobState.UNRUNNABLE, "job 12 failed")]


def test_input_that_cannot_be_read_fails_the_job_once_what_runs_is_done() -> None:
    machine: JobMachine[str] = JobMachine(parallelism=1, tries=3)
    machine.handle(Begin())
    assert machine.handle(DatumsFormed(["a", "b"], 0, more=True)) == [StartDatum(1, "a", 1), FormDatums()]
    assert machine.handle(DatumsUnformable("the store does not answer")) == []
    assert machine.handle(DatumFinished(1, ok=True)) == [
        RecordDatum("a", DatumState.SUCCESS, 1, ""),
        Finish(JobState.FAILURE, "the store does not answer"),
    ]


def test_events_that_cannot_come_are_mistakes_of_the_driver() -> None:
    machine, _ = begun("a")
    for event in (Begin(), OutputCommitted(), DatumsFormed([], 0, more=False), DatumFinished(7, ok=True)):
        with pytest.raises(ValueError, match=r"cannot come|no datum runs"):
            machine.handle(event)


def test_a_job_of_many_datums_holds_few_at_a_time() -> None:
    number = 100_000
    names = map(str, range(number))
    machine: JobMachine[str] = JobMachine(parallelism=4, tries=1)
    tracemalloc.start()
    todo = deque(machine.handle(Begin()))
    finished: list[Finish] = []
    while todo:
        match todo.popleft():
            case FormDatums():
                batch = list(islice(names, 1000))
                todo += machine.handle(DatumsFormed(batch, 0, more=len(batch) == 1000))
            case StartDatum(ticket):
                todo += machine.handle(DatumFinished(ticket, ok=True))
            case MergeOutputs():
                todo += machine.handle(OutputCommitted())
            case Finish() as end:
                finished.append(end)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert finished == [Finish(JobState.SUCCESS, "")]
    assert machine.counts.success == number
    assert peak < 2_000_000


class AnyJob(RuleBasedStateMachine):
    """A driver that does what it is told, in any order and with any outcome."""

    @initialize(
        parallelism=st.integers(1, 4), tries=st.integers(1, 3), datums=st.integers(0, 12), skips=st.integers(0, 3),
        egress=st.booleans(),
    )
    def begin(self, parallelism: int, tries: int, datums: int, skips: int, egress: bool) -> None:
        self.machine: JobMachine[int] = JobMachine(parallelism=parallelism, tries=tries, egress=egress)
        self.unformed = list(range(datums))
        self.skips = skips
        self.formed = 0
        self.egressing = False
        self.forming = self.merging = self.stopped = self.unreadable = False
        self.running: dict[int, StartDatum[int]] = {}
        self.killed: set[int] = set()
        self.attempts: Counter[int] = Counter()
        self.records: dict[int, DatumState] = {}
        self.finish: Finish | None = None

    def feed(self, event: object) -> None:
        for instruction in self.machine.handle(event):
            assert self.finish is None, "something came behind Finish"
            match instruction:
                case FormDatums():
                    assert not self.forming
                    self.forming = True
                case StartDatum(ticket, datum, attempt):
                    self.attempts[datum] += 1
                    assert attempt == self.attempts[datum] <= self.machine.tries
                    assert datum not in self.records
                    assert datum not in {one.datum for one in self.running.values()}
                    assert not self.stopped
                    self.running[ticket] = instruction
                case KillDatum(ticket):
                    assert ticket in self.running
                    self.killed.add(ticket)
                case RecordDatum(datum, state):
                    assert datum not in self.records
                    self.records[datum] = state
                case MergeOutputs():
                    assert not self.running and not self.forming and DatumState.FAILED not in self.records.values()
                    self.merging = True
                case CancelMerge():
                    assert self.merging
                case Egress():
                    assert self.machine.egress and not self.merging and not self.stopped
                    self.egressing = True
                case CancelEgress():
                    assert self.egressing
                case Finish():
                    assert not self.running and not self.forming and not self.merging and not self.egressing
                    self.finish = instruction
        assert len(self.running) <= self.machine.parallelism

    @precondition(lambda self: self.machine.state is JobState.CREATED)
    @rule()
    def inputs_are_there(self) -> None:
        self.feed(Begin())

    @precondition(lambda self: self.machine.state is JobState.CREATED)
    @rule()
    def upstream_fails(self) -> None:
        self.feed(UpstreamFailed("upstream"))

    @precondition(lambda self: self.forming)
    @rule(number=st.integers(0, 6))
    def batch_is_formed(self, number: int) -> None:
        batch, self.unformed = self.unformed[:number], self.unformed[number:]
        self.forming = False
        self.formed += len(batch)
        skips, self.skips = self.skips, 0
        self.feed(DatumsFormed(batch, skips, more=bool(self.unformed)))

    @precondition(lambda self: self.forming)
    @rule()
    def input_is_unreadable(self) -> None:
        self.forming, self.unreadable = False, True
        self.feed(DatumsUnformable("unreadable"))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), ok=st.booleans(), recovers=st.booleans())
    def try_ends(self, data: st.DataObject, ok: bool, recovers: bool) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.running)))
        self.feed(DatumStarted(ticket))
        del self.running[ticket]
        self.feed(DatumFinished(ticket, ok, "" if ok else "exit code 1", recovers and not ok))

    @rule()
    def somebody_stops(self) -> None:
        self.stopped = True
        self.feed(StopRequested("stop"))
        assert self.killed >= self.running.keys()

    @precondition(lambda self: self.merging)
    @rule(ok=st.booleans())
    def merge_ends(self, ok: bool) -> None:
        self.merging = False
        self.feed(OutputCommitted() if ok else MergeFailed("conflict"))

    @precondition(lambda self: self.egressing)
    @rule(ok=st.booleans())
    def egress_ends(self, ok: bool) -> None:
        self.egressing = False
        self.feed(Egressed() if ok else EgressFailed("no such bucket"))

    @invariant()
    def it_does_not_contradict_itself(self) -> None:
        if hasattr(self, "machine"):
            self.machine.validate()
            assert (self.finish is not None) == self.machine.state.final

    def teardown(self) -> None:
        if not hasattr(self, "machine"):
            return
        while self.finish is None:  # whatever happened, a driver that goes on answering gets the job to its end
            if self.machine.state is JobState.CREATED:
                self.feed(Begin())
            elif self.forming:
                self.batch_is_formed(5)
            elif self.merging:
                self.merge_ends(True)
            elif self.egressing:
                self.egress_ends(True)
            else:
                ticket = min(self.running)
                del self.running[ticket]
                self.feed(DatumFinished(ticket, ok=True))
            self.machine.validate()
        found = Counter(self.records.values())
        counts = self.machine.counts
        assert (counts.success, counts.failed, counts.recovered) == tuple(
            found[state] for state in (DatumState.SUCCESS, DatumState.FAILED, DatumState.RECOVERED)
        )
        if self.finish.state is JobState.SUCCESS:
            assert self.formed == len(self.records)
            assert not self.unformed


TestAnyJob = AnyJob.TestCase
