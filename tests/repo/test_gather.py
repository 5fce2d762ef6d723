"""Gathering scattered trees: the same commits, read by fewer requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import blobs, check, content, gc, keys
from tests.repo.parts import boundary_bits, commit, make_branch, open_repository
from vfsd.index.index import Index
from vfsd.model.location import parse_location
from vfsd.repo.gather import gather, scattered
from vfsd.repo.refs import Head
from vfsd.repo.repository import Repository
from vfsd.repo.tree import walk
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Crashed, Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore

COUNT = 40


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore, tmp_path: Path) -> Iterator[Repository]:
    """A tree of many nodes, each of which came with a commit of its own."""
    with boundary_bits(2), closing(open_repository(MovedStore(store), tmp_path / "index")) as found:
        make_branch(found)
        for number in range(COUNT):
            commit(found, {(b"d%d" % (number % 8), b"f%d" % number): b"%d" % number})
        yield found


class Far(CountingStore):
    """A store that is far away, whose requests are counted."""

    @property
    def is_local(self) -> bool:
        return False


def head(repository: Repository) -> Head:
    return repository.refs.head("r", "main")


def objects_of_a_walk(store: MemoryStore, path: Path) -> int:
    """How many requests a fresh node needs to list the whole tree."""
    far = Far(store)
    other = open_repository(MovedStore(far), path)
    with closing(other.index):
        root = other.root(parse_location("r/main"))
        far.reset()
        assert len(list(walk(other.nodes, root))) == COUNT + 8
        return far.total().requests


def test_a_gathered_tree_is_read_by_few_requests_and_is_the_same(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    before, files = head(repository), content(repository)
    assert objects_of_a_walk(store, tmp_path / "one") >= 8
    assert gather(repository, before) > 10
    assert objects_of_a_walk(store, tmp_path / "two") <= 2
    after = head(repository)
    assert (after.commit, after.head.moved) == (before.commit, before.head.moved)
    assert content(repository) == files
    check(repository)


def test_only_what_is_scattered_is_gathered(repository: Repository) -> None:
    found = scattered(repository, head(repository), least=COUNT)
    assert found is not None and found.commits == COUNT
    assert scattered(repository, head(repository), least=COUNT + 1) is None
    gather(repository, head(repository))
    assert scattered(repository, head(repository), least=1) is None
    commit(repository, {(b"new",): b"1"})
    again = scattered(repository, head(repository), least=1)
    assert again is not None and again.commits == 1


def test_later_commits_go_on_from_the_copy_on_every_node(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    other = open_repository(MovedStore(store), tmp_path / "other")
    with closing(other.index):
        assert content(other)  # it knows the head, and all nodes
        gather(repository, head(repository))
        for node in (other, repository):
            commit(node, {(b"d1", b"f1"): bytes(str(node), "ascii")})
            assert objects_of_a_walk(store, tmp_path / f"fresh{id(node)}") <= 6
        check(other)


def test_what_there_was_before_stays_as_long_as_the_commit(repository: Repository, store: MemoryStore) -> None:
    """Others may hold pointers to the old nodes."""
    old = repository.root(parse_location("r/main"))
    gather(repository, head(repository))
    before = blobs(store)
    gc(repository)
    assert blobs(store) == before
    repository.nodes.clear()
    assert len(list(walk(repository.nodes, old))) == COUNT + 8


def test_a_copy_goes_with_its_branch(repository: Repository, store: MemoryStore) -> None:
    gather(repository, head(repository))
    repository.refs.delete_branch("r", "main")
    gc(repository)
    assert blobs(store) == set()


def test_a_branch_that_moves_meanwhile_is_none_the_worse(repository: Repository, store: MemoryStore) -> None:
    before = head(repository)
    commit(repository, {(b"new",): b"1"})
    files = content(repository)
    assert gather(repository, before) == 0
    assert content(repository) == files
    gc(repository)
    check(repository)
    assert all(key.startswith("commits/") for key in blobs(store)), "what was copied is garbage"


@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_request_does_no_harm(
    repository: Repository, store: MemoryStore, tmp_path: Path, after: bool
) -> None:
    files, fault, number, died, done = content(repository), Fault.CRASH_AFTER if after else Fault.CRASH, 0, 0, False
    while not done:
        faulty = FaultyStore(store)
        dying = Repository(MovedStore(faulty), Index(str(tmp_path / f"dying{number}")), repository.format)
        current = head(dying)
        first = len(faulty.requests)

        def plan(request: Request, at: int = first + number) -> Fault | None:
            return fault if request.number == at else None

        faulty.plan = plan
        try:
            gather(dying, current)
            done = len(faulty.requests) <= first + number
        except Crashed:
            died += 1
            check(repository)
            assert content(repository) == files
        dying.index.close()
        number += 1 if number > 20 else 5
    assert died > 5
    gc(repository)
    check(repository)
    assert keys(store, "packs/") and content(repository) == files
