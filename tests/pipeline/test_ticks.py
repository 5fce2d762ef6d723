"""Ticks of cron inputs: when they are made, and that each is made once."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.pipeline.hand_clock import HandClock
from tests.pipeline.workshop import Running, Workshop, spec
from vfsd.model.datum import DatumState
from vfsd.model.errors import AlreadyExists, NotFound, ReadOnly, Unavailable
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.schedule import SECOND, parse_moment, shown_second
from vfsd.model.spec_input import CronInput
from vfsd.pipeline import ticks
from vfsd.pipeline.clock import WallClock
from vfsd.pipeline.ledger import LedgerReader, job_datums
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import PipelineState
from vfsd.pipeline.ticks import due_ticks, make_tick_now, make_ticks, next_tick
from vfsd.repo.refs import check_writable
from vfsd.store.faulty import Crashed, Fault, FaultyStore, script
from vfsd.store.memory import MemoryStore

START = "2026-11-22T10:00:00Z"


def cron(name: str = "clock", schedule: str = "@hourly", **more: Any) -> dict[str, Any]:
    return {"cron": {"name": name, "spec": schedule, **more}}


STAMP = 'basename "$clock" > "$VFSD_OUT/$(basename "$clock")"'


def timed(name: str = "count", cmd: str = STAMP, **more: Any) -> PipelineSpec:
    return spec(name, cmd=cmd, **{"input": cron(), **more})


def create(shop: Workshop, wanted: PipelineSpec, text: str = START) -> None:
    shop.registry.create(wanted, parse_moment(text))


def ran(shop: Workshop, record: JobRecord) -> list[str]:
    reader = LedgerReader(shop.repository)
    return sorted(
        reader.shown(datum.entry) for datum in job_datums(shop.repository, record)
        if datum.state is not DatumState.SKIPPED
    )  # fmt: skip


def hours(*numbers: int) -> list[str]:
    return [f"2026-11-22T{number:02d}:00:00Z" for number in numbers]


# Which are due


def test_each_moment_since_the_last_is_due_and_with_overwrite_the_last_alone() -> None:
    start = parse_moment(START)
    now = start + 3 * 3600 * SECOND + 5
    every, last = (CronInput(name="c", spec="@hourly", overwrite=overwrite) for overwrite in (False, True))
    assert [shown_second(moment) for moment in due_ticks(every, start, now)] == hours(11, 12, 13)
    assert [shown_second(moment) for moment in due_ticks(last, start, now)] == hours(13)
    assert due_ticks(every, now, start) == ()  # the clock was set back
    assert due_ticks(CronInput(name="c", spec="@never"), start, now) == ()
    assert next_tick(CronInput(name="c", spec="@never"), start) is None


PERIODS = {"@every 90s": 90, "*/5 * * * *": 300, "@hourly": 3600, "@every 1h": 3600}


class Ticking(RuleBasedStateMachine):
    """Three nodes make the ticks of one branch. What a node read may be old when it writes: that is a compare-and-swap.
    Each has a clock of its own, which is set as somebody likes; nodes end at any moment, and their reading is lost."""

    @initialize(schedule=st.sampled_from(sorted(PERIODS)), start=st.integers(10**9, 2 * 10**9), overwrite=st.booleans())
    def begins(self, schedule: str, start: int, overwrite: bool) -> None:
        self.cron = CronInput(name="c", spec=schedule, overwrite=overwrite)
        self.start = start
        self.period = PERIODS[schedule]
        self.first = start if schedule.startswith("@every") else start // self.period * self.period
        self.ticked, self.version = start * SECOND, 0
        self.made: list[int] = []
        self.clocks = dict.fromkeys("abc", start * SECOND)
        self.latest = start * SECOND  # that any node ever believed
        self.read: dict[str, tuple[int, tuple[int, ...]]] = {}

    names = st.sampled_from("abc")

    @rule(passed=st.integers(0, 20_000 * SECOND))
    def time_passes(self, passed: int) -> None:
        for name in self.clocks:
            self.clocks[name] += passed

    @rule(name=names, by=st.integers(-50_000 * SECOND, 50_000 * SECOND))
    def a_clock_is_set(self, name: str, by: int) -> None:
        self.clocks[name] = max(0, self.clocks[name] + by)

    @rule(name=names)
    def looks(self, name: str) -> None:
        self.latest = max(self.latest, self.clocks[name])
        self.read[name] = (self.version, due_ticks(self.cron, self.ticked, self.clocks[name]))

    @rule(name=names)
    def writes(self, name: str) -> None:
        version, times = self.read.pop(name, (-1, ()))
        if times and version == self.version:
            self.made += times
            self.ticked = times[-1]
            self.version += 1

    @rule(name=names)
    def dies(self, name: str) -> None:
        self.read.pop(name, None)

    @rule()
    def somebody_makes_one_by_hand(self) -> None:
        self.version += 1  # which moves the branch, and not until when ticks are made

    def expected(self, until: int) -> list[int]:
        moments = itertools.count((self.first + self.period) * SECOND, self.period * SECOND)
        return list(itertools.takewhile(lambda moment: moment <= until, moments))

    @invariant()
    def none_is_made_twice_and_none_left_out(self) -> None:
        if not hasattr(self, "made"):
            return
        assert self.made == sorted(set(self.made))
        due = self.expected(self.ticked)
        assert set(self.made) <= set(due)
        if not self.cron.overwrite:
            assert self.made == due
        assert not self.made or self.made[-1] <= self.latest, "before it was time on any clock"

    def teardown(self) -> None:
        """Whatever happened, a node whose clock is right makes up for what is left."""
        if not hasattr(self, "made"):
            return
        self.clocks["a"] = max(*self.clocks.values(), self.ticked)
        self.looks("a")
        self.writes("a")
        self.none_is_made_twice_and_none_left_out()
        due = self.expected(self.clocks["a"])
        assert (self.made[-1:] if self.cron.overwrite else self.made) == (due[-1:] if self.cron.overwrite else due)


TestTicking = Ticking.TestCase
TestTicking.settings = settings(max_examples=50)


# In the store


def made(shop: Workshop, text: str, pipeline: str = "count") -> list[str]:
    """Make what is due, as a node does; the ticks that are there then."""
    (input_,) = shop.registry.get(pipeline).spec.cron_inputs()
    make_ticks(shop.repository, pipeline, input_, parse_moment(text), "tester")
    return sorted(shop.files(input_.repo))


def test_a_cron_input_has_a_repo_of_its_own_that_users_do_not_write(quick: Workshop) -> None:
    create(quick, timed())
    branch = quick.repository.refs.head("count_clock", "main")
    assert (branch.commit, branch.head.pipeline, branch.head.ticked) == (None, "count", parse_moment(START))
    with pytest.raises(ReadOnly, match="has the ticks of pipeline count: `vfsd pipeline run-cron count` makes one"):
        check_writable(branch)
    create(quick, timed("other", input=cron(repo="ticking")))
    assert quick.repository.refs.head("ticking", "main").head.pipeline == "other"


def test_ticks_that_were_missed_come_in_one_commit(quick: Workshop) -> None:
    create(quick, timed())
    assert made(quick, "2026-11-22T10:59:59Z") == []
    assert quick.head("count_clock") is None
    assert made(quick, "2026-11-22T13:30:00Z") == hours(11, 12, 13)
    assert made(quick, "2026-11-22T13:59:59Z") == hours(11, 12, 13)
    head = quick.head("count_clock")
    assert head is not None
    assert (head.header.parents, head.header.pipeline, head.header.job) == ((), "count", None)
    assert head.header.message == "3 ticks until 2026-11-22T13:00:00Z"


def test_overwrite_clears_the_earlier_ones_in_the_same_commit(quick: Workshop) -> None:
    create(quick, timed(input=cron(overwrite=True)))
    assert made(quick, "2026-11-22T11:00:00Z") == hours(11)
    assert made(quick, "2026-11-22T13:00:00Z") == hours(13)
    head = quick.head("count_clock")
    assert head is not None and len(head.header.parents) == 1 and head.header.files == 1


def test_many_missed_ticks_come_in_pieces(quick: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticks, "MOST", 2)
    create(quick, timed())
    assert made(quick, "2026-11-22T13:30:00Z") == hours(11, 12)
    assert made(quick, "2026-11-22T13:30:00Z") == hours(11, 12, 13)


def test_a_tick_by_hand_moves_no_schedule(quick: Workshop) -> None:
    create(quick, timed(input=cron(schedule="@every 1h")))
    (input_,) = quick.registry.get("count").spec.cron_inputs()
    by_hand = parse_moment("2026-11-22T10:20:30.5Z")
    commit = make_tick_now(quick.repository, "count", input_, by_hand, "tester")
    assert commit.header.message == "tick 2026-11-22T10:20:30Z"
    with pytest.raises(AlreadyExists):
        make_tick_now(quick.repository, "count", input_, by_hand + 1, "tester")
    assert made(quick, "2026-11-22T11:20:30Z") == ["2026-11-22T10:20:30Z", *hours(11)]


def test_a_tick_by_hand_in_the_second_of_another_is_that_one(quick: Workshop) -> None:
    create(quick, timed())
    (input_,) = quick.registry.get("count").spec.cron_inputs()
    make_tick_now(quick.repository, "count", input_, parse_moment("2026-11-22T11:00:00Z"), "tester")
    assert made(quick, "2026-11-22T11:00:00Z") == hours(11)
    assert made(quick, "2026-11-22T12:00:00Z") == hours(11, 12)


def test_a_start_in_the_past_is_made_up_for_and_one_to_come_is_waited_for(quick: Workshop) -> None:
    create(quick, timed(input=cron(start="2026-11-22T07:30:00Z")))
    assert made(quick, START) == hours(8, 9, 10)
    create(quick, timed("later", input=cron(start="2026-11-22T12:30:00Z")))
    assert made(quick, "2026-11-22T12:40:00Z", "later") == []
    assert made(quick, "2026-11-22T13:40:00Z", "later") == hours(13)


def test_a_new_schedule_counts_from_then_and_the_same_one_goes_on(quick: Workshop) -> None:
    create(quick, timed(input=cron(schedule="@never")))
    later = "2026-11-22T15:20:00Z"
    quick.registry.update(timed(), parse_moment(later))
    assert made(quick, "2026-11-22T16:00:00Z") == hours(16)
    quick.registry.update(timed(description="the same clock"), parse_moment("2026-11-22T17:30:00Z"))
    assert made(quick, "2026-11-22T18:00:00Z") == hours(16, 17, 18)


def test_what_a_pipeline_needs_no_more_is_an_ordinary_branch(quick: Workshop) -> None:
    create(quick, timed())
    made(quick, "2026-11-22T11:00:00Z")
    quick.registry.update(timed(input=cron("other")), parse_moment(START))
    check_writable(quick.repository.refs.head("count_clock", "main"))
    (input_,) = timed().cron_inputs()
    with pytest.raises(NotFound, match="has the ticks of pipeline count no more"):
        make_ticks(quick.repository, "count", input_, parse_moment("2026-11-23T11:00:00Z"), "tester")
    quick.registry.delete("count")
    check_writable(quick.repository.refs.head("count_other", "main"))


def test_a_repo_with_data_is_not_taken_for_ticks(quick: Workshop) -> None:
    quick.repo("count_clock")
    quick.put({"a": "mine"}, "count_clock")
    with pytest.raises(AlreadyExists, match="the repo of its cron input clock, count_clock exists already, with data"):
        create(quick, timed())
    assert quick.registry.find("count") is None
    with pytest.raises(NotFound):
        quick.repository.refs.repo("count")


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.REPEAT, Fault.CRASH_AFTER])
def test_whatever_request_goes_wrong_each_tick_is_made_once(tmp_path: Path, fault: Fault) -> None:
    hit = True
    for number in itertools.count():
        if not hit:
            break
        store = FaultyStore(MemoryStore())
        shop = Workshop(tmp_path, store, index=f"{number}.sqlite")
        create(shop, timed())
        (input_,) = timed().cron_inputs()
        wrong = len(store.requests) + number
        store.plan = script({wrong: fault})
        try:
            make_ticks(shop.repository, "count", input_, parse_moment("2026-11-22T12:30:00Z"), "tester")
        except (Crashed, Unavailable):
            pass
        hit = len(store.requests) > wrong
        shop.repository.index.close()
        fresh = Workshop(tmp_path, store.inner, index=f"{number}-fresh.sqlite")
        assert made(fresh, "2026-11-22T12:30:00Z") == hours(11, 12)
        head = fresh.head("count_clock")
        assert head is not None and head.header.parents == ()
        fresh.close()


# On a node


async def seen(running: Running, ticks: int) -> JobRecord:
    """The first job that saw so many."""
    while True:
        job = await running.job()
        assert job.state is JobState.SUCCESS, job.reason
        if job.datums.total == ticks:
            return job


async def test_ticks_come_when_they_are_due_and_each_is_a_datum(shop: Workshop) -> None:
    clock = HandClock(START)
    create(shop, timed())
    async with shop.service(clock=clock) as running:
        clock.set("2026-11-22T11:00:00Z")
        job = await running.job()
        assert ran(shop, job) == ["clock:/2026-11-22T11:00:00Z"]
        clock.set("2026-11-22T12:00:00.3Z")
        job = await running.job()
        assert ran(shop, job) == ["clock:/2026-11-22T12:00:00Z"]
        assert job.datums == DatumCounts(total=2, success=1, skipped=1)
    assert sorted(shop.files("count")) == hours(11, 12)
    assert set(clock.asked) <= {parse_moment(text) for text in hours(11, 12, 13)} and len(clock.asked) < 20


async def test_ticks_that_nobody_made_are_made_up_for_and_none_comes_twice(shop: Workshop) -> None:
    clock = HandClock(START)
    create(shop, timed())
    async with shop.service(clock=clock) as running:
        clock.set("2026-11-22T11:10:00Z")
        await seen(running, 1)
    clock.set("2026-11-22T14:10:00Z")
    async with shop.service(clock=clock) as running:
        job = await seen(running, 4)
        assert len(ran(shop, job)) == 3
        clock.set("2026-11-22T12:00:00Z")  # back
        clock.set("2026-11-22T15:00:00Z")
        await seen(running, 5)
    assert sorted(shop.files("count_clock")) == hours(11, 12, 13, 14, 15)


async def test_a_stopped_pipeline_makes_no_ticks_until_it_is_started(shop: Workshop) -> None:
    clock = HandClock(START)
    create(shop, timed())
    shop.registry.set_state("count", PipelineState.STOPPED)
    async with shop.service(clock=clock) as running:
        clock.set("2026-11-22T12:10:00Z")
        create(shop, timed("other"), "2026-11-22T11:30:00Z")
        await running.job("other")
        assert shop.head("count_clock") is None
        shop.registry.set_state("count", PipelineState.RUNNING)
        await seen(running, 2)


async def test_ticks_come_while_a_job_runs(shop: Workshop) -> None:
    clock = HandClock(START)
    create(shop, timed(cmd="sleep 1000"))
    async with shop.service(clock=clock) as running:
        clock.set("2026-11-22T11:00:00Z")
        while not running.service.running:
            await trio.sleep(0.01)
        clock.set("2026-11-22T12:00:00Z")
        while len(shop.files("count_clock")) < 2:
            await trio.sleep(0.01)
        shop.registry.update(timed(), clock.now())
        assert (await running.job()).state is JobState.KILLED
        await seen(running, 2)


async def test_of_two_nodes_one_makes_each_tick_and_the_other_goes_on_when_it_ends(tmp_path: Path) -> None:
    clock = HandClock(START)
    one, other = Workshop(tmp_path, node="one"), Workshop(tmp_path, node="other")
    create(one, timed())
    async with other.service(clock=clock) as second:
        async with one.service(clock=clock) as first:
            winners: list[Running] = []
            for hour in (11, 12, 13):
                clock.set(f"2026-11-22T{hour}:00:00Z")
                winners.append(await _first_to_see(hour - 10, first, second))
            assert len(set(map(id, winners))) == 1
        clock.set("2026-11-22T14:00:00Z")
        await seen(second, 4)
    head = one.head("count_clock")
    commits = list(one.repository.commits.log(head.id)) if head is not None else []
    assert [commit.header.message for commit in reversed(commits)][:3] == [f"tick {text}" for text in hours(11, 12, 13)]
    assert len({commit.header.message for commit in commits}) == len(commits)
    one.close()
    other.close()


async def _first_to_see(number: int, *nodes: Running) -> Running:
    found: list[Running] = []

    async def look(node: Running) -> None:
        await seen(node, number)
        found.append(node)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(look, node)
    return found[0]


async def test_a_clock_crossed_with_a_branch_runs_for_each_pair(shop: Workshop) -> None:
    clock = HandClock(START)
    shop.put({"a": "one", "b": "two"})
    cmd = 'cp "$texts" "$VFSD_OUT/$(basename "$texts")-$(basename "$clock")"'
    create(shop, timed(cmd=cmd, input={"cross": [cron(), {"pfs": {"repo": "texts", "glob": "/*"}}]}))
    async with shop.service(clock=clock) as running:
        clock.set("2026-11-22T11:00:00Z")
        await seen(running, 2)
        shop.put({"c": "three"})
        job = await seen(running, 3)
        assert ran(shop, job) == ["clock:/2026-11-22T11:00:00Z + texts:/c"]
        clock.set("2026-11-22T12:00:00Z")
        await seen(running, 6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("union", ["clock:/2026-11-22T11:00:00Z"]),
        ("group", ["clock:/2026-11-22T11:00:00Z + texts:/a + texts:/b"]),
        ("join", ["clock:/2026-11-22T11:00:00Z + texts:/a", "clock:/2026-11-22T11:00:00Z + texts:/b"]),
    ],
)
async def test_a_clock_stands_within_other_inputs_as_a_branch_does(
    shop: Workshop, kind: str, expected: list[str]
) -> None:
    clock = HandClock(START)
    shop.put({"a": "one", "b": "two"})
    create(shop, timed(cmd="true", input={kind: [cron(), {"pfs": {"repo": "texts", "glob": "/*"}}]}))
    async with shop.service(clock=clock) as running:
        await running.job()
        clock.set("2026-11-22T11:00:00Z")
        assert ran(shop, await running.job()) == expected


async def test_a_machines_clock_is_waited_for_and_what_is_over_at_once() -> None:
    clock = WallClock()
    with trio.fail_after(60):
        await clock.reached(0)
        moment = time.time_ns() + 30_000_000
        await clock.reached(moment)
    assert clock.now() >= moment
