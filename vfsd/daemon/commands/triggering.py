"""`vfsd branch trigger`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, print_json, print_line
from vfsd.daemon.session import session
from vfsd.daemon.specs import BRANCH, TEXT
from vfsd.model.trigger import Trigger
from vfsd.repo.refs import check_writable
from vfsd.repo.repository import now_ns
from vfsd.repo.triggered import set_trigger, take_trigger


@click.command("trigger", cls=FactsCommand)
@click.argument("where", type=BRANCH, metavar="REPO/BRANCH")
@click.option("--on", "source", metavar="BRANCH", type=TEXT, help="The branch of the same repo that it follows.")
@click.option("--size", metavar="SIZE", type=TEXT, default="", help="Once that one is so much larger, as 100M.")
@click.option("--commits", metavar="N", type=int, default=0, help="Once that one has so many commits more.")
@click.option(
    "--rate-limit", metavar="SCHEDULE", type=TEXT, default="",
    help="Once a time of this schedule, as '@every 1h', lies between the commits of both.",
)  # fmt: skip
@click.option(
    "--cron", metavar="SCHEDULE", type=TEXT, default="", help="At the times of this schedule, as '0 3 * * *'."
)
@click.option("--all", "together", is_flag=True, help="Only when all of these hold; without it, when one does.")
@click.option("--off", is_flag=True, help="Take the trigger away; the branch stays where it is.")
@click.pass_obj
def trigger(
    invocation: Invocation, where: tuple[str, str], source: str | None, size: str, commits: int, rate_limit: str,
    cron: str, together: bool, off: bool,
) -> None:  # fmt: skip
    """Have a branch go where another one is, once enough has come there.

    Pipelines that read the branch then run. It is made if it is not there, and users do not write to it. A daemon that
    runs pipelines moves it.

    \b
    Examples:
      vfsd branch trigger texts/weekly --on main --cron @weekly
      vfsd branch trigger texts/batch --on main --size 100M --commits 50
      vfsd branch trigger texts/batch --off
    """
    if off == (source is not None) or (off and (size or commits or rate_limit or cron or together)):
        raise click.UsageError("give --on BRANCH and when, or --off alone")
    with session(invocation) as opened:
        repository = opened.repository
        if source is None:
            found = repository.refs.head(*where)
            if found.head.trigger is None:
                check_writable(found)
            head = take_trigger(repository, *where)
        else:
            wanted = Trigger(
                branch=source, all=together, size=size, commits=commits, rate_limit_spec=rate_limit, cron_spec=cron
            )
            head = set_trigger(repository, *where, wanted, now_ns())
        if invocation.json:
            print_json({"id": f"{head.repo}/{head.branch}", "trigger": trigger_facts(head.head.trigger)})
        elif head.head.trigger is None:
            print_line(f"{head.repo}/{head.branch} has no trigger")
        else:
            print_line(f"{head.repo}/{head.branch} follows {shown_trigger(head.head.trigger)}")


def trigger_facts(found: Trigger | None) -> Facts | None:
    """A trigger in JSON."""
    if found is None:
        return None
    return {
        "branch": found.branch, "all": found.all, "size": found.size, "commits": found.commits,
        "rate_limit_spec": found.rate_limit_spec, "cron_spec": found.cron_spec,
    }  # fmt: skip


def shown_trigger(found: Trigger) -> str:
    """A trigger in one line."""
    return f"{found.branch}: {found.shown}"
