"""SPECs on the command line: how they are read, and how a shell completes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

import click
import msgspec
from click.shell_completion import CompletionItem

from vfsd.daemon.invocation import Invocation
from vfsd.daemon.session import session
from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import InvalidArgument, NotFound, ReadOnly, Refused, VfsdError
from vfsd.model.ids import CommitId
from vfsd.model.location import Location, parse_branch, parse_location
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.directory import entries
from vfsd.repo.refs import Head, check_writable
from vfsd.repo.repository import Repository
from vfsd.repo.tree import find

COMPLETIONS = 200  # more are no help


class Spec(msgspec.Struct, frozen=True):
    """A SPEC as typed. inside: it ends in `/`, so the directory's inside is meant."""

    text: str
    where: Location
    inside: bool


class _StoreName(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """What the two kinds of names have in common: completion. branch_end: what a completed branch ends in."""

    branch_end = "/"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        try:
            with session(ctx.ensure_object(Invocation)) as opened:
                return [CompletionItem(text) for text in _complete(opened.repository, incomplete, self.branch_end)]
        except VfsdError:
            return []  # a shell that completes has nowhere to say it


class SpecParam(_StoreName):
    """REPO/BRANCH[@REV][/PATH]."""

    name = "SPEC"

    def convert(self, value: str | Spec, param: click.Parameter | None, ctx: click.Context | None) -> Spec:
        return value if isinstance(value, Spec) else Spec(value, parse_location(value), value.endswith("/"))


class BranchParam(_StoreName):
    """REPO/BRANCH."""

    name = "REPO/BRANCH"
    branch_end = ""

    def convert(
        self, value: str | tuple[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        return parse_branch(value) if isinstance(value, str) else value


class TextParam(click.ParamType):  # type: ignore[type-arg]  # as above
    """Text that goes into the store, so it has to be UTF-8."""

    name = "TEXT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"{value!r} is not valid UTF-8") from None
        return value


SPEC = SpecParam()
BRANCH = BranchParam()
TEXT = TextParam()


def writable_head(repository: Repository, where: Location) -> Head:
    """The head of a branch that users may write to; ReadOnly for snapshots and output branches."""
    if where.rev is not None:
        snapshot = f"{where.repo}/{where.branch}@{where.rev_text}"
        raise ReadOnly(f"{snapshot} is a snapshot, which never changes: leave out the @")
    head = repository.refs.head(where.repo, where.branch)
    check_writable(head)
    return head


def entry_at(repository: Repository, where: Location) -> Entry:
    """What stands at a location; NotFound and Refused name the branch as well."""
    root = repository.root(where)
    try:
        return find(repository.nodes, root, where.path)
    except Refused as error:
        raise Refused(error.errno, f"{_tree(where)}: {error}") from None
    except NotFound as error:
        raise NotFound(f"{_tree(where)}: {error}") from None


def commit_at(repository: Repository, where: Location, *, header: bool = False) -> CommitObject:
    """The commit that a location is in; NotFound on a branch without commits. header: only its header is wanted, so
    that one whose contents were dropped will do."""
    commit = repository.resolve(where, header=header)
    if commit is None:
        raise NotFound(f"{where.repo}/{where.branch} has no commits yet")
    return commit


def head_commit(repository: Repository, commit: CommitId | None) -> CommitObject | None:
    """A head's commit, if it has one."""
    return None if commit is None else repository.commits.get(commit)


def no_path(spec: Spec) -> Location:
    """The location of a SPEC that has to name a commit; InvalidArgument when there is a path."""
    if spec.where.path:
        raise InvalidArgument(f"{spec.text!r}: a commit is meant here, REPO/BRANCH[@REV]")
    return spec.where


def _tree(where: Location) -> str:
    return str(msgspec.structs.replace(where, path=()))


def _complete(repository: Repository, incomplete: str, branch_end: str) -> list[str]:
    """SPECs that begin with `incomplete`. A lone directory comes with what is in it: the word is not at its end yet."""
    found = list(_children(repository, incomplete.rpartition("/")[0], incomplete, branch_end))
    while len(found) == 1 and found[0].endswith("/"):
        below = list(_children(repository, found[0][:-1], found[0], branch_end))
        if not below:
            break
        found = [found[0], *below] if len(below) == 1 and not below[0].endswith("/") else below
    return found


def _children(repository: Repository, folder: str, begin: str, branch_end: str) -> Iterator[str]:
    prefix = folder + "/" if folder else ""
    names = (prefix + name for name in _names(repository, folder, branch_end))
    # Shells take a completion a line, in UTF-8: other names are left to be typed.
    yield from islice((name for name in names if name.startswith(begin) and name.isprintable()), COMPLETIONS)


def _names(repository: Repository, folder: str, branch_end: str) -> Iterator[str]:
    if not folder:
        yield from (repo + "/" for repo in repository.refs.repos())
    elif "/" not in folder:
        yield from (branch + branch_end for _, branch, _ in repository.refs.branches(folder))
    else:
        entry = entry_at(repository, parse_location(folder))
        for child in entries(repository.nodes, entry.node if entry.kind == Kind.DIR else None):
            yield os.fsdecode(child.name) + ("/" if child.kind == Kind.DIR else "")
