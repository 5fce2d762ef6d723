"""Several nodes, each with its own index, over one store: exactly one has a pipeline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.pipeline.test_service import Gate, create
from tests.pipeline.workshop import Running, Workshop, spec
from vfsd.model.errors import Unavailable
from vfsd.model.job import DatumCounts, JobState
from vfsd.pipeline import runner, service
from vfsd.pipeline.lease import Runner, claim
from vfsd.pipeline.records import read_standing, results_of
from vfsd.store.counting import CountingStore, Traffic
from vfsd.store.local import LocalStore

LIFE_S = 1.5  # of runners here
ROOT = ("root",)  # may run datums without a sandbox
COPY = 'cp "$texts" "$VFSD_OUT/$(basename "$texts")"'


@pytest.fixture(autouse=True)
def unsandboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datums may write outside."""
    monkeypatch.setattr(service, "sandbox_works", lambda: "not in these tests")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Workshop, Workshop]]:
    """Two nodes of one store."""
    one = Workshop(tmp_path, node="one")
    two = Workshop(tmp_path, node="two")
    yield one, two
    one.close()
    two.close()


def silence(running: Running) -> None:
    """From now on a node gives no sign of life, and hears nothing: as one that hangs, or is cut off."""
    running.deaf = True
    running.service._runner.beat = lambda: None  # type: ignore[method-assign]
    running.service._runner.give_up = lambda: None  # type: ignore[method-assign]


def ran(path: Path) -> list[str]:
    """What the datums of a test noted down, sorted."""
    return sorted(path.read_text().split()) if path.exists() else []


async def test_of_two_nodes_one_runs_each_job(nodes: tuple[Workshop, Workshop], tmp_path: Path) -> None:
    one, two = nodes
    note = tmp_path / "ran"
    create(one, spec(cmd=f'echo "$(basename "$texts")" >> {note}; {COPY}'))
    async with one.service(users=ROOT) as first, two.service(users=ROOT) as second:
        for number in range(5):
            one.put({f"f{number}": "x"})
            with trio.move_on_after(30) as limit:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_first_of, first, second, nursery.cancel_scope)
            assert not limit.cancelled_caught
    assert ran(note) == [f"f{number}" for number in range(5)]
    assert len(one.files("count")) == 5


async def _first_of(one: Running, two: Running, scope: trio.CancelScope) -> None:
    async with trio.open_nursery() as nursery:
        for running in (one, two):
            nursery.start_soon(_job_of, running, scope)


async def _job_of(running: Running, scope: trio.CancelScope) -> None:
    await running.job()
    scope.cancel()


async def test_what_a_node_gives_up_another_takes_at_once(nodes: tuple[Workshop, Workshop]) -> None:
    one, two = nodes
    one.put({"a": "1"})
    create(one, spec(cmd=COPY))
    async with two.service(users=ROOT, deaf=True, life_s=1000) as second:
        async with one.service(users=ROOT, life_s=1000) as first:
            await first.job()
            second.hear()
            one.put({"b": "2"})
            await first.job()
        two.put({"c": "3"})
        job = await second.job()
    assert job.datums == DatumCounts(total=3, success=1, skipped=2)
    assert two.files("count").keys() == {"a", "b", "c"}


async def test_the_job_of_a_node_that_is_silent_goes_on_elsewhere_and_what_is_known_is_not_done_again(
    nodes: tuple[Workshop, Workshop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = nodes
    note = tmp_path / "ran"
    monkeypatch.setattr(runner, "SHARE_S", 0.0)
    monkeypatch.setattr(runner, "KEEP_S", 0.01)
    gate = Gate(one, "gate")
    one.put({"a": "1", "b": "2", "gate": ""})
    script = f'cat "$texts" > /dev/null; echo "$(basename "$texts")" >> {note}; {COPY}'
    create(one, spec(cmd=script, parallelism_spec={"constant": 1}))
    async with one.service(users=ROOT, life_s=LIFE_S) as first:
        await gate.reached()
        (before,) = first.service.running
        while _shared(one) < 2:
            await trio.sleep(0.01)
        silence(first)
        async with two.service(users=ROOT, life_s=LIFE_S) as second:
            job = await second.job()
            gate.release()
            with pytest.raises(trio.TooSlowError), trio.fail_after(0.5):
                await first.job()
    assert (job.id, job.state) == (before.id, JobState.SUCCESS)
    assert job.datums == DatumCounts(total=3, success=3)
    assert ran(note) in (["a", "b", "gate"], ["a", "b", "gate", "gate"])
    assert sorted(two.files("count")) == ["a", "b", "gate"]
    assert list(one.store.list("datums/")) == []


async def test_the_store_is_told_of_what_is_done_also_when_nothing_more_happens_for_long(
    nodes: tuple[Workshop, Workshop], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = nodes
    monkeypatch.setattr(runner, "SHARE_S", 0.5)
    monkeypatch.setattr(runner, "KEEP_S", 0.01)
    gate = Gate(one, "gate")
    one.put({"a": "1", "b": "2", "gate": ""})
    create(one, spec(cmd='cat "$texts" > /dev/null', parallelism_spec={"constant": 3}))
    async with one.service(users=ROOT) as running:
        await gate.reached()
        while _shared(one) < 2:
            await trio.sleep(0.01)
        gate.release()
        assert (await running.job()).state is JobState.SUCCESS


async def test_who_lost_a_pipeline_cannot_commit_for_it(nodes: tuple[Workshop, Workshop], tmp_path: Path) -> None:
    one, two = nodes
    gate = Gate(one, "gate")
    one.put({"gate": ""})
    create(one, spec(cmd='cat "$texts" > "$VFSD_OUT/copy"'))
    async with one.service(users=ROOT, life_s=1000) as first:
        await gate.reached()
        (before,) = first.service.running
        silence(first)
        holder = first.service._runner.id
        other = Runner(two.repository, str(tmp_path / "other"))
        other.beat()
        given = claim(two.repository, other.id, "count", "main", holder, _beat_of(two, holder))
        assert given.tenure is not None
        gate.release()
        while first.service.running:
            await trio.sleep(0.01)
    assert one.head("count") is None
    record = two.repository.store.get("pipelines/count/job")[0]
    assert before.id.encode() in record
    assert not list(one.store.list("jobs/"))


def _shared(shop: Workshop) -> int:
    """How many results of the job in flight the store knows of."""
    found = read_standing(shop.store, "count")
    return 0 if found is None else sum(map(len, results_of(shop.store, found[0])))


def _beat_of(shop: Workshop, holder: str) -> str:
    found: str = json.loads(shop.store.get(f"runners/{holder}")[0])["nonce"]
    return found


async def test_a_holder_that_lives_is_not_robbed(nodes: tuple[Workshop, Workshop]) -> None:
    one, two = nodes
    one.put({"a": "1"})
    create(one, spec(cmd=COPY))
    async with one.service(users=ROOT) as first:
        await first.job()
        found = claim(two.repository, "two", "count", "main", first.service._runner.id, "an old beat")
    assert found.tenure is None


async def test_a_restart_need_not_wait_for_its_own_predecessor(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd=COPY))
    async with shop.service(users=ROOT, life_s=1000) as running:
        await running.job()
        silence(running)
    assert len(list(shop.store.list("runners/"))) == 1
    shop.put({"b": "2"})
    with trio.fail_after(120):
        async with shop.service(users=ROOT, life_s=1000) as running:
            await running.job()
    assert not list(shop.store.list("runners/"))


async def test_a_tenure_that_is_over_takes_no_more_notes(nodes: tuple[Workshop, Workshop]) -> None:
    one, two = nodes
    one.put({"a": "1"})
    create(one, spec(cmd=COPY))
    async with one.service(users=ROOT) as running:
        job = await running.job()
    old = claim(one.repository, "one", "count", "main", "", "").tenure
    assert old is not None and old.take_over() == job
    new = claim(two.repository, "two", "count", "main", "one", "").tenure
    assert new is not None
    new.note(job)
    with pytest.raises(Unavailable, match="taken over by another node"):
        old.note(job)
    with pytest.raises(Unavailable, match="taken over by another node"):
        old.admit(two.repository.refs.head("count", "main"))


async def test_a_node_without_work_asks_the_store_for_nothing(shop: Workshop) -> None:
    create(shop, spec(cmd=COPY))
    async with shop.service(users=ROOT, life_s=0.3):
        await trio.sleep(0.5)
    assert not list(shop.store.list("runners/"))
    assert shop.repository.refs.head("count", "main").head.epoch == 0


async def test_a_node_at_rest_costs_its_beat_however_many_pipelines_it_has(tmp_path: Path) -> None:
    store = CountingStore(LocalStore(str(tmp_path / "counted")))
    shop = Workshop(tmp_path, store)
    shop.put({"a": "1"})
    names = [f"p{number}" for number in range(5)]
    for name in names:
        create(shop, spec(name, cmd=COPY))
    async with shop.service(users=ROOT, life_s=1.0) as running:
        await running.jobs(len(names))
        beat = running.service._runner.beat
        done = trio.Event()
        after: list[Mapping[str, Traffic]] = []

        def counted() -> None:
            if not after:
                store.reset()
            beat()
            after.append(store.traffic())
            if len(after) == 4:
                trio.from_thread.run_sync(done.set)

        running.service._runner.beat = counted  # type: ignore[method-assign]
        await done.wait()
    writes = {kind: found.requests for kind, found in after[3].items() if kind.startswith(("put", "delete"))}
    assert writes == {"put": 4}
    shop.close()
