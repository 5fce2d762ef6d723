"""How the graph of pipelines is drawn on a terminal: a box for each branch, those that read it below."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

import msgspec

from vfsd.model.shown import shown_text
from vfsd.pipeline.dag import Arrow, Box, Dag


class Pen(msgspec.Struct, frozen=True):
    """What boxes and lines are made of. corners: top left, top right, bottom left, bottom right; of branches, and of
    pipelines. down: where a line leaves a box. more, last: lines that end at a box."""

    across: str
    side: str
    branch: str
    pipeline: str
    down: str
    more: str
    last: str


UNICODE = Pen("─", "│", "┌┐└┘", "╭╮╰╯", "┬", "├─▶", "└─▶")
ASCII = Pen("-", "|", "++++", "++++", "+", "|->", "`->")


def dag_lines(found: Dag, pen: Pen) -> Iterator[str]:
    """Each branch with the pipelines that read it below, these with those that read them; the glob stands behind the
    box. A pipeline that reads several stands below the one that comes last, and names the others."""
    above, others = _places(found)
    below: dict[str, list[Box]] = {}
    for box in found.boxes:
        if box.name in above:
            below.setdefault(above[box.name].source, []).append(box)
    todo = [(box, "", "", "") for box in reversed(found.boxes) if box.name not in above]
    while todo:
        box, before, line, behind = todo.pop()  # what stands ahead of the three lines of the box
        inner = below.get(box.name, [])
        text = shown_text(box.label) + ("  (stopped)" if box.stopped else "")
        top, bottom = _edges(pen, box, columns(text), has_below=bool(inner))
        yield before + top
        reads = _reads(above.get(box.name), others.get(box.name, []))
        yield " ".join([f"{line}{pen.side} {text} {pen.side}", *reads])
        yield behind + bottom
        for number, one in reversed(list(enumerate(inner, 1))):
            last = number == len(inner)
            ahead = behind + " "
            todo.append((
                one, f"{ahead}{pen.side}  ", ahead + (pen.last if last else pen.more),
                ahead + ("   " if last else f"{pen.side}  "),
            ))  # fmt: skip


def _places(found: Dag) -> tuple[dict[str, Arrow], dict[str, list[Arrow]]]:
    """The name of each box that reads something → the arrow from what it stands below; → the other arrows."""
    layers = {box.name: box.layer for box in found.boxes}
    above: dict[str, Arrow] = {}
    others: dict[str, list[Arrow]] = {}
    for arrow in found.arrows:
        old = above.setdefault(arrow.target, arrow)
        if layers[arrow.source] > layers[old.source]:
            above[arrow.target] = arrow
            others.setdefault(arrow.target, []).append(old)
        elif old is not arrow:
            others.setdefault(arrow.target, []).append(arrow)
    return above, others


def _edges(pen: Pen, box: Box, width: int, *, has_below: bool) -> tuple[str, str]:
    """The lines above and below a text of so many columns."""
    corner = pen.pipeline if box.pipeline else pen.branch
    line = pen.across * (width + 2)
    below = pen.down + line[1:] if has_below else line
    return corner[0] + line + corner[1], corner[2] + below + corner[3]


def _reads(above: Arrow | None, others: list[Arrow]) -> list[str]:
    if above is None:
        return []
    rest = (f" and {shown_text(arrow.source)} {shown_text(arrow.label)}" for arrow in others)
    return [shown_text(above.label), *rest]


def columns(text: str) -> int:
    """The columns of a terminal that a text takes: characters of East Asia are twice as wide, accents stand on
    others."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )
