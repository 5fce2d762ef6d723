"""Stores for the tests of pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.workshop import Workshop
from vfsd.store.memory import MemoryStore


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    """A store with the empty repo `texts`."""
    made = Workshop(tmp_path)
    yield made
    made.close()


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Workshop]:
    """The same in memory, for what runs no pipelines."""
    made = Workshop(tmp_path, MemoryStore())
    yield made
    made.close()
