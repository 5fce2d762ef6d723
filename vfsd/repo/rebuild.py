"""Recreates the index from the store alone, as `vfsd index rebuild` does.

Reads the directory of every pack and the head of every commit object, not their contents: whether those are as they
were is not looked at here. What is damaged is named in the result, and the rest goes on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from vfsd.index.ancestry import Ancestry
from vfsd.index.index import CommitRow, PlaceRow
from vfsd.model.commit import BranchHead, Tag, decode
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import CommitId, PackId
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import CommitObject, parse, parse_head
from vfsd.repo.commits import commit_key
from vfsd.repo.repository import Repository
from vfsd.store.api import ETag, Stat
from vfsd.store.blob import FRAME, container_key
from vfsd.store.moved import without_maps
from vfsd.store.pack import CHUNK, HEAD, Blob, directory_span, read_directory_at

PARALLEL = 16  # objects read at once
_BATCH = 500  # commits a transaction
DIRECTORIES = 8 << 20  # bytes of packs' directories that are read at once: tiny files make them long
_PACK_NAME = re.compile(r"[0-9a-f]{32}")
_COMMIT_NAME = re.compile(r"[0-9a-f]{64}")

_Span = tuple[int, int] | Damaged | None  # where a directory lies, and its length; None when it was deleted meanwhile
Progress = Callable[[str, int], None]  # called with ("packs" | "commits" | "refs", how many since the last call)


class RebuildResult(msgspec.Struct, frozen=True):
    """How many objects of each kind were read, and of blobs found; a sentence for each thing that is damaged."""

    packs: int
    commits: int
    blobs: int
    refs: int
    problems: tuple[str, ...]


def rebuild(repository: Repository, progress: Progress = lambda kind, count: None) -> RebuildResult:
    """Fill the repository's index anew: places, commits, provenance, branch heads. What is this node's own stays.

    Others may use the store and the index meanwhile. Raises Unavailable and the like when the store does not answer;
    then the index holds a part, which is good, and rebuilding may begin again.
    """
    repository.index.clear()
    repository.guard.refresh()  # before any place is known: nothing may be shared that is condemned
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-rebuild") as pool, Ancestry() as ancestry:
        work = _Rebuild(repository, ancestry, progress)
        work.drops()
        work.packs(pool)
        work.commits(pool)
        work.refs(pool)
        return work.result()


class _Rebuild:
    def __init__(self, repository: Repository, ancestry: Ancestry, progress: Progress) -> None:
        self._repository = repository
        self._store = without_maps(repository.store)
        self._index = repository.index
        self._progress = progress
        self._counts = {"packs": 0, "commits": 0, "refs": 0}
        self._blobs = 0
        self._ancestry = ancestry
        self._problems: list[str] = []

    def result(self) -> RebuildResult:
        counts = self._counts
        return RebuildResult(counts["packs"], counts["commits"], self._blobs, counts["refs"], tuple(self._problems))

    # What was dropped

    def drops(self) -> None:
        try:
            self._repository.drops.refresh()
        except Damaged as error:
            self._problems.append(str(error))

    def _dropped(self) -> Iterator[CommitRow]:
        """Those of which only the header is left."""
        for row in list(self._index.drops.all()):
            if row.id not in self._ancestry:
                header = parse_head(row.head, row.id).header
                self._ancestry.add(row.id, header.parents)
                yield CommitRow(row.id, tuple(edge.commit for edge in header.provenance), row.head)

    # Packs

    def packs(self, pool: ThreadPoolExecutor) -> None:
        spans = ahead(pool, self._span, self._store.list("packs/"), 2 * PARALLEL)
        for (stat, _), blobs in ahead(pool, self._pack, spans, 2 * PARALLEL, _length, DIRECTORIES):
            if isinstance(blobs, Damaged):
                self._problems.append(str(blobs))
            elif blobs is not None:
                container = bytes.fromhex(stat.key.rpartition("/")[2])
                self._places(container, blobs)
                self._count("packs")

    def _span(self, stat: Stat) -> _Span:
        """Where a pack's directory lies."""
        name = stat.key.rpartition("/")[2]
        try:
            if _PACK_NAME.fullmatch(name) is None or container_key(bytes.fromhex(name)) != stat.key:
                raise Damaged(f"{stat.key}: not the name of a pack")
            return directory_span(self._store, PackId(bytes.fromhex(name)), stat.size)
        except Damaged as error:
            return _named(stat.key, error)
        except NotFound:
            return None

    def _pack(self, found: tuple[Stat, _Span]) -> list[Blob] | Damaged | None:
        """A pack's directory."""
        stat, span = found
        if not isinstance(span, tuple):
            return span
        try:
            blobs = read_directory_at(self._store, PackId(bytes.fromhex(stat.key.rpartition("/")[2])), *span)
            _check_places(stat.key, blobs, stat.size)
            if blobs and blobs[0].offset != len(HEAD):
                raise Damaged(f"{stat.key}: the directory of its blobs is damaged")
        except Damaged as error:
            return _named(stat.key, error)
        except NotFound:
            return None
        return blobs

    def _places(self, container: bytes, blobs: Sequence[Blob]) -> None:
        """The chunks in a container may be shared from now on. Nodes may not: one to which nothing leads, as they lie
        beside others, may point to what was deleted, and nothing in the store says so for ever."""
        chunks = (blob for blob in blobs if blob.kind == CHUNK)
        self._index.add_places(PlaceRow(blob.id, container, blob.offset, blob.length) for blob in chunks)
        self._blobs += len(blobs)

    # Commits

    def commits(self, pool: ThreadPoolExecutor) -> None:
        rows: list[CommitRow] = []
        for _, found in ahead(pool, self._commit, self._store.list("commits/"), 2 * PARALLEL):
            if isinstance(found, Damaged):
                self._problems.append(str(found))
            elif found is not None:
                commit, head = found
                self._places(bytes.fromhex(commit.id), commit.hints.blobs)
                self._ancestry.add(commit.id, commit.header.parents)
                rows.append(CommitRow(commit.id, tuple(edge.commit for edge in commit.header.provenance), head))
                self._count("commits")
            if len(rows) >= _BATCH:
                self._index.add_commits(rows)
                rows = []
        rows += self._dropped()
        self._index.add_commits(rows)
        self._problems += (
            f"commits/{commit}: its parent {parent} cannot be read" for commit, parent in self._ancestry.missing()
        )
        self._index.mark_complete(self._ancestry.complete())

    def _commit(self, stat: Stat) -> tuple[CommitObject, bytes] | Damaged | None:
        """A commit and its head; None when it was deleted meanwhile."""
        name = stat.key.removeprefix("commits/")
        try:
            if _COMMIT_NAME.fullmatch(name) is None:
                raise Damaged(f"{stat.key}: not the name of a commit")
            data, _ = self._store.get(stat.key)
            commit, head = parse(data, CommitId(name))
            _check_places(stat.key, commit.hints.blobs, len(data))
        except Damaged as error:
            return _named(stat.key, error)
        except NotFound:
            return None
        return commit, head

    # Refs

    def refs(self, pool: ThreadPoolExecutor) -> None:
        heads: list[tuple[str, str, bytes]] = []
        kinds: tuple[tuple[str, type[BranchHead | Tag]], ...] = (("refs/", BranchHead), ("tags/", Tag))
        for prefix, kind in kinds:
            for stat, read in ahead(pool, self._ref, self._store.list(prefix), 2 * PARALLEL):
                if read is None:
                    continue
                data, etag = read
                try:
                    commit = decode(data, kind, stat.key).commit
                except Damaged as error:
                    self._problems.append(str(error))
                    continue
                self._count("refs")
                if kind is BranchHead:
                    heads.append((stat.key, etag, data))
                if commit is not None and commit not in self._ancestry and not self._is_new(commit):
                    self._problems.append(f"{stat.key}: its commit {commit} cannot be read")
        self._index.update_refs(heads, ())

    def _ref(self, stat: Stat) -> tuple[bytes, ETag] | None:
        try:
            return self._store.get(stat.key)
        except NotFound:
            return None

    def _is_new(self, commit: CommitId) -> bool:
        """Whether a commit was made while the others were read. It is left to whoever meets it."""
        try:
            parse(self._store.get(commit_key(commit))[0], commit)
        except (NotFound, Damaged):
            return False
        return True

    def _count(self, kind: str) -> None:
        self._counts[kind] += 1
        self._progress(kind, 1)


def _check_places(key: str, blobs: Sequence[Blob], size: int) -> None:
    """Damaged unless the blobs of an object of `size` bytes lie one behind another, as they do in packs and commits:
    a wrong place in the index would let new commits point to bytes that are not there."""
    end = blobs[0].offset if blobs else 0
    for blob in blobs:
        if len(blob.id) != 32 or blob.offset != end or blob.length < FRAME:
            raise Damaged(f"{key}: the directory of its blobs is damaged")
        end += blob.length
    if end > size:
        raise Damaged(f"{key}: the directory of its blobs is damaged")


def _named(key: str, error: Damaged) -> Damaged:
    """The error, with the object's key in it."""
    return error if key in str(error) else Damaged(f"{key}: {error}")


def _length(found: tuple[Stat, _Span]) -> int:
    return found[1][1] if isinstance(found[1], tuple) else 0
