"""What both ways of lineage read of commits: files, who wrote them, and what was seen of these."""

from __future__ import annotations

from collections.abc import Iterator

from vfsd.lineage.graph import Point, Step
from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import NotFound, Refused
from vfsd.model.ids import CommitId
from vfsd.model.observation import Path
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.diff import diff
from vfsd.repo.repository import Repository
from vfsd.repo.tree import find, walk


def point_of(commit: CommitObject, path: Path = ()) -> Point:
    """A commit, or something in it, as a point."""
    return Point(commit.header.repo, commit.header.branch, commit.id, path)


def known_commit(repository: Repository, commit: CommitId) -> CommitObject | None:
    """A commit; None for one that the store has lost, where ways end."""
    try:
        return repository.commits.get(commit)
    except NotFound:
        return None


def is_dropped(repository: Repository, commit: CommitObject) -> bool:
    """Whether only the header of a commit is left."""
    return repository.drops.find(commit.id) is not None


def entry_in(repository: Repository, commit: CommitObject, path: Path) -> Entry | None:
    """What stands at a path, if anything does."""
    try:
        return find(repository.nodes, commit.root, path)
    except (NotFound, Refused):
        return None


def files_in(repository: Repository, commit: CommitObject, path: Path) -> Iterator[tuple[Path, Entry]]:
    """What is at a path and below it, but for directories; streamed, nothing where nothing is."""
    entry = entry_in(repository, commit, path)
    if entry is None:
        return
    if entry.kind != Kind.DIR:
        yield path, entry
        return
    for below, inner in walk(repository.nodes, entry, path):
        if inner.kind != Kind.DIR:
            yield below, inner


def files_of_directory(repository: Repository, point: Point) -> Iterator[Step] | None:
    """Each file at and below a point that is a directory or a whole commit; None for a file, and where contents are
    gone."""
    commit = known_commit(repository, point.commit)
    if commit is None or is_dropped(repository, commit):
        return None
    entry = entry_in(repository, commit, point.path)
    if entry is None or entry.kind != Kind.DIR:
        return None
    return (Step(point_of(commit, path)) for path, _ in files_in(repository, commit, point.path))


def brought(repository: Repository, commit: CommitObject, path: Path) -> Iterator[tuple[CommitObject, list[Path]]]:
    """Which commits brought the contents that are at `path` and below it, each with the files that it brought, the
    newest first. Goes back in the history until all are found, and reads there what differs at `path`. Ends where
    contents were dropped or lost."""
    wanted = entry_in(repository, commit, path)
    if wanted is None:
        return
    left = 1 if wanted.kind != Kind.DIR else 0 if wanted.node is None else wanted.node.count
    told: set[Path] = set()
    at, entry = commit, wanted
    while left > 0:
        parents = at.header.parents
        before = known_commit(repository, parents[0]) if parents else None
        if before is not None and is_dropped(repository, before):
            return
        older = None if before is None else entry_in(repository, before, path)
        if older is None or older.digest != entry.digest or older.kind != entry.kind:
            found = []
            for below in _changed(repository, path, older, entry):
                if below not in told and _is_in(repository, commit, below, at):
                    told.add(below)
                    found.append(below)
            left -= len(found)
            if found:
                yield at, found
        if before is None or older is None:
            return
        at, entry = before, older


def _changed(repository: Repository, path: Path, old: Entry | None, new: Entry) -> Iterator[Path]:
    """Files at and below a path whose contents are not those of before."""
    if new.kind != Kind.DIR:
        yield path
        return
    for below, one, other in diff(repository.nodes, old, new, path):
        if other is not None and other.kind != Kind.DIR and (one is None or one.digest != other.digest):
            yield below


def _is_in(repository: Repository, commit: CommitObject, path: Path, older: CommitObject) -> bool:
    """Whether `commit` has the content at `path` that `older`, which brought it, has there."""
    if commit.id == older.id:
        return True
    one, other = entry_in(repository, commit, path), entry_in(repository, older, path)
    return one is not None and other is not None and one.digest == other.digest
