"""The repository's own rules, as far as no linter knows them."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

TOP = Path(__file__).parents[1]
MAX_LINES = 500
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}
SOURCES = {path: path.read_text() for path in sorted((TOP / "vfsd").rglob("*.py"))}
TESTS = {path: path.read_text() for path in sorted((TOP / "tests").rglob("*.py")) if path != Path(__file__)}
PAGES = {path: path.read_text() for path in [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]}
TREES = {path: ast.parse(text) for path, text in SOURCES.items()}


def named(path: Path) -> str:
    return str(path.relative_to(TOP))


def test_every_module_says_what_it_is_for() -> None:
    assert [named(path) for path, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_module_is_long_or_named_after_nothing() -> None:
    lines = {named(path): text.count("\n") for path, text in SOURCES.items()}
    long = {name: count for name, count in lines.items() if count > MAX_LINES}
    assert long == {}, "split them"
    vague = [named(path) for path in [*SOURCES, *TESTS] if VAGUE & set(path.relative_to(TOP).with_suffix("").parts)]
    assert vague == []


def test_every_public_function_and_class_is_documented() -> None:
    pictured = TOP / "vfsd" / "model" / "errors.py"  # its docstring draws all its classes
    bare = [
        f"{named(path)}: {node.name}"
        for path, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
        and path != pictured
    ]
    assert bare == []


def test_nothing_is_left_for_later() -> None:
    left = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    assert [named(path) for path, text in {**SOURCES, **TESTS, **PAGES}.items() if left.search(text)] == []


def test_only_the_command_line_writes_to_the_terminal() -> None:
    printing = [
        f"{named(path)}:{node.lineno}"
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"print", "breakpoint"}
    ]
    assert printing == []


def test_the_name_of_a_test_is_a_sentence() -> None:
    names = [name for text in TESTS.values() for name in re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)]
    assert len(names) > 300
    assert [name for name in names if name.count("_") < 3] == []


def test_files_that_the_code_speaks_of_are_there() -> None:
    ours = re.compile(r"(?<![\w./])(?:vfsd|tests|scripts|docs|systemd|packaging)/[\w./-]+\.(?:py|md|json|service)\b")
    found = {(named(path), name) for path, text in {**SOURCES, **TESTS}.items() for name in ours.findall(text)}
    assert len(found) > 5
    assert [pair for pair in sorted(found) if not (TOP / pair[1]).exists()] == []


def test_nothing_of_this_or_that_machine_is_in_the_checkout() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=TOP, check=True, capture_output=True,
        text=True,
    ).stdout.splitlines()  # fmt: skip
    assert [name for name in listed if re.search(r"(~|\.(orig|rej|swp|bak|pyc|log|sqlite))$", name)] == []
    home = str(TOP)
    assert [named(path) for path, text in {**SOURCES, **TESTS, **PAGES}.items() if f"{home}/" in text] == []
