"""A store in whose place an older copy of it was put: nodes notice, and share nothing that only the newer one had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import HOUR, age, check, content, gc, much, node_on
from tests.repo.parts import commit, make_branch, put
from vfsd.model.errors import Unavailable
from vfsd.repo.repository import Repository, empty_root, now_ns
from vfsd.store.memory import MemoryStore

FILES = much(9)


class Copied:
    """A store, two nodes on it, and copies of the store."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.node = node_on(self.store, folder / "node")
        self.keeper = node_on(self.store, folder / "keeper")
        make_branch(self.node)

    def copy(self) -> dict[str, bytes]:
        return {stat.key: self.store.get(stat.key)[0] for stat in self.store.list()}

    def put_back(self, copy: dict[str, bytes]) -> None:
        for stat in list(self.store.list()):
            self.store.delete(stat.key)
        for key, data in copy.items():
            self.store.put(key, data)

    def collect(self, seed: int) -> None:
        """Have something condemned and deleted by the other node."""
        self.keeper.refs.create_branch("r", "try", None, now_ns())
        commit(self.keeper, much(seed), branch="try")
        self.keeper.refs.delete_branch("r", "try")
        for _ in range(2):
            age(self.store, 2 * HOUR)
            gc(self.keeper)


@pytest.fixture
def copied(tmp_path: Path) -> Iterator[Copied]:
    found = Copied(tmp_path)
    with closing(found.node.index), closing(found.keeper.index):
        yield found


def stored_anew(repository: Repository) -> None:
    """Files that only the newer store had are committed, at the second try at the latest."""
    try:
        commit(repository, FILES)
    except Unavailable as error:
        assert "an older copy" in str(error)
        commit(repository, FILES)


@pytest.mark.parametrize("collections_before", [0, 1])
@pytest.mark.parametrize("collections_after", [0, 1])
def test_what_only_the_newer_one_had_is_stored_anew(
    copied: Copied, tmp_path: Path, collections_before: int, collections_after: int
) -> None:
    for seed in range(collections_before):
        copied.collect(seed)
    copy = copied.copy()
    copied.collect(5)
    commit(copied.node, FILES)
    assert content(copied.node) == FILES
    copied.node.guard.refresh()
    version = copied.node.index.verdicts.standing().version
    copied.put_back(copy)
    for seed in range(collections_after):
        copied.keeper.guard.refresh()
        copied.collect(6 + seed)
        assert copied.keeper.index.verdicts.standing().version == version, "as many changes, others"
    stored_anew(copied.node)
    with closing(node_on(copied.store, tmp_path / "other").index) as index:
        other = Repository(copied.node.store, index, copied.node.format)
        assert content(other) == FILES
        check(other)


def test_a_writer_that_began_before_another_process_noticed_shares_nothing_either(
    copied: Copied, tmp_path: Path
) -> None:
    copy = copied.copy()
    copied.collect(5)
    commit(copied.node, FILES)
    copied.node.guard.refresh()
    with closing(copied.node.writer()) as writer:
        build = put(FILES, copied.node)
        copied.put_back(copy)
        built = build(empty_root(), writer)
        noticed = node_on(copied.store, tmp_path / "node")
        with closing(noticed.index):
            noticed.guard.refresh()
        with pytest.raises(Unavailable, match="an older copy"):
            copied.node.commit("r", "main", lambda _, __: built, writer=writer, message="", author="a")
    stored_anew(copied.node)
    check(copied.node)
    assert content(copied.node) == FILES


def test_an_answer_that_came_late_is_no_older_copy(copied: Copied) -> None:
    late = copied.node.guard.fetch()
    copied.collect(5)
    commit(copied.node, FILES)
    copied.node.guard.refresh()
    known = len(list(copied.node.index.file.rows("SELECT id FROM places")))
    assert known
    copied.node.guard.take_in(late)
    assert len(list(copied.node.index.file.rows("SELECT id FROM places"))) == known
    assert commit(copied.node, {(b"more",): b"1"})
    check(copied.node)
