"""`vfsd lineage`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, name_facts, print_json, print_line, short, shown_name
from vfsd.daemon.session import session
from vfsd.daemon.specs import SPEC, Spec, commit_at, entry_at
from vfsd.lineage.graph import Point, Tree, downstream, upstream
from vfsd.pipeline.ledger import DatumLineage


@click.command(cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.option("--down", is_flag=True, help="What was made from it, instead of what it was made from.")
@click.pass_obj
def lineage(invocation: Invocation, spec: Spec, down: bool) -> None:
    """Show what something was made from.

    Any number of steps away: of a commit the commits that were read for it, of an output file the input files. With
    --down the other way round. What stands in the tree a second time, marked with ..., is followed only once. Of
    commits whose contents were dropped it is known what they were made from, but not of which files.

    \b
    Examples:
      vfsd lineage counts/main/total.txt
      vfsd lineage texts/main@v1/GPL-3 --down
    """
    with session(invocation) as opened:
        repository = opened.repository
        commit = commit_at(repository, spec.where, header=not spec.where.path)
        if spec.where.path:
            entry_at(repository, spec.where)
        tree = (downstream if down else upstream)(
            repository, commit, spec.where.path, DatumLineage(repository)
        )
        if invocation.json:
            print_json(_facts(tree, "downstream" if down else "upstream"))
        else:
            for line in _lines(tree):
                print_line(line)


def _facts(tree: Tree, way: str) -> Facts:
    point = tree.point
    path = b"/".join(point.path)
    facts: Facts = {
        "id": _name(point, point.commit),
        "repo": point.repo,
        "branch": point.branch,
        "commit": point.commit,
        **name_facts("path", path),
        way: [_facts(step, way) for step in tree.next],
    }
    return facts | {"repeated": True} if tree.repeated else facts


def _name(point: Point, commit: str) -> str:
    """The SPEC of a point, as tables have names."""
    return shown_name(b"/".join((f"{point.repo}/{point.branch}@{commit}".encode(), *point.path)))


def _lines(tree: Tree) -> Iterator[str]:
    yield _line(tree)
    todo = [(step, "", number == len(tree.next)) for number, step in enumerate(tree.next, 1)][::-1]
    while todo:
        step, indent, last = todo.pop()
        yield f"{indent}{'└─ ' if last else '├─ '}{_line(step)}"
        deeper = indent + ("   " if last else "│  ")
        todo += [(below, deeper, number == len(step.next)) for number, below in enumerate(step.next, 1)][::-1]


def _line(tree: Tree) -> str:
    return _name(tree.point, short(tree.point.commit)) + (" ..." if tree.repeated else "")
