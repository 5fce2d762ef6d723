"""`vfsd log`, `vfsd show` and `vfsd diff`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import (
    Facts,
    commit_facts,
    commit_fields,
    joined,
    name_facts,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    short,
    shown_time,
)
from vfsd.daemon.session import session
from vfsd.daemon.specs import SPEC, Spec, commit_at, entry_at, no_path
from vfsd.index.verdicts import DropRow
from vfsd.model.entry import Entry, Kind, same
from vfsd.model.errors import NotFound, Refused
from vfsd.model.location import Location
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_name, shown_text
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.diff import Changed
from vfsd.repo.diff import diff as tree_diff
from vfsd.repo.repository import Repository
from vfsd.repo.tree import Path, find

_LETTERS = {"added": "A", "modified": "M", "deleted": "D", "retyped": "T"}


@click.command(cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.option("-n", "--number", type=click.IntRange(min=1), help="At most so many commits.")
@click.pass_obj
def log(invocation: Invocation, spec: Spec, number: int | None) -> None:
    """List the commits of a branch, newest first.

    From its head, or from a rev. With a path, only the commits that changed what is there. Commits whose contents were
    dropped are marked; with a path they are left out.

    \b
    Examples:
      vfsd log texts/main -n 10
      vfsd log texts/main@v1/licences
    """
    with session(invocation) as opened:
        repository = opened.repository
        repository.drops.refresh()
        commits = islice(_history(repository, spec.where), number)
        if invocation.json:
            print_json_list(_facts(repository, commit) for commit in commits)
        else:
            rows = (_row(repository, commit) for commit in commits)
            print_table(("commit", "time", "author", ">files", "message"), rows)


@click.command(cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="REPO/BRANCH[@REV]")
@click.pass_obj
def show(invocation: Invocation, spec: Spec) -> None:
    """Show one commit.

    What it is, who made it when, from which commits, and which programs were seen to write it.

    \b
    Examples:
      vfsd show texts/main
      vfsd show texts/main@2026-11-22T10:00:00Z
    """
    where = no_path(spec)
    with session(invocation) as opened:
        commit = commit_at(opened.repository, where, header=True)
        opened.repository.drops.refresh()
        dropped = opened.repository.drops.find(commit.id)
        writers = list(_writers(opened.repository, commit))
        if invocation.json:
            print_json({**_facts(opened.repository, commit), "writers": writers})
            return
        print_fields([
            *commit_fields(commit), *(("written by", _shown_writer(one)) for one in writers),
            *([("dropped", _shown_drop(dropped))] if dropped else []),
        ])  # fmt: skip
        if commit.header.message:
            print_line()
            for line in commit.header.message.splitlines():
                print_line(f"    {shown_text(line)}")


@click.command(cls=FactsCommand)
@click.argument("old", type=SPEC, metavar="SPEC")
@click.argument("new", type=SPEC, metavar="SPEC")
@click.pass_obj
def diff(invocation: Invocation, old: Spec, new: Spec) -> None:
    """List what differs between two trees.

    From the first to the second, a line each: A added, D deleted, M modified (contents, mode, owner or time), T of
    another type. Paths are below the two SPECs. A directory is listed where it is new or gone, or where its own mode
    or owner differs.

    \b
    Examples:
      vfsd diff texts/main@~1 texts/main
      vfsd diff texts/main@v1/licences texts/try/licences
    """
    with session(invocation) as opened:
        repository = opened.repository
        changes = _changes(repository, entry_at(repository, old.where), entry_at(repository, new.where))
        if invocation.json:
            print_json_list(_change_facts(*change) for change in changes)
            return
        for path, one, other in changes:
            slash = "/" if Kind.DIR in {entry.kind for entry in (other or one,) if entry} else ""
            print_line(f"{_LETTERS[_state(one, other)]}  {shown_name(joined(path))}{slash}")


def _history(repository: Repository, where: Location) -> Iterator[CommitObject]:
    commit = repository.resolve(where, header=True)
    if commit is None:
        return
    history = repository.commits.log(commit.id)
    if not where.path:
        yield from history
        return
    newer: CommitObject | None = None
    newer_entry: Entry | None = None
    met = False
    for commit in history:
        if repository.drops.find(commit.id) is not None:
            continue
        entry = _entry(repository, commit, where.path)
        if newer is not None and not same(entry, newer_entry):
            yield newer
        met = met or entry is not None
        newer, newer_entry = commit, entry
    if newer is not None and newer_entry is not None:
        yield newer
    if not met:
        entry_at(repository, where)  # says what is missing


def _entry(repository: Repository, commit: CommitObject, path: Path) -> Entry | None:
    try:
        return find(repository.nodes, commit.root, path)
    except (NotFound, Refused):
        return None


def _facts(repository: Repository, commit: CommitObject) -> Facts:
    found = repository.drops.find(commit.id)
    dropped = None
    if found is not None:
        dropped = {"time": rfc3339(found.time), "author": found.author, "reason": found.reason}
    return {**commit_facts(commit), "dropped": dropped}


def _writers(repository: Repository, commit: CommitObject) -> Iterator[Facts]:
    """Who was seen to write a commit, of those that had read something. complete: whether all of that was kept."""
    for job in repository.observations.get(commit).jobs:
        for writer in job.writers:
            yield {"command": writer.command, "job": job.command, "complete": not job.partial}


def _shown_writer(writer: Facts) -> str:
    of_job = f", of {shown_text(writer['job'])}" if writer["job"] not in {"", writer["command"]} else ""
    return shown_text(writer["command"]) + of_job


def _shown_drop(found: DropRow) -> str:
    reason = f": {shown_text(found.reason)}" if found.reason else ""
    return f"{shown_time(found.time)} by {shown_text(found.author)}{reason}"


def _row(repository: Repository, commit: CommitObject) -> tuple[str, ...]:
    header = commit.header
    message = shown_text(header.message.partition("\n")[0])
    if repository.drops.find(commit.id) is not None:
        message = f"(dropped) {message}"
    return (short(commit.id), shown_time(header.time), shown_text(header.author), str(header.files), message)


def _changes(repository: Repository, old: Entry, new: Entry) -> Iterator[Changed]:
    both_are_directories = old.kind == new.kind == Kind.DIR
    if both_are_directories:
        found = tree_diff(repository.nodes, old, new)
    else:
        found = iter([((), old, new)] if not _alike(old, new) else [])
    for path, one, other in found:
        if one is None or other is None or one.kind != Kind.DIR or other.kind != Kind.DIR or not _alike(one, other):
            yield path, one, other


def _alike(one: Entry, other: Entry) -> bool:
    """Whether two entries are the same but for their names and, of directories, what is in them and when it came."""
    attributes = (one.kind, one.mode, one.uid, one.gid, one.more) == (
        other.kind, other.mode, other.uid, other.gid, other.more,
    )  # fmt: skip
    if one.kind == Kind.DIR:
        return attributes
    return attributes and (one.mtime, one.digest) == (other.mtime, other.digest)


def _state(one: Entry | None, other: Entry | None) -> str:
    if one is None:
        return "added"
    if other is None:
        return "deleted"
    return "modified" if one.kind == other.kind else "retyped"


def _change_facts(path: Path, one: Entry | None, other: Entry | None) -> Facts:
    return {
        "state": _state(one, other),
        **name_facts("path", joined(path)),
        "old": None if one is None else _version_facts(one),
        "new": None if other is None else _version_facts(other),
    }


def _version_facts(entry: Entry) -> Facts:
    return {"id": entry.digest.hex(), "kind": Kind(entry.kind).name.lower(), "size": entry.size}
