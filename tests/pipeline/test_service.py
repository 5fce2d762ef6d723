from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.pipeline.workshop import Workshop, spec
from vfsd.model.datum import DatumState
from vfsd.model.errors import Unavailable
from vfsd.model.ids import CommitId
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.ledger import DatumStats, LedgerReader, job_datums
from vfsd.pipeline.outcome import Outcomes
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import PipelineState
from vfsd.repo.repository import now_ns
from vfsd.store.faulty import Fault, FaultyStore, Request, no_faults
from vfsd.store.local import LocalStore

COPY = 'cp -r "$texts" "$VFSD_OUT/$(basename "$texts")"'
UPPER = 'tr a-z A-Z < "$texts" > "$VFSD_OUT/$(basename "$texts")"'


def create(shop: Workshop, wanted: PipelineSpec) -> None:
    shop.registry.create(wanted, now_ns())


def ran(shop: Workshop, record: JobRecord) -> dict[str, DatumStats]:
    """shown datum → stats of the datums that ran in a job."""
    reader = LedgerReader(shop.repository)
    return {
        reader.shown(datum.entry): reader.stats(datum.entry)
        for datum in job_datums(shop.repository, record)
        if datum.state is not DatumState.SKIPPED
    }


def logs(shop: Workshop, record: JobRecord) -> str:
    reader = LedgerReader(shop.repository)
    return "".join(
        piece.decode() for datum in job_datums(shop.repository, record) for piece in reader.log(datum.entry)
    )


class Gate:
    """A file of an input that no datum gets through before the test lets it."""

    def __init__(self, shop: Workshop, name: str) -> None:
        self.places: dict[str, bytes] = {}
        self.held: list[int] = []
        self.made = trio.Event()
        snapshot = shop.snapshot

        def with_gate(repo: str, branch: str, commit: CommitId) -> bytes:
            place = snapshot(repo, branch, commit)
            path = place + b"/" + name.encode()
            if repo == "texts" and commit not in self.places and os.path.exists(path):
                os.unlink(path)
                os.mkfifo(path)
                self.places[commit] = path
                self.made.set()
            return place

        shop.snapshot = with_gate  # type: ignore[method-assign]

    async def reached(self) -> None:
        """Wait until a datum reads the file."""
        await self.made.wait()
        path = list(self.places.values())[-1]
        self.held.append(await trio.to_thread.run_sync(os.open, path, os.O_WRONLY))

    def release(self) -> None:
        """Let those that read it through."""
        while self.held:
            os.close(self.held.pop())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    """A store with the empty repo `texts`, whose jobs leave nothing behind."""
    made = Workshop(tmp_path)
    yield made
    made.close()
    scratch = tmp_path / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())


@pytest.fixture
def gate(shop: Workshop) -> Iterator[Gate]:
    """The file `gate` of the input `texts`."""
    made = Gate(shop, "gate")
    yield made
    made.release()


async def test_each_datum_is_worked_on_and_their_outputs_become_one_commit(shop: Workshop) -> None:
    shop.put({"a": "one", "d/b": "two"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert job.datums == DatumCounts(total=2, success=2)
    assert shop.files("count") == {"a": b"one", "d/b": b"two"}
    assert 0 < job.created <= job.started <= job.finished


async def test_the_output_commit_says_what_it_came_from(shop: Workshop) -> None:
    source = shop.put({"a": "one"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        job = await running.job()
    made = shop.head("count")
    assert made is not None
    header = made.header
    assert (made.id, header.job, header.pipeline, header.author) == (job.output, job.id, "count", "tester")
    assert header.global_id == job.global_id == source.header.global_id
    (edge,) = header.provenance
    assert (edge.repo, edge.branch, edge.commit, edge.name) == ("texts", "main", source.id, "texts")


async def test_one_changed_file_of_many_is_one_datum(shop: Workshop) -> None:
    shop.put({f"f{number}": f"text {number}" for number in range(20)})
    create(shop, spec(cmd=UPPER))
    async with shop.service() as running:
        await running.job()
        shop.put({"f7": "changed"})
        job = await running.job()
    assert job.datums == DatumCounts(total=20, success=1, skipped=19)
    assert list(ran(shop, job)) == ["texts:/f7"]
    files = shop.files("count")
    assert (files["f7"], files["f8"], len(files)) == (b"CHANGED", b"TEXT 8", 20)


async def test_an_input_that_goes_takes_its_output_with_it(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        await running.job()
        shop.put({"a": None})
        job = await running.job()
    assert job.datums == DatumCounts(total=1, skipped=1)
    assert shop.files("count") == {"b": b"2"}


async def test_a_commit_that_changes_no_content_still_carries_its_global_id_down(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(glob="/a", cmd=COPY))
    create(shop, spec("next", "count", cmd="true"))
    async with shop.service() as running:
        await running.job("next")
        source = shop.put({"other": "2"})
        job = await running.job("next")
    assert job.datums == DatumCounts(total=1, skipped=1)
    assert job.global_id == source.header.global_id
    records = shop.repository.refs.global_records(source.header.global_id)
    assert {repo for repo, _ in records} == {"texts", "count", "next"}


async def test_a_pipeline_on_a_pipelines_output_fires_in_turn(shop: Workshop) -> None:
    source = shop.put({"a": "3", "b": "4"})
    create(shop, spec(cmd=COPY))
    create(shop, spec("sum", "count", "/", cmd='cat "$count"/* | wc -c > "$VFSD_OUT/total"'))
    async with shop.service() as running:
        job = await running.job("sum")
    assert shop.files("sum") == {"total": b"2\n"}
    assert job.global_id == source.header.global_id
    middle = shop.head("count")
    assert middle is not None
    assert job.commits == (middle.id,)


async def test_a_pipeline_made_while_all_runs_works_at_once(shop: Workshop) -> None:
    shop.put({"a": "1"})
    async with shop.service() as running:
        create(shop, spec(cmd=COPY))
        await running.job()
    assert shop.files("count") == {"a": b"1"}


async def test_a_pipeline_waits_for_the_first_commit(shop: Workshop) -> None:
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        shop.put({"a": "1"})
        job = await running.job()
    assert job.datums.total == 1
    assert shop.records.last("count") == job


async def test_no_matches_make_an_empty_output(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(glob="/nothing*"))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.datums.total) == (JobState.SUCCESS, 0)
    assert shop.files("count") == {}
    assert job.output is not None


async def test_user_code_sees_its_inputs_and_its_names(shop: Workshop) -> None:
    source = shop.put({"d/a b": "text"})
    script = (
        'cat "/pfs/texts/d/a b"; echo; echo "$texts" "$texts_COMMIT" "$PACH_JOB_ID" "$VFSD_DATUM_ID" '
        '"$PACH_OUTPUT_COMMIT_ID"; ls /pfs /pfs/texts'
    )
    create(shop, spec(glob="/d", cmd=script))
    async with shop.service() as running:
        if running.service.sandbox_problem:
            pytest.skip(f"/pfs is the sandbox's: {running.service.sandbox_problem}")
        job = await running.job()
    (datum,) = job_datums(shop.repository, job)
    wanted = f"text\n/pfs/texts/d {source.id} {job.id} {datum.id} {source.header.global_id}\n"
    assert logs(shop, job) == wanted + "/pfs:\nout\ntexts\n\n/pfs/texts:\nd\n"


# Failures


async def test_a_failed_job_leaves_the_branch_and_its_successes_are_not_done_again(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2", "bad": "x"})
    create(shop, spec(cmd=f'echo "at $texts" >&2; grep -q [0-9] "$texts"; {COPY}', datum_tries=2))
    async with shop.service() as running:
        job = await running.job()
        assert (job.state, job.output) == (JobState.FAILURE, None)
        assert job.reason == "1 of 3 datums failed; the first was texts:/bad: exit code 1"
        assert job.datums == DatumCounts(total=3, success=2, failed=1)
        assert shop.head("count") is None
        failed = {name: stats for name, stats in ran(shop, job).items() if stats.state is DatumState.FAILED}
        assert {name: (stats.attempts, stats.exit_code) for name, stats in failed.items()} == {"texts:/bad": (2, 1)}
        assert "at /pfs/texts/bad" in logs(shop, job) or running.service.sandbox_problem
        shop.put({"bad": "3"})
        job = await running.job()
    assert job.datums == DatumCounts(total=3, success=1, skipped=2)
    assert shop.files("count") == {"a": b"1", "b": b"2", "bad": b"3"}


async def test_what_a_failed_job_did_is_merged_later_over_what_was_there(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd=f'test "$(cat "$texts")" != bad; {COPY}', datum_tries=1))
    async with shop.service() as running:
        await running.job()
        shop.put({"a": "new", "b": "bad", "c": "3"})
        assert (await running.job()).state is JobState.FAILURE
        assert shop.files("count") == {"a": b"1", "b": b"2"}
        shop.put({"b": None})
        job = await running.job()
    assert job.datums == DatumCounts(total=2, skipped=2)
    assert shop.files("count") == {"a": b"new", "c": b"3"}


async def test_two_datums_that_write_one_path_fail_the_job_which_names_both(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd='cp "$texts" "$VFSD_OUT/same"'))
    async with shop.service() as running:
        job = await running.job()
        assert job.state is JobState.FAILURE
        named = {"two datums write same: texts:/a and texts:/b; only one may",
                 "two datums write same: texts:/b and texts:/a; only one may"}  # fmt: skip
        assert job.reason in named
        assert shop.head("count") is None
        shop.put({"b": None})
        job = await running.job()
    assert job.datums == DatumCounts(total=1, skipped=1)
    assert shop.files("count") == {"same": b"1"}


async def test_a_datum_gets_its_tries(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd="false", datum_tries=4))
    async with shop.service() as running:
        job = await running.job()
    assert [stats.attempts for stats in ran(shop, job).values()] == [4]


async def test_a_datum_has_its_time(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd="sleep 1000", datum_tries=1, datum_timeout="100ms"))
    async with shop.service() as running:
        job = await running.job()
    assert job.reason == "1 of 1 datums failed; the first was texts:/a: timed out after 0.1 s"


async def test_a_job_has_its_time(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd="sleep 1000", job_timeout="200ms"))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.KILLED, "timed out after 200ms")


async def test_a_command_that_is_not_there_is_said(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(transform={"cmd": ["no-such-command"]}, datum_tries=1))
    async with shop.service() as running:
        job = await running.job()
    assert job.state is JobState.FAILURE
    assert "no-such-command" in job.reason


async def test_a_lost_output_branch_is_a_failure_that_says_so(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd=COPY))
    shop.repository.refs.delete_branch("count", "main")
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.FAILURE, "there is no branch main in repo count")


# What users ask for while it runs


async def test_of_commits_that_come_while_a_job_runs_the_newest_is_next(shop: Workshop, gate: Gate) -> None:
    shop.put({"gate": ""})
    create(shop, spec(cmd='cat "$texts" > /dev/null; echo done > "$VFSD_OUT/$(basename "$texts")"'))
    async with shop.service() as running:
        await gate.reached()
        shop.put({"x": "1", "gate": None})
        newest = shop.put({"y": "2"})
        gate.release()
        first, second = await running.jobs(2)
    assert first.datums.total == 1
    assert second.commits == (newest.id,)
    assert sorted(shop.files("count")) == ["x", "y"]
    assert len(list(shop.records.all("count"))) == 2


async def test_a_stopped_job_ends_and_keeps_what_it_did(shop: Workshop, gate: Gate) -> None:
    shop.put({"a": "1", "gate": ""})
    create(shop, spec(cmd=f'cat "$texts" > /dev/null; {COPY}', parallelism_spec={"constant": 1}))
    async with shop.service() as running:
        await gate.reached()
        (record,) = running.service.running
        shop.registry.stop_job("count", record.id)
        job = await running.job()
        assert (job.id, job.state, job.reason) == (record.id, JobState.KILLED, "stopped by a user")
        assert shop.head("count") is None
        shop.put({"gate": None})
        job = await running.job()
    assert job.datums == DatumCounts(total=1, skipped=1)
    assert shop.files("count") == {"a": b"1"}


async def test_a_stopped_pipeline_rests_until_it_is_started(shop: Workshop) -> None:
    create(shop, spec(cmd=COPY))
    create(shop, spec("beside", cmd=COPY))
    shop.registry.set_state("count", PipelineState.STOPPED)
    async with shop.service() as running:
        shop.put({"a": "1"})
        await running.job("beside")
        shop.put({"a": "2"})
        await running.job("beside")
        shop.registry.set_state("count", PipelineState.RUNNING)
        await running.job()
    assert shop.files("count") == {"a": b"2"}
    assert len(list(shop.records.all("count"))) == 1


async def test_a_job_asked_for_runs_over_the_same_commit_and_tries_what_failed(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd="false", datum_tries=1))
    async with shop.service() as running:
        first = await running.job()
        shop.registry.run("count")
        second = await running.job()
    assert first.commits == second.commits
    assert second.datums == DatumCounts(total=1, failed=1)


async def test_an_update_does_everything_again_and_ends_the_job_of_the_old_version(shop: Workshop, gate: Gate) -> None:
    shop.put({"a": "abc", "gate": ""})
    create(shop, spec(cmd='cat "$texts" > /dev/null', parallelism_spec={"constant": 1}))
    async with shop.service() as running:
        await gate.reached()
        shop.registry.update(spec(glob="/a", cmd=UPPER), now_ns())
        first, second = await running.jobs(2)
    assert (first.state, first.version, first.reason) == (JobState.KILLED, 1, "the pipeline was updated")
    assert (second.state, second.version) == (JobState.SUCCESS, 2)
    assert second.datums == DatumCounts(total=1, success=1)
    assert shop.files("count") == {"a": b"ABC"}


async def test_an_update_that_changes_no_datum_does_nothing_again(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        await running.job()
        shop.registry.update(spec(cmd=COPY, datum_tries=7), now_ns())
        assert (await running.job()).datums == DatumCounts(total=2, skipped=2)
        shop.registry.update(spec(cmd=COPY, glob="/{a,b}"), now_ns())
        assert (await running.job()).datums == DatumCounts(total=2, skipped=2)
        shop.registry.update(spec(cmd=COPY, glob="/b"), now_ns())
        assert (await running.job()).datums == DatumCounts(total=1, skipped=1)
    assert shop.files("count") == {"b": b"2"}


async def test_a_deleted_pipelines_job_ends(shop: Workshop, gate: Gate) -> None:
    shop.put({"gate": ""})
    create(shop, spec(cmd='cat "$texts"'))
    async with shop.service() as running:
        await gate.reached()
        shop.registry.delete("count")
        job = await running.job()
    assert (job.state, job.reason) == (JobState.KILLED, "the pipeline was deleted")


async def test_a_pipeline_made_again_takes_over_what_its_namesake_did(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        await running.job()
        shop.registry.delete("count")
        shop.repository.refs.delete_branch("count", "main")
        create(shop, spec(cmd=COPY))
        job = await running.job()
    assert (job.version, job.datums) == (2, DatumCounts(total=1, skipped=1))
    assert shop.files("count") == {"a": b"1"}


# Restarts


async def test_a_restart_goes_on_with_the_job_and_runs_nothing_again(shop: Workshop, gate: Gate) -> None:
    shop.put({"a": "1", "gate": ""})
    script = 'cat "$texts" > /dev/null; date > "$VFSD_OUT/$(basename "$texts")"'
    create(shop, spec(cmd=script, parallelism_spec={"constant": 1}))
    async with shop.service() as running:
        await gate.reached()
        (before,) = running.service.running
    restarted = now_ns()
    gate.release()
    async with shop.service() as running:
        await gate.reached()
        gate.release()
        job = await running.job()
    assert (job.id, job.state) == (before.id, JobState.SUCCESS)
    assert job.datums == DatumCounts(total=2, success=2)
    stats = ran(shop, job)
    assert stats["texts:/a"].finished < restarted < stats["texts:/gate"].started
    assert sorted(shop.files("count")) == ["a", "gate"]


async def test_what_came_while_nothing_ran_is_worked_on_at_the_start(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        await running.job()
    async with shop.service():
        pass
    assert len(list(shop.records.all("count"))) == 1
    shop.put({"b": "2"})
    async with shop.service() as running:
        job = await running.job()
    assert job.datums == DatumCounts(total=2, success=1, skipped=1)


async def test_a_job_whose_record_could_not_be_written_is_finished_later(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd=COPY))
    written = Outcomes.success
    tries = []

    def fails_once(self: Outcomes, record: JobRecord, output: CommitId) -> JobRecord:
        tries.append(record)
        if len(tries) == 1:
            raise Unavailable("the store is away")
        return written(self, record, output)

    monkeypatch.setattr(Outcomes, "success", fails_once)
    async with shop.service() as running:
        first = await running.job()
        shop.put({"b": "2"})
        second = await running.job()
    assert [record.id for record in tries] == [first.id, first.id, second.id]
    assert first.state is JobState.SUCCESS
    assert second.datums == DatumCounts(total=2, success=1, skipped=1)
    assert shop.files("count") == {"a": b"1", "b": b"2"}


@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.LOSE])
@pytest.mark.parametrize("where", ["commits/", "refs/count/", "jobs/", "globals/"])
async def test_a_store_that_is_away_for_a_moment_costs_no_result(tmp_path: Path, where: str, fault: Fault) -> None:
    store = FaultyStore(LocalStore(str(tmp_path / "faulty")))
    shop = Workshop(tmp_path / "shop", store)
    try:
        shop.put({"a": "1", "b": "2"})
        create(shop, spec(cmd=COPY))
        hits: list[Request] = []

        def plan(request: Request) -> Fault | None:
            if request.kind.startswith("put") and request.key.startswith(where) and not hits:
                hits.append(request)
                return fault
            return None

        store.plan = plan
        async with shop.service() as running:
            job = await running.job()
        store.plan = no_faults
        assert len(hits) == 1
        assert (job.state, job.datums) == (JobState.SUCCESS, DatumCounts(total=2, success=2))
        assert shop.files("count") == {"a": b"1", "b": b"2"}
        assert len(list(shop.records.all())) == 1
    finally:
        shop.close()


async def test_a_fresh_index_knows_from_the_store_what_is_done(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        first = await running.job()
    shop.repository.index.close()
    shop.open_index("fresh.sqlite")
    async with shop.service() as running:
        shop.put({"a": "3"})
        job = await running.job()
    assert job.base == first.id
    assert job.datums == DatumCounts(total=2, success=1, skipped=1)
    assert shop.files("count") == {"a": b"3", "b": b"2"}


async def test_a_record_lost_for_good_makes_everything_anew(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        first = await running.job()
    shop.repository.index.close()
    shop.store.delete(f"jobs/count/{first.id}")
    shop.open_index("fresh.sqlite")
    shop.put({"a": None})
    async with shop.service() as running:
        job = await running.job()
    assert job.datums == DatumCounts(total=1, success=1)
    assert shop.files("count") == {"b": b"2"}


async def test_a_job_of_a_pipeline_that_is_gone_is_ended_at_the_start(shop: Workshop, gate: Gate) -> None:
    shop.put({"gate": ""})
    create(shop, spec(cmd='cat "$texts"'))
    async with shop.service():
        await gate.reached()
    shop.registry.delete("count")
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.KILLED, "the pipeline was deleted")


async def test_a_broken_head_does_not_stop_the_others(shop: Workshop) -> None:
    shop.put({"a": "1"})
    create(shop, spec(cmd=COPY))
    shop.store.put("pipelines/broken/head", b"not json")
    async with shop.service() as running:
        await running.job()
    assert shop.files("count") == {"a": b"1"}


async def test_names_of_any_bytes_go_through(shop: Workshop) -> None:
    name = b"\xff caf\xc3\xa9 '\"\\$\n".decode(errors="surrogateescape")
    shop.put({name: "odd"})
    create(shop, spec(cmd='cp "$texts" "$VFSD_OUT/$(basename "$texts")"'))
    async with shop.service() as running:
        job = await running.job()
    assert job.state is JobState.SUCCESS, job.reason
    assert list(shop.files("count").values()) == [b"odd"]


async def test_as_many_datums_run_at_a_time_as_the_spec_says(shop: Workshop) -> None:
    shop.put({f"f{number}": "" for number in range(6)})
    create(shop, spec(cmd="sleep 0.1", parallelism_spec={"constant": 3}))
    async with shop.service() as running:
        job = await running.job()
    times = [(stats.started, stats.finished) for stats in ran(shop, job).values()]
    assert max(sum(start <= moment < end for start, end in times) for moment, _ in times) == 3
