"""`vfsd lineage`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.lineage_output import print_dot, print_events, print_nested, print_tree
from vfsd.daemon.session import session
from vfsd.daemon.specs import SPEC, Spec, commit_at, entry_at
from vfsd.lineage.downstream import Downstream
from vfsd.lineage.graph import Steps, walk
from vfsd.lineage.sources import point_of
from vfsd.lineage.upstream import Upstream, check
from vfsd.model.errors import InvalidArgument
from vfsd.pipeline.datum_lineage import DatumLineage


@click.command(cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.option("--up", is_flag=True, help="What it was made from; so without --down too.")
@click.option("--down", is_flag=True, help="What was made from it, instead of what it was made from.")
@click.option("--files", is_flag=True, help="Each file by itself, of commits and directories too.")
@click.option("--depth", type=click.IntRange(min=1), metavar="N", help="At most so many steps away.  [default: all]")
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz.")
@click.option("--openlineage", is_flag=True, help="Print OpenLineage events, one a line.")
@click.pass_obj
def lineage(
    invocation: Invocation, spec: Spec, up: bool, down: bool, files: bool, depth: int | None, dot: bool,
    openlineage: bool,
) -> None:
    """Show what something was made from.

    Any number of steps away: of a commit the commits that were read for it, of a file the files that were. Through
    pipelines this is known exactly; of other programs, what their job had read through the mount before, see the page
    on lineage. With --down the other way round. What comes a second time, marked with ..., is followed only once. Of
    commits whose contents were dropped it is known what they were made from, but not of which files.

    \b
    Examples:
      vfsd lineage counts/main/total.txt
      vfsd lineage texts/main@v1/GPL-3 --down
      vfsd lineage models/main --files --depth 1
    """
    if up and down:
        raise InvalidArgument("--up and --down are two ways: ask for one of them")
    if invocation.json + dot + openlineage > 1:
        raise InvalidArgument("--json, --dot and --openlineage are several formats: ask for one of them")
    with session(invocation) as opened:
        repository = opened.repository
        commit = commit_at(repository, spec.where, header=not (spec.where.path or files))
        if spec.where.path:
            entry_at(repository, spec.where)
        check(repository, commit, spec.where.path)
        start = point_of(commit, spec.where.path)
        datums = DatumLineage(repository)
        steps: Steps
        if down:
            steps = Downstream(repository, datums, by_file=files)
        else:
            steps = Upstream(repository, datums, to_files=bool(spec.where.path) or files, by_file=files)
        visits = walk(start, steps, depth)
        if invocation.json:
            print_nested(visits, "downstream" if down else "upstream")
        elif dot:
            print_dot(visits, reverse=not down)
        elif openlineage:
            print_events(repository, visits)
        else:
            print_tree(visits)
