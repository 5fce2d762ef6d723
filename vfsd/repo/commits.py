"""Commits by id: read once, kept in the index; history along parents; which commits were made from which."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vfsd.index.index import CommitRow, Index, PlaceRow
from vfsd.model.commit import commit_id_of
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import SHORT, CommitId
from vfsd.repo.commit_object import CommitObject, header_of, parse, parse_head
from vfsd.repo.containers import Containers
from vfsd.repo.drops import Drops
from vfsd.store.api import ObjectStore
from vfsd.store.pack import CHUNK, NODE

PARALLEL = 16  # commit objects read at once


def commit_key(commit: str) -> str:
    """Key of a commit object; also a listing's prefix, for the beginning of an id."""
    return f"commits/{commit}"


class Commits:
    """Commit objects of one store; blocks, safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index, containers: Containers) -> None:
        self._store = store
        self._containers = containers
        self._index = index
        self.drops = Drops(store, index)

    def cached(self, commit: CommitId) -> CommitObject | None:
        """The commit when the index has it."""
        head = self._index.commit(commit)
        return None if head is None else parse_head(head, commit)

    def get(self, commit: CommitId) -> CommitObject:
        """The commit, of a dropped one at least the header; NotFound."""
        found = self.cached(commit) or self._load(commit)
        self._containers.belong_together(found.window)
        return found

    def _load(self, commit: CommitId) -> CommitObject:
        try:
            data, _ = self._store.get(commit_key(commit))
        except NotFound:
            self.drops.refresh()
            dropped = self.drops.find(commit)
            if dropped is None:
                raise NotFound(f"there is no commit {commit} in {self._store.url}") from None
            found = parse_head(dropped.head, commit)
            self.keep(found, dropped.head)
            return found
        found, head = parse(data, commit)
        raw = bytes.fromhex(commit)
        self._containers.keep(raw, data)  # the small trees that came along are read next, most likely
        # Nodes are not shared by other commits than this node's own: see BlobWriter.
        chunks = [blob for blob in found.hints.blobs if blob.kind == CHUNK]
        self._index.add_places([PlaceRow(blob.id, raw, blob.offset, blob.length) for blob in chunks])
        self.keep(found, head)
        return found

    def header(self, commit: CommitId) -> bytes:
        """The header's bytes, whose hash the id is; NotFound."""
        self.get(commit)
        head = self._index.commit(commit)
        if head is None or commit_id_of(header_of(head)) != commit:
            raise Damaged(f"commit {commit[:SHORT]} in this node's index is not as it was: run `vfsd index rebuild`")
        return header_of(head)

    def keep(self, commit: CommitObject, head: bytes) -> None:
        """Let the index know a commit; it is complete when its parents are."""
        complete = all(self._index.is_complete(parent) for parent in commit.header.parents)
        self._index.add_commits([_row(commit, head)], complete=complete)

    def with_prefix(self, prefix: str, limit: int) -> list[CommitId]:
        """Up to `limit` ids that begin with `prefix`, those of dropped commits included: two listings."""
        self.drops.refresh()
        found = set(self.drops.with_prefix(prefix, limit))
        for stat in self._store.list(commit_key(prefix)):
            if len(found) >= limit:
                break
            found.add(CommitId(stat.key.removeprefix("commits/")))
        return sorted(found)

    def log(self, start: CommitId) -> Iterator[CommitObject]:
        """`start` and its ancestors along first parents, newest first; what is not cached is read 64 at a time."""
        current: CommitId | None = start
        while current is not None:
            commit = self.get(current)
            yield commit
            parents = commit.header.parents
            current = parents[0] if parents else None
            if current is not None and self._index.commit(current) is None:
                self._load_all(commit.ancestors)

    def undropped(self, start: CommitId) -> Iterator[CommitObject]:
        """The same without those that were dropped. Costs what is left of a history, and what was dropped of it since
        it was looked at last: what is behind a run of dropped commits is remembered."""
        current: CommitId | None = start
        before, is_far = start, False  # the last one that was not dropped, or the start; whether it is not the parent
        skips: list[tuple[CommitId, str]] = []
        while current is not None:
            commit = self.get(current)
            if self.drops.find(current) is None:
                if is_far:
                    skips.append((before, current))
                yield commit
                before, is_far = current, False
            else:
                is_far = True
            current = self._next_undropped(commit)
        if is_far:
            skips.append((before, ""))
        if skips:
            self._index.drops.add_older(skips)

    def _next_undropped(self, commit: CommitObject) -> CommitId | None:
        """What is to be looked at behind a commit."""
        older = self._index.drops.older(commit.id)
        if older is not None:
            return CommitId(older) if older else None
        parents = commit.header.parents
        if parents and self._index.commit(parents[0]) is None:
            self._load_all(commit.ancestors)
        return parents[0] if parents else None

    def leads_to(self, start: CommitId, commit: CommitId) -> bool:
        """Whether a commit is `start` or one of its ancestors along first parents. Reads back to its time, no further:
        no commit is older than its parent."""
        since = self.get(commit).header.time
        young = itertools.takewhile(lambda found: found.header.time >= since, self.log(start))
        return any(found.id == commit for found in young)

    def back(self, start: CommitId, steps: int) -> CommitObject:
        """The commit `steps` before `start` along first parents, 64 a read; NotFound past the root."""
        commit = self.get(start)
        left = steps
        while left:
            ancestors = commit.ancestors
            if not ancestors:
                raise NotFound(f"commit {start[:12]} has only {steps - left} ancestors, not {steps}")
            hop = min(left, len(ancestors))
            commit = self.get(ancestors[hop - 1])
            left -= hop
        return commit

    def sync(self, heads: Iterable[CommitId]) -> int:
        """Bring every ancestor of `heads` into the index, at the cost of the new ones; how many were new."""
        new: dict[CommitId, CommitObject] = {}
        queue = deque(head for head in heads if not self._index.is_complete(head))
        while queue:
            wave = [commit for commit in dict.fromkeys(queue) if commit not in new]
            queue.clear()
            for commit in self._load_all(wave):
                new[commit.id] = commit
                queue.extend(
                    parent
                    for parent in (*commit.header.parents, *commit.ancestors)
                    if parent not in new and not self._index.is_complete(parent)
                )
        rows = []
        for commit in new.values():
            head = self._index.commit(commit.id)
            assert head is not None
            rows.append(_row(commit, head))
        if rows:
            self._index.add_commits(rows, complete=True)
        return len(rows)

    def _load_all(self, wanted: list[CommitId]) -> list[CommitObject]:
        if len(wanted) < 2:
            return [self.get(commit) for commit in wanted]
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-log") as pool:
            return list(pool.map(self.get, wanted))


def _row(commit: CommitObject, head: bytes) -> CommitRow:
    return CommitRow(commit.id, tuple(edge.commit for edge in commit.header.provenance), head)


def node_blobs(commit: CommitObject) -> Iterator[bytes]:
    """Ids of the tree nodes that a commit object carries."""
    return (blob.id for blob in commit.hints.blobs if blob.kind == NODE)
