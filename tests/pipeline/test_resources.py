from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.pipeline.rooms import needs_sandbox
from tests.pipeline.test_service import create, logs, ran, transform
from tests.pipeline.workshop import Workshop, spec
from vfsd.model.errors import InvalidArgument
from vfsd.model.job import JobState
from vfsd.model.quantities import parse_quantity
from vfsd.pipeline.cgroups import open_cgroups
from vfsd.pipeline.resources import Amount, Budget, Machine, machine

HUNGRY = "head -c 300000000 /dev/zero | tail -c 300000000 > /dev/null"  # holds all of it in memory
SMALL = Machine(cpu=2, memory=1 << 30, disk=1 << 30, gpus=(0, 1, 4))


@pytest.mark.parametrize(
    ("text", "size"), [("1024", 1024), ("1Ki", 1024), ("1k", 1000), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9)]
)
def test_sizes_are_read_as_kubernetes_writes_them(text: str, size: int) -> None:
    assert parse_quantity(text) == size


@pytest.mark.parametrize("text", ["", "1 GB", "lots", "-1", "0", "1i", "1MiB"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_quantity(text)


def test_the_machine_is_looked_at(tmp_path: Path) -> None:
    for name in ("nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    found = machine(str(tmp_path), devices=str(tmp_path))
    assert found.gpus == (0, 1)
    assert found.cpu >= 1 and found.memory > 1 << 20 and found.disk > 0


@pytest.mark.parametrize(
    ("need", "why"),
    [
        (Amount(cpu=2.5), "resource_requests.cpu: a datum needs 2.5 cores, and this machine has 2: it could never run"),
        (Amount(memory=3 << 30), "resource_requests.memory: a datum needs 3.0 GiB, and this machine has 1.0 GiB: "),
        (Amount(gpu=4), "resource_requests.gpu: a datum needs 4, and this machine has 3: "),
    ],
)
def test_more_than_the_machine_has_is_refused(need: Amount, why: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        Budget(SMALL).check(need)
    assert str(error.value).startswith(why)


async def test_what_is_taken_is_not_given_twice_and_a_large_datum_is_not_overtaken() -> None:
    budget = Budget(SMALL)
    order: list[str] = []
    free = {name: trio.Event() for name in "abc"}

    async def take(name: str, need: Amount, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        async with budget.taken(need):
            order.append(name)
            await free[name].wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(take, "a", Amount(cpu=1))
        await nursery.start(take, "b", Amount(cpu=2))
        await nursery.start(take, "c", Amount(cpu=1))
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["a"]
        free["a"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert order == ["a", "b"]
        free["b"].set()
        free["c"].set()
    assert order == ["a", "b", "c"]


async def test_who_stops_waiting_makes_way() -> None:
    budget = Budget(SMALL)
    async with budget.taken(Amount(memory=1 << 30)):
        with trio.move_on_after(0):
            async with budget.taken(Amount(memory=1)):
                pass
    async with budget.taken(Amount(cpu=2, memory=1 << 30, gpu=3)) as gpus:
        assert gpus == (0, 1, 4)


async def test_gpus_are_handed_out_one_by_one() -> None:
    budget = Budget(SMALL)
    async with budget.taken(Amount(gpu=1)) as one, budget.taken(Amount(gpu=2)) as two:
        assert sorted(one + two) == [0, 1, 4]


async def test_a_pipeline_that_asks_for_more_than_there_is_fails_with_one_line(shop: Workshop) -> None:
    shop.put({"a": "x"})
    create(shop, spec(resource_requests={"memory": "64Gi"}))
    async with shop.service(there=SMALL) as running:
        job = await running.job()
    assert (job.state, job.reason) == (
        JobState.FAILURE,
        "resource_requests.memory: a datum needs 64.0 GiB, and this machine has 1.0 GiB: it could never run",
    )


async def test_datums_wait_for_what_they_request(shop: Workshop) -> None:
    shop.put({name: name for name in "abcd"})
    script = "date +%s%N; sleep 0.05; date +%s%N; echo gpu$CUDA_VISIBLE_DEVICES >&2"
    create(shop, spec(cmd=script, parallelism_spec={"constant": 4}, resource_requests={"cpu": 2},
                      resource_limits={"gpu": {"type": "nvidia.com/gpu", "number": 1}}))  # fmt: skip
    async with shop.service(there=SMALL) as running:
        job = await running.job()
    words = logs(shop, job).split()
    assert len(words) == 12
    assert {word for word in words if word.startswith("gpu")} <= {"gpu0", "gpu1", "gpu4"}
    times = [int(word) for word in words if not word.startswith("gpu")]
    one_after_another = sorted(zip(times[::2], times[1::2], strict=True))
    assert [time for pair in one_after_another for time in pair] == sorted(times)


@needs_sandbox
@pytest.mark.skipif(not isinstance(open_cgroups("/nonexistent"), str), reason="there are cgroups")
async def test_without_cgroups_each_process_has_the_memory_of_the_limit(shop: Workshop) -> None:
    shop.put({"a": "x"})
    script = f"{HUNGRY} || {{ echo too much; exit 3; }}"
    create(shop, spec(datum_tries=1, **transform(script), resource_limits={"memory": "100Mi"}))
    async with shop.service() as running:
        assert running.service.limits_problem
        job = await running.job()
    (stats,) = ran(shop, job).values()
    assert (stats.reason, logs(shop, job).splitlines()[-1]) == ("exit code 3", "too much")


@needs_sandbox
async def test_the_limit_of_disk_holds_for_tmp_for_a_file_and_for_the_output(shop: Workshop) -> None:
    shop.put({"tmp": "x", "file": "x", "out": "x"})
    script = """
    case "${texts##*/}" in
    tmp) for n in 1 2 3; do head -c 500000 /dev/zero > /tmp/$n; done;;
    file) head -c 1100000 /dev/zero > /pfs/out/x;;
    out) for n in 1 2 3; do head -c 500000 /dev/zero > /pfs/out/$n; done;;
    esac
    """
    create(shop, spec(datum_tries=1, cmd=script, resource_limits={"disk": "1Mi"}))
    async with shop.service() as running:
        job = await running.job()
    reasons = {name: stats.reason for name, stats in ran(shop, job).items()}
    assert reasons["texts:/out"] == "its output cannot be kept: it is more than resource_limits.disk, 1Mi"
    assert reasons["texts:/tmp"] and reasons["texts:/file"]
    assert "No space left on device" in logs(shop, job)


def cgroups_here() -> str:
    """Why this process may not make cgroups; empty when it may."""
    found = os.fork()
    if found == 0:
        os._exit(0 if not isinstance(open_cgroups(), str) else 1)
    return "" if os.waitpid(found, 0)[1] == 0 else "no cgroup v2 that this process may divide"


@needs_sandbox
@pytest.mark.skipif(bool(cgroups_here()), reason="no cgroup v2 that this process may divide")
async def test_a_datum_that_needs_too_much_memory_says_so(shop: Workshop) -> None:
    shop.put({"a": "x"})
    script = f"{HUNGRY} & wait $!"
    create(shop, spec(datum_tries=1, **transform(script), resource_limits={"memory": "100Mi", "cpu": 0.5}))
    async with shop.service() as running:
        job = await running.job()
    (stats,) = ran(shop, job).values()
    assert stats.reason == "it had no more memory: resource_limits.memory is 100Mi"
