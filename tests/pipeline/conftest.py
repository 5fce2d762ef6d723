"""Stores for the tests of pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.workshop import Workshop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    """A store with the empty repo `texts`."""
    made = Workshop(tmp_path)
    yield made
    made.close()
