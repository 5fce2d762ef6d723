"""Commits whose contents were dropped: their headers stay, so that history and lineage can be read on.

    dropped/<32 hex digits>     a blob of JSON: DropRecord; written once

One record is one act, whole or not at all. What its commits' trees held is no longer reachable by them; nothing that a
branch or tag names is dropped. Deleting the bytes is left to repo/gc.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
PARALLEL = 16  # records read at once
_MAX_RECORD = 1 << 30


class DropRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `dropped/<id>`. time: ns since 1970. reason: one line. commits: their headers, as they were."""

    format: int = 1
    time: int
    author: str
    reason: str
    commits: tuple[str, ...]


class Drops:
    """The dropped commits of one store. Blocks; safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index) -> None:
        self._store = store
        self._index = index

    def refresh(self) -> None:
        """Take in what was dropped since the last time: one listing, and a request for each new record."""
        known = self._index.refs(PREFIX)
        new = [stat.key for stat in self._store.list(PREFIX) if stat.key not in known]
        if not new:
            return
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-drops") as pool:
            for key, data in zip(new, pool.map(self._read, new), strict=True):
                if data is None:
                    continue
                record = decode_record(key, data)
                self._index.drops.add([_row(record, header.encode()) for header in record.commits])
                self._index.update_refs([(key, "", b"")], ())

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


def _row(record: DropRecord, header: bytes) -> DropRow:
    return DropRow(commit_id_of(header), record.time, record.author, record.reason, bare_head(header))
