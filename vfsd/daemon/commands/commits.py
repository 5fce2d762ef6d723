"""`vfsd commit`: commits now, and transactions. The daemon does it when there is one, this process otherwise."""

from __future__ import annotations

from typing import Any

import click

from vfsd.daemon import control
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import print_json, print_line
from vfsd.daemon.session import daemon_facts, settings_for
from vfsd.daemon.specs import TEXT
from vfsd.model.location import parse_branch


class CommitGroup(click.Group):
    """`commit REPO/BRANCH` is short for `commit now REPO/BRANCH`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["now", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=CommitGroup)
def commit() -> None:
    """Commit now, or hold commits back.

    `vfsd commit REPO/BRANCH [-m TEXT]` commits at once what has been written and closed. Between `start` and `finish`
    nothing is committed, then everything in one commit; `abort` forgets it instead.

    \b
    Examples:
      vfsd commit texts/main -m "corrected"
      vfsd commit start texts/main
      vfsd commit finish texts/main -m "both files together"
    """


def _message(command: Any) -> Any:
    return click.option("-m", "--message", type=TEXT, default="", help="The commit's message.")(command)


@commit.command(cls=FactsCommand, hidden=True)
@click.argument("branch", metavar="REPO/BRANCH")
@_message
@click.pass_obj
def now(invocation: Invocation, branch: str, message: str) -> None:
    """Commit closed writes now, and print the id of the commit that holds them.

    \b
    Example:
      vfsd commit texts/main -m "corrected"
    """
    _print_commit(invocation, _ask(invocation, "commit", branch, message))


@commit.command(cls=FactsCommand)
@click.argument("branch", metavar="REPO/BRANCH")
@_message
@click.pass_obj
def start(invocation: Invocation, branch: str, message: str) -> None:
    """Begin a transaction: commits wait until it ends, also over a restart.

    \b
    Example:
      vfsd commit start texts/main
    """
    _ask(invocation, "start", branch, message)
    _print_state(invocation, branch, "transaction")


@commit.command(cls=FactsCommand)
@click.argument("branch", metavar="REPO/BRANCH")
@_message
@click.pass_obj
def finish(invocation: Invocation, branch: str, message: str) -> None:
    """End a transaction with one commit of everything since its start.

    \b
    Example:
      vfsd commit finish texts/main -m "both files together"
    """
    _print_commit(invocation, _ask(invocation, "finish", branch, message))


@commit.command(cls=FactsCommand)
@click.argument("branch", metavar="REPO/BRANCH")
@click.pass_obj
def abort(invocation: Invocation, branch: str) -> None:
    """End a transaction and forget everything since its start.

    \b
    Example:
      vfsd commit abort texts/main
    """
    _ask(invocation, "abort", branch, "")
    _print_state(invocation, branch, "clean")


@commit.command(cls=FactsCommand)
@click.argument("branch", metavar="REPO/BRANCH")
@click.pass_obj
def discard(invocation: Invocation, branch: str) -> None:
    """Give up what was not committed when a branch was deleted.

    It cannot be brought back. `vfsd branch create REPO/BRANCH` brings it back instead: the branch has it at its head.

    \b
    Example:
      vfsd commit discard texts/draft
    """
    _ask(invocation, "discard", branch, "")
    _print_state(invocation, branch, "discarded")


def _ask(invocation: Invocation, question: str, branch: str, message: str) -> Any:
    parse_branch(branch)
    settings = settings_for(invocation)
    facts = daemon_facts(settings)
    if facts is not None:
        path = control.socket_path(settings.node_dir(facts["store_id"]))
        answer = control.ask(path, question, branch=branch, message=message)
        if answer is not None:
            return answer
    import trio  # noqa: PLC0415

    from vfsd.daemon.node import ask_without_daemon  # noqa: PLC0415

    return trio.run(ask_without_daemon, settings, question, branch, message)


def _print_commit(invocation: Invocation, answer: Any) -> None:
    """The commit that holds everything closed so far, whether it was made now or just before by the daemon."""
    if invocation.json:
        print_json(answer)
    else:
        if not answer["new"]:
            click.echo("nothing new to commit", err=True)
        if answer["id"]:
            print_line(answer["id"])


def _print_state(invocation: Invocation, branch: str, state: str) -> None:
    if invocation.json:
        print_json({"branch": branch, "state": state})
