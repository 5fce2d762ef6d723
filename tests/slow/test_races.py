"""As tests/repo/test_races.py, for as long as it takes to find what is rare. VFSD_RACES: how many examples."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.repo.racing import Racing


@pytest.mark.slow
def test_requests_interleave_in_any_way() -> None:
    examples = int(os.environ.get("VFSD_RACES", "300"))
    run_state_machine_as_test(
        Racing,
        settings=settings(
            max_examples=examples, stateful_step_count=16, deadline=None, derandomize=False, print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
