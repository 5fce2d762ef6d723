"""The head of a branch against its reference, other examples in each run."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.worktree.test_replay import Head

EXAMPLES = int(os.environ.get("VFSD_TEST_EXAMPLES", "3000"))

TestManyHeads = pytest.mark.slow(Head.TestCase)
TestManyHeads.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=40, deadline=None, derandomize=False, report_multiple_bugs=False
)
