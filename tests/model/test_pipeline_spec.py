from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from vfsd.model.commit import decode, encode
from vfsd.model.errors import InvalidArgument
from vfsd.model.pipeline_spec import PipelineSpec, code_identity, parse_duration, parse_specs

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
    assert (spec.input.pfs.branch, spec.input.pfs.name, spec.output_branch) == ("main", "texts", "main")
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


def test_what_means_nothing_here_is_named_in_a_warning() -> None:
    parsed = parse_specs(changed("transform.image", "ubuntu:24.04"), "w.json")
    assert parsed.warnings == ("w.json: transform.image has no meaning here and is passed over",)
    assert parsed.specs == parse_specs(json.dumps(GOOD), "w.json").specs
    assert len(parse_specs(changed("pod_spec", "{}"), "w.json").warnings) == 1
    assert len(parse_specs(changed("input.pfs.lazy", True), "w.json").warnings) == 1


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
         "transform.env.PACH_JOB_ID: vfsd itself sets the variables that begin with PACH_ and VFSD_"),
        ("pipeline", {}, "pipeline.name: it is missing"),
        ("pipeline.name", "a b", "pipeline.name: pipeline 'a b': ' ' may not stand in a name"),
        ("input", {}, "input.pfs: it is missing"),
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
        ("description", "\ud83d", "half a surrogate pair stands in it, which is no character"),
        ("datumTries", 3, "datumTries: it is given twice"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_line_with_its_path(path: str, value: object, line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_specs(changed(path, value), "w.json")
    assert str(error.value) == f"w.json: {line}"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("input.cross", [{"pfs": {}}]), ("input.join", [{}]), ("input.cron", {"spec": "@every 1h"}), ("spout", {}),
        ("egress", {"URL": "s3://b/p"}), ("service", {"type": "LoadBalancer"}), ("transform.err_cmd", ["true"]),
        ("input.pfs.trigger", {"size": "1M"}), ("reprocess_spec", "every_job"), ("datum_set_spec", {"number": 1}),
    ],
)  # fmt: skip
def test_what_this_version_does_not_run_is_refused_by_name(path: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match="this version of vfsd does not run it yet") as error:
        parse_specs(changed(path, value), "w.json")
    assert f"w.json: {path}: " in str(error.value)


def test_a_field_that_asks_for_nothing_is_no_obstacle() -> None:
    assert one(changed("s3_out", False)) == one(json.dumps(GOOD))
    assert one(changed("reprocess_spec", "until_success")) == one(json.dumps(GOOD))
    assert one(changed("egress", None)) == one(json.dumps(GOOD))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "w: no pipeline spec is in it"),
        ("{", "w: line 1, column 2: Expecting property name enclosed in double quotes"),
        ('{"a": 1, "a": 2}', "w: 'a' stands twice in one object"),
        ('{"a": NaN}', "w: NaN is no number in JSON"),
        ("[" * 100_000, "w: it is nested too deeply to be a spec"),
        ("a: 1\na: 2", "w: line 2, column 1: 'a' stands twice"),
        ("a: b: c", "w: line 1, column 5: mapping values are not allowed here"),
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
