"""`vfsd pipeline run-cron`."""

from __future__ import annotations

import time

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import print_json_list, print_line, short
from vfsd.daemon.session import session
from vfsd.model.errors import AlreadyExists, InvalidArgument
from vfsd.model.schedule import SECOND, shown_second
from vfsd.model.spec_input import CronInput
from vfsd.pipeline.registry import Registry
from vfsd.pipeline.ticks import make_tick_now
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository, now_ns


@click.command("run-cron", cls=FactsCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def run_cron(invocation: Invocation, name: str) -> None:
    """Make a tick of each cron input now.

    Those that the schedules ask for come all the same. There is one tick a second at most.

    \b
    Example:
      vfsd pipeline run-cron nightly
    """
    with session(invocation) as opened:
        crons = Registry(opened.repository).get(name).spec.cron_inputs()
        if not crons:
            raise InvalidArgument(f"pipeline {name} has no cron input")
        made = [_make(opened.repository, name, cron, opened.settings.author) for cron in crons]
        if invocation.json:
            print_json_list(
                {"id": commit.id, "repo": commit.header.repo, "branch": commit.header.branch, "tick": tick}
                for commit, tick in made
            )
        else:
            for commit, tick in made:
                print_line(f"{commit.header.repo}/{commit.header.branch}@{short(commit.id)}  {tick}")


def _make(repository: Repository, pipeline: str, cron: CronInput, author: str) -> tuple[CommitObject, str]:
    """The commit and the name of its tick. Where there is one of this second already, in the next."""
    while True:
        now = now_ns()
        try:
            return make_tick_now(repository, pipeline, cron, now, author), shown_second(now)
        except AlreadyExists:
            time.sleep((SECOND - now % SECOND) / SECOND)
