"""What holds in all tests of the cache."""

from __future__ import annotations

import pytest

from vfsd.cache import packs


@pytest.fixture(autouse=True)
def readers_are_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a pack waits until it is there: else a slow machine sends more requests than others."""
    monkeypatch.setattr(packs, "PATIENCE_S", 60.0)
