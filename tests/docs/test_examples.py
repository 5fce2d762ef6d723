"""The examples of the documentation do what the pages show."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests import servers
from tests.docs.conftest import Place
from tests.docs.pages import DOCS, PAGES, TOP, Block, blocks
from tests.docs.shell import check, examples, matches, run_page

KINDS = {"console", "sh", "text", "toml", "json", "yaml", "python", "ini"}


@pytest.mark.parametrize("page", ["tutorial", "reference", "lineage"])
def test_the_examples_of_a_page_do_what_it_shows(page: str, place: Place) -> None:
    assert run_page(DOCS / f"{page}.md", place.folder, place.environ)


def test_the_recipes_do_what_they_show(place: Place, moto: servers.S3Server) -> None:
    environ = {**place.environ, **servers.CREDENTIALS, "VFSD_S3_ENDPOINT": moto.endpoint, "BUCKET": servers.BUCKET}
    assert run_page(DOCS / "how-to.md", place.folder, environ)


def test_the_readme_can_be_followed_word_by_word(place: Place) -> None:
    page = TOP / "README.md"
    use = page.read_text().partition("\n## Use it\n")[2].partition("\n## ")[0]
    lines = textwrap.dedent("\n".join(line for line in use.splitlines() if line[:4].isspace() or not line)).strip()
    activate, script = lines.split("\n", 1)
    assert activate == ". .venv/bin/activate"
    mountpoint = place.folder / "vfs"
    script = script.replace("docs/*.md", f"{DOCS}/*.md").replace("/mnt/vfs", str(mountpoint))
    shell = ["sh", "-eu", "-c", f"vfsd init\n{script}"]  # the default store is not for tests
    done = subprocess.run(
        shell, check=False, cwd=place.folder, env=place.environ, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "first texts" in done.stdout
    assert len(re.findall(r"^\d+ /pfs/texts/[\w-]+\.md$", done.stdout, re.MULTILINE)) == len(list(DOCS.glob("*.md")))
    assert re.search(r"^longest/main@\w+/tutorial.md\n.*texts/main@\w+/tutorial.md$", done.stdout, re.MULTILINE)


def test_an_example_that_prints_something_else_is_noticed(place: Place, tmp_path: Path) -> None:
    for text in ("$ echo one\ntwo", "$ true\nvfsd: an error", "$ false", "$ echo one\n$ echo two\none"):
        page = tmp_path / "page.md"
        page.write_text(f"```console\n{text}\n```\n")
        with pytest.raises(AssertionError, match=r"page\.md:"):
            run_page(page, place.folder, place.environ)


def test_a_shell_keeps_its_directory_its_variables_and_its_files(place: Place, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```console\n$ mkdir inner && cd inner\n$ WORD=here\n```\n```json file=a.json\n{}\n```\n"
        "```sh\nexit 1\n```\n"
        "```console\n$ echo $WORD; cat a.json; for i in 1 2; do\n> echo $i\n> done\nh…e\n{}\n…\n```\n"
    )
    assert run_page(page, place.folder, place.environ) == 3


def test_an_ellipsis_stands_for_what_varies() -> None:
    assert matches(("a…c", "…", "z"), ["abc", "1", "2", "z"])
    assert matches(("…",), [])
    assert not matches(("a…c",), ["abd"])
    assert not matches((), ["something"])


def test_commands_and_output_are_told_apart() -> None:
    found = list(examples(Block(DOCS, 10, "console", ("$ one", "> more", "out", "$ two"))))
    assert [(one.line, one.command, one.output) for one in found] == [(10, "one\nmore", ("out",)), (13, "two", ())]
    with pytest.raises(AssertionError):
        check(DOCS, found[0], 1, ["out"])


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        for block in blocks(page):
            kind, *more = block.info.split() or [""]
            assert kind in KINDS, f"{page}:{block.line - 1}: {kind!r} is none of {', '.join(sorted(KINDS))}"
            assert all(word.startswith("file=") for word in more), f"{page}:{block.line - 1}: {block.info}"
