"""Inputs that come from one commit on several ways are read together."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.test_service import COPY, create
from tests.pipeline.workshop import Running, Workshop, spec
from vfsd.model.commit import Provenance
from vfsd.model.job import JobState
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import PipelineState
from vfsd.pipeline.together import Agreement, agreement

SLOW = 'sleep 0.1; cp "$texts" "$VFSD_OUT/$(basename "$texts")"'


def pair(*repos: str) -> dict[str, Any]:
    return {"cross": [{"pfs": {"repo": repo, "glob": "/"}} for repo in repos]}


def diamond(shop: Workshop, left: str = COPY, right: str = COPY, **more: Any) -> None:
    """texts → left, right → both."""
    create(shop, spec("left", cmd=left))
    create(shop, spec("right", cmd=right, datum_tries=1))
    cmd = "cat /pfs/left/* > /pfs/out/left; cat /pfs/right/* > /pfs/out/right"
    create(shop, spec("both", cmd=cmd, input=pair("left", "right"), **more))


async def jobs_of(running: Running, pipeline: str, until: Any) -> list[JobRecord]:
    """Its jobs, up to the first that `until` holds for."""
    found: list[JobRecord] = []
    while not found or not until(found[-1]):
        found.append(await running.job(pipeline))
    return found


def seen(shop: Workshop, record: JobRecord) -> tuple[str, str]:
    """What a job of `both` wrote: left, right."""
    assert record.output is not None, record.reason
    files = shop.tree(shop.repository.commits.get(record.output).root)
    return files.get("left", b"").decode(), files.get("right", b"").decode()


async def test_a_diamond_runs_once_a_commit_also_the_first_time(shop: Workshop) -> None:
    diamond(shop, right=SLOW)
    async with shop.service() as running:
        for text in ("one", "two"):
            made = shop.put({"a": text})
            job = await running.job("both")
            assert (seen(shop, job), job.global_id) == ((text, text), made.header.global_id)
    assert len(shop.records.known("both")) == 2


async def test_a_side_that_reads_the_source_itself_waits_for_the_other(shop: Workshop) -> None:
    create(shop, spec("left", cmd=SLOW))
    cmd = "cat /pfs/left/* > /pfs/out/left; cat /pfs/texts/* > /pfs/out/right"
    create(shop, spec("both", cmd=cmd, input=pair("left", "texts")))
    async with shop.service() as running:
        for text in ("one", "two"):
            shop.put({"a": text})
            assert seen(shop, await running.job("both")) == (text, text)


async def test_a_side_that_fails_or_is_stopped_is_not_waited_for(shop: Workshop) -> None:
    diamond(shop, right='[ "$(cat "$texts")" != bad ]; ' + COPY)
    async with shop.service() as running:
        shop.put({"a": "one"})
        assert seen(shop, await running.job("both")) == ("one", "one")
        shop.put({"a": "bad"})
        (*_, last) = await jobs_of(running, "both", lambda job: job.state is not JobState.UNRUNNABLE)
        assert seen(shop, last) == ("bad", "one")
        shop.registry.set_state("right", PipelineState.STOPPED)
        shop.put({"a": "three"})
        (*_, last) = await jobs_of(running, "both", lambda job: job.state is not JobState.UNRUNNABLE)
        assert seen(shop, last) == ("three", "one")


async def test_a_job_that_is_stopped_is_waited_for_no_longer(shop: Workshop) -> None:
    diamond(shop, right="sleep 1000")
    async with shop.service() as running:
        shop.put({"a": "one"})
        await running.job("left")
        (job,) = [job for job in running.service.running if job.pipeline == "right"]
        shop.registry.stop_job("right", job.id)
        (*_, last) = await jobs_of(running, "both", lambda job: job.state is JobState.SUCCESS)
        assert [edge.repo for edge in last.inputs] == ["left"]


@pytest.mark.slow
async def test_a_side_that_is_always_behind_gives_each_commit_that_both_have(shop: Workshop) -> None:
    diamond(shop, right="sleep 0.2; " + SLOW)
    shop.registry.update(spec("left", cmd=COPY, every_commit=True), 1)
    async with shop.service() as running, trio.open_nursery() as nursery:
        nursery.start_soon(_write_on, shop, 0.15)
        for _ in range(5):
            left, right = seen(shop, await running.job("both"))
            assert left == right
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_where_no_commit_is_worked_on_by_both_sides_nobody_waits_for_ever(shop: Workshop) -> None:
    diamond(shop, left="sleep 0.2; " + SLOW, right="sleep 0.4; " + SLOW)
    async with shop.service() as running, trio.open_nursery() as nursery:
        nursery.start_soon(_write_on, shop, 0.03)
        for _ in range(3):
            assert (await running.job("both")).state is JobState.SUCCESS
        nursery.cancel_scope.cancel()


async def _write_on(shop: Workshop, pause_s: float) -> None:
    number = 0
    while True:
        shop.put({"a": str(number := number + 1)})
        await trio.sleep(pause_s)


async def test_of_every_commit_both_sides_are_read_together(shop: Workshop) -> None:
    create(shop, spec("left", cmd=COPY, every_commit=True))
    create(shop, spec("right", cmd=SLOW, every_commit=True))
    cmd = "cat /pfs/left/* > /pfs/out/left; cat /pfs/right/* > /pfs/out/right"
    create(shop, spec("both", cmd=cmd, input=pair("left", "right"), every_commit=True))
    for text in ("one", "two", "three"):
        shop.put({"a": text})
    shop.put({"b": "x"})
    async with shop.service() as running:
        found = await jobs_of(running, "both", lambda job: seen(shop, job)[1].endswith("x"))
    assert all(left == right for left, right in (seen(shop, job) for job in found))


# Which agree


@pytest.fixture
def made(quick: Workshop) -> Iterator[Workshop]:
    for name in ("left", "right"):
        quick.repo(name)
    yield quick


def derive(shop: Workshop, repo: str, *sources: Any, branch: str = "main") -> Any:
    """A commit that a pipeline makes of others."""
    writer = shop.repository.writer()
    found = shop.repository.commit(
        repo, branch, lambda root, _: root, writer=writer, message=os.urandom(4).hex(), author="t", pipeline=repo,
        provenance=[edge(source) for source in sources], allow_same=True,
    )  # fmt: skip
    writer.close()
    assert found is not None
    return found.commit


def edge(commit: Any) -> Provenance:
    return Provenance(commit.header.repo, commit.header.branch, commit.id, commit.header.repo)


def test_what_stands_on_one_commit_agrees_and_who_is_behind_is_named(made: Workshop) -> None:
    first, second = made.put({"a": "1"}), made.put({"a": "2"})
    left, right = derive(made, "left", first), derive(made, "right", first)
    assert agreement(made.repository, (edge(left), edge(right)), ()) == Agreement(())
    newer = derive(made, "left", second)
    inputs = (edge(newer), edge(right))
    assert agreement(made.repository, inputs, ()) == Agreement((edge(right),), (edge(left), edge(right)))
    assert agreement(made.repository, inputs, (edge(left), edge(right))).common is None  # which was done
    assert agreement(made.repository, (edge(second), edge(right)), ()) == Agreement(
        (edge(right),), (edge(first), edge(right))
    )


def test_a_common_state_is_not_before_what_the_last_job_read(made: Workshop) -> None:
    commits = [made.put({"a": str(number)}) for number in range(3)]
    lefts = [derive(made, "left", commit) for commit in commits]
    rights = [derive(made, "right", commit) for commit in commits[:2]]
    inputs = (edge(lefts[2]), edge(rights[1]))
    assert agreement(made.repository, inputs, ()).common == (edge(lefts[1]), edge(rights[1]))
    assert agreement(made.repository, inputs, (edge(lefts[2]), edge(rights[0]))).common is None


sides = st.lists(st.integers(0, 5), min_size=1, max_size=5).map(sorted)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(left=sides, right=sides, done=st.none() | st.tuples(st.integers(0, 4), st.integers(0, 4)))
def test_the_newest_state_that_both_sides_have_had_is_found(
    made: Workshop, left: list[int], right: list[int], done: tuple[int, int] | None
) -> None:
    """left, right: on which commits their commits stand. done: which of them the last job read."""
    branch = f"b{os.urandom(4).hex()}"
    for repo in ("left", "right"):
        made.repository.refs.create_branch(repo, branch, None, 1)
    texts = [made.put({"a": os.urandom(4).hex()}) for _ in range(6)]
    lefts = [derive(made, "left", texts[number], branch=branch) for number in left]
    rights = [derive(made, "right", texts[number], branch=branch) for number in right]
    last = None if done is None else (min(done[0], len(left) - 1), min(done[1], len(right) - 1))
    expected = None
    for one, other in itertools.product(range(len(left)), range(len(right))):
        if left[one] == right[other]:
            expected = (one, other) if expected is None else max(expected, (one, other))
    if expected and last and (expected == last or expected[0] < last[0] or expected[1] < last[1]):
        expected = None
    read = () if last is None else (edge(lefts[last[0]]), edge(rights[last[1]]))
    found = agreement(made.repository, (edge(lefts[-1]), edge(rights[-1])), read)
    if left[-1] == right[-1]:
        assert found == Agreement(())
        return
    assert found.behind == ((edge(lefts[-1]),) if left[-1] < right[-1] else (edge(rights[-1]),))
    assert found.common == (None if expected is None else (edge(lefts[expected[0]]), edge(rights[expected[1]])))
