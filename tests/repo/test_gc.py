"""Garbage collection: what no ref leads to goes, in two steps; all else stays, whatever others do meanwhile."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import HOUR, age, blobs, check, content, drop, gc, keys, much, node_on
from tests.repo.parts import commit, open_repository, put
from vfsd.model.errors import NotFound, Unavailable
from vfsd.model.location import parse_location
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore


def test_in_a_store_that_is_all_reachable_nothing_is_garbage(repository: Repository, store: MemoryStore) -> None:
    commit(repository, much(1))
    commit(repository, {(b"a",): b"1"})
    before = blobs(store)
    result = gc(repository)
    assert (result.condemned.objects, result.deleted.objects, result.young.objects) == (0, 0, 0)
    assert result.reachable.commits == 2 and result.reachable.packs == 1
    assert blobs(store) == before


def test_a_deleted_branch_goes_with_all_that_it_alone_had(repository: Repository, store: MemoryStore) -> None:
    commit(repository, much(1))
    before = blobs(store)
    first = repository.refs.head("r", "main").commit
    assert first is not None
    repository.create_branch("r", "try", first, now_ns())
    commit(repository, much(2), branch="try")
    commit(repository, {(b"more",): b"1"}, branch="try")
    repository.refs.delete_branch("r", "try")
    result = gc(repository)
    assert (result.deleted.packs, result.deleted.commits) == (1, 2)
    assert blobs(store) == before
    assert len(keys(store, "globals/")) == 1, "global records go with their commits"
    check(repository)
    assert content(repository) == much(1)


def test_the_first_look_changes_nothing(repository: Repository, store: MemoryStore) -> None:
    commit(repository, much(1))
    repository.refs.delete_branch("r", "main")
    before = {stat.key: stat.etag for stat in store.list()}
    result = gc(repository, delete=False)
    assert result.condemned.packs == 1 and result.deleted.objects == 0
    assert {stat.key: stat.etag for stat in store.list()} == before


def test_what_is_condemned_is_deleted_after_the_grace_period_and_not_before(
    repository: Repository, store: MemoryStore
) -> None:
    commit(repository, much(1))
    repository.refs.delete_branch("r", "main")
    before = blobs(store)
    assert gc(repository, grace=HOUR).young.objects == len(before)
    age(store, 2 * HOUR)
    result = gc(repository, grace=HOUR)
    assert (result.condemned.objects, result.deleted.objects) == (len(before), 0)
    assert 0.9 * HOUR < (result.next or 0) <= HOUR
    result = gc(repository, grace=HOUR)
    assert (result.condemned.objects, result.waiting.objects, blobs(store)) == (0, len(before), before)
    age(store, 2 * HOUR)
    assert gc(repository, delete=False, grace=HOUR).deleted.objects == len(before)
    assert gc(repository, grace=HOUR).deleted.objects == len(before)
    assert blobs(store) == set()
    assert gc(repository, grace=HOUR).waiting.objects == 0


def test_a_branch_may_be_made_again_while_its_commits_wait(repository: Repository, store: MemoryStore) -> None:
    commit(repository, {(b"a",): b"1"})
    commit(repository, much(1))
    made = commit(repository, {(b"b",): b"2"})
    assert made is not None
    repository.refs.delete_branch("r", "main")
    age(store, 2 * HOUR)
    assert gc(repository, grace=HOUR).condemned.objects > 0
    repository.create_branch("r", "main", made.commit.id, now_ns())
    age(store, 2 * HOUR)
    result = gc(repository, grace=HOUR)
    assert result.deleted.objects == 0 and result.kept > 0
    check(repository)
    assert content(repository) == {(b"a",): b"1", **much(1), (b"b",): b"2"}


def test_a_writer_that_slept_for_longer_than_lists_are_known_makes_no_commit_of_what_went(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    commit(repository, {(b"a",): b"1"})
    away = node_on(store, tmp_path / "away")
    with closing(away.index):
        with closing(away.writer()) as writer:
            tree = put(much(2), away)(away.root(parse_location("r/main")), writer)
            writer.flush()
            age(store, 2 * HOUR)
            assert gc(repository, grace=HOUR).condemned.packs > 0
            age(store, 2 * HOUR)
            assert gc(repository, grace=HOUR).deleted.packs > 0
            age(store, 31 * 24 * HOUR)
            gc(repository, grace=HOUR)
            writer.pointers.begun -= 31 * 24 * HOUR
            with pytest.raises(Unavailable, match="try again, and it is stored anew"):
                away.commit("r", "main", lambda _, __: tree, writer=writer, message="m", author="a")
        assert commit(away, much(2)) is not None
        check(away)
        assert content(away) == {(b"a",): b"1", **much(2)}


def test_what_is_gone_is_stored_anew_by_a_node_that_knew_it(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    commit(repository, {(b"a",): b"1"})
    away = node_on(store, tmp_path / "away")
    with closing(away.index):
        made = commit(away, much(2))
        assert made is not None
        commit(away, dict.fromkeys(much(2)))
        drop(repository, made.commit.id)
        gc(repository)
        with pytest.raises(Unavailable, match="try again, and it is stored anew"):
            commit(away, much(2))  # it had asked a moment ago, before all this
        assert commit(away, much(2)) is not None
        check(away)
        assert content(away) == {(b"a",): b"1", **much(2)}


def test_a_branch_that_cannot_be_made_is_not_taken_from_who_moved_it_meanwhile(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    kept = commit(repository, {(b"a",): b"1"})
    assert kept is not None and kept.head.commit is not None
    repository.create_branch("r", "try", kept.head.commit, now_ns())
    going = commit(repository, {(b"b",): b"2"}, branch="try")
    assert going is not None
    repository.refs.delete_branch("r", "try")
    other = node_on(store, tmp_path / "other")
    other.commits.get(going.commit.id)
    age(store, 2 * HOUR)
    assert gc(repository).deleted.commits == 1

    def plan(request: Request) -> None:
        if request.kind == "get" and request.key == "gc/state":
            repository.refs.move(repository.refs.head("r", "try"), kept.commit.id, now_ns())

    late = node_on(FaultyStore(store, plan), tmp_path / "other")
    with closing(late.index), pytest.raises(NotFound):
        late.create_branch("r", "try", going.commit.id, now_ns())
    assert repository.refs.head("r", "try").commit == kept.commit.id
    repository.refs.delete_branch("r", "try")
    with closing(other.index), pytest.raises(NotFound):
        other.create_branch("r", "try", going.commit.id, now_ns())
    assert [branch for _, branch, _ in repository.refs.branches()] == ["main"]


@pytest.mark.parametrize("undone", [True, False])
def test_an_outage_is_not_taken_for_a_deletion(
    repository: Repository, store: MemoryStore, tmp_path: Path, undone: bool
) -> None:
    made = commit(repository, {(b"a",): b"1"})
    assert made is not None
    away = False

    def plan(request: Request) -> Fault | None:
        nonlocal away
        away = away or (request.kind == "get" and request.key == "gc/state")
        broken = request.key == "gc/state" or (away and not undone)
        return Fault.FAIL if broken else None

    late = node_on(FaultyStore(store, plan), tmp_path / "late")
    with closing(late.index), pytest.raises(Unavailable) as caught:
        late.create_branch("r", "try", made.commit.id, now_ns())
    assert "the store did not answer" in str(caught.value)
    assert ("nothing was made" in str(caught.value)) == undone
    assert ("try" in [branch for _, branch, _ in repository.refs.branches()]) != undone


def test_uploads_of_others_in_the_bucket_are_left_alone(repository: Repository, store: MemoryStore) -> None:
    faulty = FaultyStore(store)
    node = open_repository(faulty, Path(repository.index.file.path).parent / "again")
    with closing(node.index):
        gc(node)
    asked = [request.key for request in faulty.requests if request.kind == "abort_uploads"]
    assert asked and all(prefix in {"packs/", "moved/"} for prefix in asked)
