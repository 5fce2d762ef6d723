"""Which paths in which commits are hit by blobs that are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from vfsd.model.entry import Entry, Kind, Ref
from vfsd.model.errors import VfsdError
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.node import ChunkInner, ChunkLeaf, Inner, Leaf
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository
from vfsd.repo.tree_check import BadBlob

_MOST = 1_000_000  # subtrees without damage that are remembered


class Affected(msgspec.Struct, frozen=True):
    """A path, a directory's with a slash at its end, that cannot be read in some commits: how many, and which are the
    first and the last of them, as SPECs without the path."""

    path: str
    commits: int
    oldest: str
    newest: str


def affected(repository: Repository, lost: Sequence[BadBlob]) -> Iterator[Affected]:
    """In order of paths, over the history of all branches and tags. Subtrees that commits share are walked once."""
    if not lost:
        return
    walk = _Walk(repository, {blob.id for blob in lost})
    found: dict[str, tuple[int, tuple[int, str], tuple[int, str]]] = {}  # path → (how many, oldest, newest)
    met: set[CommitId] = set()
    for head in _heads(repository):
        for commit in _history(repository, head, met):
            this = (commit.header.time, _label(commit))
            for path in walk.paths(commit):
                count, oldest, newest = found.get(path, (0, this, this))
                found[path] = (count + 1, min(oldest, this), max(newest, this))
    for path, (count, oldest, newest) in sorted(found.items()):
        yield Affected(path, count, oldest[1], newest[1])


def _heads(repository: Repository) -> Iterator[CommitId]:
    refs = repository.refs
    for repo in list(refs.repos()):
        for _, branch, _ in list(refs.branches(repo)):
            try:
                head = refs.head(repo, branch).commit
            except VfsdError:
                continue  # the check has named it
            if head is not None:
                yield head
        try:
            yield from [tag.commit for _, tag in refs.tags(repo)]
        except VfsdError:
            continue


def _history(repository: Repository, head: CommitId, met: set[CommitId]) -> Iterator[CommitObject]:
    current: CommitId | None = head
    while current is not None and current not in met:
        met.add(current)
        try:
            commit = repository.commits.get(current)
        except VfsdError:
            return
        if repository.drops.find(current) is None:
            yield commit
        current = commit.header.parents[0] if commit.header.parents else None


class _Walk:
    def __init__(self, repository: Repository, lost: set[bytes]) -> None:
        self._nodes = repository.nodes
        self._lost = lost
        self._hits: dict[bytes, list[tuple[bytes, ...]]] = {}  # by node and place: the paths below it that are hit

    def paths(self, commit: CommitObject) -> list[str]:
        """The paths in one commit."""
        root = commit.root.node
        hits = [] if root is None else self._below(root)
        return [b"/".join(path).decode(errors="surrogateescape") for path in hits]

    def _below(self, ref: Ref) -> list[tuple[bytes, ...]]:
        key = ref.id + ref.place.container + ref.place.offset.to_bytes(8, "little", signed=False)
        known = self._hits.get(key)
        if known is None:
            if len(self._hits) >= _MOST:
                self._hits.clear()
            known = self._hits[key] = list(self._look(ref))
        return known

    def _look(self, ref: Ref) -> Iterator[tuple[bytes, ...]]:
        try:
            node = self._nodes.stored(ref)
        except VfsdError:
            yield (b"",)  # a directory of which nothing, or not all, is known
            return
        match node:
            case Leaf(items):
                for entry in items:
                    yield from ((entry.name, *path) for path in self._entry(entry))
            case Inner(_, children):
                for child in children:
                    yield from self._below(child.ref)
            case ChunkLeaf(chunks):
                if any(chunk.id in self._lost for chunk in chunks):
                    yield ()
            case ChunkInner(_, refs):
                if any(self._below(below) for below in refs):
                    yield ()

    def _entry(self, entry: Entry) -> list[tuple[bytes, ...]]:
        if any(chunk.id in self._lost for chunk in entry.chunks):
            return [()]
        if entry.node is None:
            return []
        hits = self._below(entry.node)
        return hits if entry.kind == Kind.DIR else hits[:1] and [()]


def _label(commit: CommitObject) -> str:
    return f"{commit.header.repo}/{commit.header.branch}@{commit.id[:SHORT]}"
