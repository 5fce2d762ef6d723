"""What something was made from (upstream) and what was made from it (downstream), any number of steps away.

Between commits this is the provenance in their headers. Between files it goes through datums: an output file carries
the id of the datum that wrote it (its entry's `origin`), and a DatumSource knows what that datum read. Without one,
and for whatever no datum wrote, the answer is about whole commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository
from vfsd.repo.tree import Path, find, walk


class Point(msgspec.Struct, frozen=True):
    """A commit of a branch, or with a path a file or directory in it."""

    repo: str
    branch: str
    commit: CommitId
    path: Path = ()


class Tree(msgspec.Struct, frozen=True):
    """A point and what lies one step beyond it. repeated: the point stands elsewhere in the tree, with its steps;
    here they are left out, because a graph of many ways would be a tree of exponential size."""

    point: Point
    next: tuple[Tree, ...] = ()
    repeated: bool = False


class DatumSource(Protocol):
    """Who knows what a datum read."""

    def inputs(self, repo: str, branch: str, commit: CommitId, origin: bytes) -> Sequence[Point]:
        """The files and directories that the datum `origin` (32 bytes) read when its outputs came into `commit`, an
        output commit on `repo`/`branch`; none when that is not known."""
        ...


def upstream(
    repository: Repository, commit: CommitObject, path: Path = (), datums: DatumSource | None = None
) -> Tree:
    """What the commit, or what stands at `path` in it, was made from, down to commits that nothing was read for.

    Of a path the answer goes from files to files: where a datum read a whole directory, on to what made each file in
    it. NotFound when there is nothing at `path`. A commit that the store has lost ends its way there.
    """
    _check(repository, commit, path)
    return _Upstream(repository, datums, to_files=bool(path)).tree(_point(commit, path))


def downstream(
    repository: Repository, commit: CommitObject, path: Path = (), datums: DatumSource | None = None
) -> Tree:
    """What was made from the commit, or from what stands at `path` in it, in branches that are there today.

    Reads the history of all branches as far as the index does not know it. NotFound as in `upstream`.
    """
    _check(repository, commit, path)
    branches = {(repo, branch) for repo, branch, _ in repository.refs.branches()}
    repository.commits.sync(_heads(repository, branches))
    return _Downstream(repository, datums, branches).tree(_point(commit, path))


def _check(repository: Repository, commit: CommitObject, path: Path) -> None:
    """NotFound when there is nothing at `path`; of a commit without contents only the whole can be asked about."""
    repository.drops.refresh()
    if path:
        find(repository.nodes, commit.root, path)


def dependents(repository: Repository, repo: str) -> Iterator[CommitObject]:
    """Commits of other repos that were made from commits of `repo` directly; streamed, newest first in each branch."""
    for owner, branch, _ in list(repository.refs.branches()):
        if owner == repo:
            continue
        for head in _heads(repository, {(owner, branch)}):
            for commit in repository.commits.log(head):
                if any(edge.repo == repo for edge in commit.header.provenance):
                    yield commit


def _heads(repository: Repository, branches: set[tuple[str, str]]) -> list[CommitId]:
    heads = []
    for repo, branch in sorted(branches):
        try:
            head = repository.refs.head(repo, branch).commit
        except NotFound:
            continue  # deleted just now
        if head is not None:
            heads.append(head)
    return heads


def _point(commit: CommitObject, path: Path) -> Point:
    return Point(commit.header.repo, commit.header.branch, commit.id, path)


class _Walk:
    """Builds a tree, each point's steps once."""

    def __init__(self, repository: Repository, datums: DatumSource | None) -> None:
        self._repository = repository
        self._datums = datums
        self._met: set[Point] = set()

    def tree(self, point: Point) -> Tree:
        """The tree below a point."""
        if point in self._met:
            return Tree(point, repeated=bool(self._steps(point)))
        self._met.add(point)
        return Tree(point, tuple(self.tree(step) for step in self._steps(point)))

    def _steps(self, point: Point) -> list[Point]:
        raise NotImplementedError

    def _commit(self, commit: CommitId) -> CommitObject | None:
        try:
            return self._repository.commits.get(commit)
        except NotFound:
            return None

    def _is_dropped(self, commit: CommitObject) -> bool:
        """Whether only the header of a commit is left."""
        return self._repository.drops.find(commit.id) is not None

    def _files(self, commit: CommitObject, path: Path) -> Iterator[tuple[Path, Entry]]:
        """What is at a path and below it, but for directories; nothing where nothing is."""
        try:
            entry = find(self._repository.nodes, commit.root, path)
        except NotFound:
            return
        if entry.kind != Kind.DIR:
            yield path, entry
            return
        for below, inner in walk(self._repository.nodes, entry, path):
            if inner.kind != Kind.DIR:
                yield below, inner

    def _read_by(self, commit: CommitObject, origin: bytes) -> Sequence[Point]:
        if self._datums is None or not origin:
            return ()
        return self._datums.inputs(commit.header.repo, commit.header.branch, commit.id, origin)


class _Upstream(_Walk):
    def __init__(self, repository: Repository, datums: DatumSource | None, *, to_files: bool) -> None:
        super().__init__(repository, datums)
        self._to_files = to_files

    def _steps(self, point: Point) -> list[Point]:
        commit = self._commit(point.commit)
        if commit is None:
            return []
        edges = [Point(edge.repo, edge.branch, edge.commit) for edge in commit.header.provenance]
        if not self._to_files or self._datums is None or not edges or self._is_dropped(commit):
            return edges
        origins = dict.fromkeys(entry.more.origin for _, entry in self._files(commit, point.path))
        read = dict.fromkeys(step for origin in origins for step in self._read_by(commit, origin))
        return sorted(read, key=_order) or edges


class _Downstream(_Walk):
    def __init__(self, repository: Repository, datums: DatumSource | None, branches: set[tuple[str, str]]) -> None:
        super().__init__(repository, datums)
        self._branches = branches

    def _steps(self, point: Point) -> list[Point]:
        steps = []
        for found in self._repository.index.downstream(point.commit):
            commit = self._commit(found)
            if commit is not None and (commit.header.repo, commit.header.branch) in self._branches:
                steps += self._written_from(commit, point)
        return sorted(steps, key=_order)

    def _written_from(self, commit: CommitObject, point: Point) -> list[Point]:
        """The files of `commit` whose datums read the point; the whole commit where datums cannot tell."""
        whole = [_point(commit, ())]
        if not point.path or self._datums is None or self._is_dropped(commit):
            return whole
        reads: dict[bytes, bool] = {}
        files = []
        told = False
        for path, entry in self._files(commit, ()):
            origin = entry.more.origin
            if origin not in reads:
                inputs = self._read_by(commit, origin)
                told = told or bool(inputs)
                reads[origin] = any(_overlap(one, point) for one in inputs)
            if reads[origin]:
                files.append(_point(commit, path))
        return files if told else whole


def _overlap(one: Point, other: Point) -> bool:
    """Whether one of two points holds the other."""
    depth = min(len(one.path), len(other.path))
    return one.repo == other.repo and one.commit == other.commit and one.path[:depth] == other.path[:depth]


def _order(point: Point) -> tuple[str, str, str, Path]:
    return (point.repo, point.branch, point.commit, point.path)
