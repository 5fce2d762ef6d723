from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest

from vfsd.model.commit import decode, encode
from vfsd.model.durations import parse_duration
from vfsd.model.errors import InvalidArgument
from vfsd.model.pipeline_spec import PipelineSpec, code_identity
from vfsd.model.spec_reader import parse_specs

GOOD: dict[str, Any] = {
    "pipeline": {"name": "wordcount"},
    "description": "Counts words.",
    "transform": {"cmd": ["sh"], "stdin": ["wc -w $texts > /pfs/out/count"], "env": {"B": "2", "A": "1"}},
    "input": {"pfs": {"repo": "texts", "glob": "/*"}},
    "parallelism_spec": {"constant": "2"},
    "datum_tries": 5,
    "datum_timeout": "1h30m",
}


def changed(path: str, value: object = None, *, without: bool = False) -> str:
    """GOOD as JSON, with one field changed or taken out."""
    spec = copy.deepcopy(GOOD)
    at = spec
    *above, last = path.split(".")
    for name in above:
        at = at.setdefault(name, {})
    if without:
        del at[last]
    else:
        at[last] = value
    return json.dumps(spec)


def one(text: str, where: str = "w.json") -> PipelineSpec:
    parsed = parse_specs(text, where)
    assert not parsed.warnings
    (spec,) = parsed.specs
    return spec


def test_a_spec_is_read_with_its_defaults() -> None:
    spec = one(json.dumps(GOOD))
    assert spec.name == "wordcount"
    assert spec.transform.cmd == ("sh",)
    (pfs,) = spec.pfs_inputs()
    assert (pfs.branch, pfs.name, spec.output_branch) == ("main", "texts", "main")
    assert spec.workers(cores=8) == 2
    assert spec.datum_tries == 5
    assert spec.datum_timeout_s() == 5400
    assert spec.job_timeout_s() is None
    bare = one(json.dumps({name: GOOD[name] for name in ("pipeline", "transform", "input")}))
    assert (bare.datum_tries, bare.workers(cores=8), bare.datum_timeout_s()) == (3, 8, None)


def test_workers_may_be_a_share_of_the_cores() -> None:
    text = changed("parallelism_spec", {"coefficient": 0.5})
    assert [one(text).workers(cores) for cores in (1, 2, 8)] == [1, 1, 4]


def test_camel_case_is_understood_as_pachyderm_does() -> None:
    text = json.dumps(GOOD).replace("parallelism_spec", "parallelismSpec").replace("datum_tries", "datumTries")
    assert one(text) == one(json.dumps(GOOD))


def test_yaml_says_the_same_as_json() -> None:
    text = """
    # a comment
    pipeline: {name: wordcount}
    description: Counts words.
    transform:
      cmd: [sh]
      stdin:
        - wc -w $texts > /pfs/out/count
      env: {A: "1", B: "2"}
    input:
      pfs: {repo: texts, glob: /*}
    parallelism_spec: {constant: 2}
    datum_tries: 5
    datum_timeout: 1h30m
    """
    assert one(text, "w.yaml") == one(json.dumps(GOOD))


def test_yaml_words_are_not_turned_into_booleans_or_dates() -> None:
    text = 'pipeline: {name: no}\ntransform: {cmd: [on], env: {D: 2024-01-01}}\ninput: {pfs: {repo: yes, glob: "/"}}'
    spec = one(text, "w.yml")
    assert (spec.name, spec.transform.cmd, spec.transform.env) == ("no", ("on",), {"D": "2024-01-01"})


@pytest.mark.parametrize("form", ["{}\n{}", "[{}, {}]", "{}{}", "---\n{}\n---\n{}\n"])
def test_a_file_may_hold_several_specs(form: str) -> None:
    parts = form.split("{}")
    second = changed("pipeline.name", "second")
    text = parts[0] + json.dumps(GOOD) + parts[1] + second + parts[2]
    assert [spec.name for spec in parse_specs(text, "w").specs] == ["wordcount", "second"]


LASTING = {name: GOOD[name] for name in ("pipeline", "transform", "input")} | {"service": {"internal_port": 80}}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"datum_tries": 5}, "datum_tries: a service is one command that goes on: leave it out"),
        ({"job_timeout": "1h"}, "job_timeout: a service is one command that goes on: leave it out"),
        ({"egress": {"URL": "s3://bucket"}}, "egress: a service is one command that goes on: leave it out"),
        ({"parallelism_spec": {"constant": 2}}, "parallelism_spec: a service is one command: leave it out"),
        ({"transform": {"cmd": ["true"], "datum_batching": True}},
         "transform.datum_batching: a service is begun again whenever it ends: leave it out"),
        ({"spout": {}}, "service: a spout that listens has it within: spout.service"),
    ],
)  # fmt: skip
def test_what_is_about_datums_has_no_meaning_where_a_command_goes_on(more: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(json.dumps({**LASTING, **more}), "w.json")
    assert str(error.value) == f"w.json: {line}"


def test_what_goes_on_for_ever_has_another_code_identity_than_what_works_on_datums() -> None:
    service = one(json.dumps({**LASTING, "parallelism_spec": {"constant": 1}}))
    transform = one(json.dumps({name: value for name, value in LASTING.items() if name != "service"}))
    spout = {name: value for name, value in LASTING.items() if name not in {"service", "input"}} | {"spout": {}}
    assert len({code_identity(spec) for spec in (service, transform, one(json.dumps(spout)))}) == 3
    assert service.port is not None and service.port.place == ("127.0.0.1", 80)


def test_what_means_nothing_here_is_named_in_a_warning() -> None:
    parsed = parse_specs(changed("transform.image", "ubuntu:24.04"), "w.json")
    assert parsed.warnings == ("w.json: transform.image has no meaning here and is passed over",)
    assert parsed.specs == parse_specs(json.dumps(GOOD), "w.json").specs
    assert len(parse_specs(changed("pod_spec", "{}"), "w.json").warnings) == 1
    assert len(parse_specs(changed("input.pfs.lazy", True), "w.json").warnings) == 1


def test_a_variable_for_pachyderms_own_client_may_be_given() -> None:
    env = {"PACH_PYTHON_AUTH_TOKEN": "x"}
    assert dict(parse_specs(changed("transform.env", env), "w.json").specs[0].transform.env) == env


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("input.pfs.glub", "/*", "input.pfs.glub is not a field (did you mean glob?)"),
        ("paralelism_spec", {}, "paralelism_spec is not a field (did you mean parallelism_spec?)"),
        ("zzz", 1, "zzz is not a field"),
        ("transform.cmd", "sh", "transform.cmd: expected a list, got text"),
        ("transform.cmd", [1], "transform.cmd[0]: expected text, got a whole number"),
        ("transform.cmd", [], "transform.cmd: it is empty: it lists a program and its arguments"),
        ("transform.cmd", ["a\0"], "transform.cmd[0]: a NUL cannot be passed to a program"),
        ("transform.env", {"N": 1}, "transform.env.N: expected text, got a number: put it in quotes"),
        ("transform.env", {"A=": ""}, "transform.env.A=: a variable's name has no '=' and nothing of it a NUL"),
        ("transform.env", {"texts": "x"}, "transform.env.texts: the input of that name sets it"),
        ("transform.env", {"PACH_JOB_ID": "x"},
         "transform.env.PACH_JOB_ID: vfsd itself sets PACH_JOB_ID, PACH_OUTPUT_COMMIT_ID, PACH_DATUM_… and VFSD_…"),
        ("pipeline", {}, "pipeline.name: it is missing"),
        ("pipeline.name", "a b", "pipeline.name: pipeline 'a b': ' ' may not stand in a name"),
        ("input", {}, "input: give just one of pfs, cross, union, join, group and cron"),
        ("input.pfs.repo", "wordcount", "input.pfs.repo: a pipeline cannot read the repo that it writes"),
        ("input.pfs.name", "out",
         "input.pfs.name: 'out' is taken: /pfs/out has a meaning of its own; give the input another name"),
        ("input.pfs.name", "PATH",
         "input.pfs.name: 'PATH' cannot name the input's variable; give the input another name"),
        ("input.pfs.name", "a=b",
         "input.pfs.name: 'a=b' cannot name the input's variable; give the input another name"),
        ("input.pfs.glob", "/(a", "input.pfs.glob: glob '/(a': a ')' is missing"),
        ("parallelism_spec", {"constant": "two"}, "parallelism_spec.constant: expected a whole number, got text"),
        ("parallelism_spec", {"constant": -1}, "parallelism_spec: that many datums cannot run at a time"),
        ("parallelism_spec", {"constant": 1, "coefficient": 1},
         "parallelism_spec: give constant or coefficient, not both"),
        ("datum_tries", 0, "datum_tries: 0 is too few: 1 or more"),
        ("datum_timeout", "5 minutes", "datum_timeout: '5 minutes' is not a duration: write it as 30s, 90m or 1h30m"),
        ("job_timeout", "0s", "job_timeout: '0s': a time limit is longer than nothing"),
        ("spout", {}, "input: a spout reads nothing: leave it out"),
        ("service", {}, "service.internal_port: it is missing"),
        ("service", {"internal_port": 0}, "service.internal_port: 0 is no port"),
        ("service", {"internal_port": 80, "external_port": 70000}, "service.external_port: 70000 is no port"),
        ("service", {"internal_port": 80, "ip": "here"},
         "service.ip: 'here' is no address of a machine: 127.0.0.1 and 0.0.0.0 are"),
        ("egress", {}, "egress: give just one of URL, object_storage and sql_database"),
        ("egress", {"URL": "gs://b/p"}, "egress.URL: 'gs://b/p' is neither s3://bucket/prefix nor file:///folder"),
        ("egress", {"object_storage": {"url": "file:///a/../b"}},
         "egress.object_storage.url: neither a NUL nor '..' may stand in it"),
        ("egress.sql_database", {"url": "x", "file_format": {"type": "CSV"}},
         "egress.sql_database.url: 'x' is no URL of a database: postgresql://user@host/database is one"),
        ("egress.sql_database", {"url": "mysql://a:b@c/d", "file_format": {"type": "CSV"}},
         "egress.sql_database.url: a password stands in it: put it into a secret, and name that by secret"),
        ("egress.sql_database", {"url": "mysql://a@c/d", "file_format": {"type": "PARQUET"}},
         "egress.sql_database.file_format.type: Invalid enum value 'PARQUET'"),
        ("egress.sql_database", {"url": "mysql://a@c/d", "file_format": {"type": "CSV"}, "secret": {"name": "x"}},
         "egress.sql_database.secret.key: it is missing"),
        ("description", "\ud83d", r"half a surrogate pair stands in '\ud83d', which is no character"),
        ("datumTries", 3, "datumTries: it is given twice"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_with_its_path(path: str, value: object, line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(changed(path, value), "w.json")
    assert str(error.value) == f"w.json: {line}"


def of(repo: str, **more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": "/*", **more}}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"cross": [of("a"), {}]}, "input.cross[1]: give just one of pfs, cross, union, join, group and cron"),
        ({"cross": []}, "input: give just one of pfs, cross, union, join, group and cron"),
        ({"cross": [of("a")], "pfs": of("b")["pfs"]},
         "input: give just one of pfs, cross, union, join, group and cron, not pfs and cross"),
        ({"cross": [of("a"), of("a")]}, ("input.cross[1].pfs: input.cross[0].pfs is named a too; give one of them"
         " another name")),
        ({"cross": [of("a"), of("b", name="a")]}, ("input.cross[1].pfs.name: input.cross[0].pfs is named a too; give"
         " one of them another name")),
        ({"join": [{"union": [of("a"), of("b")]}, of("c", name="b")]},
         "input.join[1].pfs.name: input.join[0].union[1].pfs is named b too; give one of them another name"),
        ({"cross": [{"union": [of("a"), {"cross": [of("b"), of("b")]}]}]},
         ("input.cross[0].union[1].cross[1].pfs: input.cross[0].union[1].cross[0].pfs is named b too; give one of them"
         " another name")),
        ({"union": [of("a"), of("out")]}, ("input.union[1].pfs: 'out' is taken: /pfs/out has a meaning of its own; give"
         " the input another name")),
        ({"union": [of("a"), of(".env")]}, "input.union[1].pfs.repo: repo '.env': a name may not begin with '.'"),
        ({"group": [of("a", group_by=1)]}, "input.group[0].pfs.group_by: expected text, got a whole number"),
        ({"join": [of("a", joinn="$1")]},
         "input.join[0].pfs.joinn is not a field (did you mean join_on?)"),
        ({"union": [of("a"), of("wordcount")]},
         "input.union[1].pfs.repo: a pipeline cannot read the repo that it writes"),
    ],
)  # fmt: skip
def test_a_mistake_within_an_input_gets_one_line_with_its_path(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(changed("input", given), "w.json")
    assert str(error.value) == f"w.json: {line}"


CRON = {"name": "tick", "spec": "@hourly"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"cron": {"name": "tick"}}, "input.cron.spec: it is missing"),
        ({"cron": {**CRON, "spec": "* * * 13 *"}}, "input.cron.spec: '* * * 13 *': bad month"),
        ({"cron": {**CRON, "start": "now"}}, "input.cron.start: 'now' is no time: write it as 2026-11-22T10:00:00Z"),
        ({"cron": {**CRON, "name": "out"}},
         "input.cron.name: 'out' is taken: /pfs/out has a meaning of its own; give the input another name"),
        ({"cron": {**CRON, "name": "a/b"}}, "input.cron.name: repo 'a/b': '/' may not stand in a name"),
        ({"cron": {**CRON, "repo": "wordcount"}}, "input.cron.repo: a pipeline cannot read the repo that it writes"),
        ({"cron": {**CRON, "commit": "x"}},
         "input.cron.commit: ticks are read as they come; take it out"),
        ({"cross": [{"cron": CRON}, of("tick")]},
         "input.cross[1].pfs: input.cross[0].cron is named tick too; give one of them another name"),
        ({"union": [{"cron": CRON}, {"cron": CRON}]},
         "input: two cron inputs write to the repo wordcount_tick; give one of them another name"),
    ],
)  # fmt: skip
def test_a_mistake_within_a_cron_input_gets_one_line_with_its_path(given: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(changed("input", given), "w.json")
    assert str(error.value) == f"w.json: {line}"


@pytest.mark.parametrize(
    ("trigger", "line"),
    [
        ({}, "input.pfs.trigger: give one of size, commits, rate_limit_spec and cron_spec at least"),
        ({"size": "big"}, "input.pfs.trigger.size: 'big' is no size: write it as 512Mi, 2G or a number of bytes"),
        ({"commits": -1}, "input.pfs.trigger.commits: -1 is no number of commits to wait for: up to 1,000,000 can be"),
        ({"cronSpec": "@daily", "branch": "a b"},
         "input.pfs.trigger.branch: branch 'a b': ' ' may not stand in a name"),
        ({"cron_spec": "@every 2d"},
         "input.pfs.trigger.cron_spec: '2d' is not a duration: write it as 30s, 90m or 1h30m"),
        ({"commit": 1}, "input.pfs.trigger.commit is not a field (did you mean commits?)"),
    ],
)  # fmt: skip
def test_a_mistake_within_a_trigger_gets_one_line_with_its_path(trigger: dict[str, Any], line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(changed("input", of("texts", trigger=trigger)), "w.json")
    assert str(error.value) == f"w.json: {line}"


def test_a_trigger_without_a_branch_gets_one_of_the_pipelines_own() -> None:
    given = {"cross": [
        of("a", name="x", trigger={"commits": 1}), of("a", name="y", trigger={"commits": 2, "branch": "dev"}),
        of("b", branch="slow", trigger={"size": "10mb", "all": True}), of("c"),
    ]}  # fmt: skip
    found = one(changed("input", given)).pfs_inputs()
    assert [(pfs.branch, pfs.trigger.branch if pfs.trigger else "") for pfs in found] == [
        ("wordcount-trigger-1", "main"), ("wordcount-trigger-2", "dev"), ("slow", "main"), ("main", ""),
    ]  # fmt: skip
    with pytest.raises(InvalidArgument, match="input: two inputs give the branch a/s different triggers"):
        one(changed("input", {"cross": [
            of("a", name=name, branch="s", trigger={"commits": number}) for number, name in enumerate("xy", 1)
        ]}))  # fmt: skip
    with pytest.raises(InvalidArgument, match="branch: branch main cannot wait for itself"):
        one(changed("input", of("a", branch="main", trigger={"commits": 1})))


def test_a_cron_input_is_read_as_a_branch_of_ticks() -> None:
    spec = one(changed("input", {"cross": [{"cron": CRON}, of("a")]}))
    assert [(pfs.repo, pfs.branch, pfs.name, pfs.glob) for pfs in spec.pfs_inputs()] == [
        ("wordcount_tick", "main", "tick", "/*"), ("a", "main", "a", "/*")
    ]  # fmt: skip
    (cron,) = spec.cron_inputs()
    assert (cron.repo, cron.spec, cron.overwrite, cron.start) == ("wordcount_tick", "@hourly", False, "")


def test_parts_of_a_union_may_share_a_name() -> None:
    spec = one(changed("input", {"union": [of("a", name="x"), of("b", name="x")]}))
    assert [(pfs.repo, pfs.name) for pfs in spec.pfs_inputs()] == [("a", "x"), ("b", "x")]


def test_inputs_within_inputs_understand_camel_case() -> None:
    given = {"join": [of("a", joinOn="$1", outerJoin=True), {"group": [of("b", groupBy="$2")]}]}
    first, second = one(changed("input", given)).pfs_inputs()
    assert (first.join_on, first.outer_join, second.group_by) == ("$1", True, "$2")


@pytest.mark.parametrize(
    ("path", "value", "instead"),
    [
        ("input.pfs.commit", "abcd", "`vfsd branch create REPO/BRANCH --from COMMIT` makes one that stays at a commit"),
        ("input.pfs.s3", True, "read files below /pfs"),
        ("s3_out", True, "write them to /pfs/out"),
    ],
)
def test_what_is_not_run_is_refused_by_name_with_what_to_do_instead(path: str, value: object, instead: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(instead)) as error:
        parse_specs(changed(path, value), "w.json")
    assert f"w.json: {path}: " in str(error.value)


def test_a_field_that_asks_for_nothing_is_no_obstacle() -> None:
    assert one(changed("s3_out", False)) == one(json.dumps(GOOD))
    assert one(changed("reprocess_spec", "until_success")) == one(json.dumps(GOOD))
    assert one(changed("egress", None)) == one(changed("spec_commit", None)) == one(json.dumps(GOOD))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "w: no pipeline spec is in it"),
        ("{", "w: line 1, column 2: Expecting property name enclosed in double quotes"),
        ('{"a": 1, "a": 2}', "w: 'a' stands twice in one object"),
        ('{"a": NaN}', "w: NaN is no number in JSON"),
        ('{"a": [{"b\\ud800": 1}]}', "w: half a surrogate pair stands in 'b\\ud800', which is no character"),
        ("[" * 100_000, "w: it is nested too deeply to be a spec"),
        ("a: 1\na: 2", "w: line 2, column 1: 'a' stands twice"),
        ("a: b: c", "w: line 1, column 5: mapping values are not allowed here"),
        ("- &a [*a]", "w: line 1, column 3: what begins here holds itself"),
        ("a: &a {b: [*a]}", "w: line 1, column 4: what begins here holds itself"),
        ("just words", "w: a spec is a mapping of fields, beginning with pipeline and transform"),
    ],
)
def test_a_file_that_holds_no_spec_gets_one_line(text: str, line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(text, "w")
    assert str(error.value) == line


def test_the_spec_that_is_wrong_among_several_is_numbered() -> None:
    with pytest.raises(InvalidArgument, match=r"w: spec 2: pipeline.name: 'wordcount' is there already"):
        parse_specs(json.dumps([GOOD, GOOD]), "w")


def test_equal_specs_are_stored_as_equal_bytes() -> None:
    turned = json.dumps({name: GOOD[name] for name in reversed(GOOD)}).replace('"B": "2", "A": "1"', '"A":"1","B":"2"')
    spec = one(turned)
    assert encode(spec) == encode(one(json.dumps(GOOD)))
    assert decode(encode(spec), PipelineSpec, "spec") == spec
    assert one(encode(spec).decode()) == spec


def test_code_identity_changes_with_the_code_and_with_nothing_else() -> None:
    identity = code_identity(one(json.dumps(GOOD)))
    same = [("description", "x"), ("datum_tries", 1), ("datum_timeout", "1s"), ("parallelism_spec", {"constant": 9})]
    assert {code_identity(one(changed(*change))) for change in same} == {identity}
    code = [("transform.cmd", ["bash"]), ("transform.stdin", []), ("transform.env", {"A": "1"}), ("salt", "s")]
    others = {code_identity(one(changed(*change))) for change in code}
    assert len(others) == 4
    assert identity not in others


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1h30m", 5400), ("1.5s", 1.5), ("100ms", 0.1), ("2us", 2e-6), (".5m", 30)],
)
def test_a_duration_is_read_as_go_writes_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "1d", "1h 30m"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a duration"):
        parse_duration(text)
