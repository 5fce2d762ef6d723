"""How a walk over lineage is printed, while it goes on: as a tree, as nested JSON, as a graph for Graphviz."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from vfsd.daemon.output import Facts, name_facts, print_line, short
from vfsd.lineage.graph import INPUT, Point, Step, Visit
from vfsd.lineage.openlineage import commit_events
from vfsd.lineage.sources import known_commit
from vfsd.model.shown import shown_name, shown_text
from vfsd.repo.repository import Repository

_HOW = {INPUT: "input"}  # other kinds are called as they are
_json = msgspec.json.Encoder()


def print_tree(visits: Iterator[Visit]) -> None:
    """A line a point, below the one that it is a step from."""
    open_levels: list[bool] = []  # whether more follows on each level
    for visit in visits:
        del open_levels[visit.level :]
        if visit.level:
            indent = "".join("│  " if more else "   " for more in open_levels[1:])
            print_line(f"{indent}{'└─ ' if visit.last else '├─ '}{_line(visit)}")
        else:
            print_line(_line(visit))
        open_levels.append(not visit.last)


def _line(visit: Visit) -> str:
    step = visit.step
    notes = []
    if step.kind != INPUT and step.by:
        notes.append(f"read by {shown_text(step.by)}" if step.by else "")
    if step.is_uncommitted:
        notes.append("and uncommitted changes")
    text = point_name(step.point, short(step.point.commit))
    return text + "".join(f"  ({note})" for note in notes) + (" ..." if visit.repeated else "")


def point_name(point: Point, commit: str) -> str:
    """The SPEC of a point, as tables have names."""
    return shown_name(b"/".join((f"{point.repo}/{point.branch}@{commit}".encode(), *point.path)))


def print_nested(visits: Iterator[Visit], way: str) -> None:
    """One document: each point with the steps from it in a field called `way`."""
    depth = -1
    first = True
    for visit in visits:
        while depth >= visit.level:
            sys.stdout.write("]}")
            depth -= 1
            first = False
        facts = _json.encode(_facts(visit)).decode()
        sys.stdout.write(f"{'' if first else ','}{facts[:-1]},{_json.encode(way).decode()}:[")
        depth = visit.level
        first = True
    sys.stdout.write("]}" * (depth + 1) + "\n")


def _facts(visit: Visit) -> Facts:
    point = visit.point
    facts: Facts = {
        "id": point_name(point, point.commit),
        "repo": point.repo,
        "branch": point.branch,
        "commit": point.commit,
        **name_facts("path", b"/".join(point.path)),
    }
    if visit.level:
        facts |= _how(visit.step)
    return facts | {"repeated": True} if visit.repeated else facts


def _how(step: Step) -> Facts:
    return {"kind": _HOW.get(step.kind, step.kind), "by": step.by or None}


def print_dot(visits: Iterator[Visit], *, reverse: bool) -> None:
    """A graph whose arrows lead from what was read to what was made of it. reverse: the visits go the other way."""
    print_line("digraph lineage {")
    print_line('  rankdir=LR; node [shape=box, fontname="sans-serif"];')
    above: list[str] = []
    for visit in visits:
        del above[visit.level :]
        name = _quoted(point_name(visit.point, short(visit.point.commit)))
        if above:
            ends = (name, above[-1]) if reverse else (above[-1], name)
            label = f" [label={_quoted(shown_text(visit.step.by))}]" if visit.step.by else ""
            print_line(f"  {ends[0]} -> {ends[1]}{label};")
        else:
            print_line(f"  {name};")
        above.append(name)
    print_line("}")


def print_events(repository: Repository, visits: Iterator[Visit]) -> None:
    """What made the commits that are met, as OpenLineage events, one a line."""
    told = set()
    for visit in visits:
        commit = known_commit(repository, visit.point.commit)
        if commit is not None and commit.id not in told:
            told.add(commit.id)
            observation = repository.observations.get(commit)
            for event in commit_events(repository.store.url, commit, observation.commands):
                print_line(_json.encode(event).decode())


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
