"""Makes the objects of commits anew that are gone or damaged, as far as what was in them is anywhere."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from vfsd.model.commit import Commit, commit_id_of, decode
from vfsd.model.entry import Place
from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId
from vfsd.repo.commit_object import Hints, body_start, header_of, joined, parse_head
from vfsd.repo.commits import commit_key
from vfsd.repo.mending import Mending
from vfsd.repo.repository import Repository
from vfsd.repo.rescue import UNKNOWN, Rescue, is_right, place_of, scan
from vfsd.repo.tree_check import BadBlob
from vfsd.store.pack import CHUNK, HEAD, Blob


class CommitMending:
    """mended: the commits that are whole again, or would be."""

    def __init__(self, repository: Repository, rescue: Rescue, mending: Mending) -> None:
        self._repository = repository
        self._rescue = rescue
        self._mending = mending
        self.mended: set[CommitId] = set()

    def mend(self, commit: CommitId) -> None:
        """Of its header, which must be somewhere, and what can be had of its blobs."""
        key = commit_key(commit)
        data = self._mending.get(key)
        head = self._head(commit, data or b"")
        if head is None:
            self._mending.cannot(key, "cannot be had: its header is neither in what is left of it nor on this node")
            return
        header, hints = header_of(head), parse_head(head, commit).hints
        body, blobs = self._body(commit, data or b"", hints.blobs)
        whole = joined(header, body, msgspec.structs.replace(hints, blobs=blobs))
        self.mended.add(commit)
        missing = sum(blob.id == UNKNOWN for blob in blobs)
        what = "is whole again" if not missing else f"is there again but for {missing} of the blobs in it"
        if data is None:
            self._mending.put_new(key, whole, what)
        else:
            self._mending.replace(key, whole, what)

    def _head(self, commit: CommitId, data: bytes) -> bytes | None:
        """Header and hints: of this node's index, or made anew of a header that can be read."""
        index = self._repository.index
        known = index.commit(commit)
        dropped = index.drops.find(commit)
        for head in (known, dropped.head if dropped is not None else None):
            try:
                found = None if head is None else parse_head(head, commit)
            except Damaged:
                continue
            if found is not None and (found.hints.root is not None or not found.header.tree):
                return head
        headers = (_header_in(head or b"", commit) for head in (known, data))
        return next((self._with_new_hints(commit, one, data) for one in headers if one is not None), None)

    def _with_new_hints(self, commit: CommitId, header: bytes, data: bytes) -> bytes | None:
        start = body_start(header)
        made = decode(header, Commit, commit_key(commit))
        blobs = scan(HEAD + data[start:], len(HEAD) + len(data) - start, ()) if len(data) > start else []
        moved = [msgspec.structs.replace(blob, offset=blob.offset - len(HEAD) + start) for blob in blobs]
        container = bytes.fromhex(commit)
        places = [place_of(blob, container) for blob in moved if made.tree and blob.id.hex() == made.tree]
        if made.tree and not places:
            row = self._repository.index.place(bytes.fromhex(made.tree))
            if row is None:
                return None
            places = [Place(row.container, row.offset, row.length)]
        ancestors = [bytes.fromhex(parent) for parent in made.parents[:1]]
        return joined(header, b"", Hints(places[0] if places else None, ancestors, moved))

    def _body(self, commit: CommitId, data: bytes, blobs: Sequence[Blob]) -> tuple[bytes, list[Blob]]:
        """The blobs of a commit's object as they lay, and their directory. Such as are nowhere are zeros, and UNKNOWN:
        the check tells of them until they are there again."""
        container, body, found = bytes.fromhex(commit), bytearray(), list[Blob]()
        for blob in blobs:
            stored: bytes | None = data[blob.offset : blob.offset + blob.length]
            if not is_right(blob.kind, blob.id, stored or b""):
                stored = self._rescue.frame(BadBlob(blob.kind, blob.id, place_of(blob, container), 0))
            body += stored or bytes(blob.length)
            found.append(blob if stored else Blob(CHUNK, UNKNOWN, blob.offset, blob.length))
        return bytes(body), found


def _header_in(data: bytes, commit: CommitId) -> bytes | None:
    try:
        header = header_of(data)
    except struct.error:
        return None
    return header if commit_id_of(header) == commit else None
