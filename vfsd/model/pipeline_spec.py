"""Pipeline specs: Pachyderm's JSON or YAML, less its Kubernetes parts, read strictly.

A field is run as Pachyderm's documentation says, or named in a warning because it means nothing on a machine, or
refused by name: none is passed over in silence. `vfsd.model.commit.encode` gives a spec's canonical JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn

import msgspec

from vfsd.model.commit import encode
from vfsd.model.documents import read_documents
from vfsd.model.errors import InvalidArgument
from vfsd.model.glob import Glob
from vfsd.model.ids import hash_bytes
from vfsd.model.names import DEFAULT_BRANCH, check_label

DEFAULT_TRIES = 3
MAX_WORKERS = 65_536  # datums at a time, or per core: more is a slip of the hand


class Pipeline(msgspec.Struct, frozen=True):
    """What a spec makes."""

    name: str


class Transform(msgspec.Struct, frozen=True):
    """What runs for each datum. cmd: program and arguments. stdin: lines that it reads. env: its own variables."""

    cmd: tuple[str, ...]
    stdin: tuple[str, ...] = ()
    env: dict[str, str] = {}


class PfsInput(msgspec.Struct, frozen=True):
    """Files of a branch, cut into datums by a glob. name: where they stand below /pfs; the repo's when not given."""

    repo: str
    glob: str
    branch: str = DEFAULT_BRANCH
    name: str = ""


class Input(msgspec.Struct, frozen=True):
    """What a pipeline reads."""

    pfs: PfsInput


class ParallelismSpec(msgspec.Struct, frozen=True):
    """How many datums run at a time: a number, or a share of the machine's cores; 0 for not given."""

    constant: int = 0
    coefficient: float = 0.0


class Metadata(msgspec.Struct, frozen=True):
    """Words that users attach to a pipeline."""

    annotations: dict[str, str] = {}
    labels: dict[str, str] = {}


class PipelineSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline, with Pachyderm's field names. Durations are Go's: `90s`, `1h30m`; empty for no limit."""

    pipeline: Pipeline
    description: str = ""
    transform: Transform
    input: Input
    parallelism_spec: ParallelismSpec = ParallelismSpec()
    datum_tries: int = DEFAULT_TRIES
    datum_timeout: str = ""
    job_timeout: str = ""
    output_branch: str = DEFAULT_BRANCH
    salt: str = ""
    metadata: Metadata = Metadata()

    @property
    def name(self) -> str:
        """The pipeline's name, which its output repo has too."""
        return self.pipeline.name

    def workers(self, cores: int) -> int:
        """How many datums run at a time on a machine with `cores` cores: one a core when the spec does not say."""
        spec = self.parallelism_spec
        return spec.constant or max(1, int((spec.coefficient or 1.0) * cores))

    def datum_timeout_s(self) -> float | None:
        """Seconds that one try of a datum may take; None for no limit."""
        return parse_duration(self.datum_timeout) if self.datum_timeout else None

    def job_timeout_s(self) -> float | None:
        """Seconds that a job may take; None for no limit."""
        return parse_duration(self.job_timeout) if self.job_timeout else None


class ParsedSpecs(msgspec.Struct, frozen=True):
    """What a file held, in its order, and one line for each thing in it that has no effect here."""

    specs: tuple[PipelineSpec, ...]
    warnings: tuple[str, ...]


_MEANINGLESS: dict[type, set[str]] = {
    PipelineSpec: {
        "pod_spec", "pod_patch", "tolerations", "scheduling_spec", "sidecar_resource_requests",
        "sidecar_resource_limits", "determined", "autoscaling", "standby", "cache_size", "max_queue_size",
        "enable_stats", "update",
    },
    Pipeline: {"project"},
    Transform: {"image", "image_pull_secrets", "memory_volume", "dockerfile", "build", "debug"},
    PfsInput: {"project", "lazy"},
}  # fmt: skip
_NOT_RUN: dict[type, set[str]] = {
    PipelineSpec: {
        "datum_set_spec", "resource_requests", "resource_limits", "reprocess_spec", "reprocess", "s3_out", "egress",
        "service", "spout", "spec_commit",
    },
    Transform: {"err_cmd", "err_stdin", "accept_return_code", "user", "working_dir", "secrets", "datum_batching"},
    Input: {"cross", "union", "join", "group", "cron"},
    PfsInput: {"join_on", "group_by", "outer_join", "empty_files", "s3", "trigger", "commit"},
}  # fmt: skip
_AS_IT_IS = {"reprocess_spec": "until_success"}  # values that ask for what happens anyway

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_AT = re.compile(r" - at `(key in )?\$\.?(.*)`$")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_EXPECTED = re.compile(r"Expected `([^`]+)`(?:, got `([^`]+)`)?")
_WORDS = {"array": "a list", "object": "a mapping", "str": "text", "int": "a whole number", "float": "a number",
          "bool": "true or false", "null": "nothing"}  # fmt: skip
_RESERVED = frozenset({"PATH", "HOME", "LANG", "TMPDIR"})


def parse_duration(text: str) -> float:
    """A Go duration in seconds: numbers with units ns, us, ms, s, m, h, one after the other. InvalidArgument."""
    if not text or _DURATION.sub("", text):
        raise InvalidArgument(f"{text!r} is not a duration: write it as 30s, 90m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    if seconds <= 0:
        raise InvalidArgument(f"{text!r}: a time limit is longer than nothing")
    return seconds


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


def code_identity(spec: PipelineSpec) -> str:
    """What a pipeline computes, apart from its inputs: equal as long as done datums need not be done again.

    BLAKE3-256, in hex, of the bytes `vfsd code 1`, NUL, and the JSON object, keys sorted, of those of transform's cmd,
    stdin, env and of salt that are not empty.
    """
    transform = spec.transform
    parts = {"cmd": transform.cmd, "stdin": transform.stdin, "env": transform.env, "salt": spec.salt}
    used = {name: part for name, part in parts.items() if part}
    return hash_bytes(b"vfsd code 1\0" + msgspec.json.encode(used, order="sorted")).hex()


class _Reader:
    """Turns one document into a spec; `place` begins each message."""

    def __init__(self, place: str, warnings: list[str]) -> None:
        self.place = place
        self.warnings = warnings

    def fail(self, path: str, why: str) -> NoReturn:
        raise InvalidArgument(f"{self.place}: {path}: {why}" if path else f"{self.place}: {why}")

    def checked(self, path: str, check: Callable[[], object]) -> None:
        """Run a check of the model on a field; what it raises gets the field's path."""
        try:
            check()
        except InvalidArgument as error:
            self.fail(path, str(error))

    def spec(self, document: object) -> PipelineSpec:
        screened = self.screen(document, PipelineSpec, "")
        try:
            spec = msgspec.convert(screened, PipelineSpec, strict=False)
        except msgspec.ValidationError as error:
            self.fail(*_explain(str(error)))
        self.check(spec)
        return _normal(spec)

    def screen(self, value: object, kind: Any, path: str) -> object:
        """`value` with the names of its fields in the model's spelling and without those that mean nothing here."""
        if not isinstance(kind, type) or not issubclass(kind, msgspec.Struct):
            return self.words(value, path) if kind == dict[str, str] else value
        if not isinstance(value, Mapping):
            if path:
                return value  # the conversion says what it should have been
            self.fail("", "a spec is a mapping of fields, beginning with pipeline and transform")
        known = {field.name: field.type for field in msgspec.structs.fields(kind)}
        meaningless, not_run = _MEANINGLESS.get(kind, set()), _NOT_RUN.get(kind, set())
        names = known.keys() | meaningless | not_run
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
            elif content not in (None, False, "", []) and content != _AS_IT_IS.get(name):  # `spout: {}` asks for one
                if name in not_run:
                    self.fail(here, "this version of vfsd does not run it yet; take it out, or wait for one that does")
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

    def check(self, spec: PipelineSpec) -> None:
        """Everything that a type cannot say."""
        try:
            encode(spec)
        except UnicodeEncodeError:
            self.fail("", "half a surrogate pair stands in it, which is no character")
        self.checked("pipeline.name", lambda: check_label("pipeline", spec.name))
        self.checked("output_branch", lambda: check_label("branch", spec.output_branch))
        self.check_transform(spec.transform)
        self.check_pfs(spec.input.pfs, "input.pfs")
        if spec.input.pfs.repo == spec.name:
            self.fail("input.pfs.repo", "a pipeline cannot read the repo that it writes")
        mine = spec.input.pfs.name or spec.input.pfs.repo
        if spec.transform.env.keys() & {mine, f"{mine}_COMMIT"}:
            self.fail(f"transform.env.{mine}", "the input of that name sets it")
        width = spec.parallelism_spec
        if not 0 <= width.constant <= MAX_WORKERS or not 0 <= width.coefficient <= MAX_WORKERS:
            self.fail("parallelism_spec", "that many datums cannot run at a time")
        if width.constant and width.coefficient:
            self.fail("parallelism_spec", "give constant or coefficient, not both")
        if spec.datum_tries < 1:
            self.fail("datum_tries", f"{spec.datum_tries} is too few: 1 or more")
        for name in ("datum_timeout", "job_timeout"):
            if text := getattr(spec, name):
                self.checked(name, lambda text=text: parse_duration(text))  # type: ignore[misc]

    def check_transform(self, transform: Transform) -> None:
        if not transform.cmd or not transform.cmd[0]:
            self.fail("transform.cmd", "it is empty: it lists a program and its arguments")
        for number, argument in enumerate(transform.cmd):
            if "\0" in argument:
                self.fail(f"transform.cmd[{number}]", "a NUL cannot be passed to a program")
        for name, value in transform.env.items():
            path = f"transform.env.{name}"
            if not name or "=" in name or "\0" in name + value:
                self.fail(path, "a variable's name has no '=' and nothing of it a NUL")
            if name.startswith(("PACH_", "VFSD_")):
                self.fail(path, "vfsd itself sets the variables that begin with PACH_ and VFSD_")

    def check_pfs(self, pfs: PfsInput, path: str) -> None:
        self.checked(f"{path}.repo", lambda: check_label("repo", pfs.repo))
        self.checked(f"{path}.branch", lambda: check_label("branch", pfs.branch))
        self.checked(f"{path}.glob", lambda: Glob(pfs.glob))
        name = pfs.name or pfs.repo
        where = f"{path}.name" if pfs.name else path
        if name in {"out", ".env"}:
            self.fail(where, f"{name!r} is taken: /pfs/{name} has a meaning of its own; give the input another name")
        self.checked(where, lambda: check_label("input", name))
        if "=" in name or name in _RESERVED or name.startswith(("PACH_", "VFSD_")):
            self.fail(where, f"{name!r} cannot name the input's variable; give the input another name")


def _normal(spec: PipelineSpec) -> PipelineSpec:
    """The spec with its defaults filled in and mappings in order, so that equal specs are equal bytes."""

    def in_order(mapping: dict[str, str]) -> dict[str, str]:
        return dict(sorted(mapping.items()))

    replace = msgspec.structs.replace
    pfs = replace(spec.input.pfs, name=spec.input.pfs.name or spec.input.pfs.repo, glob=Glob(spec.input.pfs.glob).text)
    return replace(
        spec,
        transform=replace(spec.transform, env=in_order(spec.transform.env)),
        input=Input(pfs),
        metadata=Metadata(in_order(spec.metadata.annotations), in_order(spec.metadata.labels)),
    )


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
