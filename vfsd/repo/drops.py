"""Commits whose contents were dropped: their headers stay, so that history and lineage can be read on.

    dropped/<32 hex digits>     a blob of JSON: DropRecord; written once

One record is one act, whole or not at all, or several that were merged. What its commits' trees held is no longer
reachable by them; nothing that a branch or tag names is dropped. Deleting the bytes is left to repo/gc.py, and deleting
records to which nothing leads to repo/leftovers.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import msgspec

from vfsd.index.index import Index
from vfsd.index.verdicts import DropRow
from vfsd.model.commit import Commit, commit_id_of, decode, encode
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.rev import rfc3339
from vfsd.repo.commit_object import bare_head
from vfsd.repo.refs import nonce
from vfsd.store.api import ObjectStore
from vfsd.store.blob import decode_blob, encode_blob

PREFIX = "dropped/"
PART = 10_000  # commits in one record: about 1 MB
MERGED = PART // 2  # commits: records with fewer are merged, when there are
MANY = 64  # of them: whoever has seen none reads as many, at once, and one listing has all
PARALLEL = 16  # records read at once
TRIES = 5  # listings, where records go that were just listed
_MAX_RECORD = 1 << 30
_IDS = msgspec.json.Decoder(list[CommitId])


class Act(msgspec.Struct, frozen=True):
    """One act of a record in which several are. count: how many of its commits are of this one."""

    time: int
    author: str
    reason: str
    count: int


class DropRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `dropped/<id>`. time: ns since 1970. reason: one line. commits: their headers, as they were. acts:
    of a record that was made of others, in the order of the commits; empty in any other."""

    format: int = 1
    time: int
    author: str
    reason: str
    commits: tuple[str, ...]
    acts: tuple[Act, ...] = ()

    def each_act(self) -> Iterator[tuple[Act, tuple[str, ...]]]:
        """(act, headers) of each, also of a record that is one act."""
        at = 0
        for act in self.acts or (Act(self.time, self.author, self.reason, len(self.commits)),):
            yield act, self.commits[at : at + act.count]
            at += act.count


class Drops:
    """The dropped commits of one store. Blocks; safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index) -> None:
        self._store = store
        self._index = index

    def refresh(self) -> None:
        """Take in what was dropped since the last time: one listing, and a request for each new record."""
        any(self._take_in() for _ in range(TRIES))

    def _take_in(self) -> bool:
        """False when a record was deleted before it could be read: another may say the same by now."""
        known = self._index.ref_keys(PREFIX)  # before the listing: what is not in that was deleted
        listed = [stat.key for stat in self._store.list(PREFIX)]
        new = [key for key in listed if key not in known]
        for key, record in self._read_all(new):
            if record is None:
                return False
            rows = list(_rows(record))
            self._index.drops.add(rows)
            self._index.update_refs([(key, "", msgspec.json.encode([row.id for row in rows]))], ())
        self._forget(known.difference(listed))
        return True

    def records(self) -> dict[str, list[CommitId]]:
        """key → the commits of each record, as far as is known here."""
        return {key: _IDS.decode(ids) for key, (_, ids) in self._index.refs(PREFIX).items() if ids}

    def _forget(self, gone: Collection[str]) -> None:
        """Records that were deleted; their commits may be in others, too."""
        if gone:
            records = self.records()
            kept = {commit for key, commits in records.items() if key not in gone for commit in commits}
            self._index.drops.remove({commit for key in gone for commit in records.get(key, ())} - kept)
            self._index.update_refs((), gone)

    def _read_all(self, keys: list[str]) -> Iterator[tuple[str, DropRecord | None]]:
        """The records with these keys; None for what was deleted meanwhile."""
        if keys:
            with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-drops") as pool:
                for key, data in zip(keys, pool.map(self._read, keys), strict=True):
                    yield key, None if data is None else decode_record(key, data)

    def _read(self, key: str) -> bytes | None:
        try:
            return self._store.get(key)[0]
        except NotFound:
            return None

    def find(self, commit: CommitId) -> DropRow | None:
        """When and why a commit was dropped, as far as is known here; None when it was not."""
        return self._index.drops.find(commit)

    def with_prefix(self, prefix: str, limit: int) -> list[CommitId]:
        """Up to `limit` dropped commits whose ids begin with `prefix`, as far as is known here."""
        return self._index.drops.with_prefix(prefix, limit)

    def check(self, commit: CommitId) -> None:
        """NotFound says when and why the commit was dropped; asks the store."""
        self.refresh()
        found = self.find(commit)
        if found is not None:
            why = f": {found.reason}" if found.reason else ""
            when = f"{rfc3339(found.time)[:19]}Z by {found.author}{why}"
            raise NotFound(f"the contents of commit {commit[:SHORT]} were dropped at {when}")

    def add(self, headers: Iterable[bytes], *, time: int, author: str, reason: str) -> int:
        """Drop the commits that have these headers; how many. Up to PART of them at once, or not at all."""
        count = 0
        rest: Iterator[bytes] = iter(headers)
        while part := tuple(header.decode() for header in islice(rest, PART)):
            record = DropRecord(time=time, author=author, reason=reason, commits=part)
            self._store.put(PREFIX + nonce(), encode_blob(encode(record), level=3))
            count += len(part)
        self.refresh()
        return count

    def merge(self, before: float) -> None:
        """Write many small records as one; they go once that is older than `before` (s since 1970, by the store's
        clock): whoever began to list until then may have missed it, and finds them."""
        self.refresh()
        records = self.records()
        written = {stat.key: stat.modified for stat in self._store.list(PREFIX)}
        covered = _covered(records)
        for key, other in covered.items():
            if written.get(other, before) < before:
                self._store.delete(key)
        small = [key for key, commits in records.items() if key not in covered and len(commits) < MERGED]
        if len(small) < MANY:
            return
        found = [record for _, record in self._read_all(small) if record is not None]
        for part in _parts(sorted(found, key=lambda record: record.time)):
            self._store.put(PREFIX + nonce(), encode_blob(encode(_merged(part)), level=3))
        self.refresh()


def _covered(records: Mapping[str, list[CommitId]]) -> dict[str, str]:
    """record → a larger one in which all of its commits are; of two equal ones, the first by key is covered."""
    small = {key: commits for key, commits in records.items() if commits and len(commits) < PART}
    first = {commits[0] for commits in small.values()}
    holding: dict[CommitId, list[str]] = {}
    for key, commits in records.items():
        for commit in first.intersection(commits):
            holding.setdefault(commit, []).append(key)
    found: dict[str, str] = {}
    for key, commits in small.items():
        for other in holding[commits[0]]:
            if (len(commits), key) < (len(records[other]), other) and set(commits).issubset(records[other]):
                found[key] = other
    return found


def _parts(records: Iterable[DropRecord]) -> Iterator[list[DropRecord]]:
    """Records to be merged, up to PART commits together."""
    part: list[DropRecord] = []
    for record in records:
        if part and sum(len(one.commits) for one in part) + len(record.commits) > PART:
            yield part
            part = []
        part.append(record)
    if len(part) > 1:
        yield part


def _merged(records: list[DropRecord]) -> DropRecord:
    """One that says what these do; of a commit that was dropped twice, the first time. The last act stands for all, for
    readers that know no others."""
    every = sorted((one for record in records for one in record.each_act()), key=lambda one: one[0].time)
    acts: list[Act] = []
    commits: dict[str, None] = {}
    for act, headers in every:
        before = len(commits)
        commits.update(dict.fromkeys(headers))
        if len(commits) > before:
            acts.append(msgspec.structs.replace(act, count=len(commits) - before))
    last = acts[-1]
    return DropRecord(
        time=last.time, author=last.author, reason=last.reason, commits=tuple(commits), acts=tuple(acts)
    )


def decode_record(key: str, data: bytes) -> DropRecord:
    """A record from the bytes of its object; Damaged."""
    try:
        record = decode(decode_blob(data, _MAX_RECORD), DropRecord, key)
        for header in record.commits:
            decode(header.encode(), Commit, f"{key}: a header in it")
    except Damaged as error:
        text = str(error)
        raise Damaged(text if key in text else f"{key}: {text}") from None
    return record


def _rows(record: DropRecord) -> Iterator[DropRow]:
    for act, headers in record.each_act():
        for header in map(str.encode, headers):
            yield DropRow(commit_id_of(header), act.time, act.author, act.reason, bare_head(header))
