"""Reads the text of pipeline specs, strictly: JSON or YAML, Pachyderm's field names in both spellings.

A field is run as Pachyderm's documentation says, or named in a warning because it means nothing on a machine, or
refused by name: none is passed over in silence. What types cannot say is left to vfsd.model.spec_check.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NoReturn, get_args, get_origin

import msgspec

from vfsd.model.documents import read_documents
from vfsd.model.errors import InvalidArgument
from vfsd.model.glob import Glob
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.pipeline_spec import Metadata, Pipeline, PipelineSpec
from vfsd.model.spec_check import Checker
from vfsd.model.spec_input import CronInput, Input, PfsInput
from vfsd.model.spec_lasting import Service
from vfsd.model.spec_transform import DatumSetSpec, Transform


class ParsedSpecs(msgspec.Struct, frozen=True):
    """What a file held, in its order, and one line for each thing in it that has no effect here."""

    specs: tuple[PipelineSpec, ...]
    warnings: tuple[str, ...]


MEANINGLESS: dict[type, set[str]] = {
    PipelineSpec: {
        "pod_spec", "pod_patch", "tolerations", "scheduling_spec", "sidecar_resource_requests",
        "sidecar_resource_limits", "determined", "autoscaling", "standby", "cache_size", "max_queue_size",
        "enable_stats", "update", "spec_commit",
    },
    Pipeline: {"project"},
    Transform: {"image", "image_pull_secrets", "memory_volume", "dockerfile", "build", "debug"},
    DatumSetSpec: {"per_worker"},
    PfsInput: {"project", "lazy"},
    Service: {"type"},
    CronInput: {"project"},
}  # fmt: skip
_NO_S3 = "datums have no S3 gateway here: read files below /pfs, write them to /pfs/out, and take it out"
NOT_RUN: dict[type, dict[str, str]] = {  # and what to do instead
    PipelineSpec: {"s3_out": _NO_S3},
    PfsInput: {
        "s3": _NO_S3,
        "commit": "a pipeline reads a branch: `vfsd branch create REPO/BRANCH --from COMMIT` makes one that stays"
        " at a commit",
    },
    CronInput: {"commit": "ticks are read as they come; take it out"},
}

_AT = re.compile(r" - at `(key in )?\$\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?")
_WORDS = {"array": "a list", "object": "a mapping", "str": "text", "int": "a whole number", "float": "a number",
          "bool": "true or false", "null": "nothing"}  # fmt: skip


def parse_specs(text: str, where: str) -> ParsedSpecs:
    """Read a file of specs: JSON (one, several one after another, or a list) or YAML (one or more documents).

    `where` names the file in messages. InvalidArgument, in one line with the path to the field, for anything that is
    not a spec which this version runs in full.
    """
    documents = read_documents(text, where)
    if not documents:
        raise InvalidArgument(f"{where}: no pipeline spec is in it")
    specs = []
    warnings: list[str] = []
    for number, document in enumerate(documents, 1):
        place = where if len(documents) == 1 else f"{where}: spec {number}"
        specs.append(_Reader(place, warnings).spec(document))
        if specs[-1].name in {spec.name for spec in specs[:-1]}:
            raise InvalidArgument(f"{place}: pipeline.name: {specs[-1].name!r} is there already")
    return ParsedSpecs(tuple(specs), tuple(warnings))


class _Reader:
    """Turns one document into a spec; `place` begins each message."""

    def __init__(self, place: str, warnings: list[str]) -> None:
        self.place = place
        self.warnings = warnings

    def fail(self, path: str, why: str) -> NoReturn:
        raise InvalidArgument(f"{self.place}: {path}: {why}" if path else f"{self.place}: {why}")

    def spec(self, document: object) -> PipelineSpec:
        screened = self.screen(document, PipelineSpec, "")
        try:
            spec = msgspec.convert(screened, PipelineSpec, strict=False)
        except msgspec.ValidationError as error:
            self.fail(*_explain(str(error)))
        Checker(self.place).spec(spec)
        return _normal(spec)

    def screen(self, value: object, kind: Any, path: str) -> object:
        """`value` with the names of its fields in the model's spelling and without those that mean nothing here."""
        arms = [arm for arm in (kind, *get_args(kind)) if isinstance(arm, type) and issubclass(arm, msgspec.Struct)]
        if not arms:
            return self.words(value, path) if kind == dict[str, str] else value
        if get_origin(kind) is tuple:
            if not isinstance(value, list):
                return value  # the conversion says what it should have been
            return [self.screen(item, arms[0], f"{path}[{number}]") for number, item in enumerate(value)]
        if not isinstance(value, Mapping):
            if path:
                return value  # as above
            self.fail("", "a spec is a mapping of fields, beginning with pipeline and transform")
        return self.fields(value, arms[0], path)

    def fields(self, value: Mapping[Any, object], kind: type[msgspec.Struct], path: str) -> dict[str, object]:
        known = {field.name: field.type for field in msgspec.structs.fields(kind)}
        meaningless, not_run = MEANINGLESS.get(kind, set()), NOT_RUN.get(kind, {})
        names = known.keys() | meaningless | not_run.keys()
        found: dict[str, object] = {}
        for key, content in value.items():
            name = key if key in names else _snake(str(key))
            here = f"{path}.{key}" if path else str(key)
            if name not in names:
                close = get_close_matches(name, sorted(names), 1, 0.5)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise InvalidArgument(f"{self.place}: {here} is not a field{hint}")
            if name in found:
                self.fail(here, "it is given twice")
            if name in known:
                if content is not None:  # null is how JSON says "not given"
                    found[name] = self.screen(content, known[name], here)
            elif content not in (None, False, "", []):  # `spout: {}` asks for one
                if name in not_run:
                    self.fail(here, not_run[name])
                self.warnings.append(f"{self.place}: {here} has no meaning here and is passed over")
        return found

    def words(self, value: object, path: str) -> object:
        """A mapping from text to text."""
        if isinstance(value, Mapping):
            for key, content in value.items():
                if not isinstance(key, str):
                    self.fail(f"{path}.{key}", "expected text as its name")
                if not isinstance(content, str):
                    hint = "" if isinstance(content, (list, dict)) else ": put it in quotes"
                    self.fail(f"{path}.{key}", f"expected text, got {_name_of(content)}{hint}")
        return value


def _normal(spec: PipelineSpec) -> PipelineSpec:
    """The spec with its defaults filled in and mappings in order, so that equal specs are equal bytes."""

    def in_order(mapping: dict[str, str]) -> dict[str, str]:
        return dict(sorted(mapping.items()))

    replace = msgspec.structs.replace
    return replace(
        spec,
        transform=replace(spec.transform, env=in_order(spec.transform.env)),
        input=_normal_input(spec.input, spec.name, Counter()),
        metadata=Metadata(in_order(spec.metadata.annotations), in_order(spec.metadata.labels)),
    )


def _normal_input(one: Input, pipeline: str, own: Counter[str]) -> Input:
    """own: how many branches of each repo are made for the pipeline alone."""
    pfs = one.pfs
    if pfs is not None:
        branch, trigger = pfs.branch or DEFAULT_BRANCH, pfs.trigger
        if trigger is not None:
            trigger = msgspec.structs.replace(trigger, branch=trigger.branch or DEFAULT_BRANCH)
            if not pfs.branch:
                own[pfs.repo] += 1
                branch = f"{pipeline}-trigger-{own[pfs.repo]}"
        name, glob = pfs.name or pfs.repo, Glob(pfs.glob).text
        return Input(pfs=msgspec.structs.replace(pfs, name=name, branch=branch, glob=glob, trigger=trigger))
    if one.cron is not None:
        return Input(cron=msgspec.structs.replace(one.cron, repo=one.cron.pfs(pipeline).repo))
    if not one.parts:
        return one
    return msgspec.structs.replace(one, **{one.kind: tuple(_normal_input(part, pipeline, own) for part in one.parts)})


def _snake(name: str) -> str:
    """`datumTries` as `datum_tries`: Pachyderm's JSON takes both spellings."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda found: "_" + found[1].lower(), name)


def _name_of(value: object) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", type(None): "nothing"}
    return names.get(type(value), "a list" if isinstance(value, list) else "a mapping")


def _explain(message: str) -> tuple[str, str]:
    """The path of a field and what is wrong with it, from msgspec's message."""
    at = _AT.search(message)
    path = at[2] if at else ""
    if missing := _MISSING.search(message):
        return ".".join(filter(None, (path, missing[1]))), "it is missing"
    if expected := _EXPECTED.search(message):
        wanted = " or ".join(_WORDS.get(word, word) for word in expected[1].split(" | "))
        got = f", got {_WORDS.get(expected[2], expected[2])}" if expected[2] else ""
        return path, f"expected {wanted}{got}"
    return path, message.partition(" - at ")[0]
