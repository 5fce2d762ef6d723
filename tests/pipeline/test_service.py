from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.pipeline.rooms import needs_sandbox
from tests.pipeline.workshop import Workshop, spec
from vfsd.model.datum import DatumState
from vfsd.model.entry import Kind
from vfsd.model.errors import NotFound, Unavailable
from vfsd.model.ids import CommitId
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.location import parse_location
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.accounts import Accounts
from vfsd.pipeline.lease import Tenure
from vfsd.pipeline.ledger import DatumStats, LedgerDatum, LedgerReader, job_datums
from vfsd.pipeline.outcome import Outcomes
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import PipelineState
from vfsd.repo.refs import Head
from vfsd.repo.repository import now_ns
from vfsd.repo.tree import find, walk
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


def shown(shop: Workshop, datum: LedgerDatum) -> str:
    return LedgerReader(shop.repository).shown(datum.entry)


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
    scratch = tmp_path / "scratch-node"
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
    assert [edge.commit for edge in job.inputs] == [middle.id]


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


async def test_a_lost_output_branch_is_made_again_with_what_was_in_it(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd=COPY))
    async with shop.service() as running:
        await running.job()
        shop.repository.refs.delete_branch("count", "main")
        shop.put({"b": "3"})
        job = await running.job()
    assert (job.state, job.datums) == (JobState.SUCCESS, DatumCounts(total=2, success=1, skipped=1))
    assert shop.files("count") == {"a": b"1", "b": b"3"}


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
    assert [edge.commit for edge in second.inputs] == [newest.id]
    assert sorted(shop.files("count")) == ["x", "y"]
    assert len(list(shop.records.all("count"))) == 2


async def test_each_commit_makes_a_job_where_the_spec_says_so(shop: Workshop, gate: Gate) -> None:
    shop.put({"gate": ""})
    script = 'cat "$texts" > /dev/null; echo done > "$VFSD_OUT/$(basename "$texts")"'
    create(shop, spec(cmd=script, every_commit=True))
    async with shop.service() as running:
        await gate.reached()
        commits = [shop.put({name: name, "gate": None}).id for name in ("x", "y", "z")]
        gate.release()
        jobs = await running.jobs(4)
        shop.registry.run("count")
        again = await running.job()
    assert [job.inputs[0].commit for job in jobs[1:]] == commits
    assert [job.datums.total for job in jobs] == [1, 1, 2, 3]
    assert again.inputs == jobs[-1].inputs
    assert sorted(shop.files("count")) == ["x", "y", "z"]


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
    assert first.inputs == second.inputs
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


async def test_what_a_failed_job_wrote_can_be_looked_at_and_the_branch_stays(shop: Workshop) -> None:
    shop.put({"a": "good"})
    script = f'{COPY}; grep -q good "$texts"'
    create(shop, spec(cmd=script, datum_tries=1))

    def seen(job: JobRecord) -> dict[str, bytes]:
        return shop.tree(shop.repository.root(parse_location(f"count/main@job-{job.id[:12]}")))

    async with shop.service() as running:
        await running.job()
        shop.put({"b": "bad", "c": "good too"})
        failed = await running.job()
        assert (failed.state, shop.files("count")) == (JobState.FAILURE, {"a": b"good"})
        assert seen(failed) == {"b": b"bad", "c": b"good too"}
        shop.repository.refs.create_tag("count", f"job-{failed.id[0]}x", CommitId("c" * 64), 1)
        for digits in (1, 4, 31, 32):
            assert shop.repository.root(parse_location(f"count/main@job-{failed.id[:digits]}"))
        with pytest.raises(NotFound, match="there is no tag job-"):
            shop.repository.root(parse_location(f"count/main@job-{failed.id[:-1]}x"))
        assert [branch for _, branch, _ in shop.repository.refs.branches("count")] == ["main"]
        shop.put({"b": "worse"})
        again = await running.job()
    assert seen(again) == {"b": b"worse"}
    shop.repository.refs.delete_tag("count", f"job-{failed.id[0]}x")
    assert [tag for tag, _ in shop.repository.refs.tags("count")] == [f"job-{again.id}"]
    shop.repository.refs.delete_tag("count", f"job-{again.id[:12]}")
    assert list(shop.repository.refs.tags("count")) == []


async def test_of_datums_that_write_the_same_path_each_output_can_be_looked_at(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd='cp "$texts" "$VFSD_OUT/same"'))
    async with shop.service() as running:
        job = await running.job()
    root = shop.repository.root(parse_location(f"count/main@job-{job.id[:12]}"))
    datums = {datum.id[:12]: shown(shop, datum)[-1:] for datum in job_datums(shop.repository, job)}
    wanted = {"a": b"1", "b": b"2"}
    assert shop.tree(root) == {f"{id_}/same": wanted[name] for id_, name in datums.items()}


async def test_a_job_is_unrunnable_when_one_that_it_needs_failed_and_runs_once_that_succeeds(shop: Workshop) -> None:
    shop.put({"a": "good"})
    create(shop, spec(cmd=f'grep -q good "$texts"; {COPY}', datum_tries=1))
    create(shop, spec("next", "count", cmd="true"))
    create(shop, spec("last", "next", cmd="true"))
    async with shop.service() as running:
        assert (await running.job("last")).state is JobState.SUCCESS
        source = shop.put({"a": "bad"})
        failed, last, middle = sorted(await running.jobs(3), key=lambda job: job.pipeline)
        assert [job.pipeline for job in (failed, middle, last)] == ["count", "next", "last"]
        assert [job.state for job in (middle, last)] == [JobState.UNRUNNABLE] * 2
        assert middle.reason == f"job {failed.id[:12]} of pipeline count: failure"
        assert last.reason == f"job {middle.id[:12]} of pipeline next: unrunnable"
        assert {job.global_id for job in (failed, middle, last)} == {source.header.global_id}
        shop.put({"a": "good again"})
        job = await running.job("last")
    assert job.state is JobState.SUCCESS
    assert len(list(shop.records.all())) == 9


async def test_chosen_datums_are_run_again_and_what_they_had_written_is_replaced(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd='date +%N > "$VFSD_OUT/$(basename "$texts")"'))
    async with shop.service() as running:
        first = await running.job()
        before = shop.files("count")
        (chosen,) = [datum.id for datum in job_datums(shop.repository, first) if "/a" in shown(shop, datum)]
        shop.registry.run("count", redo=(chosen,))
        second = await running.job()
        after = shop.files("count")
        shop.put({"c": "3"})
        third = await running.job()
    assert second.datums == DatumCounts(total=2, success=1, skipped=1)
    assert before["a"] != after["a"] and before["b"] == after["b"]
    assert third.datums == DatumCounts(total=3, success=1, skipped=2), "what was asked for once is done once"


async def test_all_datums_are_run_again_when_that_is_asked_for(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    create(shop, spec(cmd='date +%N > "$VFSD_OUT/$(basename "$texts")"'))
    async with shop.service() as running:
        await running.job()
        before = shop.files("count")
        shop.registry.run("count", again=True)
        job = await running.job()
    assert job.datums == DatumCounts(total=2, success=2)
    assert all(before[name] != content for name, content in shop.files("count").items())


async def test_a_restart_that_is_asked_for_ends_the_job_and_begins_another(shop: Workshop, gate: Gate) -> None:
    shop.put({"a": "1", "gate": ""})
    create(shop, spec(cmd='cat "$texts" > "$VFSD_OUT/$(basename "$texts")"', parallelism_spec={"constant": 1}))
    async with shop.service() as running:
        await gate.reached()
        (record,) = running.service.running
        shop.registry.run("count", stop=record.id)
        assert (await running.job()).state is JobState.KILLED
        await gate.reached()
        gate.release()
        job = await running.job()
    assert (job.state, job.datums) == (JobState.SUCCESS, DatumCounts(total=2, success=1, skipped=1))


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
    written = Outcomes.committed
    tries = []

    def fails_once(self: Outcomes, record: JobRecord, tenure: Tenure | None) -> JobRecord:
        tries.append(record)
        if len(tries) == 1:
            raise Unavailable("the store is away")
        return written(self, record, tenure)

    monkeypatch.setattr(Outcomes, "committed", fails_once)
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


async def test_a_job_that_somebody_was_told_has_ended_is_nowhere_said_to_run(tmp_path: Path) -> None:
    store = FaultyStore(LocalStore(str(tmp_path / "store")))
    shop = Workshop(tmp_path / "shop", store)
    elsewhere = Workshop(tmp_path / "elsewhere", LocalStore(str(tmp_path / "store")), node="other")
    seen: list[list[JobRecord]] = []

    def plan(request: Request) -> Fault | None:
        if request.kind.startswith("put") and request.key.startswith("jobs/") and not seen:
            for node in (shop, elsewhere):
                newest = node.records.newest("count")
                assert newest is not None
                again = node.records.again(newest)
                seen.append([again, *node.records.known("count"), node.records.find(newest.id[:6])])
        return None

    try:
        shop.put({"a": "1"})
        create(shop, spec(cmd=COPY))
        store.plan = plan
        async with shop.service() as running:
            job = await running.job()
        store.plan = no_faults
        assert seen == [[job] * 3] * 2
        for node in (shop, elsewhere):
            assert node.records.known() == [job]
    finally:
        shop.close()
        elsewhere.close()


async def test_the_output_of_a_job_is_shown_before_anybody_hears_that_the_job_has_ended(tmp_path: Path) -> None:
    store = FaultyStore(LocalStore(str(tmp_path / "store")))
    shop = Workshop(tmp_path / "shop", store)
    happened: list[str] = []

    def plan(request: Request) -> Fault | None:
        if request.kind.startswith("put") and request.key.startswith(("refs/", "pipelines/", "jobs/")):
            happened.append(request.key.rpartition("/")[0])
        return None

    async def show(head: Head) -> None:
        assert shop.head("count") is not None and head.commit == shop.repository.refs.head("count", "main").commit
        await trio.sleep(0.01)
        happened.append("shown")

    try:
        shop.put({"a": "1"})
        create(shop, spec(cmd=COPY))
        store.plan = plan
        async with shop.service(show=show) as running:
            await running.job()
        store.plan = no_faults
        moved = len(happened) - happened[::-1].index("refs/count") - 1
        assert happened[moved:] == ["refs/count", "shown", "pipelines/count", "jobs/count"]
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
    shop.store.delete("pipelines/count/job")
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
    gates = [Gate(shop, f"f{number}") for number in range(3)]
    shop.put({f"f{number}": "" for number in range(6)})
    create(shop, spec(cmd='cat "$texts"', parallelism_spec={"constant": 3}))
    async with shop.service() as running:
        for gate in gates:
            await gate.reached()
        for gate in gates:
            gate.release()
        job = await running.job()
    times = [(stats.started, stats.finished) for stats in ran(shop, job).values()]
    assert max(sum(start <= moment < end for start, end in times) for moment, _ in times) == 3


def transform(script: str, **more: Any) -> dict[str, Any]:
    """A spec's transform, whose command is a shell script."""
    return {"transform": {"cmd": ["sh", "-ec", script], **more}}


async def test_a_datum_whose_err_cmd_works_is_recovered_and_tried_again_by_the_next_job(shop: Workshop) -> None:
    shop.put({"a": "good", "b": "bad"})
    script = f'echo tried; [ "$(cat "$texts")" = good ]; {COPY}'
    more = {"err_cmd": ["sh"], "err_stdin": ["echo sorry: $VFSD_DATUM_ID", "echo x > $VFSD_OUT/sorry"]}
    create(shop, spec(datum_tries=2, **transform(script, **more)))
    async with shop.service() as running:
        job = await running.job()
        assert (job.state, job.reason) == (JobState.SUCCESS, "")
        assert job.datums == DatumCounts(total=2, success=1, recovered=1)
        assert shop.files("count") == {"a": b"good"}
        (bad,) = [datum for datum in job_datums(shop.repository, job) if datum.state is DatumState.RECOVERED]
        log = b"".join(LedgerReader(shop.repository).log(bad.entry)).decode()
        assert log.splitlines() == ["tried", f"sorry: {bad.id}"]
        assert LedgerReader(shop.repository).stats(bad.entry).reason == "exit code 1"
        shop.put({"c": "good"})
        job = await running.job()
    assert job.datums == DatumCounts(total=3, success=1, skipped=1, recovered=1)
    assert sorted(ran(shop, job)) == ["texts:/b", "texts:/c"]


async def test_an_err_cmd_that_fails_too_fails_the_datum(shop: Workshop) -> None:
    shop.put({"a": "x"})
    create(shop, spec(datum_tries=1, **transform("exit 3", err_cmd=["false"])))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.datums) == (JobState.FAILURE, DatumCounts(total=1, failed=1))
    assert "exit code 3" in job.reason


async def test_exit_codes_may_be_declared_a_success(shop: Workshop) -> None:
    shop.put({"a": "3", "b": "4"})
    create(shop, spec(datum_tries=1, **transform(f'{COPY}; exit "$(cat "$texts")"', accept_return_code=[3, 7])))
    async with shop.service() as running:
        job = await running.job()
    assert job.datums == DatumCounts(total=2, success=1, failed=1)
    assert {name: stats.exit_code for name, stats in ran(shop, job).items()} == {"texts:/a": 3, "texts:/b": 4}


async def test_what_a_failed_datum_had_written_can_be_looked_at_if_it_is_not_too_much(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfsd.pipeline.runner.PARTIAL_FILES", 3)
    shop.put({"a": "2", "b": "5"})
    script = 'for n in $(seq "$(cat "$texts")"); do echo "$n" > "$VFSD_OUT/$n"; done; exit 1'
    create(shop, spec(cmd=script))
    async with shop.service() as running:
        job = await running.job()
    reader = LedgerReader(shop.repository)
    kept = {reader.shown(datum.entry): reader.output(datum.entry) for datum in job_datums(shop.repository, job)}
    assert kept["texts:/a"] is not None
    assert shop.tree(kept["texts:/a"]) == {"1": b"1\n", "2": b"2\n"}
    assert kept["texts:/b"] is None
    assert shop.files("count") == {}


async def test_a_user_who_may_not_run_datums_here_is_named_in_the_jobs_reason(shop: Workshop) -> None:
    shop.put({"a": "x"})
    create(shop, spec(**transform("true", user="daemon")))
    async with shop.service() as running:
        job = await running.job()
    assert job.state is JobState.FAILURE
    assert job.reason.startswith("transform.user: ") and "daemon" in job.reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be kept from running datums as root")
async def test_without_a_sandbox_nothing_runs_as_root_unless_the_node_says_so(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfsd.pipeline.service.sandbox_works", lambda: "there is none")
    shop.put({"a": "x"})
    create(shop, spec(cmd='id -u > "$VFSD_OUT/${texts##*/}"'))
    async with shop.service() as running:
        job = await running.job()
    assert job.state is JobState.FAILURE
    assert "pipeline_users" in job.reason
    shop.put({"b": "x"})
    async with shop.service(users=["root"]) as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")


async def test_every_job_skips_no_datum_and_keeps_no_old_output(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    script = 'date +%N > "$VFSD_OUT/${texts##*/}-$(date +%N)"'
    create(shop, spec(cmd=script, reprocess_spec="every_job"))
    async with shop.service() as running:
        first = await running.job()
        before = shop.files("count")
        shop.put({"b": None, "c": "3"})
        job = await running.job()
    assert (first.datums, job.datums) == (DatumCounts(total=2, success=2), DatumCounts(total=2, success=2))
    after = shop.files("count")
    assert sorted(name[0] for name in after) == ["a", "c"]
    assert not before.keys() & after.keys()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """A directory with the secret `db`."""
    folder = tmp_path / "secrets/db"
    folder.mkdir(parents=True)
    for name, content in (("password", "open sesame\n"), ("user", "me"), ("key.pem", "-----\nsecret line\n")):
        path = folder / name
        path.touch(0o600)
        path.write_text(content)
    return folder.parent


@needs_sandbox
async def test_secrets_come_as_variables_and_files_and_nothing_shows_them(shop: Workshop, secrets: Path) -> None:
    shop.put({"a": "x"})
    given = [
        {"name": "db", "key": "password", "env_var": "DB_PASSWORD"},
        {"name": "db", "mount_path": "/my-app/db"},
        {"name": "db", "key": "user", "mount_path": "/var/lib"},
    ]
    script = """
    echo "it is <$DB_PASSWORD>"; cat /my-app/db/key.pem; (echo x > /my-app/db/new) 2>/dev/null && echo wrote
    stat -c '%a %u' /my-app/db/user; ls /my-app/db /var/lib
    printf %s "$DB_PASSWORD" | wc -c > "$VFSD_OUT/size"
    """
    create(shop, spec(**transform(script, secrets=given)))
    async with shop.service(secrets=str(secrets)) as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert shop.files("count") == {"size": b"11\n"}
    owner = Accounts(("nobody",)).of("").uid
    assert logs(shop, job).splitlines() == [
        "it is <***>", "***", f"400 {owner}", "/my-app/db:", "key.pem", "password", "user", "", "/var/lib:", "user",
    ]  # fmt: skip
    places = [str(shop.folder / "store"), str(shop.folder / "scratch-node")]
    kept = subprocess.run(["grep", "-r", "-l", "-a", "sesame", *places], check=False)
    assert kept.returncode == 1


async def test_a_secret_that_others_can_read_or_that_is_not_there_fails_the_job(shop: Workshop, secrets: Path) -> None:
    shop.put({"a": "x"})
    create(shop, spec(**transform("true", secrets=[{"name": "db", "key": "password", "env_var": "P"}])))
    create(shop, spec("other", **transform("true", secrets=[{"name": "none", "key": "k", "env_var": "P"}])))
    (secrets / "db/password").chmod(0o640)
    async with shop.service(secrets=str(secrets)) as running:
        reasons = {job.pipeline: job.reason for job in await running.jobs(2)}
    path = secrets / "db/password"
    assert reasons["count"] == f"secret db/password: {path} is open to others (mode 0640): chmod 600 it"
    assert reasons["other"].startswith(f"secret none/k: {secrets}/none/k: No such file or directory: ")


@needs_sandbox
async def test_a_killed_warden_costs_no_try(shop: Workshop, gate: Gate) -> None:
    shop.put({"gate": "", "other": "x"})
    create(shop, spec(datum_tries=1, cmd='[ "$texts" != /pfs/texts/gate ] || read x < "$texts" || true'))
    others = set(children_of(os.getpid()))  # servers of other tests
    async with shop.service() as running:
        await gate.reached()
        wardens = [pid for child in set(children_of(os.getpid())) - others for pid in children_of(child)]
        assert wardens
        for warden in map(os.pidfd_open, wardens):
            signal.pidfd_send_signal(warden, signal.SIGKILL)
            await trio.lowlevel.wait_readable(warden)  # then nothing of it is left
            os.close(warden)
        gate.release()
        await gate.reached()
        gate.release()
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")


def children_of(pid: int) -> list[int]:
    """Ids of processes whose parent it is."""
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


@pytest.mark.parametrize("sandboxed", [pytest.param(True, marks=needs_sandbox), False])
async def test_a_link_to_an_input_becomes_what_it_points_to_and_moves_no_bytes(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, sandboxed: bool
) -> None:
    if not sandboxed:
        monkeypatch.setattr("vfsd.pipeline.service.sandbox_works", lambda: "there is none")
    source = shop.put({"d/big": os.urandom(3_000_000), "d/e/small": "small", "d/e/f/deep": "deep"})
    script = """
    cd "$VFSD_OUT"; mkdir in
    ln -s "$texts/big" file; ln -s "$texts/e" in/tree; ln -s "../$(realpath -s --relative-to=. "$texts")/e/small" in/rel
    ln -s file local; ln -s /etc/hostname away; mkdir empty; printf 'odd' > "$(printf 'a\\377\\n b')"
    echo x > one; ln one two
    """
    create(shop, spec(glob="/d", cmd=script))
    async with shop.service(users=["nobody" if sandboxed else "root"]) as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    made = shop.head("count")
    assert made is not None
    root, nodes = made.root, shop.repository.nodes
    big = find(nodes, source.root, (b"d", b"big"))
    file = find(nodes, root, (b"file",))
    assert (file.kind, file.digest, [chunk.id for chunk in file.chunks]) == (
        Kind.FILE, big.digest, [chunk.id for chunk in big.chunks],
    )  # fmt: skip
    files = shop.files("count")
    assert files["in/tree/small"] == files["in/rel"] == b"small"
    assert (files["in/tree/f/deep"], files["a\udcff\n b"], files["empty/"]) == (b"deep", b"odd", b"")
    assert files["one"] == files["two"] == b"x\n"
    (datum,) = job_datums(shop.repository, job)
    for path, entry in walk(nodes, root):
        assert entry.kind == Kind.DIR or entry.more.origin.hex() == datum.id, path
    assert find(nodes, root, (b"local",)).more.target == b"file"
    assert find(nodes, root, (b"away",)).more.target == b"/etc/hostname"
    shop.put({"d/e/small": "changed"})
    async with shop.service(users=["nobody" if sandboxed else "root"]) as running:
        await running.job()
    assert shop.files("count")["in/tree/small"] == b"changed"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("mkfifo /pfs/out/p", "/pfs/out/p is a named pipe: only files, directories and symbolic links can be kept"),
        ("ln -s /pfs/texts/b /pfs/out/l", "/pfs/out/l is a link to /pfs/texts/b, which is no input of this datum"),
        ("ln -s $texts/x /pfs/out/d", "/pfs/out/d is a link to /pfs/texts/a/x, and that is not there"),
    ],
)  # fmt: skip
@needs_sandbox
async def test_what_cannot_be_kept_fails_the_datum_and_is_named(shop: Workshop, script: str, why: str) -> None:
    shop.put({"a": "x"})
    create(shop, spec(datum_tries=1, cmd=f"echo said; {script}"))
    async with shop.service() as running:
        job = await running.job()
    (stats,) = ran(shop, job).values()
    assert stats.state is DatumState.FAILED
    assert stats.reason == f"its output cannot be kept: {why}"
    assert logs(shop, job) == "said\n"


def asking(script: str, **more: Any) -> dict[str, Any]:
    """A transform whose script asks for its datums by the shell function `next`, without the program's start-up."""
    ask = """
    next() {
        exec 3<>/dev/null; printf '%s\\n' "$1" | perl -MIO::Socket::UNIX -e '
            $s = IO::Socket::UNIX->new(Peer => $ENV{VFSD_NEXT}) or exit 2; print $s scalar <STDIN>; $s->flush;
            exit(<$s> eq "ok\\n" ? 0 : 1)'
    }
    """
    return {"transform": {"cmd": ["sh", "-c", ask + script], "datum_batching": True, **more}}


needs_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="perl asks for datums")


@needs_sandbox
@needs_perl
async def test_one_process_works_on_many_datums(shop: Workshop) -> None:
    shop.put({f"f{number}": f"text {number}" for number in range(20)})
    script = """
    id=$(cat /proc/sys/kernel/random/uuid); ls -A /pfs
    (ls /proc/1/root/ || readlink /proc/1/fd/0 || cat /proc/1/environ) 2>/dev/null && echo looked
    (unshare -Ur true || mount -t tmpfs x /tmp) 2>/dev/null && echo privileged
    while next; do
        . /pfs/.env
        echo "$VFSD_DATUM_ID: $(ls -A /pfs | tr '\\n' ' ')$(ls /pfs/texts)"
        (echo x >> "$texts") 2>/dev/null && echo wrote
        echo "$id" > "/pfs/out/$(basename "$texts")"
    done
    """
    create(shop, spec(parallelism_spec={"constant": 2}, **asking(script)))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert job.datums == DatumCounts(total=20, success=20)
    files = shop.files("count")
    assert len(files) == 20
    assert len(set(files.values())) <= 2
    reader = LedgerReader(shop.repository)
    for datum in job_datums(shop.repository, job):
        (one,) = reader.inputs(datum.entry)
        log = b"".join(reader.log(datum.entry)).decode()
        assert log.removeprefix(".next\nout\n") == f"{datum.id}: .env .next out texts {one.path.decode()[1:]}\n"


@needs_sandbox
@needs_perl
async def test_a_datum_of_many_may_fail_and_the_process_goes_on(shop: Workshop) -> None:
    shop.put({name: name for name in "abcd"})
    script = """
    why=
    while next "$why"; do
        . /pfs/.env; why=
        case "$(cat "$texts")" in b) why="no good";; c) exit 3;; *) cp "$texts" /pfs/out/;; esac
    done
    """
    create(shop, spec(datum_tries=1, parallelism_spec={"constant": 1}, **asking(script)))
    async with shop.service() as running:
        job = await running.job()
    assert job.datums == DatumCounts(total=4, success=2, failed=2)
    reasons = {name: stats.reason for name, stats in ran(shop, job).items()}
    assert reasons == {"texts:/a": "", "texts:/b": "no good", "texts:/c": "exit code 3", "texts:/d": ""}


@needs_sandbox
@needs_perl
async def test_many_datums_time_out_one_by_one(shop: Workshop, gate: Gate, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1
    shop.put({"a": "a", "gate": ""})
    script = 'while next; do . /pfs/.env; cat "$texts" > /pfs/out/copy; done'
    create(shop, spec(datum_tries=1, datum_timeout="100s", parallelism_spec={"constant": 1}, **asking(script)))
    async with shop.service() as running:
        await gate.reached()
        mock_clock.jump(100)
        job = await running.job()
    reasons = {name: stats.reason for name, stats in ran(shop, job).items()}
    assert reasons == {"texts:/a": "", "texts:/gate": "timed out after 100 s"}


@needs_sandbox
@needs_perl
async def test_who_asks_for_none_of_many_datums_fails(shop: Workshop) -> None:
    shop.put({"a": "a", "b": "b"})
    create(shop, spec(datum_tries=1, **asking("echo lost")))
    async with shop.service() as running:
        job = await running.job()
    assert {stats.reason for stats in ran(shop, job).values()} == {"it asked for no datum: it ended"}
    assert logs(shop, job) == "lost\n" * 2, "what it says before it asks is its datum's"


@needs_sandbox
@needs_perl
async def test_a_command_that_ends_on_its_own_has_done_its_last_datum(shop: Workshop) -> None:
    shop.put({name: name for name in "abc"})
    create(shop, spec(**asking('next; . /pfs/.env; cp "$texts" /pfs/out/')))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, shop.files("count")) == (JobState.SUCCESS, {"a": b"a", "b": b"b", "c": b"c"})


@needs_sandbox
@needs_perl
@pytest.mark.parametrize(("sets", "most"), [({"number": 2}, 2), ({"size_bytes": 12}, 3), ({}, 7)])
async def test_a_process_is_given_one_set_of_datums(shop: Workshop, sets: dict[str, int], most: int) -> None:
    shop.put({f"f{number}": "4444" for number in range(7)})
    script = """
    id=$(cat /proc/sys/kernel/random/uuid)
    while next; do . /pfs/.env; echo $id > "/pfs/out/${texts##*/}"; done
    """
    create(shop, spec(parallelism_spec={"constant": 1}, datum_set_spec=sets, **asking(script)))
    async with shop.service() as running:
        job = await running.job()
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    found = Counter(shop.files("count").values())
    assert sum(found.values()) == 7 and max(found.values()) == most


async def test_reprocessing_runs_all_datums_once_more_however_the_first_try_ends(shop: Workshop) -> None:
    shop.put({"a": "one", "b": "two"})
    create(shop, spec(cmd=COPY, salt=""))
    async with shop.service() as running:
        await running.job()
        shop.registry.update(spec(cmd=COPY, reprocess=True), now_ns())
        job = await running.job()
        assert (job.state, job.datums) == (JobState.SUCCESS, DatumCounts(total=2, success=2))
        head = shop.registry.update(spec(cmd=COPY), now_ns())
        assert (head.version, head.spec.reprocess) == (2, False)
        shop.registry.run("count")
        job = await running.job()
        assert job.datums == DatumCounts(total=2, skipped=2)
        shop.registry.update(spec(cmd=COPY, description="other"), now_ns())
        job = await running.job()
        assert job.datums == DatumCounts(total=2, skipped=2)


async def test_a_datum_that_fails_when_it_is_reprocessed_is_not_taken_for_done(shop: Workshop) -> None:
    commit = shop.put({"a": "one", "b": "two"})
    seen = Path(os.fsdecode(shop.snapshot("texts", "main", commit.id)), "b")
    cmd = f'[ "$(cat "$texts")" != fail ]; {COPY}'
    create(shop, spec(cmd=cmd, datum_tries=1))
    async with shop.service() as running:
        await running.job()
        seen.write_text("fail")
        shop.registry.update(spec(cmd=cmd, datum_tries=1, reprocess=True), now_ns())
        assert (await running.job()).datums == DatumCounts(total=2, success=1, failed=1)
        seen.write_text("two")
        shop.registry.run("count")
        assert (await running.job()).datums == DatumCounts(total=2, success=1, skipped=1)
