"""Pipelines, jobs and datums on the command line, with and without something that runs them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

from tests.daemon.program import Done, Program
from tests.pipeline.workshop import Running, Workshop
from vfsd.daemon import control, control_server
from vfsd.repo.repository import read_format
from vfsd.store.local import LocalStore

COPY = 'echo "copying $(basename "$texts")"; cp "$texts" "$VFSD_OUT/$(basename "$texts").out"'


def spec(name: str = "copy", repo: str = "texts", cmd: str = COPY, glob: str = "/*", **more: Any) -> dict[str, Any]:
    return {
        "pipeline": {"name": name},
        "transform": {"cmd": ["sh", "-ec", cmd]},
        "input": {"pfs": {"repo": repo, "glob": glob}},
        **more,
    }


def create(vfsd: Program, *specs: dict[str, Any], command: str = "create") -> Done:
    return vfsd.ok("pipeline", command, "-f", vfsd.file("spec.json", json.dumps(specs)))


@asynccontextmanager
async def running(vfsd: Program) -> AsyncIterator[Running]:
    """What a daemon does for pipelines: runs them, and answers that it is there."""
    store = LocalStore(str(vfsd.store))
    node = vfsd.folder / "state" / read_format(store).id
    shop = Workshop(vfsd.folder, store, str(node / "index.sqlite"))

    async def status(_: dict[str, Any]) -> dict[str, Any]:
        return {"state": "running", "sandbox": "bubblewrap"}

    try:
        async with shop.service() as service, trio.open_nursery() as nursery:
            path = control.socket_path(str(node))
            nursery.start_soon(control_server.serve, path, {"status": status})
            while await trio.to_thread.run_sync(control.ask, path, "status") is None:
                pass  # not listening yet
            yield service
            nursery.cancel_scope.cancel()
    finally:
        shop.close()


async def aside(call: Callable[..., Done], *words: str) -> Done:
    """Run a command beside the pipelines of this process."""
    return await trio.to_thread.run_sync(partial(call, *words))


async def finished(vfsd: Program, *pipelines: str) -> None:
    """Let pipelines do all there is to do."""
    async with running(vfsd):
        for name in pipelines:
            await aside(vfsd.ok, "job", "wait", "--pipeline", name)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, {"coefficient": 1.0}),
        ({"parallelism_spec": {"constant": 3}}, {"constant": 3}),
        ({"parallelism_spec": {"coefficient": 0.5}}, {"coefficient": 0.5}),
    ],
)
def test_how_many_datums_run_at_a_time_is_shown_as_it_holds_and_can_be_given_again(
    vfsd: Program, given: dict[str, Any], shown: dict[str, float]
) -> None:
    create(vfsd, spec(**given))
    found = vfsd.ok("pipeline", "inspect", "copy", "--json").json["spec"]
    assert found["parallelism_spec"] == shown
    text = vfsd.ok("pipeline", "inspect", "copy").text
    assert json.loads(text[text.index("{") :])["parallelism_spec"] == shown
    create(vfsd, found, command="update")
    assert vfsd.ok("pipeline", "inspect", "copy", "--json").json["spec"] == found


def test_a_pipeline_is_created_listed_and_inspected(vfsd: Program) -> None:
    done = create(vfsd, spec(description="copies"))
    assert done.text == "created pipeline copy, version 1: texts/main:/* -> copy/main\n"
    facts = vfsd.ok("pipeline", "inspect", "copy", "--json").json
    assert (facts["id"], facts["version"], facts["state"], facts["description"]) == ("copy", 1, "running", "copies")
    (given,) = facts["inputs"]
    assert given == {
        "repo": "texts", "branch": "main", "name": "texts", "glob": "/*", "schedule": None, "trigger": None,
    }  # fmt: skip
    assert facts["output"] == {"repo": "copy", "branch": "main"}
    assert facts["job"] is None
    assert facts["spec"]["transform"]["cmd"] == ["sh", "-ec", COPY]
    del facts["spec"], facts["ticks"]
    assert vfsd.ok("pipeline", "list", "--json").json == [facts]
    assert vfsd.ok("pipeline", "list").lines[0].split()[:5] == ["copy", "1", "transform", "running", "texts/main:/*"]
    assert "output       copy/main" in vfsd.ok("pipeline", "inspect", "copy").lines
    assert "copy" in [repo["id"] for repo in vfsd.ok("repo", "list", "--json").json]


def test_several_specs_in_one_file_and_from_standard_input(vfsd: Program) -> None:
    text = "pipeline: {name: %s}\ntransform: {cmd: [cat]}\ninput: {pfs: {repo: %s, glob: /}}\n"
    both = text % ("one", "texts") + "---\n" + text % ("two", "one")
    done = vfsd.ok("pipeline", "create", "-f", "-", "--json", stdin=both.encode())
    assert [pipeline["id"] for pipeline in done.json] == ["one", "two"]
    assert [pipeline["id"] for pipeline in vfsd.ok("pipeline", "list", "--json").json] == ["two", "one"]


def test_fields_without_a_meaning_are_warned_of(vfsd: Program) -> None:
    done = create(vfsd, spec(autoscaling=True))
    assert done.err.splitlines()[-1].startswith("vfsd: warning: ")
    assert "autoscaling has no meaning here" in done.err


@pytest.mark.parametrize(
    ("text", "error", "code"),
    [
        ('{"pipeline": {"name": "x"}, "transfrom": {}}', "transfrom is not a field (did you mean transform?)", 2),
        ("{", "line 1, column 2", 2),
        ("", "no pipeline spec is in it", 2),
        (b"\xff", "byte 0 is not UTF-8", 2),
        (json.dumps(spec(repo="nowhere")), "its input nowhere/main: there is no repo nowhere", 1),
    ],
)
def test_a_bad_spec_is_one_line_and_makes_nothing(vfsd: Program, text: str | bytes, error: str, code: int) -> None:
    done = vfsd("pipeline", "create", "-f", vfsd.file("bad.json", text))
    assert done.code == code
    assert error in done.error
    assert vfsd.ok("pipeline", "list", "--json").json == []
    assert [repo["id"] for repo in vfsd.ok("repo", "list", "--json").json] == ["texts"]


@pytest.mark.parametrize(
    ("words", "error", "code"),
    [
        (["pipeline", "create", "-f", "/no/such/file"], "/no/such/file: No such file or directory", 1),
        (["pipeline", "inspect", "x"], "there is no pipeline x in", 1),
        (["pipeline", "inspect", "a/b"], "pipeline 'a/b': '/' may not stand in a name", 2),
        (["pipeline", "delete", "x"], "there is no pipeline x in", 1),
        (["pipeline", "start", "x"], "there is no pipeline x in", 1),
        (["pipeline", "run", "x"], "there is no pipeline x in", 1),
        (["job", "list", "x"], "there is no pipeline x in", 1),
        (["job", "inspect", "1234"], "there is no job that begins with 1234", 1),
        (["job", "stop", "1234"], "there is no job that begins with 1234", 1),
        (["job", "logs", "1234"], "there is no job that begins with 1234", 1),
        (["datum", "list", "1234"], "there is no job that begins with 1234", 1),
        (["datum", "inspect", "1234", "5678"], "there is no job that begins with 1234", 1),
        (["job", "wait"], "name a JOB, or a pipeline by --pipeline", 2),
        (["job", "wait", "12", "--pipeline", "x"], "name a JOB, or a pipeline by --pipeline", 2),
        (["job", "wait", "--pipeline", "x"], "there is no pipeline x in", 1),
    ],
)
def test_what_is_not_there_is_one_line(vfsd: Program, words: list[str], error: str, code: int) -> None:
    done = vfsd(*words)
    assert done.code == code
    assert done.error.startswith(error)


def test_a_pipeline_is_updated_stopped_started_and_deleted(vfsd: Program) -> None:
    create(vfsd, spec())
    assert create(vfsd, spec(cmd="true"), command="update").text.startswith("updated pipeline copy, version 2: ")
    assert create(vfsd, spec(cmd="true"), command="update").text.startswith("pipeline copy is as it was, version 2: ")
    vfsd.ok("pipeline", "stop", "copy")
    assert vfsd.ok("pipeline", "inspect", "copy", "--json").json["state"] == "stopped"
    assert vfsd("pipeline", "run", "copy").error == "pipeline copy is stopped: `vfsd pipeline start copy` starts it"
    vfsd.ok("pipeline", "start", "copy")
    vfsd.ok("pipeline", "run", "copy")
    vfsd.ok("pipeline", "delete", "copy")
    assert vfsd.ok("pipeline", "list").text == ""
    vfsd.put("copy/main/mine", "now")


def test_of_several_pipelines_those_that_were_made_before_one_fails_are_named(vfsd: Program) -> None:
    create(vfsd, spec())
    specs = [spec(name="first"), spec(), spec(name="third")]
    done = vfsd("pipeline", "create", "-f", vfsd.file("several.json", json.dumps(specs)))
    assert done.code == 1
    assert done.text == "created pipeline first, version 1: texts/main:/* -> first/main\n"
    assert done.err == "vfsd: pipeline copy exists already: `vfsd pipeline update` changes it\n"


def test_users_cannot_write_to_an_output_branch(vfsd: Program) -> None:
    create(vfsd, spec())
    done = vfsd("put", "-", "copy/main/x", stdin=b"x")
    assert done.code == 1
    assert done.error.startswith("copy/main is the output of pipeline copy")


async def test_jobs_and_datums_are_shown_alike_with_and_without_a_daemon(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    commit = vfsd.put("texts/main/b", "22")
    create(vfsd, spec())
    async with running(vfsd):
        waited = await aside(vfsd.ok, "job", "wait", "--pipeline", "copy", "--json")
        shown = await aside(vfsd.ok, "job", "list", "--json")
    facts = waited.json
    assert (facts["state"], facts["reason"], facts["pipeline"]) == ("success", "", "copy")
    assert facts["datums"] == {"total": 2, "success": 2, "skipped": 0, "failed": 0, "recovered": 0}
    assert facts["inputs"] == [{"repo": "texts", "branch": "main", "commit": commit, "name": "texts"}]
    assert facts["output"] == vfsd.ok("log", "copy/main", "--json").json[0]["id"]
    job = facts["id"]
    for again in (
        shown.json,
        vfsd.ok("job", "list", "copy", "--json").json,
        [vfsd.ok("job", "inspect", job[:6], "--json").json],
        [vfsd.ok("job", "wait", job[:6], "--json").json],
        [vfsd.ok("job", "wait", "--pipeline", "copy", "--json").json],
    ):
        assert again == [facts]

    datums = vfsd.ok("datum", "list", job, "--json").json
    assert {one["inputs"][0]["path"]: (one["state"], one["inputs"][0]["size"]) for one in datums} == {
        "/a": ("success", 1), "/b": ("success", 2),
    }  # fmt: skip
    one = vfsd.ok("datum", "inspect", job, datums[0]["id"][:10], "--json").json
    assert (one["id"], one["job"], one["attempts"], one["exit_code"]) == (datums[0]["id"], job, 1, 0)
    assert one["output"]["files"] == 1
    assert vfsd("datum", "inspect", job, "xyz").error == f"job {job[:12]} has no datum that begins with 'xyz'"
    several = f"several datums of job {job[:12]} begin with '': give more digits"
    assert vfsd("datum", "inspect", job, "").error == several


async def test_jobs_that_are_watched_stand_in_columns(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec("c"))
    await finished(vfsd, "c")
    words = vfsd.command("job", "list", "--watch")
    with subprocess.Popen(words, env=vfsd.environ, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        lines = [watching.stdout.readline()]
        create(vfsd, spec("longer"), spec("fails", cmd="exit 1", datum_tries=1))
        async with running(vfsd):
            await aside(vfsd, "job", "wait", "--pipeline", "longer")
            await aside(vfsd, "job", "wait", "--pipeline", "fails")
        while not (" failure " in "".join(lines) and "longer" in "".join(lines)):
            lines.append(watching.stdout.readline())
        watching.terminate()
    assert len({line.index(next(word for word in line.split()[2:] if word.isalpha())) for line in lines}) == 1
    assert len({line.index(vfsd.ok("job", "list", "--json").json[0]["created"][:8]) for line in lines}) == 1


async def test_text_says_what_json_says(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec())
    await finished(vfsd, "copy")
    facts = vfsd.ok("job", "list", "--json").json[0]
    short = facts["id"][:12]
    assert vfsd.ok("job", "list").lines[0].split()[:7] == [short, "copy", "success", "1", "0", "0", "1"]
    assert f"output     {facts['output']}" in vfsd.ok("job", "inspect", short).lines
    wanted = f"job {short} of pipeline copy: success, 1 datum ran, 0 skipped\n"
    assert vfsd.ok("job", "wait", short).text == wanted
    datum = vfsd.ok("datum", "list", short, "--json").json[0]
    row = vfsd.ok("datum", "list", short).lines[0].split()
    assert (row[0], row[1], row[3]) == (datum["id"][:12], "success", "texts:/a")
    assert f"state       {datum['state']}" in vfsd.ok("datum", "inspect", short, row[0]).lines
    assert vfsd.ok("pipeline", "list").lines[0].split()[5:7] == [short, "success"]


async def test_jobs_are_listed_newest_first_and_skipped_datums_keep_their_logs(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec())
    async with running(vfsd):
        await aside(vfsd.ok, "job", "wait", "--pipeline", "copy")
        await trio.to_thread.run_sync(vfsd.put, "texts/main/b", "2")
        await aside(vfsd.ok, "job", "wait", "--pipeline", "copy")
    second, first = vfsd.ok("job", "list", "--json").json
    assert (first["datums"]["total"], second["datums"]["total"]) == (1, 2)
    states = {one["inputs"][0]["path"]: one for one in vfsd.ok("datum", "list", second["id"], "--json").json}
    assert {path: one["state"] for path, one in states.items()} == {"/a": "skipped", "/b": "success"}
    ran = states["/b"]["id"][:12]
    assert vfsd.ok("job", "logs", second["id"]).text == f"==> texts:/b (success, {ran})\ncopying b\n"
    assert vfsd.ok("job", "logs", second["id"], "--datum", states["/a"]["id"][:8]).text == "copying a\n"
    assert vfsd.ok("datum", "inspect", second["id"], states["/a"]["id"], "--json").json["job"] == first["id"]


async def test_waiting_for_a_pipeline_waits_for_those_it_reads_from(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "one\n")
    create(vfsd, spec(), spec("all", "copy", 'cat "$copy"/* > "$VFSD_OUT/all"', "/"))
    await finished(vfsd, "all")
    assert vfsd.ok("cat", "all/main/all").out == b"one\n"


async def test_a_failed_job_fails_whoever_waits_for_it_or_for_what_comes_behind(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec(cmd="echo bad; exit 3", datum_tries=1), spec("behind", "copy"))
    async with running(vfsd):
        done = await aside(vfsd, "job", "wait", "--pipeline", "behind")
    job = vfsd.ok("job", "list", "copy", "--json").json[0]
    reason = "1 of 1 datums failed; the first was texts:/a: exit code 3"
    assert (job["state"], job["reason"], job["output"]) == ("failure", reason, None)
    assert (done.code, done.error) == (1, f"job {job['id'][:12]} of pipeline copy: failure: {reason}")
    again = vfsd("job", "wait", job["id"], "--json")
    assert (again.code, again.json["state"]) == (1, "failure")
    assert vfsd.ok("job", "logs", job["id"]).lines[1:] == ["bad"]
    (datum,) = vfsd.ok("datum", "list", job["id"], "--json").json
    assert datum["state"] == "failed"
    assert vfsd.ok("datum", "inspect", job["id"], datum["id"], "--json").json["exit_code"] == 3


async def test_a_job_is_stopped_once(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec(cmd="sleep 1000"))
    async with running(vfsd) as service:
        while not (jobs := (await aside(vfsd.ok, "job", "list", "--json")).json):
            pass  # not begun yet
        await aside(vfsd.ok, "job", "stop", jobs[0]["id"])
        assert (await service.job("copy")).reason == "stopped by a user"
    done = vfsd("job", "stop", jobs[0]["id"])
    assert done.error.startswith(f"job {jobs[0]['id'][:12]} has ended already, at ")
    assert vfsd("job", "wait", jobs[0]["id"]).error.endswith("killed: stopped by a user")


async def test_pipeline_run_makes_one_more_job(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec())
    await finished(vfsd, "copy")
    vfsd.ok("pipeline", "run", "copy")
    await finished(vfsd, "copy")
    assert [job["datums"]["skipped"] for job in vfsd.ok("job", "list", "--json").json] == [1, 0]


def test_waiting_in_vain_is_refused(vfsd: Program) -> None:
    create(vfsd, spec())
    assert vfsd.ok("job", "wait", "--pipeline", "copy").text == (
        "pipeline copy has nothing to do: its input has no commits\n"
    )
    vfsd.put("texts/main/a", "1")
    done = vfsd("job", "wait", "--pipeline", "copy")
    assert (done.code, done.error) == (1, "nothing runs the pipelines of this store: `vfsd mount` does")
    vfsd.ok("pipeline", "stop", "copy")
    done = vfsd("job", "wait", "--pipeline", "copy")
    assert done.error == "pipeline copy is stopped: `vfsd pipeline start copy` starts it"


async def test_a_node_that_lost_its_index_lists_the_jobs_of_the_store(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    create(vfsd, spec())
    await finished(vfsd, "copy")
    before = vfsd.ok("job", "list", "--json").json
    vfsd.environ["VFSD_STATE_DIR"] = str(vfsd.folder / "elsewhere")
    assert vfsd.ok("job", "list", "--json").json == before
    assert vfsd.ok("job", "logs", before[0]["id"]).lines[1:] == ["copying a"]


def test_each_run_of_cron_makes_a_tick_of_its_own(vfsd: Program) -> None:
    crons = [{"cron": {"name": name, "spec": "@never"}} for name in ("a", "b")]
    create(vfsd, {**spec("timed", cmd="true"), "input": {"cross": crons}}, spec())
    assert "timed  1  transform  running  cross(cron(@never), cron(@never))" in vfsd.ok("pipeline", "list").text
    first = vfsd.ok("pipeline", "run-cron", "timed", "--json").json
    assert [tick["repo"] for tick in first] == ["timed_a", "timed_b"]
    for line, repo in zip(vfsd.ok("pipeline", "run-cron", "timed").lines, ("timed_a", "timed_b"), strict=True):
        assert line.startswith(f"{repo}/main@")
        assert [entry["name"] for entry in vfsd.ok("ls", f"{repo}/main", "--json").json] == [
            first[0]["tick"], line.split()[1]
        ]  # fmt: skip
    assert "timed_a/main has the ticks of pipeline timed" in vfsd("rm", f"timed_a/main/{first[0]['tick']}").error
    assert vfsd("pipeline", "run-cron", "copy").error == "pipeline copy has no cron input"
    assert "pipeline timed reads or writes repo timed_a: " in vfsd("repo", "delete", "timed_a", "--yes").error
