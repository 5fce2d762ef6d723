"""Every repo as it stood when a global id was made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.parts import make_branch, open_repository, put
from vfsd.model.commit import Provenance
from vfsd.model.errors import NotFound
from vfsd.model.ids import GlobalId
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.global_view import as_of_global
from vfsd.repo.repository import Repository, new_global_id, now_ns
from vfsd.store.memory import MemoryStore


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(MemoryStore(), tmp_path / "index")) as found:
        for repo in ("in", "mid", "out", "aside"):
            make_branch(found, repo)
        yield found


def make(
    repository: Repository, repo: str, data: bytes, gid: GlobalId | None = None, *sources: CommitObject,
    branch: str = "main",
) -> CommitObject:  # fmt: skip
    with closing(repository.writer()) as writer:
        made = repository.commit(
            repo, branch, put({(b"f",): data}, repository), writer=writer, message="", author="", global_id=gid,
            provenance=[Provenance(repo=one.header.repo, branch="main", commit=one.id) for one in sources],
        )  # fmt: skip
    assert made is not None
    return made.commit


def test_an_id_names_the_commits_that_carry_it(repository: Repository) -> None:
    gid = new_global_id()
    source = make(repository, "in", b"1", gid)
    result = make(repository, "out", b"1", gid, source)
    make(repository, "in", b"2")
    make(repository, "out", b"2")
    assert as_of_global(repository, gid, "in") == source
    assert as_of_global(repository, gid, "out") == result


def test_a_repo_that_does_not_carry_it_is_found_by_provenance(repository: Repository) -> None:
    source = make(repository, "in", b"1")
    between = make(repository, "mid", b"1", None, source)
    make(repository, "in", b"2")
    gid = new_global_id()
    make(repository, "out", b"1", gid, between)
    make(repository, "in", b"3")
    assert as_of_global(repository, gid, "mid") == between
    assert as_of_global(repository, gid, "in") == source, "what was read, not what was there"


def test_any_other_repo_is_as_it_was_at_that_time(repository: Repository) -> None:
    before = make(repository, "aside", b"1")
    gid = new_global_id()
    make(repository, "in", b"1", gid)
    make(repository, "aside", b"2")
    assert as_of_global(repository, gid, "aside") == before
    with pytest.raises(NotFound, match="no commit yet"):
        as_of_global(repository, gid, "out")


def test_the_default_branch_comes_first(repository: Repository) -> None:
    gid = new_global_id()
    repository.refs.create_branch("in", "a", None, now_ns())
    side = make(repository, "in", b"side", gid, branch="a")
    assert as_of_global(repository, gid, "in") == side
    main = make(repository, "in", b"main", gid)
    assert as_of_global(repository, gid, "in") == main


def test_an_id_that_nothing_carries_is_not_found(repository: Repository) -> None:
    with pytest.raises(NotFound, match="no global id"):
        as_of_global(repository, new_global_id(), None)
    gid = new_global_id()
    make(repository, "in", b"1", gid)
    assert as_of_global(repository, gid, None) is None
    with pytest.raises(NotFound, match="no repo nowhere"):
        as_of_global(repository, gid, "nowhere")
