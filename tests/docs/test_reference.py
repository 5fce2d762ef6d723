"""The reference names everything that there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest

from tests.daemon.program import Program
from tests.docs.pages import DOCS, TOP, code, section
from tests.mount.conftest import Mounted
from vfsd.daemon.cli import cli
from vfsd.daemon.config import _File as ConfigurationFile
from vfsd.daemon.config import load
from vfsd.model.datum import DatumState
from vfsd.model.entry import Kind
from vfsd.model.errors import VfsdError
from vfsd.model.job import JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_reader import MEANINGLESS, NOT_RUN
from vfsd.serve.fuse.mount import KNOWN_OPTIONS

REFERENCE = DOCS / "reference.md"


def commands(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, by their words."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(commands())


def entry(name: str) -> str:
    """What the reference says of a command: from its name to the next command's."""
    text = section(REFERENCE, "Commands")
    start = re.search(rf"`vfsd {name}(?![\w-])", text)
    assert start is not None, f"docs/reference.md does not name `vfsd {name}`"
    following = re.compile(r"^\*\*`vfsd |^### |^`vfsd ", re.MULTILINE).search(text, start.end())
    return text[start.start() : following.start() if following else len(text)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named_with_its_arguments_and_options(name: str) -> None:
    text = entry(name)
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Argument):
            word = (parameter.metavar or parameter.name or "").upper().strip("[].").removesuffix("...")
            assert word in text, f"vfsd {name}: {word}"
        elif not {"--store", "--json"} & set(parameter.opts):
            for option in parameter.opts:
                assert re.search(rf"`{option}[ `]", text), f"vfsd {name}: {option}"


def test_only_commands_that_exist_are_named() -> None:
    known = set(COMMANDS) | {"commit"}
    for word in code(section(REFERENCE, "Commands")):
        if word.startswith("vfsd ") and not word.startswith("vfsd -"):
            words = re.findall(r"^[a-z]+(?: [a-z]+)?", word.removeprefix("vfsd "))[0].split()
            assert " ".join(words) in known or words[0] in known, word


def test_every_option_of_all_commands_is_named() -> None:
    text = section(REFERENCE, "Commands")
    for parameter in cli.params:
        assert parameter.opts[0] in text


def test_every_mount_option_is_named() -> None:
    text = entry("mount")
    assert all(re.search(rf"`{option}=?`", text) for option in KNOWN_OPTIONS)


def test_every_key_of_the_configuration_file_is_named_with_its_default(tmp_path: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", section(REFERENCE, "Settings"), re.MULTILINE)
    assert sorted(key for key, _ in rows) == sorted(ConfigurationFile.__struct_fields__)
    shown = [f"{key} = {code(default)[0]}" for key, default in rows if key not in {"store", "author", "secrets_dir"}]
    (tmp_path / "config.toml").write_text("\n".join(shown))
    there = load({"VFSD_CONFIG": str(tmp_path / "config.toml")})
    (tmp_path / "config.toml").write_text("")
    assert there == load({"VFSD_CONFIG": str(tmp_path / "config.toml")})


def test_every_variable_is_named() -> None:
    named = set(re.findall(r"\b[A-Z0-9_]+\b", section(REFERENCE, "Environment variables")))
    source = "".join(path.read_text() for path in (TOP / "vfsd").rglob("*.py") if "pipeline" not in str(path))
    used = set(re.findall(r"\b(?:VFSD|XDG)_[A-Z0-9_]*[A-Z0-9]\b", source))
    assert len(used) > 8
    assert used <= named, used - named


def test_every_exit_code_is_named() -> None:
    def below(kind: type[VfsdError]) -> Iterator[int]:
        yield kind.exit_code
        for inner in kind.__subclasses__():
            yield from below(inner)

    named = {int(row) for row in re.findall(r"^\| (\d+) \|", section(REFERENCE, "Exit codes"), re.MULTILINE)}
    assert named == {0, 130, *below(VfsdError)}


def test_every_state_is_named() -> None:
    named = set(code(section(REFERENCE, "JSON")))
    assert {state.value for state in (*JobState, *DatumState)} <= named
    assert {kind.name.lower() for kind in Kind} <= named


def spec_fields(kind: Any = PipelineSpec, path: str = "") -> Iterator[str]:
    """Fields of specs that are run, by their paths."""
    for field in msgspec.structs.fields(kind):
        here = f"{path}{field.name}"
        inner = [arm for arm in (field.type, *get_args(field.type)) if isinstance(arm, type)]
        structs = [arm for arm in inner if issubclass(arm, msgspec.Struct)]
        if structs and structs[0] is not kind:  # inputs are made of inputs
            yield from spec_fields(structs[0], f"{here}.")
        else:
            yield here


PLACES = {"PipelineSpec": "", "Pipeline": "pipeline.", "Transform": "transform.", "DatumSetSpec": "datum_set_spec.",
          "Service": "service.", "Input": "input.", "PfsInput": "input.pfs.", "CronInput": "input.cron."}  # fmt: skip


@pytest.mark.parametrize(
    "title, table",
    [
        ("Fields that are accepted with a warning", MEANINGLESS),
        ("Fields that are refused", NOT_RUN),
    ],
)
def test_every_field_that_is_not_run_is_named(title: str, table: dict[type, set[str]]) -> None:
    named = {word for word in code(section(REFERENCE, title)) if re.fullmatch(r"[a-z0-9_.]+", word)}
    wanted = {PLACES[kind.__name__] + field for kind, fields in table.items() for field in fields}
    assert named - {"wrong.json"} == wanted


def test_every_field_of_a_spec_that_is_run_is_named_and_no_other() -> None:
    text = section(REFERENCE, "Fields that are run")
    rows = [code(line.split("|")[1]) for line in text.splitlines() if line.startswith("| `")]
    assert sorted(word for row in rows for word in row) == sorted(spec_fields())


# JSON


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A store with a repo, two commits, a tag and a pipeline."""
    vfsd = Program(tmp_path_factory.mktemp("json"))
    vfsd.ok("init")
    vfsd.ok("repo", "create", "texts")
    vfsd.ok("put", vfsd.file("folder/a", "a"), "texts/main/d/a")
    vfsd.ok("put", "-", "texts/main/d/a", stdin=b"b")
    vfsd.ok("tag", "create", "texts/main", "v1")
    spec = {"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": {"repo": "texts", "glob": "/"}}}
    vfsd.ok("pipeline", "create", "-f", vfsd.file("p.json", json.dumps(spec)))
    return vfsd


def keys(value: Any) -> Iterator[str]:
    """All names of fields in a document, but for those of maps that users fill."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            if name not in {"xattrs", "spec"}:
                yield from keys(inner)


ASKED = (
    "repo list", "repo inspect texts", "branch list", "tag list", "log texts/main", "show texts/main",
    "diff texts/main@~1 texts/main", "lineage texts/main", "lineage texts/main/d/a --down", "ls", "ls texts/main",
    "ls texts/main/d", "stat texts/main/d/a", "status", "pipeline list", "pipeline inspect p", "index rebuild",
    "commit texts/main", "commit start texts/main", "commit abort texts/main", "cp texts/main/d texts/main/e",
    "branch inspect texts/main", "fsck", "pipeline draw",
)  # fmt: skip


def unnamed(words: str, document: Any) -> set[str]:
    """Fields of a document that the reference does not name for its command."""
    name = next(name for name in (*sorted(COMMANDS, key=len, reverse=True), "commit") if words.startswith(name))
    rows = [line for line in section(REFERENCE, "JSON").splitlines() if line.startswith("| `")]
    own = [row for row in rows if f"`{name}`" in row.split("|")[1]]
    assert len(own) == (2 if name == "status" else 1), name
    alike = [
        other for other, words_of_it in (
            ("branch list", "the same and `head`"), ("log", "`head`: the commit"), ("log", "| the commit, and"),
            ("ls", "the same without"), ("pipeline list", "the same and `spec`"), ("datum list", "the same and `job`"),
        ) if words_of_it in own[0]
    ]  # fmt: skip
    own += [row for row in rows if any(f"`{other}`" in row.split("|")[1] for other in alike)]
    return set(keys(document)) - {word for row in own for word in code(row)}


@pytest.mark.parametrize("words", ASKED)
def test_every_field_that_is_printed_is_named_with_its_command(words: str, program: Program) -> None:
    assert not unnamed(words, program.ok(*words.split(), "--json").json)


def test_every_field_of_jobs_and_datums_is_named(mounted: Mounted) -> None:
    spec = {"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": {"repo": "data", "glob": "/*"}}}
    path = mounted.folder / "p.json"
    path.write_text(json.dumps(spec))
    (mounted.path / "data/main/a").write_text("a")
    mounted.run("commit", "data/main")
    assert not unnamed("pipeline create", mounted.facts("pipeline", "create", "-f", path))
    job = mounted.facts("job", "wait", "--pipeline", "p")
    assert not unnamed("job wait", job)
    datums = mounted.facts("datum", "list", job["id"])
    assert not unnamed("datum list", datums)
    for words in (f"job inspect {job['id']}", "job list", f"datum inspect {job['id']} {datums[0]['id']}", "status"):
        document = mounted.facts(*words.split())
        assert document and not unnamed(words, document), words


def test_the_examples_of_json_are_real_commands() -> None:
    rows = [line for line in section(REFERENCE, "JSON").splitlines() if line.startswith("| `")]
    named = {word for row in rows for word in code(row.split("|")[1])} - {"branches"}
    printing = {name for name, command in COMMANDS.items() if any("--json" in one.opts for one in command.params)}
    assert named == {"commit" if name == "commit now" else name for name in printing}


def test_files_of_a_node_are_those_that_a_node_makes(tmp_path: Path) -> None:
    named = {word.rstrip("/") for word in code(section(REFERENCE, "Files of a node"))}
    source = (TOP / "vfsd/daemon/node.py").read_text() + (TOP / "vfsd/daemon/control.py").read_text()
    made = set(re.findall(r'os\.path\.join\((?:self|node|node_dir)\.?\w*, "([\w.]+)"\)', source))
    assert {"journal.sqlite", "staging", "scratch", "control"} <= made <= named
