"""Branches with triggers: when they go where others are, and that they go there once."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.pipeline.hand_clock import HandClock
from tests.pipeline.workshop import Workshop, spec
from vfsd.index.index import Index
from vfsd.model.errors import Conflict, InvalidArgument, NotFound, ReadOnly, Refused
from vfsd.model.ids import CommitId
from vfsd.model.job import JobState
from vfsd.model.schedule import SECOND
from vfsd.model.trigger import Trigger
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.refs import Head, check_writable
from vfsd.repo.repository import Repository, init_store
from vfsd.repo.triggered import Looks, goal, next_look, pull, set_trigger, take_trigger
from vfsd.store.memory import MemoryStore

START = "2026-11-22T10:00:00Z"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HandClock:
    """By which commits are stamped too."""
    made = HandClock(START)
    monkeypatch.setattr("vfsd.repo.repository.now_ns", made.now)
    return made


def follow(shop: Workshop, clock: HandClock, branch: str = "slow", **more: Any) -> Head:
    return set_trigger(shop.repository, "texts", branch, Trigger(branch="main", **more), clock.now())


def look(shop: Workshop, clock: HandClock, branch: str = "slow") -> dict[str, bytes]:
    """What the branch holds once its trigger was looked at."""
    pull(shop.repository, "texts", branch, clock.now)
    return shop.files("texts", branch)


def where(shop: Workshop, branch: str) -> CommitId | None:
    return shop.repository.refs.head("texts", branch).commit


# When


def test_so_many_commits_move_a_branch_to_the_last_of_them(quick: Workshop, clock: HandClock) -> None:
    follow(quick, clock, commits=2)
    quick.put({"a": "1"})
    assert look(quick, clock) == {}
    quick.put({"b": "2"})
    assert look(quick, clock) == {"a": b"1", "b": b"2"}
    quick.put({"c": "3"})
    assert len(look(quick, clock)) == 2
    quick.put({"d": "4"})
    quick.put({"e": "5"})
    assert len(look(quick, clock)) == 5
    assert where(quick, "slow") == where(quick, "main")


@pytest.mark.parametrize("trigger", [{"commits": 1000}, {"cron_spec": "@daily"}])
def test_a_look_goes_back_over_what_came_since_the_last_one_alone(
    quick: Workshop, clock: HandClock, monkeypatch: pytest.MonkeyPatch, trigger: dict[str, Any]
) -> None:
    quick.put({"a": "0"})
    follow(quick, clock, **trigger)
    clock.set("2026-11-23T00:00:01Z")
    look(quick, clock)
    clock.set("2026-11-24T00:00:01Z")
    commits = quick.repository.commits
    read: list[CommitId] = []
    log = commits.log

    def counted(start: CommitId) -> Iterator[CommitObject]:
        for one in log(start):
            read.append(one.id)
            yield one

    monkeypatch.setattr(commits, "log", counted)
    looks = Looks()
    for number in range(20):
        quick.put({"a": f"next {number}"})
        del read[:]
        head = quick.repository.refs.head("texts", "slow")
        assert goal(quick.repository, head.head, where(quick, "main"), clock.now(), looks) is None
        assert len(read) <= 6, number


def test_growth_moves_a_branch_and_what_is_taken_away_counts(quick: Workshop, clock: HandClock) -> None:
    follow(quick, clock, size="1k")
    quick.put({"a": "x" * 600})
    assert look(quick, clock) == {}
    quick.put({"a": None, "b": "x" * 999})
    assert look(quick, clock) == {}
    quick.put({"c": "x"})
    assert sorted(look(quick, clock)) == ["b", "c"]


def test_a_limit_of_the_rate_lets_a_commit_through_when_enough_time_lies_between(
    quick: Workshop, clock: HandClock
) -> None:
    follow(quick, clock, rate_limit_spec="@every 1h")
    quick.put({"a": "1"})
    assert look(quick, clock) == {"a": b"1"}  # the first has waited for nothing
    clock.set("2026-11-22T10:30:00Z")
    quick.put({"b": "2"})
    clock.set("2026-11-22T11:30:00Z")
    assert len(look(quick, clock)) == 1
    quick.put({"c": "3"})
    assert len(look(quick, clock)) == 3


def test_a_clock_moves_a_branch_to_where_the_other_was_then(quick: Workshop, clock: HandClock) -> None:
    head = follow(quick, clock, cron_spec="@hourly")
    assert next_look(head.head, clock.now()) == clock.now() + 3600 * SECOND
    quick.put({"a": "1"})
    clock.set("2026-11-22T10:59:59Z")
    assert look(quick, clock) == {}
    clock.set("2026-11-22T11:10:00Z")  # nobody has looked at eleven
    quick.put({"b": "2"})
    assert look(quick, clock) == {"a": b"1"}
    clock.set("2026-11-22T11:50:00Z")
    assert look(quick, clock) == {"a": b"1"}
    clock.set("2026-11-22T12:00:00Z")
    assert len(look(quick, clock)) == 2
    clock.set("2026-11-22T13:30:00Z")
    quick.put({"c": "3"})
    assert len(look(quick, clock)) == 2  # the time of thirteen brought nothing, and is over


def test_of_several_conditions_one_is_enough_or_each_is_needed(quick: Workshop, clock: HandClock) -> None:
    follow(quick, clock, "one", commits=2, size="1k")
    follow(quick, clock, "each", commits=2, size="1k", all=True)
    quick.put({"a": "x" * 2000})
    assert (len(look(quick, clock, "one")), len(look(quick, clock, "each"))) == (1, 0)
    quick.put({"b": "x"})
    assert (len(look(quick, clock, "one")), len(look(quick, clock, "each"))) == (1, 2)


def test_a_clock_goes_together_with_other_conditions(quick: Workshop, clock: HandClock) -> None:
    follow(quick, clock, "one", cron_spec="@hourly", commits=3)
    follow(quick, clock, "each", cron_spec="@hourly", commits=3, all=True)
    for name in "ab":
        quick.put({name: "x"})
    clock.set("2026-11-22T11:00:00Z")
    assert (len(look(quick, clock, "one")), len(look(quick, clock, "each"))) == (2, 0)
    clock.set("2026-11-22T11:20:00Z")
    for name in "cde":
        quick.put({name: "x"})
    assert (len(look(quick, clock, "one")), len(look(quick, clock, "each"))) == (5, 0)
    clock.set("2026-11-22T12:00:00Z")
    assert (len(look(quick, clock, "one")), len(look(quick, clock, "each"))) == (5, 5)


def test_a_branch_that_somebody_moved_is_counted_from_there_and_never_goes_back(
    quick: Workshop, clock: HandClock
) -> None:
    follow(quick, clock, commits=3)
    for name in "abcd":
        quick.put({name: "x"})
    repository = quick.repository
    repository.move_branch(repository.refs.head("texts", "slow"), repository.commits.back(
        repository.refs.head("texts", "main").commit or CommitId(""), 1).id, clock.now())  # fmt: skip
    assert len(look(quick, clock)) == 3
    main = repository.refs.head("texts", "main")
    first = repository.commits.back(main.commit or CommitId(""), 3).id
    repository.move_branch(main, first, clock.now())
    assert len(look(quick, clock)) == 3


# What may have one


def test_a_branch_with_a_trigger_takes_no_user_writes(quick: Workshop, clock: HandClock) -> None:
    head = follow(quick, clock, commits=2)
    with pytest.raises(ReadOnly, match="texts/slow is moved by its trigger to where main is: write to that"):
        check_writable(head)
    with pytest.raises(ReadOnly):
        quick.put({"mine": "x"}, branch="slow")
    take_trigger(quick.repository, "texts", "slow")
    quick.put({"mine": "x"}, branch="slow")
    assert take_trigger(quick.repository, "texts", "slow").commit is not None
    with pytest.raises(Refused, match="to which main does not lead: a trigger would move it away from that"):
        follow(quick, clock, commits=2)


def test_a_branch_that_is_behind_may_have_a_trigger_and_others_may_not(quick: Workshop, clock: HandClock) -> None:
    first = quick.put({"a": "1"})
    quick.put({"b": "2"})
    quick.repository.create_branch("texts", "slow", first.id, clock.now())
    follow(quick, clock, commits=1)
    assert len(look(quick, clock)) == 2
    with pytest.raises(NotFound, match="there is no branch gone"):
        set_trigger(quick.repository, "texts", "new", Trigger(branch="gone", commits=1), clock.now())
    with pytest.raises(NotFound):
        quick.repository.refs.head("texts", "new")
    with pytest.raises(InvalidArgument, match="branch: branch main cannot wait for itself"):
        follow(quick, clock, "main", commits=1)
    with pytest.raises(InvalidArgument, match="goes in a circle: main waits for slow waits for main"):
        set_trigger(quick.repository, "texts", "main", Trigger(branch="slow", commits=1), clock.now())
    quick.registry.create(spec(), clock.now())
    quick.repository.refs.create_branch("count", "other", None, clock.now())
    with pytest.raises(Refused, match="belongs to pipeline count"):
        set_trigger(quick.repository, "count", "main", Trigger(branch="other", commits=1), clock.now())


# On nodes


async def test_a_trigger_fires_the_pipeline_and_the_trigger_behind_it(shop: Workshop, clock: HandClock) -> None:
    shop.registry.create(spec(input=triggered()), clock.now())
    set_trigger(shop.repository, "texts", "slower", Trigger(branch="count-trigger-1", commits=4), clock.now())
    shop.registry.create(spec("slow", input={"pfs": {"repo": "texts", "branch": "slower", "glob": "/"}}), clock.now())
    async with shop.service(clock=clock) as running:
        shop.put({"a": "1"})
        await still(lambda: where(shop, "count-trigger-1") is None)
        last = shop.put({"b": "2"})
        job = await running.job()
        assert job.state is JobState.SUCCESS
        assert [(edge.branch, edge.commit) for edge in job.inputs] == [("count-trigger-1", last.id)]
        assert job.global_id == last.header.global_id
        shop.put({"c": "3"})
        shop.put({"d": "4"})
        await running.job("slow")
        assert where(shop, "slower") == where(shop, "main")


async def test_what_came_while_nothing_ran_is_looked_at_first(shop: Workshop, clock: HandClock) -> None:
    follow(shop, clock, commits=2)
    follow(shop, clock, "daily", cron_spec="@daily")
    for name in "abc":
        shop.put({name: "x"})
    clock.set("2026-11-23T04:00:00Z")
    async with shop.service(clock=clock):
        await until(lambda: where(shop, "slow") == where(shop, "daily") == where(shop, "main"))
        last = shop.put({"d": "x"})
        clock.set("2026-11-24T00:00:00Z")
        await until(lambda: where(shop, "daily") == last.id)


async def test_of_two_nodes_one_moves_a_branch(tmp_path: Path, clock: HandClock) -> None:
    one, other = Workshop(tmp_path, node="one"), Workshop(tmp_path, node="other")
    follow(one, clock, commits=1)
    moved: list[Head] = []
    for shop in (one, other):
        shop.repository.move_branch = _counted(shop.repository.move_branch, moved)  # type: ignore[method-assign]
    async with one.service(clock=clock), other.service(clock=clock):
        for name in "abcdef":
            made = one.put({name: "x"})
            await until(lambda made=made: where(one, "slow") == made.id)  # type: ignore[misc]
    commits = [head.commit for head in moved]
    assert len(commits) == len(set(commits)) == 6
    one.close()
    other.close()


def _counted(move: Any, moved: list[Head]) -> Any:
    def counted(*words: Any) -> Head:
        head: Head = move(*words)
        moved.append(head)
        return head

    return counted


async def until(holds: Any) -> None:
    while not holds():
        await trio.sleep(0.01)


async def still(holds: Any) -> None:
    for _ in range(20):
        await trio.sleep(0.01)
        assert holds()


# In a spec


def triggered(**more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": "texts", "glob": "/*", "trigger": {"commits": 2}, **more}}


def test_a_pipeline_makes_the_branches_that_its_triggers_move(quick: Workshop, clock: HandClock) -> None:
    given = {"cross": [triggered(name="a"), triggered(name="b"), triggered(name="c", branch="mine")]}
    quick.registry.create(spec(input=given), clock.now())
    refs = quick.repository.refs
    for branch in ("count-trigger-1", "count-trigger-2", "mine"):
        assert refs.head("texts", branch).head.trigger == Trigger(branch="main", commits=2)
    quick.registry.create(spec("other", input=triggered(branch="mine")), clock.now())
    quick.registry.update(spec(input=triggered(trigger={"size": "1M"})), clock.now())
    assert refs.head("texts", "count-trigger-1").head.trigger == Trigger(branch="main", size="1M")
    assert refs.head("texts", "count-trigger-2").head.trigger is None
    assert refs.head("texts", "mine").head.trigger is not None  # which the other one needs
    quick.registry.delete("count")
    assert refs.head("texts", "count-trigger-1").head.trigger is None
    quick.registry.delete("other")
    assert refs.head("texts", "mine").head.trigger is None


def test_a_branch_with_data_of_its_own_is_not_taken_and_nothing_is_made(quick: Workshop, clock: HandClock) -> None:
    quick.repository.refs.create_branch("texts", "dev", None, clock.now())
    quick.put({"a": "1"}, branch="dev")
    with pytest.raises(Refused, match="texts/dev stands at"):
        quick.registry.create(spec(input=triggered(branch="dev")), clock.now())
    with pytest.raises(NotFound, match="its input texts/dev: there is no branch gone in repo texts"):
        wanted = spec(input=triggered(branch="dev", trigger={"branch": "gone", "commits": 1}))
        quick.registry.create(wanted, clock.now())
    assert list(quick.registry.all()) == []
    with pytest.raises(NotFound):
        quick.repository.refs.repo("count")


# All of it


class Following(RuleBasedStateMachine):
    """One branch, two that follow it: by the clock, and by every third commit. Nodes look when they like, some with
    heads that they read long ago; the clock only goes on, in jumps."""

    numbers = itertools.count()

    @initialize()
    def begins(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        store = MemoryStore()
        self.repository = Repository(store, Index(f"{self.folder.name}/index.sqlite"), init_store(store))
        self.refs = self.repository.refs
        self.refs.create_repo("r", 0)
        self.refs.create_branch("r", "main", None, 0)
        self.clock = HandClock(START)
        self.looks = Looks()
        self.made: list[tuple[int, CommitId]] = []
        self.moves: list[CommitId] = []
        self.old: Head | None = None
        set_trigger(self.repository, "r", "third", Trigger(branch="main", commits=3), self.clock.now())
        set_trigger(self.repository, "r", "hourly", Trigger(branch="main", cron_spec="@hourly"), self.clock.now())
        self.since = self.clock.now()
        self.looked = self.since

    @rule(seconds=st.floats(0.001, 9000))
    def time_passes(self, seconds: float) -> None:
        self.clock.go(seconds)

    @rule()
    def somebody_commits(self) -> None:
        self.clock.go(0.001)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vfsd.repo.repository.now_ns", self.clock.now)
            writer = self.repository.writer()
            made = self.repository.commit(
                "r", "main", lambda root, _: root, writer=writer, message=str(next(self.numbers)), author="t",
                allow_same=True,
            )  # fmt: skip
            writer.close()
        assert made is not None
        self.made.append((made.commit.header.time, made.commit.id))

    @rule()
    def a_node_reads_a_head(self) -> None:
        self.old = self.refs.head("r", "third")

    @rule()
    def who_looked_before_finds_what_a_first_look_finds(self) -> None:
        source, now = self.refs.head("r", "main").commit, self.clock.now()
        for branch in ("third", "hourly"):
            head = self.refs.head("r", branch).head
            assert goal(self.repository, head, source, now, self.looks) == goal(self.repository, head, source, now)

    @precondition(lambda self: self.old is not None)
    @rule()
    def a_node_moves_what_it_read(self) -> None:
        assert self.old is not None
        source = self.refs.head("r", "main").commit
        commit = goal(self.repository, self.old.head, source, self.clock.now(), self.looks)
        fresh = self.refs.head("r", "third").etag == self.old.etag
        if commit is not None:
            try:
                self.repository.move_branch(self.old, commit, self.clock.now())
                assert fresh
                self.moves.append(commit)
            except Conflict:
                assert not fresh
        self.old = None

    @rule()
    def a_node_looks(self) -> None:
        for branch in ("third", "hourly"):
            head = pull(self.repository, "r", branch, self.clock.now)
            assert pull(self.repository, "r", branch, self.clock.now) is None, "once is enough"
            if head is not None and branch == "third":
                assert head.commit is not None
                self.moves.append(head.commit)
        self.check()

    def check(self) -> None:
        """What holds right after a look."""
        ids = [commit for _, commit in self.made]
        third = self.refs.head("r", "third").commit
        assert len(ids) - (ids.index(third) + 1 if third is not None else 0) < 3
        hour = self.clock.now() // (3600 * SECOND) * 3600 * SECOND
        expected = [commit for time, commit in self.made if time <= hour] if hour > self.since else []
        assert self.refs.head("r", "hourly").commit == (expected[-1] if expected else None)

    @invariant()
    def moves_go_on_by_three_at_least(self) -> None:
        if not hasattr(self, "made"):
            return
        ids = [commit for _, commit in self.made]
        steps = [ids.index(commit) + 1 for commit in self.moves]
        assert all(later - one >= 3 for one, later in itertools.pairwise([0, *steps]))

    def teardown(self) -> None:
        if hasattr(self, "made"):
            self.a_node_looks()
            self.repository.close()
            self.folder.cleanup()


TestFollowing = Following.TestCase
TestFollowing.settings = settings(max_examples=10, stateful_step_count=30)
