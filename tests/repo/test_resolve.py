"""Revs find the commits that they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.parts import commit, make_branch, open_repository
from vfsd.model.errors import Ambiguous, NotFound
from vfsd.model.location import parse_location
from vfsd.model.rev import rfc3339
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.memory import MemoryStore


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(MemoryStore(), tmp_path / "index")) as found:
        make_branch(found)
        yield found


def commits(repository: Repository, count: int, repo: str = "r") -> list[CommitObject]:
    """Oldest first."""
    made = [commit(repository, {(b"f",): b"%d" % number}, repo) for number in range(count)]
    return [one.commit for one in made if one is not None]


def found(repository: Repository, where: str) -> str | None:
    commit = repository.resolve(parse_location(where))
    return None if commit is None else commit.id


def test_the_head_is_what_a_branch_stands_at(repository: Repository) -> None:
    assert found(repository, "r/main") is None
    made = commits(repository, 2)
    assert found(repository, "r/main") == made[-1].id


def test_steps_go_back_along_parents_also_far(repository: Repository) -> None:
    made = commits(repository, 70)
    for steps in (0, 1, 2, 63, 64, 65, 69):
        assert found(repository, f"r/main@~{steps}") == made[-1 - steps].id
        assert found(repository, f"r/main@^{steps}") == made[-1 - steps].id
    assert found(repository, "r/main@~~^2~") == made[-6].id
    assert found(repository, f"r/main@{made[50].id}~3") == made[47].id
    with pytest.raises(NotFound, match="only 69 ancestors, not 70"):
        found(repository, "r/main@~70")


def test_a_prefix_names_a_commit_of_its_repo(repository: Repository) -> None:
    made = commits(repository, 3)
    for one in made:
        assert found(repository, f"r/main@{one.id}") == one.id
        assert found(repository, f"r/main@{one.id[:16]}") == one.id
    make_branch(repository, "other")
    with pytest.raises(NotFound, match="no commit of repo other begins with"):
        found(repository, f"other/main@{made[0].id[:16]}")
    with pytest.raises(NotFound, match="no commit of repo r"):
        found(repository, "r/main@" + "0" * 64)


def test_a_prefix_of_several_commits_is_ambiguous_and_names_them(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = commits(repository, 2)
    monkeypatch.setattr(repository.commits, "with_prefix", lambda prefix, limit: [one.id for one in made])
    with pytest.raises(Ambiguous, match=made[0].id[:12]):
        found(repository, "r/main@abcd")


def test_commits_of_other_repos_do_not_make_a_prefix_ambiguous(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_branch(repository, "other")
    made = commits(repository, 1) + commits(repository, 1, "other")
    monkeypatch.setattr(repository.commits, "with_prefix", lambda prefix, limit: [one.id for one in made])
    assert found(repository, "other/main@abcd") == made[1].id


def test_a_tag_names_its_commit_on_every_branch_of_the_repo(repository: Repository) -> None:
    made = commits(repository, 3)
    repository.refs.create_tag("r", "v1", made[1].id, now_ns())
    repository.refs.create_branch("r", "other", None, now_ns())
    assert found(repository, "r/main@v1") == made[1].id
    assert found(repository, "r/other@v1~1") == made[0].id
    with pytest.raises(NotFound, match="no tag v2"):
        found(repository, "r/main@v2")
    with pytest.raises(NotFound, match="no branch none"):
        found(repository, "r/none@v1")


def test_a_time_names_the_last_commit_that_was_there(repository: Repository) -> None:
    made = commits(repository, 3)
    times = [one.header.time for one in made]
    assert times == sorted(set(times)), "each is later than its parent"
    for one in made:
        assert found(repository, f"r/main@{rfc3339(one.header.time)}") == one.id
    assert found(repository, "r/main@2999-01-01") == made[-1].id
    with pytest.raises(NotFound, match="had no commit yet"):
        found(repository, "r/main@2001-01-01T00:00:00Z")


def test_a_branch_without_commits_has_no_past(repository: Repository) -> None:
    for rev in ("~1", "2999-01-01"):
        with pytest.raises(NotFound, match="no commits yet"):
            found(repository, f"r/main@{rev}")


def test_history_is_the_same_for_a_node_that_has_seen_nothing(repository: Repository, tmp_path: Path) -> None:
    made = commits(repository, 70)
    fresh = open_repository(repository.store, tmp_path / "fresh")
    assert [one.id for one in fresh.commits.log(made[-1].id)] == [one.id for one in reversed(made)]
    assert found(fresh, "r/main@~69") == made[0].id
    assert fresh.commits.sync([made[-1].id]) > 0
    assert fresh.commits.sync([made[-1].id]) == 0
    assert all(fresh.index.is_complete(one.id) for one in made)
    fresh.index.close()
