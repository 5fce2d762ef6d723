"""How the graph of pipelines is drawn: as SVG, for Graphviz, as facts. On a terminal: vfsd.daemon.dag_boxes."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from vfsd.daemon.dag_boxes import columns
from vfsd.daemon.output import Facts
from vfsd.model.shown import shown_text
from vfsd.pipeline.dag import Arrow, Box, Dag

_CHARACTER, _LINE, _GAP_X, _GAP_Y, _EDGE = 8, 44, 90, 18, 12  # pixels


def dag_dot(found: Dag) -> Iterator[str]:
    """For Graphviz."""
    yield "digraph pipelines {"
    yield '  rankdir=LR; node [fontname="sans-serif"]; edge [fontname="sans-serif"];'
    for box in found.boxes:
        style = "shape=box, style=rounded" if box.pipeline else "shape=folder"
        label = f", label={_quoted(box.label)}" if box.label != box.name else ""
        yield f"  {_quoted(box.name)} [{style}{', color=gray' if box.stopped else ''}{label}];"
    for arrow in found.arrows:
        yield f"  {_quoted(arrow.source)} -> {_quoted(arrow.target)} [label={_quoted(arrow.label)}];"
    yield "}"


def _quoted(text: str) -> str:
    return '"' + shown_text(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def dag_facts(found: Dag) -> Facts:
    """As JSON."""
    return {
        "nodes": [
            {
                "id": box.name, "pipeline": box.pipeline or None, "kind": box.kind or None, "state": _state(box),
                "layer": box.layer, "schedule": box.schedule or None,
            }
            for box in found.boxes
        ],
        "edges": [
            {
                "source": arrow.source, "target": arrow.target, "glob": arrow.glob or None,
                "trigger": arrow.trigger or None,
            }
            for arrow in found.arrows
        ],
    }


def _state(box: Box) -> str | None:
    if not box.pipeline:
        return None
    return "stopped" if box.stopped else "running"


def dag_svg(found: Dag) -> str:
    """A picture: a column a layer, from left to right; globs stand at the arrows."""
    columns: dict[int, list[Box]] = {}
    for box in found.boxes:
        columns.setdefault(box.layer, []).append(box)
    places: dict[str, tuple[int, int, int]] = {}  # name → left, top, width
    left, height = _EDGE, 0
    for layer in sorted(columns):
        wide = max(_width(box.label) for box in columns[layer])
        for row, box in enumerate(columns[layer]):
            places[box.name] = (left, _EDGE + row * (_LINE + _GAP_Y), wide)
        height = max(height, len(columns[layer]) * (_LINE + _GAP_Y))
        left += wide + _GAP_X + max(
            (_width(arrow.label) for arrow in found.arrows if places.get(arrow.source, (0,))[0] == left), default=0
        )
    parts = [_arrow(arrow, places) for arrow in found.arrows] + [_box(box, *places[box.name]) for box in found.boxes]
    size = f'width="{max(left, 1)}" height="{height + 2 * _EDGE}"'
    head = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#555"/></marker></defs>'
    )
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="13">', head, *parts,
        "</svg>\n",
    ))  # fmt: skip


def _width(text: str) -> int:
    """Pixels that a box with a text takes."""
    return columns(shown_text(text)) * _CHARACTER + 24


def _box(box: Box, left: int, top: int, width: int) -> str:
    fill = "#eee" if not box.pipeline else "#fff" if box.stopped else "#dceeff"
    dashed = ' stroke-dasharray="4 3"' if box.stopped else ""
    return (
        f'<g><rect x="{left}" y="{top}" width="{width}" height="{_LINE}" rx="{6 if box.pipeline else 0}" '
        f'fill="{fill}" stroke="#555"{dashed}/>'
        f'<text x="{left + 12}" y="{top + _LINE // 2 + 5}">{escape(shown_text(box.label))}</text></g>'
    )


def _arrow(arrow: Arrow, places: dict[str, tuple[int, int, int]]) -> str:
    left, top, width = places[arrow.source]
    to, to_top, _ = places[arrow.target]
    start, end = (left + width, top + _LINE // 2), (to, to_top + _LINE // 2)
    middle = (start[0] + end[0]) // 2
    text = escape(shown_text(arrow.label))
    return (
        f'<path d="M{start[0]} {start[1]} C{middle} {start[1]} {middle} {end[1]} {end[0]} {end[1]}" fill="none" '
        f'stroke="#555" marker-end="url(#tip)"/>'
        f'<text x="{end[0] - 14}" y="{end[1] - 6}" text-anchor="end" fill="#777" font-size="11">{text}</text>'
    )
