"""Garbage collection: what no ref leads to goes, in two steps; all else stays, whatever others do meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import HOUR, age, blobs, check, content, gc, keys
from tests.repo.parts import commit, make_branch, open_repository
from vfsd.model.commit import encode
from vfsd.model.errors import Unavailable
from vfsd.model.ids import CommitId
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore, tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(MovedStore(store), tmp_path / "index")) as found:
        make_branch(found)
        yield found


def fresh(store: MemoryStore, path: Path) -> Repository:
    """Another node."""
    return open_repository(MovedStore(store), path)


def much(seed: int, count: int = 100, size: int = 4000) -> dict[tuple[bytes, ...], bytes]:
    """Files that go into packs."""
    dice = random.Random(seed)
    return {(b"d%d" % (number % 5), b"f%d" % number): dice.randbytes(size) for number in range(count)}


def test_in_a_store_that_is_all_reachable_nothing_is_garbage(repository: Repository, store: MemoryStore) -> None:
    commit(repository, much(1))
    commit(repository, {(b"a",): b"1"})
    before = blobs(store)
    result = gc(repository)
    assert (result.condemned.objects, result.deleted.objects, result.young.objects) == (0, 0, 0)
    assert result.reachable.commits == 2 and result.reachable.packs == 2
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
    assert (result.deleted.packs, result.deleted.commits) == (2, 2)
    assert blobs(store) == before
    assert len(keys(store, "globals/")) == 1, "global records go with their commits"
    check(repository)
    assert content(repository) == much(1)


def test_the_first_look_changes_nothing(repository: Repository, store: MemoryStore) -> None:
    commit(repository, much(1))
    repository.refs.delete_branch("r", "main")
    before = {stat.key: stat.etag for stat in store.list()}
    result = gc(repository, delete=False)
    assert result.condemned.packs == 2 and result.deleted.objects == 0
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


def test_what_is_gone_is_stored_anew_by_a_node_that_knew_it(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    commit(repository, {(b"a",): b"1"})
    away = fresh(store, tmp_path / "away")
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


def drop(repository: Repository, *commits: CommitId) -> None:
    headers = [encode(repository.commits.get(one).header) for one in commits]
    repository.drops.add(headers, time=now_ns(), author="tester", reason="")
