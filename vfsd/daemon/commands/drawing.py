"""`vfsd pipeline draw`."""

from __future__ import annotations

import os
import sys
from functools import partial

import click

from vfsd.daemon.dag_boxes import ASCII, UNICODE, dag_lines
from vfsd.daemon.dag_output import dag_dot, dag_facts, dag_svg
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import print_json, print_line
from vfsd.daemon.session import session
from vfsd.model.errors import InvalidArgument, NotFound
from vfsd.model.trigger import Trigger
from vfsd.pipeline.dag import dag
from vfsd.pipeline.registry import Registry
from vfsd.repo.ingest import local_errors
from vfsd.repo.refs import Refs


@click.command("draw", cls=FactsCommand)
@click.option("--svg", metavar="FILE", type=click.Path(), help="Write a picture to FILE.")
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz.")
@click.pass_obj
def draw(invocation: Invocation, svg: str | None, dot: bool) -> None:
    """Draw which pipelines read what.

    A box for each branch, below it those of the pipelines that read it, and behind them their globs. A pipeline that
    reads several branches stands below the one that comes last, and names the others. Lines are plain characters where
    the terminal is not one of UTF-8.

    \b
    Examples:
      vfsd pipeline draw
      vfsd pipeline draw --svg pipelines.svg
    """
    if (svg is not None) + dot + invocation.json > 1:
        raise InvalidArgument("--svg, --dot and --json are several formats: ask for one of them")
    with session(invocation) as opened:
        found = dag(Registry(opened.repository).all(), partial(_trigger, opened.repository.refs))
    if svg is not None:
        with local_errors(os.fsencode(svg)), open(svg, "w", encoding="utf-8") as file:
            file.write(dag_svg(found))
    elif invocation.json:
        print_json(dag_facts(found))
    else:
        pen = UNICODE if "utf" in sys.stdout.encoding.lower() else ASCII
        for line in dag_dot(found) if dot else dag_lines(found, pen):
            print_line(line)


def _trigger(refs: Refs, repo: str, branch: str) -> Trigger | None:
    try:
        return refs.head(repo, branch).head.trigger
    except NotFound:
        return None  # the pipeline that reads it waits for it
