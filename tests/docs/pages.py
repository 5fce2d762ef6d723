"""The pages of the documentation, as tests read them: fenced blocks, links, headings, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
PAGES = [TOP / "README.md", TOP / "packaging/README.md", *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"```(.*)")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. info: what stands behind its opening fence. line: of the first line in it, counted from 1."""

    page: Path
    line: int
    info: str
    lines: tuple[str, ...]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    start, info, inside = 0, "", list[str]()
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.fullmatch(line)
        if start:
            if fence:
                yield Block(page, start, info, tuple(inside))
                start, inside = 0, []
            else:
                inside.append(line)
        elif fence:
            start, info = number + 1, fence[1].strip()
    assert not start, f"{page}: the block in line {start - 1} has no end"


def prose(page: Path) -> str:
    """A page without its blocks, fenced or indented."""
    kept, inside = [], False
    for line in page.read_text().splitlines():
        if _FENCE.fullmatch(line):
            inside = not inside
        elif not inside and not line.startswith("    "):
            kept.append(line)
    return "\n".join(kept)


def links(page: Path) -> list[str]:
    """Where a page's links lead."""
    return _LINK.findall(prose(page))


def code(text: str) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(text)


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as web pages of it have them."""
    heads = (line.lstrip("#").strip() for line in prose(page).splitlines() if line.startswith("#"))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def section(page: Path, title: str) -> str:
    """The text below one heading, with all that is below it, up to the next heading of the same or a higher level."""
    lines = page.read_text().splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("#") and line.lstrip("#").strip() == title)
    level = len(lines[start]) - len(lines[start].lstrip("#"))
    end = start + 1
    while end < len(lines) and not re.match(rf"#{{1,{level}}} ", lines[end]):
        end += 1
    return "\n".join(lines[start + 1 : end])
