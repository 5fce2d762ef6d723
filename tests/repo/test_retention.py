"""Dropping contents: history and ids stay, what a ref names stays, and rules keep what they say."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.collecting import HOUR, age, blobs, check, content, gc, keys, much, node_on
from tests.repo.parts import commit, make_branch, put
from vfsd.model.commit import Provenance
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.model.observation import Observation, ObservedJob, Writer, encode_observation
from vfsd.repo.drops import MANY
from vfsd.repo.global_view import as_of_global
from vfsd.repo.rebuild import rebuild
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.retention import (
    KeepRules,
    Rules,
    between,
    check_droppable,
    drop,
    kept,
    plan,
)
from vfsd.store.counting import CountingStore
from vfsd.store.memory import MemoryStore
from vfsd.store.wrapped import WrappedStore

DAY = 86400 * 10**9
T = TypeVar("T")


def history(repository: Repository, count: int = 5) -> list[CommitId]:
    """Commits that have much in common, the oldest first."""
    made = []
    for number in range(count):
        one = commit(repository, {**much(0), (b"last",): b"%d" % number * 3000})
        assert one is not None
        made.append(one.commit.id)
    return made


def let_go(repository: Repository, *commits: CommitId, reason: str = "") -> None:
    drop(repository, commits, now=now_ns(), author="tester", reason=reason)


# Dropping


def test_a_dropped_commit_says_when_and_why_and_all_else_is_as_it_was(repository: Repository) -> None:
    made = history(repository)
    before = {one: content(repository, f"r/main@{one}") for one in made}
    let_go(repository, made[2], reason="held names")
    with pytest.raises(NotFound, match=rf"commit {made[2][:12]} were dropped at \S+Z by tester: held names"):
        repository.root(parse_location(f"r/main@{made[2]}"))
    for rev in ("~2", made[2][:8]):
        with pytest.raises(NotFound, match="were dropped"):
            repository.resolve(parse_location(f"r/main@{rev}"))
    assert repository.resolve(parse_location("r/main@~2"), header=True) == repository.commits.get(made[2])
    assert [one.id for one in repository.commits.log(made[-1])] == made[::-1]
    for one in made[:2] + made[3:]:
        assert content(repository, f"r/main@{one}") == before[one]


def test_its_bytes_go_with_the_next_collection_and_its_header_stays(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    made = history(repository)
    before = content(repository, f"r/main@{made[3]}")
    let_go(repository, made[1], made[2])
    gc(repository)
    assert not {f"commits/{made[1]}", f"commits/{made[2]}"} & blobs(store)
    check(repository)
    assert content(repository, f"r/main@{made[3]}") == before
    other = node_on(store, tmp_path / "other")
    with closing(other.index):
        check(other)
        assert [one.id for one in other.commits.log(made[-1])] == made[::-1]
        assert other.commits.get(made[1]).header.message == "m"
        assert other.resolve(parse_location("r/main@~3"), header=True) is not None
        with pytest.raises(NotFound, match="were dropped"):
            other.resolve(parse_location(f"r/main@{made[1][:10]}"))
        result = rebuild(other)
        assert result.problems == ()
        assert [one.id for one in other.commits.log(made[-1])] == made[::-1]
        with pytest.raises(NotFound, match="were dropped"):
            other.resolve(parse_location("r/main@~3"))


def test_what_only_dropped_commits_held_is_gone_and_what_others_share_is_not(
    repository: Repository, store: MemoryStore
) -> None:
    first = commit(repository, much(1))
    commit(repository, {**dict.fromkeys(much(1)), **much(2)})
    commit(repository, {**dict.fromkeys(much(2)), **much(1)})
    assert first is not None
    middle = repository.commits.get(repository.refs.head("r", "main").commit).header.parents[0]  # type: ignore[arg-type]
    size = sum(stat.size for stat in store.list("packs/"))
    let_go(repository, middle)
    gc(repository)
    assert sum(stat.size for stat in store.list("packs/")) < 0.6 * size
    check(repository)
    assert content(repository) == content(repository, f"r/main@{first.commit.id}") == much(1)


def test_what_a_ref_names_or_a_head_was_made_from_is_not_dropped(repository: Repository) -> None:
    made = history(repository)
    repository.create_tag("r", "v1", made[1], now_ns())
    repository.refs.create_repo("out", now_ns())
    repository.refs.create_branch("out", "main", None, now_ns())
    with closing(repository.writer()) as writer:
        repository.commit(
            "out", "main", lambda root, _: root, writer=writer, message="", author="", allow_same=True,
            provenance=[Provenance("r", "main", made[3])],
        )  # fmt: skip
    for commit_id, reason in (
        (made[4], "r/main stands at it"), (made[1], "tag v1 of r names it"), (made[3], "out/main was made from it"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=f"commit {commit_id[:12]} cannot be dropped: {reason}"):
            check_droppable(repository, [commit_id])
    check_droppable(repository, [made[0], made[2]])


def test_a_tag_keeps_the_contents_of_a_commit_that_is_dropped_at_the_same_moment(
    repository: Repository, store: MemoryStore
) -> None:
    made = history(repository)
    repository.create_tag("r", "v1", made[1], now_ns())
    let_go(repository, made[1])
    gc(repository)
    check(repository)
    assert content(repository, "r/main@v1")[b"last",] == b"1" * 3000


def test_looking_for_what_was_dropped_costs_nothing_for_what_is_known(repository: Repository) -> None:
    made = history(repository, 2)
    header = repository.commits.header(made[0])
    dropped = [header.replace(b'"message":"', b'"message":"%d' % number) for number in range(2000)]
    assert len(set(dropped)) == 2000
    repository.drops.add(dropped, time=1, author="tester", reason="")
    tracemalloc.start()
    repository.drops.refresh()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100_000, "bytes"


def test_no_ref_can_be_made_at_a_dropped_commit(repository: Repository) -> None:
    made = history(repository)
    let_go(repository, made[1])
    for make in (repository.create_branch, repository.create_tag):
        with pytest.raises(NotFound, match="were dropped"):
            make("r", "again", made[1], now_ns())
    assert [branch for _, branch, _ in repository.refs.branches("r")] == ["main"]
    assert list(repository.refs.tags("r")) == []


def test_a_global_id_of_a_dropped_commit_says_so(repository: Repository) -> None:
    made = history(repository)
    gid = repository.commits.get(made[1]).header.global_id
    let_go(repository, made[1])
    with pytest.raises(NotFound, match="were dropped"):
        as_of_global(repository, gid, "r")


def test_a_commit_that_others_were_made_from_keeps_its_header_when_its_branch_goes(
    repository: Repository, store: MemoryStore
) -> None:
    made = history(repository, 3)
    repository.refs.create_repo("out", now_ns())
    repository.refs.create_branch("out", "main", None, now_ns())
    with closing(repository.writer()) as writer:
        repository.commit(
            "out", "main", lambda root, _: root, writer=writer, message="", author="", allow_same=True,
            provenance=[Provenance("r", "main", made[1])],
        )  # fmt: skip
    repository.refs.delete_branch("r", "main")
    age(store, 100)
    gc(repository)
    assert not [key for key in blobs(store) if made[1] in key or made[0] in key or made[2] in key]
    check(repository)
    repository.drops.refresh()
    found = repository.drops.find(made[1])
    assert found is not None and found.reason == "no branch leads to it any more"
    assert repository.commits.get(made[1]).header.parents == (made[0],)
    with pytest.raises(NotFound, match="there is no commit"):
        repository.index.clear()
        repository.commits.get(made[2])


# Between two commits


def test_between_two_commits_are_those_that_are_neither(repository: Repository) -> None:
    made = history(repository)
    assert between(repository, made[0], made[4]) == [made[3], made[2], made[1]]
    assert between(repository, None, made[2]) == [made[1], made[0]]
    assert between(repository, made[1], made[2]) == []
    let_go(repository, made[2])
    assert between(repository, made[0], made[4]) == [made[3], made[1]]
    with pytest.raises(InvalidArgument, match="is no ancestor of"):
        between(repository, made[4], made[0])
    let_go(repository, made[0], made[1])
    assert between(repository, made[1], made[4]) == [made[3]]
    assert between(repository, None, made[4]) == [made[3]]


# Rules


def times(*moments: str) -> list[tuple[CommitId, int]]:
    found = [(CommitId(text), int(datetime.fromisoformat(text + "+00:00").timestamp()) * 10**9) for text in moments]
    return sorted(found, key=lambda one: -one[1])


MOMENTS = times(
    "2026-03-31T23:59:00", "2026-03-31T12:00:00", "2026-03-30T09:00:00", "2026-03-29T10:00:00", "2026-03-28T10:00:00",
    "2026-02-27T10:00:00", "2026-02-26T10:00:00", "2025-12-31T23:00:00", "2024-01-01T00:00:00",
)  # fmt: skip


@pytest.mark.parametrize(
    ("rules", "days"),
    [
        (KeepRules(last=2), ["2026-03-31T23:59:00", "2026-03-31T12:00:00"]),
        (KeepRules(daily=3), ["2026-03-31T23:59:00", "2026-03-30T09:00:00", "2026-03-29T10:00:00"]),
        (KeepRules(hourly=2), ["2026-03-31T23:59:00", "2026-03-31T12:00:00"]),
        (KeepRules(weekly=2), ["2026-03-31T23:59:00", "2026-03-29T10:00:00"]),
        (KeepRules(monthly=3), ["2026-03-31T23:59:00", "2026-02-27T10:00:00", "2025-12-31T23:00:00"]),
        (KeepRules(yearly=9), ["2026-03-31T23:59:00", "2025-12-31T23:00:00", "2024-01-01T00:00:00"]),
        (KeepRules(within_s=86400.0), ["2026-03-31T23:59:00", "2026-03-31T12:00:00"]),
        (KeepRules(last=1, yearly=1), ["2026-03-31T23:59:00"]),
    ],
)
def test_each_rule_keeps_what_it_says(rules: KeepRules, days: list[str]) -> None:
    assert list(kept(MOMENTS, rules)) == days


def test_rules_that_keep_nothing_are_none() -> None:
    with pytest.raises(InvalidArgument, match="--keep-last"):
        KeepRules().check()
    with pytest.raises(InvalidArgument):
        KeepRules(last=-1).check()


counts = st.integers(0, 8)


@given(
    hours=st.lists(st.integers(0, 30_000), max_size=60), last=counts, daily=counts, weekly=counts, monthly=counts,
    yearly=counts,
)  # fmt: skip
def test_more_rules_keep_more_and_applying_them_again_drops_nothing_new(
    hours: list[int], last: int, daily: int, weekly: int, monthly: int, yearly: int
) -> None:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    commits = [
        (CommitId(str(number)), int((start + timedelta(hours=hour)).timestamp()) * 10**9)
        for number, hour in enumerate(sorted(set(hours), reverse=True))
    ]
    rules = KeepRules(last=last, daily=daily, weekly=weekly, monthly=monthly, yearly=yearly)
    found = kept(commits, rules)
    for one in (KeepRules(last=last), KeepRules(daily=daily), KeepRules(monthly=monthly)):
        assert set(kept(commits, one)) <= set(found)
    assert kept([one for one in commits if one[0] in found], rules) == found
    assert len(found) <= last + daily + weekly + monthly + yearly


def test_a_plan_keeps_what_rules_refs_and_youth_keep(repository: Repository) -> None:
    made = history(repository, 6)
    repository.create_tag("r", "v1", made[1], now_ns())
    rules = Rules(repository.store)
    rules.set("r", None, KeepRules(last=2), now=1, author="a")
    (young,) = plan(repository, now_ns())
    assert young.drop == []
    (one,) = plan(repository, now_ns(), min_age_s=0)
    assert one.drop == [made[3], made[2], made[0]]
    assert one.keep == {
        made[5]: ["last", "r/main stands at it"], made[4]: ["last"], made[1]: ["tag v1 of r names it"],
    }  # fmt: skip
    let_go(repository, *one.drop)
    (again,) = plan(repository, now_ns(), min_age_s=0)
    assert again.drop == [] and list(again.keep) == [made[5], made[4], made[1]]
    gc(repository)
    check(repository)


def test_looking_again_costs_what_is_left_and_what_is_new(repository: Repository) -> None:
    made = [
        one.commit.id for number in range(150) if (one := commit(repository, {(b"a",): b"%d" % number})) is not None
    ]
    Rules(repository.store).set("r", None, KeepRules(last=5), now=1, author="a")

    def looked() -> tuple[int, list[CommitId]]:
        statements: list[str] = []
        repository.index.file.connection.set_trace_callback(statements.append)
        (one,) = plan(repository, now_ns(), min_age_s=0)
        repository.index.file.connection.set_trace_callback(None)
        return len(statements), one.drop

    first, going = looked()
    assert going == made[-6::-1]
    let_go(repository, *going)
    looked()
    again, going = looked()
    assert going == [] and again < first / 5
    assert between(repository, None, made[-1]) == made[-2:-6:-1]
    commit(repository, {(b"a",): b"new"})
    last, going = looked()
    assert going == [made[-5]] and last < first / 5


@settings(max_examples=20, deadline=None)
@given(rounds=st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 12), max_size=6)), max_size=6))
def test_a_history_less_what_was_dropped_is_the_same_however_often_it_was_looked_at(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[int, set[int]]]
) -> None:
    with closing(node_on(MemoryStore(), tmp_path_factory.mktemp("node") / "index")) as repository:
        make_branch(repository)
        made: list[CommitId] = []
        for new, gone in rounds:
            for _ in range(new):
                one = commit(repository, {(b"a",): b"%d" % len(made)})
                assert one is not None
                made.append(one.commit.id)
            let_go(repository, *(made[number] for number in sorted(gone) if number < len(made)))
            for start in made[-1:] + made[:1] + made[len(made) // 2 :][:1]:
                found = [one.id for one in repository.commits.undropped(start)]
                assert found == [one.id for one in repository.commits.log(start) if not repository.drops.find(one.id)]


def test_a_branch_s_own_rules_go_first_and_decide_on_its_own_commits_alone(repository: Repository) -> None:
    made = history(repository, 4)
    repository.create_branch("r", "try", made[3], now_ns())
    own = [
        one.commit.id for number in range(3) if (one := commit(repository, {(b"try",): b"%d" % number}, branch="try"))
    ]
    rules = Rules(repository.store)
    rules.set("r", "try", KeepRules(last=1), now=1, author="a")
    (one,) = plan(repository, now_ns(), min_age_s=0)
    assert (one.branch, one.drop) == ("try", [own[1], own[0]])
    rules.set("r", None, KeepRules(last=3), now=1, author="a")
    plans = {one.branch: one.drop for one in plan(repository, now_ns(), min_age_s=0)}
    assert plans == {"main": [made[0]], "try": [own[1], own[0]]}
    rules.delete("r", "try")
    assert {one.branch: one.drop for one in plan(repository, now_ns(), min_age_s=0)}["try"] == []
    repository.refs.delete_branch("r", "main")
    plans = {one.branch: one.drop for one in plan(repository, now_ns(), min_age_s=0)}
    assert plans == {"try": [made[3], made[2], made[1], made[0]]}, "nobody else decides on them now"


def test_rules_are_found_by_the_names_that_they_are_of(repository: Repository) -> None:
    rules = Rules(repository.store)
    history(repository, 2)
    for where in [("r", "main"), ("r", None), ("r2", None)]:
        with pytest.raises(NotFound):
            plan(repository, now_ns(), only=[where])
    rules.set("r", "main", KeepRules(last=1), now=1, author="a")
    assert len(plan(repository, now_ns(), only=[("r", "main")])) == len(plan(repository, now_ns(), only=[("r", None)]))
    with pytest.raises(NotFound, match="r has no rules of its own"):
        rules.delete("r", None)
    rules.set("r", None, KeepRules(daily=7, within_s=60.0), now=2, author="b")
    rules.set("rx", None, KeepRules(last=1), now=1, author="a")
    assert [(repo, branch) for repo, branch, _ in rules.all()] == [("r", None), ("rx", None), ("r", "main")]
    rules.delete_repo("r")
    assert [(repo, branch) for repo, branch, _ in rules.all()] == [("rx", None)]


def test_records_and_lineage_of_commits_to_which_nothing_leads_go_and_others_stay(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    made = history(repository, 3)
    repository.create_branch("r", "try", made[-1], now_ns())
    tries = [_seen(repository, "try", number) for number in range(3)]
    stays = _seen(repository, "main", 3)
    let_go(repository, made[1])
    let_go(repository, tries[0], tries[1])
    age(store, 100)
    other = node_on(store, tmp_path / "other")
    with closing(other.index):
        other.drops.refresh()
        assert gc(repository).records == 0
        assert len(keys(store, "dropped/")) == 2 and len(keys(store, "lineage/")) == 4
        repository.refs.delete_branch("r", "try")
        age(store, 100)
        gc(repository)  # the commits, and what is of them by the next run
        age(store, 100)
        assert gc(repository, delete=False).records == gc(repository).records > 0
        assert len(keys(store, "dropped/")) == 1
        assert {key.split("/")[1] for key in keys(store, "lineage/")} == {stays}
        other.drops.refresh()
        assert other.drops.find(tries[0]) is None and other.drops.find(made[1]) is not None
    check(repository)
    assert [one.id for one in repository.commits.log(stays)] == [stays, *made[::-1]]
    assert repository.observations.get(repository.commits.get(stays)).commands == "sh"
    assert gc(repository).records == 0


def test_many_small_records_become_one_a_day_later_and_say_what_they_said(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    made, other = history(repository, 2 * MANY), node_on(store, tmp_path / "other")
    with closing(other.index):
        for part in (made[:MANY], made[MANY:-1]):
            for number, one in enumerate(part):
                let_go(repository, one, reason=f"reason {number}")
            other.drops.refresh()
            before = keys(store, "dropped/")
            for _ in range(2):  # whoever lists may miss what is young
                gc(repository)
                assert len(keys(store, "dropped/") - before) == 1 and keys(store, "dropped/") > before
            age(store, 48 * HOUR)
            gc(repository)
            assert len(keys(store, "dropped/")) == 1
            told = {one: repository.drops.find(one) for one in made}
            assert [one for one in made if told[one] is None] == made[made.index(part[-1]) + 1 :]
            counted = CountingStore(store)
            fresh = node_on(counted, tmp_path / part[0])
            with closing(fresh.index):
                counted.reset()
                fresh.drops.refresh()
                assert counted.total().requests == 2
                for node in (repository, other, fresh):
                    node.drops.refresh()
                    assert {one: node.drops.find(one) for one in made} == told
        check(repository)


class Hasty(WrappedStore):
    """Does something before the first read of a record of dropped commits."""

    before: Callable[[], object] | None = None

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        before = self.before
        if before is not None and kind == "get" and key.startswith("dropped/"):
            self.before = None
            before()
        return act()


def test_a_record_that_goes_while_it_is_read_is_found_where_it_was_merged(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    made = history(repository, MANY + 1)
    for one in made[:-1]:
        let_go(repository, one)

    def merge() -> None:
        gc(repository)
        age(store, 48 * HOUR)
        gc(repository)

    hasty = Hasty(store)
    hasty.before = merge
    other = node_on(hasty, tmp_path / "other")
    with closing(other.index):
        other.drops.refresh()
        assert hasty.before is None and len(keys(store, "dropped/")) == 1
        assert all(other.drops.find(one) is not None for one in made[:-1])


def test_the_record_of_what_a_waiting_commit_comes_from_stays(repository: Repository, store: MemoryStore) -> None:
    """Its branch may be made again until then."""
    made = history(repository, 3)
    let_go(repository, made[1])
    repository.refs.delete_branch("r", "main")
    age(store, 2 * HOUR)
    assert gc(repository, grace=HOUR).condemned.commits == 3
    assert gc(repository, grace=HOUR).records == 0
    repository.create_branch("r", "main", made[2], now_ns())
    check(repository)
    assert [one.id for one in repository.commits.log(made[2])] == made[::-1]


def _seen(repository: Repository, branch: str, number: int) -> CommitId:
    """A commit whose writer was seen."""
    lineage = encode_observation(Observation((ObservedJob("sh", False, (), (Writer("sh", ()),)),)))
    change = put({(b"seen",): b"%d" % number}, repository)
    with closing(repository.writer()) as writer:
        made = repository.commit("r", branch, change, writer=writer, message="", author="", lineage=lineage)
    assert made is not None
    return made.commit.id
