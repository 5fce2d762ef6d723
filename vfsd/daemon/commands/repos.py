"""`vfsd repo`."""

from __future__ import annotations

import errno
import sys

import click
import msgspec

from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import (
    Facts,
    counted,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    short,
    shown_size,
    shown_time,
)
from vfsd.daemon.session import session
from vfsd.daemon.specs import TEXT, head_commit
from vfsd.lineage.downstream import dependents
from vfsd.model.commit import RepoObject
from vfsd.model.errors import NotFound, Refused
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_text
from vfsd.pipeline.registry import Registry
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.retention import Rules


class _Found(msgspec.Struct, frozen=True):
    """A repo as it is shown."""

    name: str
    value: RepoObject
    branches: dict[str, CommitObject | None]
    tags: dict[str, str]


@click.group()
def repo() -> None:
    """Create, list, inspect and delete repos.

    A repo holds branches; a branch holds the versions of one directory tree.

    \b
    Example:
      vfsd repo create texts
    """


@repo.command("create", cls=FactsCommand)
@click.argument("name", metavar="REPO")
@click.option("--description", type=TEXT, default="", help="What the repo is for.")
@click.pass_obj
def create(invocation: Invocation, name: str, description: str) -> None:
    """Create a repo with an empty branch main.

    \b
    Example:
      vfsd repo create texts --description "licence texts"
    """
    with session(invocation) as opened:
        refs = opened.repository.refs
        refs.create_repo(name, now_ns(), description)
        refs.create_branch(name, DEFAULT_BRANCH, None, now_ns())
        if invocation.json:
            print_json(_facts(_read(opened.repository, name)))
        else:
            print_line(f"created repo {name} with the branch {name}/{DEFAULT_BRANCH}")


@repo.command("list", cls=FactsCommand)
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List all repos, newest first.

    \b
    Example:
      vfsd repo list
    """
    with session(invocation) as opened:
        refs = opened.repository.refs
        found = []
        for name in refs.repos():
            try:
                found.append((name, refs.repo(name)))
            except NotFound:
                continue  # deleted just now
        found.sort(key=lambda item: (-item[1].created, item[0]))
        if invocation.json:
            print_json_list(_short_facts(name, value) for name, value in found)
        else:
            rows = ((name, shown_time(value.created), shown_text(value.description)) for name, value in found)
            print_table(("repo", "created", "description"), rows)


@repo.command("inspect", cls=FactsCommand)
@click.argument("name", metavar="REPO")
@click.pass_obj
def inspect(invocation: Invocation, name: str) -> None:
    """Show a repo with its branches and tags.

    \b
    Example:
      vfsd repo inspect texts
    """
    with session(invocation) as opened:
        found = _read(opened.repository, name)
        if invocation.json:
            print_json(_facts(found))
            return
        branches = found.branches.items()
        print_fields([
            ("repo", name),
            ("created", rfc3339(found.value.created)),
            ("description", shown_text(found.value.description)),
            *(("branch", f"{branch}  {_shown_commit(commit)}") for branch, commit in branches),
            *(("tag", f"{tag}  {short(commit)}") for tag, commit in found.tags.items()),
        ])


@repo.command("delete", cls=StoreCommand)
@click.argument("name", metavar="REPO")
@click.option("--force", is_flag=True, help="Also when commits of other repos were made from it.")
@click.option("--yes", is_flag=True, help="Do not ask. Nobody is asked where there is no terminal.")
@click.pass_obj
def delete(invocation: Invocation, name: str, force: bool, yes: bool) -> None:
    """Delete a repo with all its branches and tags.

    Refused while a pipeline reads or writes it, and while commits of other repos were made from it: their lineage
    would lead nowhere.

    \b
    Example:
      vfsd repo delete texts --yes
    """
    with session(invocation) as opened:
        repository = opened.repository
        refs = repository.refs
        refs.repo(name)
        _refuse_if_driven(repository, name)
        if not force:
            _refuse_if_needed(repository, name)
        if not yes and sys.stdin.isatty() and sys.stderr.isatty():
            _ask(name)
        for _, branch, _ in list(refs.branches(name)):
            refs.delete_branch(name, branch)
        for tag, _ in list(refs.tags(name)):
            refs.delete_tag(name, tag)
        Rules(repository.store).delete_repo(name)
        refs.delete_repo(name)


def _ask(name: str) -> None:
    if not click.confirm(f"Delete the repo {name} with all its branches and tags?", err=True):
        raise Refused(errno.ECANCELED, "nothing was deleted")


def _refuse_if_driven(repository: Repository, name: str) -> None:
    """A pipeline that reads or writes a repo would be left without it: not even --force does that."""
    for head in Registry(repository).all():
        if name in {head.name, *(pfs.repo for pfs in head.spec.pfs_inputs())}:
            raise Refused(errno.EBUSY, f"pipeline {head.name} reads or writes repo {name}: delete the pipeline first")


def _refuse_if_needed(repository: Repository, name: str) -> None:
    dependent = next(dependents(repository, name), None)
    if dependent is not None:
        header = dependent.header
        where = f"{header.repo}/{header.branch}@{short(dependent.id)}"
        raise Refused(errno.ENOTEMPTY, f"repo {name} is needed: {where} was made from it (--force deletes it anyway)")


def _read(repository: Repository, name: str) -> _Found:
    refs = repository.refs
    value = refs.repo(name)
    heads = [refs.head(name, branch) for _, branch, _ in refs.branches(name)]
    heads.sort(key=lambda head: (-head.head.moved, head.branch))
    tags = sorted(refs.tags(name), key=lambda item: (-item[1].created, item[0]))
    return _Found(
        name,
        value,
        {head.branch: head_commit(repository, head.commit) for head in heads},
        {tag: found.commit for tag, found in tags},
    )


def _short_facts(name: str, value: RepoObject) -> Facts:
    return {"id": name, "created": rfc3339(value.created), "description": value.description}


def _facts(found: _Found) -> Facts:
    branches = [
        {"id": f"{found.name}/{branch}", "name": branch, "commit": commit.id if commit else None}
        for branch, commit in found.branches.items()
    ]
    tags = [{"id": tag, "commit": commit} for tag, commit in found.tags.items()]
    return {**_short_facts(found.name, found.value), "branches": branches, "tags": tags}


def _shown_commit(commit: CommitObject | None) -> str:
    if commit is None:
        return "no commits yet"
    return f"{short(commit.id)}  {counted(commit.header.files, 'file')}, {shown_size(commit.header.size)}"
