"""`vfsd drop`, `vfsd squash` and `vfsd retention`: contents of old commits are let go, history stays."""

from __future__ import annotations

import errno
import sys

import click
import msgspec

from vfsd.daemon.durations import DURATION, shown
from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import Facts, print_json, print_json_list, print_line, print_table, short, shown_time
from vfsd.daemon.session import Session, session
from vfsd.daemon.specs import SPEC, TEXT, Spec, commit_at, no_path
from vfsd.model.errors import InvalidArgument, Refused
from vfsd.model.ids import CommitId
from vfsd.model.location import Location, parse_location
from vfsd.model.names import check_label
from vfsd.model.rev import parse_rev, rfc3339
from vfsd.model.shown import shown_text
from vfsd.repo import retention as rules_of
from vfsd.repo.repository import now_ns
from vfsd.repo.retention import BranchPlan, KeepRules, RetentionObject, Rules

_FEW = 3  # commits that a question names

_reason = click.option("-m", "--message", type=TEXT, default="", help="Why; whoever asks for the contents reads it.")
_yes = click.option("--yes", is_flag=True, help="Do not ask. Nobody is asked where there is no terminal.")


@click.command(cls=FactsCommand)
@click.argument("specs", type=SPEC, metavar="REPO/BRANCH@REV...", nargs=-1, required=True)
@_reason
@_yes
@click.pass_obj
def drop(invocation: Invocation, specs: tuple[Spec, ...], message: str, yes: bool) -> None:
    """Drop the contents of commits.

    The commits stay in the history with all that is known of them, and no id changes; what they held cannot be read any
    more, and `vfsd gc` deletes what no other commit holds. Refused for a commit that a branch or a tag names, and for
    one that the head of another branch was made from.

    \b
    Examples:
      vfsd drop texts/main@~5
      vfsd drop texts/main@4f1c texts/main@9b20 -m "held personal data"
    """
    with session(invocation) as opened:
        repository = opened.repository
        commits: dict[CommitId, None] = {}
        for spec in specs:
            where = no_path(spec)
            if where.rev is None:
                raise InvalidArgument(f"{spec.text!r} is a branch: name a commit of it, REPO/BRANCH@REV")
            commits[commit_at(repository, where).id] = None
        rules_of.check_droppable(repository, commits)
        _drop(invocation, opened, list(commits), message, yes=yes)


@click.command(cls=FactsCommand)
@click.argument("span", metavar="REPO/BRANCH@REV..REV")
@_reason
@_yes
@click.pass_obj
def squash(invocation: Invocation, span: str, message: str, yes: bool) -> None:
    """Drop the contents of all commits between two.

    Both ends keep theirs. Without the first REV it begins before the oldest commit, without the second it ends at the
    head. What a branch or a tag names stays, and what the head of another branch was made from. See `vfsd drop`.

    \b
    Examples:
      vfsd squash texts/main@v1..v2
      vfsd squash texts/main@..~100
    """
    with session(invocation) as opened:
        repository = opened.repository
        older, newer = _span(span)
        first = None if older is None else commit_at(repository, older, header=True).id
        last = commit_at(repository, newer, header=True).id
        repository.drops.refresh()
        named = rules_of.protected(repository)
        found = [commit for commit in rules_of.between(repository, first, last) if commit not in named]
        _drop(invocation, opened, found, message, yes=yes)


def _span(text: str) -> tuple[Location | None, Location]:
    """The two ends; None for the beginning."""
    branch, at, revs = text.partition("@")
    older, dots, newer = revs.partition("..")
    if not at or not dots or ".." in newer or "/" in revs:
        raise InvalidArgument(f"{text!r}: name two commits of a branch as REPO/BRANCH@REV..REV")
    where = parse_location(branch)
    if where.path:
        raise InvalidArgument(f"{text!r}: a branch is meant here, REPO/BRANCH@REV..REV")

    def end(rev: str) -> Location:
        return msgspec.structs.replace(where, rev=parse_rev(rev), rev_text=rev)

    return end(older) if older else None, end(newer) if newer else where


def _drop(invocation: Invocation, opened: Session, commits: list[CommitId], message: str, *, yes: bool) -> None:
    if commits and not yes and not invocation.json and sys.stdin.isatty() and sys.stderr.isatty():
        few = ", ".join(map(short, commits[:_FEW])) + (", ..." if len(commits) > _FEW else "")
        if not click.confirm(f"Drop the contents of {_commits(len(commits))} ({few})?", err=True):
            raise Refused(errno.ECANCELED, "nothing was dropped")
    author = opened.settings.author
    rules_of.drop(opened.repository, commits, now=now_ns(), author=author, reason=message)
    if invocation.json:
        print_json({"dropped": commits, "reason": message})
    elif not commits:
        print_line("nothing to drop")
    else:
        print_line(f"dropped the contents of {_commits(len(commits))}; `vfsd gc --delete` gives their room back")


def _commits(count: int) -> str:
    return "1 commit" if count == 1 else f"{count} commits"


# Rules


@click.group()
def retention() -> None:
    """Keep rules: which commits keep their contents.

    Rules belong to a repo or to one of its branches, whose own go before the repo's. `vfsd retention apply` drops what
    they do not keep, as `vfsd drop` does. Whatever they say, the contents of what a branch or a tag names stay.

    \b
    Example:
      vfsd retention set texts --keep-last 10 --keep-daily 30 --keep-monthly 12
      vfsd retention apply
      vfsd retention apply --drop
    """


_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_HELP = {
    "last": "Keep the last N commits.",
    "hourly": "Of each of the last N hours with commits, keep the last one.",
    "daily": "Of each of the last N days with commits, keep the last one.",
    "weekly": "Of each of the last N weeks with commits, keep the last one.",
    "monthly": "Of each of the last N months with commits, keep the last one.",
    "yearly": "Of each of the last N years with commits, keep the last one.",
}


@retention.command("set", cls=FactsCommand)
@click.argument("where", metavar="REPO[/BRANCH]")
@click.option("--keep-last", type=click.IntRange(0), default=0, metavar="N", help=_HELP["last"])
@click.option("--keep-hourly", type=click.IntRange(0), default=0, metavar="N", help=_HELP["hourly"])
@click.option("--keep-daily", type=click.IntRange(0), default=0, metavar="N", help=_HELP["daily"])
@click.option("--keep-weekly", type=click.IntRange(0), default=0, metavar="N", help=_HELP["weekly"])
@click.option("--keep-monthly", type=click.IntRange(0), default=0, metavar="N", help=_HELP["monthly"])
@click.option("--keep-yearly", type=click.IntRange(0), default=0, metavar="N", help=_HELP["yearly"])
@click.option(
    "--keep-within", type=DURATION, default="0", metavar="TIME", help="Keep what is so much older than the newest.",
)  # fmt: skip
@click.pass_obj
def set_(
    invocation: Invocation, where: str, keep_last: int, keep_hourly: int, keep_daily: int, keep_weekly: int,
    keep_monthly: int, keep_yearly: int, keep_within: float,
) -> None:
    """Make the rules of a repo or a branch, in place of those it has.

    A commit stays if any of them keeps it. Days, weeks and the like are those of UTC.

    \b
    Examples:
      vfsd retention set texts --keep-last 10 --keep-daily 30
      vfsd retention set texts/main --keep-within 90d --keep-yearly 10
    """
    repo, branch = _named(where)
    keep = KeepRules(
        last=keep_last, hourly=keep_hourly, daily=keep_daily, weekly=keep_weekly, monthly=keep_monthly,
        yearly=keep_yearly, within_s=keep_within,
    ).check()  # fmt: skip
    with session(invocation) as opened:
        repository = opened.repository
        if branch is None:
            repository.refs.repo(repo)
        else:
            repository.refs.head(repo, branch)
        rules = Rules(repository.store)
        rules.set(repo, branch, keep, now=now_ns(), author=opened.settings.author)
        if invocation.json:
            print_json(_facts(repo, branch, rules.get(repo, branch)))
        else:
            print_line(f"{where}: {_shown(keep)}")


@retention.command("list", cls=FactsCommand)
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List all rules.

    \b
    Example:
      vfsd retention list
    """
    with session(invocation) as opened:
        found = list(Rules(opened.repository.store).all())
        if invocation.json:
            print_json_list(_facts(*one) for one in found)
        else:
            rows = (
                (_name(repo, branch), _shown(value.keep), shown_time(value.updated), shown_text(value.author))
                for repo, branch, value in found
            )
            print_table(("of", "keep", "updated", "by"), rows)


@retention.command("delete", cls=StoreCommand)
@click.argument("where", metavar="REPO[/BRANCH]")
@click.pass_obj
def delete(invocation: Invocation, where: str) -> None:
    """Delete the rules of a repo or a branch; everything is kept then, or for a branch what its repo says.

    \b
    Example:
      vfsd retention delete texts/main
    """
    repo, branch = _named(where)
    with session(invocation) as opened:
        Rules(opened.repository.store).delete(repo, branch)


@retention.command("apply", cls=FactsCommand)
@click.argument("names", metavar="[REPO[/BRANCH]...]", nargs=-1)
@click.option("--drop", "really", is_flag=True, help="Do it: drop the contents of what no rule keeps.")
@click.option(
    "--min-age", type=DURATION, default="1d", metavar="TIME", show_default=True,
    help="What is younger stays, whatever the rules say: a job may be reading it.",
)  # fmt: skip
@click.pass_obj
def apply(invocation: Invocation, names: tuple[str, ...], really: bool, min_age: float) -> None:
    """Say what the rules would drop, and with --drop, drop it.

    Of all branches with rules, or of those that are named. A line for each branch.

    \b
    Examples:
      vfsd retention apply
      vfsd retention apply texts --drop
    """
    only = [_named(name) for name in names]
    with session(invocation) as opened:
        repository = opened.repository
        plans = rules_of.plan(repository, now_ns(), min_age_s=min_age, only=only)
        if really:
            doomed = (commit for one in plans for commit in one.drop)
            rules_of.drop(
                repository, doomed, now=now_ns(), author=opened.settings.author, reason="no rule keeps it"
            )
        if invocation.json:
            print_json({"drop": really, "branches": [_plan_facts(one) for one in plans]})
            return
        for one in plans:
            what = "dropped" if really else "to drop"
            print_line(f"{one.repo}/{one.branch}: {len(one.keep)} kept, {len(one.drop)} {what}: {_shown(one.rules)}")
        if not plans:
            print_line("no branch has rules: `vfsd retention set` makes some")
        elif any(one.drop for one in plans):
            print_line("`vfsd gc --delete` gives their room back" if really else "nothing was dropped: --drop does it")


def _named(text: str) -> tuple[str, str | None]:
    """REPO or REPO/BRANCH."""
    repo, slash, branch = text.removeprefix("/").partition("/")
    check_label("repo", repo)
    return repo, check_label("branch", branch) if slash else None


def _name(repo: str, branch: str | None) -> str:
    return repo if branch is None else f"{repo}/{branch}"


def _shown(keep: KeepRules) -> str:
    parts = [f"{name} {count}" for name in _COUNTS if (count := getattr(keep, name))]
    return "keep " + ", ".join([*parts, *([f"within {shown(keep.within_s)}"] if keep.within_s else [])])


def _facts(repo: str, branch: str | None, value: RetentionObject) -> Facts:
    return {
        "id": _name(repo, branch), "repo": repo, "branch": branch, "keep": msgspec.structs.asdict(value.keep),
        "updated": rfc3339(value.updated), "author": value.author,
    }  # fmt: skip


def _plan_facts(one: BranchPlan) -> Facts:
    return {
        "id": f"{one.repo}/{one.branch}", "repo": one.repo, "branch": one.branch,
        "rules": msgspec.structs.asdict(one.rules),
        "kept": [{"id": commit, "reasons": reasons} for commit, reasons in one.keep.items()], "dropped": one.drop,
    }  # fmt: skip
