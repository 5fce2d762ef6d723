"""The command line on stores of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.daemon.program import Program
from tests.stores import make_store


@pytest.fixture
def bare(tmp_path: Path) -> Program:
    """The command line, without a store."""
    return Program(tmp_path)


@pytest.fixture
def vfsd(bare: Program) -> Program:
    """The command line on a store with the repo `texts`."""
    make_store(f"file://{bare.store}")
    bare.ok("repo", "create", "texts")
    return bare
