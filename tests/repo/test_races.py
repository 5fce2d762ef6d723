"""Nodes on one store whose requests interleave in any way: nothing that is needed is lost, nothing else is left."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.repo.racing import Racing


def test_requests_interleave_in_any_way() -> None:
    run_state_machine_as_test(
        Racing,
        settings=settings(
            max_examples=8, stateful_step_count=10,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
