"""The published schema and the reader say the same of a spec."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest

from vfsd.model.errors import InvalidArgument
from vfsd.model.spec_reader import parse_specs
from vfsd.model.spec_schema import spec_schema

VALIDATOR = jsonschema.Draft202012Validator(spec_schema())
GOOD: dict[str, Any] = {
    "pipeline": {"name": "p"},
    "transform": {"cmd": ["true"], "stdin": ["a"], "env": {"A": "1"}},
    "input": {"pfs": {"repo": "texts", "glob": "/*"}},
}


def reads(document: object) -> bool:
    try:
        parse_specs(json.dumps(document), "p.json")
    except InvalidArgument:
        return False
    return True


def changed(path: str, value: object) -> dict[str, Any]:
    spec = copy.deepcopy(GOOD)
    at = spec
    *above, last = path.split(".")
    for name in above:
        at = at.setdefault(name, {})
    at[last] = value
    return spec


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(spec_schema())


PFS = {"pfs": {"repo": "a", "glob": "/(*)"}}


@pytest.mark.parametrize(
    ("path", "value", "good"),
    [
        ("description", "x", True),
        ("description", None, True),
        ("description", 1, False),
        ("pod_spec", "{}", True),
        ("transform.image", "ubuntu", True),
        ("datumTries", 2, True),
        ("datum_tries", 2, True),
        ("datum_trise", 2, False),
        ("transform.cmd", "true", False),
        ("transform.env", {"A": 1}, False),
        ("transform", {}, False),
        ("input.pfs.lazy", True, True),
        ("input.pfs.globb", "/", False),
        ("input.pfs", {"repo": "texts"}, False),
        ("input", {"cross": [PFS, {"union": [{"pfs": {"repo": "b", "glob": "/", "joinOn": "$1"}}]}]}, True),
        ("input", {"cross": [PFS, {"union": [{"pfs": {"repo": "b"}}]}]}, False),
        ("input", {"cross": [PFS], "union": [PFS]}, False),
        ("input", {}, False),
        ("input.pfs.outer_join", True, True),
        ("input.pfs.outer_join", [], False),
        ("input", {"cron": {"name": "tick", "spec": "@hourly", "overwrite": True, "project": "p"}}, True),
        ("input", {"cron": {"name": "tick"}}, False),
        ("input", {"cron": {"name": "tick", "spec": "@hourly", "commit": "x"}}, False),
        ("input.pfs.trigger", {"commits": 2, "rateLimitSpec": "@daily", "all": True}, True),
        ("input.pfs.trigger", {"commits": "two"}, False),
        ("input.pfs.trigger", {"commit": 2}, False),
        ("spec_commit", {"id": "x"}, True),
        ("service", {"internalPort": 80, "external_port": 8080, "type": "NodePort"}, True),
        ("service", {"external_port": 80}, False),
        ("service", {}, False),
        ("egress", {"URL": "s3://bucket/folder"}, True),
        ("egress", {"url": "s3://bucket/folder"}, False),
        ("egress", {"objectStorage": {"url": "file:///srv/out"}}, True),
        ("egress", {"sqlDatabase": {"url": "mysql://a@b/c", "fileFormat": {"type": "CSV", "columns": ["x"]}}}, True),
        ("egress", {"sqlDatabase": {"url": "mysql://a@b/c", "fileFormat": {"type": "PARQUET"}}}, False),
        ("egress", {"sql_database": {"url": "mysql://a@b/c"}}, False),
        ("metadata.labels", {"a": "b"}, True),
    ],
)
def test_schema_and_reader_agree(path: str, value: object, good: bool) -> None:
    spec = changed(path, value)
    assert reads(spec) == good
    assert VALIDATOR.is_valid(spec) == good


def test_a_spout_has_no_input_and_all_else_has_one() -> None:
    bare = {name: value for name, value in GOOD.items() if name != "input"}
    for spec, good in ((bare, False), ({**bare, "spout": {}}, True), ({**bare, "spout": {"serivce": {}}}, False)):
        assert reads(spec) == VALIDATOR.is_valid(spec) == good


def test_a_list_of_specs_is_good_too() -> None:
    assert VALIDATOR.is_valid([GOOD, {**GOOD, "pipeline": {"name": "q"}}])
    assert not VALIDATOR.is_valid([GOOD, {}])
