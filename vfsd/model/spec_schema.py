"""The JSON Schema of pipeline specs (draft 2020-12), made from the types and tables that reading specs goes by.

An editor that knows it completes and checks specs; what a schema cannot say, names that clash and globs that cannot be
read, is left to vfsd.model.spec_check.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_input import Input
from vfsd.model.spec_reader import MEANINGLESS, NOT_RUN

_PASSED_OVER = {"description": "Accepted with a warning: it has no meaning here."}


def spec_schema() -> dict[str, Any]:
    """The schema of one document: a spec or a list of specs, field names in either spelling, null for "not given"."""
    found = msgspec.json.schema(PipelineSpec)
    kinds = {kind.__name__: kind for kind in (Input, *MEANINGLESS, *NOT_RUN)}
    for name, definition in found["$defs"].items():
        if definition.get("type") == "object":
            _strict(definition, kinds.get(name, object))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pipeline specs of vfsd",
        "anyOf": [{"$ref": found["$ref"]}, {"type": "array", "items": {"$ref": found["$ref"]}}],
        "$defs": found["$defs"],
    }


def _strict(definition: dict[str, Any], kind: type) -> None:
    """Let an object's definition say what the reader takes."""
    required = definition["required"]
    properties = {
        name: value if name in required else _or_null(value) for name, value in definition["properties"].items()
    }
    for name in sorted(MEANINGLESS.get(kind, set())):
        properties[name] = dict(_PASSED_OVER)
    definition["properties"] = {
        spelling: value for name, value in properties.items() for spelling in dict.fromkeys((name, _camel(name)))
    }
    definition["additionalProperties"] = False
    both = [name for name in required if _camel(name) != name]
    if both:
        definition["required"] = [name for name in required if name not in both]
        definition["allOf"] = [{"anyOf": [{"required": [name]}, {"required": [_camel(name)]}]} for name in both]
    if kind is PipelineSpec:
        definition["anyOf"] = [{"required": [name]} for name in ("input", "spout")]
    if kind is Input:
        definition["oneOf"] = [{"required": [name]} for name in properties]


def _or_null(value: dict[str, Any]) -> dict[str, Any]:
    value = dict(value)
    default = {"default": value.pop("default")} if value.get("default") is not None else {}
    value.pop("default", None)
    arms = value.get("anyOf", [value])
    return {"anyOf": [*arms, *([] if {"type": "null"} in arms else [{"type": "null"}])], **default}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), name)
