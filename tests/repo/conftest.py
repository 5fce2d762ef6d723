"""What most tests of the version store begin with: a store in memory, and a repository with an empty branch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import node_on
from tests.repo.parts import make_branch
from vfsd.repo.repository import Repository
from vfsd.store.memory import MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repository(store: MemoryStore, tmp_path: Path) -> Iterator[Repository]:
    """A node that has made r/main."""
    with closing(node_on(store, tmp_path / "index")) as found:
        make_branch(found)
        yield found
