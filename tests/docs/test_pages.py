"""What the pages name is there: links, files, tests, layers."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, TOP, anchors, code, links, prose, section

_TEST = re.compile(r"tests/[\w/]+\.py::\w+")
_FILE = re.compile(r"(?:vfsd|tests|docs|scripts|systemd|packaging)/[\w./@-]*\w")
DECISIONS = sorted((DOCS / "decisions").glob("*.md"))


def names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(TOP)) for page in pages]


@pytest.mark.parametrize("name", names(PAGES))
def test_links_lead_somewhere(name: str) -> None:
    page = TOP / name
    for link in links(page):
        if re.match(r"[a-z]+://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name}: {link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{name}: {link}: there is no such heading"


@pytest.mark.parametrize("name", ["docs/how-to.md", "docs/reference.md"])
def test_a_long_page_begins_with_a_list_of_its_headings(name: str) -> None:
    text = (TOP / name).read_text()
    assert re.findall(r"^- \[(.+)\]\(#", text, re.MULTILINE) == re.findall(r"^## (.+)$", text, re.MULTILINE)


@pytest.mark.parametrize("name", names(PAGES))
def test_files_that_are_named_exist(name: str) -> None:
    for word in code(prose(TOP / name)):
        path = word.partition("::")[0]
        if _FILE.fullmatch(path) and not any(sign in word for sign in "<*…"):
            assert (TOP / path).exists(), f"{name}: there is no {path}"


def test_every_promise_names_tests_that_exist() -> None:
    rows = [line for line in (DOCS / "invariants.md").read_text().splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.startswith(("| promise", "|---"))]
    assert len(promises) > 30
    known: dict[str, set[str]] = {}
    for row in promises:
        named = _TEST.findall(row)
        assert named, f"no test is named: {row}"
        for test in named:
            path, name = test.split("::")
            if path not in known:
                tree = ast.parse((TOP / path).read_text())
                known[path] = {
                    node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                }
            assert name in known[path], f"docs/invariants.md: there is no {test}"


def test_the_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    checked = [name.strip().removeprefix("vfsd.") for layer in reversed(layers) for name in layer.split(":")]
    rows = re.findall(r"^\| `vfsd/(\w+)`", section(DOCS / "architecture.md", "Layers"), re.MULTILINE)
    assert sorted(rows) == sorted(checked)
    assert [rows.index(name) for name in checked if name in {"model", "store", "index", "daemon"}] == sorted(
        rows.index(name) for name in ("model", "store", "index", "daemon")
    )


def test_decisions_are_numbered_and_each_says_what_why_and_what_else() -> None:
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == sorted(set(numbers))
    for page in DECISIONS:
        lines = page.read_text().splitlines()
        assert lines[0].startswith(f"# {page.name[:4]}: ")
        heads = [line.removeprefix("## ") for line in lines if line.startswith("## ")]
        assert heads == ["Decision", "Why", "What else was considered"], page.name


def test_every_decision_is_in_the_list_of_the_architecture() -> None:
    listed = {link for link in links(DOCS / "architecture.md") if link.startswith("decisions/")}
    assert listed == {f"decisions/{page.name}" for page in DECISIONS}


def test_decisions_that_the_code_names_exist() -> None:
    for path in (TOP / "vfsd").rglob("*.py"):
        for named in re.findall(r"docs/[\w/.-]+\.md", path.read_text()):
            assert (TOP / named).exists(), f"{path}: there is no {named}"
