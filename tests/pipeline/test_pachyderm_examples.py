"""What Pachyderm's users know, example by example: globs, inputs, fields, variables, states, skipping; and what is
better here. Through a mount and the command line where a user would see it.

All pipelines of a table run over the same two repos on one node; a datum is shown as the paths that it has of each
input. What is behind the examples, in every combination, is held by the tests of the modules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Mounted
from tests.pipeline.rooms import needs_sandbox
from tests.stores import make_store
from vfsd.model.errors import InvalidArgument
from vfsd.model.glob import Glob
from vfsd.model.spec_reader import parse_specs

pytestmark = needs_sandbox

TEXTS = {"a.txt": "a", "d/b.txt": "b", "d/e/c.txt": "c"}
LABELS = {"a.csv": "1", "b.csv": "2", "z.csv": "3"}
Datums = set[tuple[str, ...]]

GLOBS: dict[str, list[str]] = {
    "/": ["/"],
    "/*": ["/a.txt", "/d"],
    "/*/*": ["/d/b.txt", "/d/e"],
    "/**": ["/a.txt", "/d", "/d/b.txt", "/d/e", "/d/e/c.txt"],
    "/**/*.txt": ["/d/b.txt", "/d/e/c.txt"],
    "/**.txt": ["/a.txt", "/d/b.txt", "/d/e/c.txt"],
    "*": ["/a.txt", "/d"],
    "d/": ["/d"],
    "//d//*/": ["/d/b.txt", "/d/e"],
    "/?.txt": ["/a.txt"],
    "/{a.txt,d/*.txt}": ["/a.txt", "/d/b.txt"],
    "/[!d]*": ["/a.txt"],
    "/nothing/*": [],
}


def pfs(repo: str, glob: str, **more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": glob, **more}}


TXT, CSV = "/{,d/,d/e/}(?).txt", "/(*).csv"  # the capture is the letter
A_TXT, B_TXT, C_TXT, A_CSV, B_CSV, Z_CSV = "/a.txt", "/d/b.txt", "/d/e/c.txt", "/a.csv", "/b.csv", "/z.csv"
INPUTS: dict[str, tuple[dict[str, Any], Datums]] = {
    "cross": ({"cross": [pfs("texts", "/*"), pfs("labels", "/[ab].csv")]},
              {("/a.txt", A_CSV), ("/a.txt", B_CSV), ("/d", A_CSV), ("/d", B_CSV)}),
    "cross-empty": ({"cross": [pfs("texts", "/*"), pfs("labels", "/none")]}, set()),
    "union": ({"union": [pfs("texts", "/a.txt"), pfs("labels", "/[az].csv")]}, {(A_TXT,), (A_CSV,), (Z_CSV,)}),
    "union-name": ({"union": [pfs("texts", "/a.txt", name="x"), pfs("labels", "/z.csv", name="x")]},
                   {(A_TXT,), (Z_CSV,)}),
    "nested": ({"cross": [pfs("labels", "/z.csv"), {"union": [pfs("texts", "/a.txt"), pfs("texts", "/d", name="d")]}]},
               {(Z_CSV, A_TXT), (Z_CSV, "/d")}),
    "join": ({"join": [pfs("texts", TXT, join_on="$1"), pfs("labels", CSV, join_on="$1")]},
             {(A_TXT, A_CSV), (B_TXT, B_CSV)}),
    "join-outer": ({"join": [pfs("texts", TXT, join_on="$1"), pfs("labels", CSV, join_on="${1}", outer_join=True)]},
                   {(A_TXT, A_CSV), (B_TXT, B_CSV), (Z_CSV,)}),
    "join-nothing": ({"join": [pfs("texts", "/(d)", join_on="$1"), pfs("labels", CSV, join_on="$1")]}, set()),
    "group": ({"group": [pfs("texts", TXT, group_by="$1"), pfs("labels", CSV, group_by="$1")]},
              {(A_TXT, A_CSV), (B_TXT, B_CSV), (C_TXT,), (Z_CSV,)}),
    "group-one": ({"group": [pfs("texts", TXT), pfs("labels", CSV)]}, {(A_TXT, B_TXT, C_TXT, A_CSV, B_CSV, Z_CSV)}),
    "lazy": (pfs("labels", "/a.csv", lazy=True, project="default", branch="main", name="named"), {(A_CSV,)}),
}  # fmt: skip


def job(name: str, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"pipeline": {"name": name}, "transform": {"cmd": ["true"]}, "input": given, **more}


def shell(*lines: str, **more: Any) -> dict[str, Any]:
    return {"cmd": ["sh"], "stdin": list(lines), **more}


SPECS = [
    *(job(f"glob-{number}", pfs("texts", glob)) for number, glob in enumerate(GLOBS)),
    *(job(name, given) for name, (given, _) in INPUTS.items()),
    job("env", {"join": [pfs("texts", TXT, join_on="$1", name="text"), pfs("labels", "/(a).csv", join_on="$1")]},
        transform=shell("env >/pfs/out/env")),
    job("grouped", {"group": [pfs("texts", "/(a).txt", group_by="$1", name="text")]},
        transform=shell("env >/pfs/out/env")),
    job("outcome", pfs("labels", "/*"), datum_tries=1,
        transform=shell("case $labels in *a.csv) exit 3;; *b.csv) exit 7;; esac", accept_return_code=[7])),
    job("behind", pfs("outcome", "/")),
    job("recover", pfs("labels", "/*"), datum_tries=2,
        transform=shell("case $labels in *a.csv) exit 3;; esac; cp $labels /pfs/out/", err_cmd=["true"])),
    job("clash", pfs("labels", "/[ab].csv"), transform=shell("echo >/pfs/out/same")),
    job("clock", {"cron": {"name": "tick", "spec": "@never", "overwrite": True}}),
]  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A node whose pipelines, `SPECS`, have all run."""
    node = Mounted(tmp_path_factory.mktemp("examples"))
    make_store(node.store)
    node.mount()
    for repo, files in (("texts", TEXTS), ("labels", LABELS)):
        write(node, repo, files)
        node.run("commit", f"{repo}/main")
    path = node.folder / "specs.json"
    path.write_text(json.dumps(SPECS))
    node.run("pipeline", "create", "-f", path)
    for spec in SPECS[:-1]:
        node.run("job", "wait", "--pipeline", spec["pipeline"]["name"], check=False)
    yield node
    node.close()


def write(node: Mounted, repo: str, files: dict[str, str]) -> None:
    top = node.path / repo / "main"
    top.parent.mkdir(exist_ok=True)
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def newest(node: Mounted, pipeline: str) -> dict[str, Any]:
    found: dict[str, Any] = node.facts("job", "list", pipeline)[0]
    return found


def datums(node: Mounted, pipeline: str) -> Datums:
    """The datums of a pipeline's newest job, as the paths of their inputs."""
    found = node.facts("datum", "list", newest(node, pipeline)["id"])
    return {tuple(one["path"] for one in datum["inputs"]) for datum in found}


@pytest.mark.parametrize(("number", "glob"), list(enumerate(GLOBS)))
def test_each_match_of_a_glob_is_a_datum(ran: Mounted, number: int, glob: str) -> None:
    assert datums(ran, f"glob-{number}") == {(path,) for path in GLOBS[glob]}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_are_put_together(ran: Mounted, name: str) -> None:
    assert datums(ran, name) == INPUTS[name][1]


@pytest.mark.parametrize(
    ("glob", "path", "template", "filled"),
    [
        ("/(*).txt", "/a.txt", "$1", "a"), ("/@(*).txt", "/a.txt", "${1}", "a"), ("/(*)-(*)", "/a-b", "$2$1", "ba"),
        ("/*(ab)", "/abab", "$1", "abab"), ("/+(ab)", "/ab", "$1", "ab"), ("/x?(y)", "/x", "<$1>", "<>"),
        ("/!(b)", "/a", "$1", "a"), ("/(a|b)", "/b", "$1", "b"), ("/(*)", "/a", "$0", "/a"),
        ("/(*)", "/a", "$$1", "$1"), ("/(*)", "/a", "<$7>", "<>"), ("/.*", "/.dot", "-", "-"),
    ],
)  # fmt: skip
def test_captures_fill_templates(glob: str, path: str, template: str, filled: str) -> None:
    match = Glob(glob).matches(path.encode())
    assert match is not None
    assert match.replace(template) == filled.encode()


def environ(node: Mounted, pipeline: str) -> dict[str, str]:
    lines = (node.path / pipeline / "main/env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_user_code_finds_its_names_in_the_environment(ran: Mounted) -> None:
    found, record = environ(ran, "env"), newest(ran, "env")
    (datum,) = ran.facts("datum", "list", record["id"])
    assert (found["text"], found["labels"]) == ("/pfs/text/a.txt", "/pfs/labels/a.csv")
    assert found["text_COMMIT"] == ran.facts("show", "texts/main")["id"]
    wanted = {"JOB_ID": record["id"], "DATUM_ID": datum["id"], "OUTPUT_COMMIT_ID": record["global_id"]}
    for name, value in wanted.items():
        assert found[f"PACH_{name}"] == found[f"VFSD_{name}"] == value
    assert found["PACH_DATUM_text_JOIN_ON"] == found["VFSD_DATUM_labels_JOIN_ON"] == "a"
    assert environ(ran, "grouped")["PACH_DATUM_text_GROUP_BY"] == "a"


def states(node: Mounted, pipeline: str) -> dict[str, str]:
    found = node.facts("datum", "list", newest(node, pipeline)["id"])
    return {datum["inputs"][0]["path"]: datum["state"] for datum in found}


def test_jobs_and_datums_end_in_pachyderms_states(ran: Mounted) -> None:
    assert states(ran, "outcome") == {A_CSV: "failed", B_CSV: "success", Z_CSV: "success"}
    assert newest(ran, "outcome")["state"] == "failure"
    assert newest(ran, "behind")["state"] == "unrunnable"
    assert states(ran, "recover") == {A_CSV: "recovered", B_CSV: "success", Z_CSV: "success"}
    assert newest(ran, "recover")["state"] == "success"
    assert sorted(path.name for path in (ran.path / "recover/main").iterdir()) == ["b.csv", "z.csv"]
    assert newest(ran, "group")["state"] == "success"
    clash = newest(ran, "clash")
    assert clash["state"] == "failure"
    assert "two datums write same: " in clash["reason"]


def test_a_tick_is_an_empty_file_named_by_its_time_and_overwrite_clears_the_one_before(ran: Mounted) -> None:
    for _ in range(2):
        tick = ran.facts("pipeline", "run-cron", "clock")
        tick = tick[0] if isinstance(tick, list) else tick
        ran.run("job", "wait", "--pipeline", "clock")
        assert (tick["repo"], datums(ran, "clock")) == ("clock_tick", {("/" + tick["tick"],)})
        assert (ran.path / "clock_tick/main" / tick["tick"]).read_bytes() == b""


# Fields: what becomes of each that Pachyderm has. w: accepted with a warning, r: refused by name, else run.

GOOD = job("count", pfs("texts", "/*"))
FIELDS: dict[str, tuple[Any, str]] = {
    "description": ("x", ""), "metadata": ({"labels": {"a": "b"}}, ""), "transform.stdin": (["x"], ""),
    "transform.env": ({"A": "b"}, ""), "transform.secrets": ([{"name": "a", "key": "b", "env_var": "C"}], ""),
    "transform.err_cmd": (["true"], ""), "transform.accept_return_code": ([1], ""), "transform.user": ("nobody", ""),
    "transform.working_dir": ("/tmp", ""), "transform.datum_batching": (True, ""),
    "transform.image": ("x", "w"), "transform.image_pull_secrets": (["x"], "w"),
    "transform.memory_volume": (True, "w"),
    "parallelism_spec": ({"constant": 2}, ""), "datum_set_spec": ({"number": 2, "size_bytes": 9}, ""),
    "datum_set_spec.per_worker": (2, "w"), "datum_timeout": ("1m", ""), "job_timeout": ("1h", ""),
    "datum_tries": (2, ""), "resource_requests": ({"cpu": 1, "memory": "1G", "disk": "1G"}, ""),
    "resource_limits": ({"gpu": {"type": "nvidia.com/gpu", "number": 1}}, ""), "reprocess_spec": ("every_job", ""),
    "output_branch": ("out", ""), "salt": ("x", ""), "update": (True, "w"), "reprocess": (True, ""),
    "egress": ({"URL": "s3://bucket/c"}, ""), "service": ({"internal_port": 80}, ""), "autoscaling": (True, "w"),
    "input.pfs.branch": ("b", ""), "input.pfs.name": ("n", ""), "input.pfs.join_on": ("$1", ""),
    "input.pfs.group_by": ("$1", ""), "input.pfs.outer_join": (True, ""), "input.pfs.empty_files": (True, ""),
    "input.pfs.trigger": ({"branch": "staging", "size": "1M", "commits": 2, "rate_limit_spec": "@daily", "all": True},
                          ""),
    "input.pfs.project": ("p", "w"), "input.pfs.lazy": (True, "w"), "input.pfs.s3": (True, "r"),
    "pipeline.project": ("p", "w"), "s3_out": (True, "r"), "pod_spec": ("{}", "w"), "pod_patch": ("[]", "w"),
    "tolerations": ([{"key": "a"}], "w"), "scheduling_spec": ({"node_selector": {"a": "b"}}, "w"),
    "sidecar_resource_requests": ({"cpu": 1}, "w"), "sidecar_resource_limits": ({"cpu": 1}, "w"),
    "determined": ({"workspaces": ["x"]}, "w"),
}  # fmt: skip


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_of_pachyderms_is_run_warned_of_or_refused(path: str) -> None:
    value, fate = FIELDS[path]
    document = json.loads(json.dumps(GOOD))
    *folders, name = path.split(".")
    at = document
    for folder in folders:
        at = at.setdefault(folder, {})
    at[name] = value
    text = json.dumps(document)
    if fate == "r":
        with pytest.raises(InvalidArgument, match=f"s.json: {path}: "):
            parse_specs(text, "s.json")
        return
    parsed = parse_specs(text, "s.json")
    assert [warning.split()[1] for warning in parsed.warnings] == ([path] if fate == "w" else [])
    (plain,) = parse_specs(json.dumps(GOOD), "s.json").specs
    assert (parsed.specs[0] == plain) is (fate == "w")


def test_names_that_have_a_meaning_and_names_that_are_taken_are_refused() -> None:
    for name in ("out", ".env"):
        with pytest.raises(InvalidArgument, match="is taken"):
            parse_specs(json.dumps(job("count", pfs("texts", "/*", name=name))), "s.json")
    with pytest.raises(InvalidArgument, match="give one of them another name"):
        parse_specs(json.dumps(job("count", {"cross": [pfs("texts", "/*"), pfs("texts", "/")]})), "s.json")


# Skipping, and what is better here


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Mounted]:
    """A mounted node with the two repos."""
    node = Mounted(tmp_path)
    make_store(node.store)
    node.mount()
    write(node, "texts", TEXTS)
    write(node, "labels", LABELS)
    yield node
    node.close()


def run(node: Mounted, spec: dict[str, Any], command: str = "create") -> tuple[int, int, int]:
    """Give the spec, and wait; of the newest job: how many datums succeeded, were skipped, failed."""
    path = node.folder / "spec.json"
    path.write_text(json.dumps(spec))
    node.run("pipeline", command, "-f", path)
    return counts(node, spec["pipeline"]["name"])


def counts(node: Mounted, pipeline: str) -> tuple[int, int, int]:
    node.run("commit", "texts/main")
    node.run("commit", "labels/main")
    node.run("job", "wait", "--pipeline", pipeline, check=False)
    found = newest(node, pipeline)["datums"]
    return found["success"], found["skipped"], found["failed"]


def test_what_is_done_is_skipped_and_what_changed_in_name_content_or_code_is_not(fresh: Mounted) -> None:
    spec = job("count", pfs("texts", "/*"), transform=shell("ls -R $texts >/pfs/out/$PACH_DATUM_ID"))
    assert run(fresh, spec) == (2, 0, 0)
    fresh.path.joinpath("texts/main/a.txt").write_text("changed")
    assert counts(fresh, "count") == (1, 1, 0)
    top = fresh.path / "texts/main/d"
    (top / "b.txt").rename(top / "renamed.txt")  # inside a datum: Pachyderm sees nothing of it
    assert counts(fresh, "count") == (1, 1, 0)
    assert any("renamed.txt" in path.read_text() for path in (fresh.path / "count/main").iterdir())
    (fresh.path / "texts/main/a.txt").unlink()  # its output goes with it
    assert counts(fresh, "count") == (0, 1, 0)
    assert len(list((fresh.path / "count/main").iterdir())) == 1
    spec["transform"]["stdin"].append("true")  # other code: stale without --reprocess there
    assert run(fresh, spec, "update") == (1, 0, 0)
    fresh.path.joinpath("texts/main/ü [x]*?{y}^!.txt").write_text("any name")
    assert counts(fresh, "count") == (1, 1, 0)
    assert run(fresh, {**spec, "reprocess_spec": "every_job"}, "update") == (2, 0, 0)


def test_successes_of_a_failed_job_are_skipped_and_chosen_datums_run_again(fresh: Mounted) -> None:
    script = "grep -q good $labels || exit 3; cp $labels /pfs/out/"
    write(fresh, "labels", {"a.csv": "good", "b.csv": "good", "z.csv": "bad"})
    spec = job("pick", pfs("labels", "/*"), datum_tries=1, transform=shell(script))
    assert run(fresh, spec) == (2, 0, 1)
    failed = newest(fresh, "pick")["id"]  # what it wrote can be looked at
    assert fresh.run("cat", f"pick/main@job-{failed[:12]}/a.csv").stdout == "good"
    write(fresh, "labels", {"z.csv": "good"})
    assert counts(fresh, "pick") == (1, 2, 0)
    job_id = newest(fresh, "pick")["id"]
    datum = fresh.facts("datum", "list", job_id)[0]["id"]
    fresh.run("job", "rerun", job_id, "--datum", datum)
    fresh.run("job", "wait", "--pipeline", "pick")
    assert newest(fresh, "pick")["datums"]["success"] == 1
    assert newest(fresh, "pick")["datums"]["skipped"] == 2


def test_output_branches_refuse_users_cycles_and_deletion_are_refused_and_an_id_names_what_follows(
    fresh: Mounted,
) -> None:
    run(fresh, job("first", pfs("texts", "/*"), transform=shell("echo >/pfs/out/$PACH_DATUM_ID")))
    run(fresh, job("second", pfs("first", "/")))
    with pytest.raises(OSError, match="Read-only"):
        (fresh.path / "first/main/mine").write_text("x")
    path = fresh.folder / "circle.json"
    path.write_text(json.dumps(job("first", pfs("second", "/"))))
    refused = fresh.run("pipeline", "update", "-f", path, check=False)
    assert refused.returncode != 0 and "first" in refused.stderr
    assert fresh.run("repo", "delete", "texts", check=False).returncode != 0
    ids = {fresh.facts("show", f"{repo}/main")["global_id"] for repo in ("texts", "first", "second")}
    assert len(ids) == 1
