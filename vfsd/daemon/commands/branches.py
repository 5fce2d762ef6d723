"""`vfsd branch`."""

from __future__ import annotations

import errno

import click

from vfsd.daemon.commands.triggering import shown_trigger, trigger, trigger_facts
from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import (
    Facts,
    commit_facts,
    commit_fields,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    short,
    shown_time,
)
from vfsd.daemon.session import session
from vfsd.daemon.specs import BRANCH, commit_at, head_commit
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.ids import CommitId
from vfsd.model.location import Location, parse_location, split_branch
from vfsd.model.names import is_label
from vfsd.model.rev import parse_rev, rfc3339
from vfsd.repo.refs import Head, check_writable
from vfsd.repo.repository import Repository, now_ns


@click.group()
def branch() -> None:
    """Create, move, trigger, list, inspect and delete branches.

    \b
    Example:
      vfsd branch create texts/try --from main
    """


branch.add_command(trigger)


@branch.command("create", cls=FactsCommand)
@click.argument("where", type=BRANCH, metavar="REPO/BRANCH")
@click.option(
    "--from", "source", metavar="REV",
    help="Where it begins: a branch of the repo, BRANCH@REV, REPO/BRANCH[@REV], a tag or a commit id.",
)  # fmt: skip
@click.pass_obj
def create(invocation: Invocation, where: tuple[str, str], source: str | None) -> None:
    """Create a branch, empty or at a commit of the same repo.

    The repo must be there. The new branch shares all bytes with the one it comes from.

    \b
    Examples:
      vfsd branch create texts/empty
      vfsd branch create texts/try --from main@~2
      vfsd branch create texts/release --from v1.0
    """
    repo, name = where
    with session(invocation) as opened:
        repository = opened.repository
        repository.refs.repo(repo)
        commit = None if source is None else _commit(repository, repo, source, "--from")
        if commit is None:
            head = repository.refs.create_branch(repo, name, None, now_ns())
        else:
            head = repository.create_branch(repo, name, commit, now_ns())
        if invocation.json:
            print_json(_facts(head))
        else:
            print_line(f"created branch {repo}/{name}" + (f" at {short(commit)}" if commit else ""))


@branch.command("move", cls=FactsCommand)
@click.argument("where", type=BRANCH, metavar="REPO/BRANCH")
@click.option(
    "--to", "target", metavar="REV", required=True,
    help="Where it goes: a branch of the repo, BRANCH@REV, REPO/BRANCH[@REV], a tag or a commit id.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Also when nothing else leads to where it stands.")
@click.pass_obj
def move(invocation: Invocation, where: tuple[str, str], target: str, force: bool) -> None:
    """Move a branch to another commit of the same repo.

    Pipelines that read the branch then run over that commit, once. So one that reads a branch which is moved by hand
    works when you say so, however often others write.

    \b
    Examples:
      vfsd branch move texts/live --to main
      vfsd branch move texts/live --to main@~2
    """
    with session(invocation) as opened:
        repository = opened.repository
        head = repository.refs.head(*where)
        _check_own(head)
        commit = _commit(repository, where[0], target, "--to")
        if commit != head.commit:
            away = head.commit is None or repository.commits.leads_to(commit, head.commit)
            if not (away or force or repository.leads_elsewhere(head)):
                raise Refused(
                    errno.EBUSY,
                    f"{head.repo}/{head.branch} stands at {short(head.commit)}, to which nothing else leads:"
                    " `vfsd tag create` keeps that, --force gives it up",
                )
            moved = repository.move_branch(head, commit, now_ns())
        else:
            moved = head
        if invocation.json:
            print_json(_facts(moved))
        else:
            print_line(f"{moved.repo}/{moved.branch} stands at {short(commit)}")


@branch.command("list", cls=FactsCommand)
@click.argument("repo", metavar="[REPO]", required=False)
@click.pass_obj
def list_(invocation: Invocation, repo: str | None) -> None:
    """List the branches of a repo, or of all; the one that moved last is first.

    \b
    Example:
      vfsd branch list texts
    """
    with session(invocation) as opened:
        refs = opened.repository.refs
        if repo is not None:
            refs.repo(repo)
        heads = []
        for owner, name, _ in refs.branches(repo):
            try:
                heads.append(refs.head(owner, name))
            except NotFound:
                continue  # deleted just now
        heads.sort(key=lambda head: (-head.head.moved, head.repo, head.branch))
        if invocation.json:
            print_json_list(map(_facts, heads))
        else:
            print_table(("branch", "commit", "moved", "written by"), map(_row, heads))


@branch.command("inspect", cls=FactsCommand)
@click.argument("where", type=BRANCH, metavar="REPO/BRANCH")
@click.pass_obj
def inspect(invocation: Invocation, where: tuple[str, str]) -> None:
    """Show a branch and the commit that it stands at.

    \b
    Example:
      vfsd branch inspect texts/main
    """
    with session(invocation) as opened:
        head = opened.repository.refs.head(*where)
        commit = head_commit(opened.repository, head.commit)
        if invocation.json:
            print_json({**_facts(head), "head": None if commit is None else commit_facts(commit)})
            return
        print_fields([
            ("branch", f"{head.repo}/{head.branch}"),
            ("moved", rfc3339(head.head.moved)),
            ("written by", _writer(head) if head.head.pipeline or head.head.trigger else ""),
            *(commit_fields(commit) if commit else [("commit", "none yet")]),
        ])


@branch.command("delete", cls=StoreCommand)
@click.argument("where", type=BRANCH, metavar="REPO/BRANCH")
@click.pass_obj
def delete(invocation: Invocation, where: tuple[str, str]) -> None:
    """Delete a branch.

    Commits that a tag or another branch leads to can still be reached by their ids, and the others until `vfsd gc`
    deletes them: `vfsd branch create --from` makes a branch of them again. The output branch of a pipeline goes with
    the pipeline.

    \b
    Example:
      vfsd branch delete texts/try
    """
    with session(invocation) as opened:
        refs = opened.repository.refs
        _check_own(refs.head(*where))
        refs.delete_branch(*where)


def _check_own(head: Head) -> None:
    """ReadOnly for a branch of a pipeline's. One with a trigger is somebody's own all the same."""
    if head.head.trigger is None:
        check_writable(head)


def _commit(repository: Repository, repo: str, text: str, option: str) -> CommitId:
    """The commit that an option names; InvalidArgument when it is of another repo."""
    if "/" in text:
        where = parse_location(text)
        if where.path:
            raise InvalidArgument(f"{option} {text!r}: a commit is meant here, REPO/BRANCH[@REV]")
        if where.repo != repo:
            raise InvalidArgument(f"{option} {text!r}: a branch of {repo} has commits of {repo}; `vfsd cp` copies")
        return commit_at(repository, where).id
    name, rev = split_branch(text)
    if is_label(name) and any(known == name for _, known, _ in repository.refs.branches(repo)):
        where = Location(repo, name) if rev is None else Location(repo, name, parse_rev(rev), (), rev)
        return commit_at(repository, where).id
    if rev is not None:
        raise NotFound(f"there is no branch {name} in repo {repo}")
    parsed = parse_rev(text)
    if parsed.tag:
        try:
            start = repository.refs.tag(repo, parsed.tag).commit
        except NotFound:
            raise NotFound(f"repo {repo} has no branch and no tag {parsed.tag}") from None
        return repository.commits.back(start, parsed.back).id
    if not parsed.prefix:
        raise InvalidArgument(f"{option} {text!r}: of which branch? Say BRANCH@{text}")
    return commit_at(repository, Location(repo, "any", parsed, (), text)).id


def _facts(head: Head) -> Facts:
    return {
        "id": f"{head.repo}/{head.branch}",
        "repo": head.repo,
        "name": head.branch,
        "commit": head.commit,
        "moved": rfc3339(head.head.moved),
        "pipeline": head.head.pipeline or None,
        "trigger": trigger_facts(head.head.trigger),
    }


def _row(head: Head) -> tuple[str, ...]:
    return (f"{head.repo}/{head.branch}", short(head.commit), shown_time(head.head.moved), _writer(head))


def _writer(head: Head) -> str:
    if head.head.trigger is not None:
        return f"trigger on {shown_trigger(head.head.trigger)}"
    return f"pipeline {head.head.pipeline}" if head.head.pipeline else "users"
