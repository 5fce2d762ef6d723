"""The slow suite: `scripts/slow`."""

import pytest

from tests.mount.conftest import QUIET_S, mounted, node

__all__ = ["mounted", "node"]


@pytest.fixture
def quiet_s() -> float:
    """Nodes commit by themselves here."""
    return QUIET_S
