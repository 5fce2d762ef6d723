"""Services and what else has no end of its own: begun again when it ends, and ended with what it started."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.pipeline.rooms import Bench, needs_sandbox
from tests.pipeline.workshop import Workshop, spec
from tests.servers import free_ports
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.pipeline_spec import Pipeline, PipelineSpec
from vfsd.pipeline import door, lasting_run
from vfsd.pipeline.ledger import LedgerReader, job_datums
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import PipelineState
from vfsd.repo.repository import now_ns

# One that every user may run: that of the tests may lie in somebody's home.
PYTHON = shutil.which("python3", path=os.defpath) or sys.executable
SERVER = f"""exec {PYTHON} -IS -c '
import os, socket
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("listening", flush=True)
while True:
    visitor = listener.accept()[0]
    asked = visitor.recv(100)
    if asked == b"end":
        os._exit(3)
    visitor.sendall(open(os.environ["texts"] + "/a", "rb").read() + asked)
    visitor.close()
'"""


def served(port: dict[str, Any], cmd: str = SERVER, **more: Any) -> PipelineSpec:
    transform = {"cmd": ["sh", "-c", cmd], "env": {"PORT": str(port["internal_port"])}, **more}
    return spec(glob="/", service=port, transform=transform)


@pytest.fixture(autouse=True)
def visitors_are_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes while a command is begun waits until it listens, however long that takes."""
    monkeypatch.setattr(door, "PATIENCE_S", 600.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends is begun again at once."""
    monkeypatch.setattr(lasting_run, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(lasting_run, "LAST_WAIT_S", 0.01)


async def answer(port: int, question: bytes = b"?") -> bytes:
    """What a service says; b"" when it says nothing."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(question)
        found = b""
        async for data in stream:
            found += data
        return found


async def stands(shop: Workshop, state: JobState, reason: str = "") -> JobRecord:
    """The newest job, once it stands so."""
    while True:
        record = await trio.to_thread.run_sync(shop.records.newest, "count")
        if record is not None and record.state is state and reason in record.reason:
            return record
        await trio.sleep(0.01)


async def test_a_service_serves_the_newest_commit_and_callers_wait_while_it_changes(shop: Workshop) -> None:
    inner, outer = free_ports(2)
    first = shop.put({"a": "one"})
    shop.registry.create(served({"internal_port": inner, "external_port": outer}), now_ns())
    async with shop.service() as running:
        assert await stands(shop, JobState.RUNNING)
        assert await answer(outer) == b"one?"
        job = await stands(shop, JobState.RUNNING)
        assert (job.inputs[0].commit, job.datums) == (first.id, DatumCounts(total=1))
        shop.put({"a": "two"})
        ended = await running.job()
        assert (ended.id, ended.state, ended.reason, ended.output) == (job.id, JobState.SUCCESS, "", None)
        assert await answer(outer) == b"two?"  # whether it listens already or not
        (datum,) = job_datums(shop.repository, ended)
        assert b"".join(LedgerReader(shop.repository).log(datum.entry)) == b"listening\n"
        assert shop.head("count") is None


@needs_sandbox
async def test_services_with_networks_of_their_own_may_have_the_same_port(shop: Workshop) -> None:
    outer, other = free_ports(2)
    shop.put({"a": "one"})
    for name, port in (("count", outer), ("other", other)):
        wanted = served({"internal_port": 8080, "external_port": port}, f"echo {name}; {SERVER}", network=False)
        shop.registry.create(msgspec.structs.replace(wanted, pipeline=Pipeline(name)), now_ns())
    async with shop.service():
        assert await answer_once(outer) == await answer_once(other) == b"one?"
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(answer, outer)
        assert await answer(outer, b"x" * 99) == b"one" + b"x" * 99


async def test_a_service_that_ends_is_begun_again_and_says_why(shop: Workshop, quick: None) -> None:
    inner, outer = free_ports(2)
    shop.put({"a": "one"})
    shop.registry.create(served({"internal_port": inner, "external_port": outer}), now_ns())
    async with shop.service():
        assert await answer_once(outer) == b"one?"
        await answer(outer, b"end")
        await stands(shop, JobState.RUNNING, "exit code 3: begun again after 0.01 s")
        assert await answer(outer) == b"one?"


async def answer_once(port: int) -> bytes:
    """The answer of a service that is about to open its door."""
    while True:
        try:
            return await answer(port)
        except (OSError, trio.BrokenResourceError):
            await trio.sleep(0.01)


async def test_a_stopped_service_leaves_no_process_and_no_port_and_can_be_started(shop: Workshop) -> None:
    inner, outer = free_ports(2)
    shop.put({"a": "one"})
    shop.registry.create(served({"internal_port": inner, "external_port": outer}), now_ns())
    async with shop.service() as running:
        assert await answer_once(outer) == b"one?"
        shop.registry.set_state("count", PipelineState.STOPPED)
        ended = await running.job()
        assert ended.state is JobState.SUCCESS
        for port in (inner, outer):
            await refused(port)
        shop.registry.set_state("count", PipelineState.RUNNING)
        assert await answer_once(outer) == b"one?"
        job = await stands(shop, JobState.RUNNING)
        shop.registry.stop_job("count", job.id)
        ended = await running.job()
        assert (ended.id, ended.state, ended.reason) == (job.id, JobState.KILLED, "stopped by a user")
        await refused(outer)
        shop.put({"a": "two"})  # it rests until there is something new
        assert await answer_once(outer) == b"two?"
        shop.registry.delete("count")
        assert (await running.job()).reason == "the pipeline was deleted"
    await refused(outer)


async def refused(port: int) -> None:
    """Wait until nobody listens."""
    while True:
        try:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        except OSError:
            return
        await trio.sleep(0.01)


async def test_a_service_goes_on_with_the_next_daemon_as_the_same_job(shop: Workshop) -> None:
    (port,) = free_ports(1)
    shop.put({"a": "one"})
    shop.registry.create(served({"internal_port": port}), now_ns())
    async with shop.service():
        assert await answer_once(port) == b"one?"
        before = await stands(shop, JobState.RUNNING)
    await refused(port)
    async with shop.service() as running:
        assert await answer_once(port) == b"one?"
        assert (await stands(shop, JobState.RUNNING)).id == before.id
        shop.registry.stop_job("count", before.id)
        (datum,) = job_datums(shop.repository, await running.job())
        assert b"".join(LedgerReader(shop.repository).log(datum.entry)) == 2 * b"listening\n"
    assert os.listdir(shop.folder / f"scratch-{shop.node}") == []


@needs_sandbox
async def test_what_a_service_started_ends_with_it(shop: Workshop, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    shop.put({"a": "one"})
    (tmp_path / "bench").mkdir()
    bench = Bench(tmp_path / "bench")
    cmd = f"setsid sleep {bench.mark} & {SERVER}"
    shop.registry.create(served({"internal_port": port}, cmd), now_ns())
    async with shop.service():
        assert await answer_once(port) == b"one?"
        while not bench.running():
            await trio.sleep(0.01)
    assert bench.left() == []


@pytest.mark.parametrize(
    ("files", "glob", "why"),
    [
        ({"a": "1", "b": "2"}, "/*", "a service has just one datum, and here are several: the glob / gives one"),
        ({"a": "1"}, "/b", "a service has just one datum, and here are none"),
    ],
)
async def test_a_service_has_just_one_datum(shop: Workshop, files: dict[str, str], glob: str, why: str) -> None:
    shop.put(files)
    shop.registry.create(spec(glob=glob, service={"internal_port": 1}), now_ns())
    async with shop.service() as running:
        job = await running.job()
    assert job.state is JobState.FAILURE
    assert job.reason.startswith(why)


async def test_a_port_that_is_taken_is_said_and_waited_for(shop: Workshop, quick: None) -> None:
    inner, outer = free_ports(2)
    shop.put({"a": "one"})
    async with shop.service():
        (other,) = await trio.open_tcp_listeners(outer, host="127.0.0.1")
        async with other:
            shop.registry.create(served({"internal_port": inner, "external_port": outer}), now_ns())
            await stands(shop, JobState.STARTING, f"port {outer} of 127.0.0.1: Address already in use: begun again")
        assert await answer_once(outer) == b"one?"


