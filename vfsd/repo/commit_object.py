"""Commit objects: a header, the few blobs that a small commit brings, and hints. Byte by byte in docs/format.md.

    "VFSDCMT1" | u32 length of the header | u32 length of the hints | header | blob frames | hints

The header is the commit's identity. The hints are msgpack and outside it: where the root node lies, the ids of the
last 64 ancestors, and a directory of the blobs like a pack's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from vfsd.model.commit import Commit, commit_id_of, decode
from vfsd.model.entry import Entry, Place, Ref, directory
from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId, Digest, NodeId
from vfsd.repo.writer import Pending
from vfsd.store.pack import Blob

MAGIC = b"VFSDCMT1"
_PREAMBLE = struct.Struct("<8sII")


class Hints(msgspec.Struct, array_like=True, frozen=True):
    """What helps to read a commit fast: root node's place (None for an empty tree), raw ids of the last 64 ancestors
    along first parents, nearest first, and the blobs in the object. copies: other places of the root, of trees that
    are equal but for pointers."""

    root: Place | None
    ancestors: list[bytes]
    blobs: list[Blob]
    copies: list[Place] = []


class CommitObject(msgspec.Struct, frozen=True):
    """A commit as read: its id, header and hints."""

    id: CommitId
    header: Commit
    hints: Hints

    @property
    def root(self) -> Entry:
        """The root directory as an entry without a name."""
        header = self.header
        attributes = header.root
        node = None
        if header.tree:
            place = self.hints.root or Place()
            node = Ref(
                NodeId(bytes.fromhex(header.tree)),
                Digest(bytes.fromhex(header.digest)),
                header.files,
                header.size,
                header.linked,
                header.directories,
                place,
            )
        return directory(
            b"", node, mode=attributes.mode, uid=attributes.uid, gid=attributes.gid, mtime=attributes.mtime
        )

    def place(self, blob: Blob) -> Place:
        """Where one of its own blobs lies."""
        return Place(bytes.fromhex(self.id), blob.offset, blob.length)

    @property
    def roots(self) -> list[Ref]:
        """The root node at all its places; none for an empty tree."""
        node = self.root.node
        return [] if node is None else [node, *(msgspec.structs.replace(node, place=at) for at in self.hints.copies)]

    @property
    def ancestors(self) -> list[CommitId]:
        """Up to 64 ancestors along first parents, nearest first."""
        return [CommitId(raw.hex()) for raw in self.hints.ancestors]


_HINTS = msgspec.msgpack.Decoder(Hints)
_ENCODE = msgspec.msgpack.Encoder().encode


def build(
    header: bytes, root: Place | None, ancestors: Sequence[CommitId], pending: Sequence[Pending]
) -> tuple[bytes, bytes, list[bytes]]:
    """(object, its head, frames): takes the pending blobs in, which gives them their places.

    The head is the object without the blobs, as the index keeps it: `parse_head` reads it.
    """
    container = bytes.fromhex(commit_id_of(header))
    body = bytearray()
    start = _PREAMBLE.size + len(header)
    blobs, frames = [], []
    for blob in pending:
        frame = blob.frame()
        place = blob.place
        place.container, place.offset, place.length = container, start + len(body), len(frame)
        blobs.append(Blob(blob.kind, blob.id, place.offset, place.length))
        body += frame
        frames.append(frame)
    hints = _encode_hints(Hints(root, [bytes.fromhex(ancestor) for ancestor in ancestors], blobs))
    preamble = _PREAMBLE.pack(MAGIC, len(header), len(hints))
    return preamble + header + body + hints, preamble + header + hints, frames


def _encode_hints(hints: Hints) -> bytes:
    fields: list[object] = [hints.root, hints.ancestors, hints.blobs]
    return _ENCODE([*fields, hints.copies] if hints.copies else fields)


def header_of(head: bytes) -> bytes:
    """The header's bytes in a whole commit object or in its head."""
    return head[_PREAMBLE.size : _PREAMBLE.size + _PREAMBLE.unpack_from(head)[1]]


def bare_head(header: bytes) -> bytes:
    """A head for a header of which nothing else is left: its first parent is the one ancestor that it names."""
    parents = decode(header, Commit, "a commit's header").parents[:1]
    hints = _encode_hints(Hints(None, [bytes.fromhex(parent) for parent in parents], []))
    return _PREAMBLE.pack(MAGIC, len(header), len(hints)) + header + hints


def with_copy(data: bytes, wanted: CommitId, root: Place) -> tuple[bytes, bytes]:
    """(object, its head) of a commit object with another place of its root node, to be tried first. Header and blobs
    stay where they are: places in the object stay right."""
    found, _ = parse(data, wanted)
    old = found.hints
    copies = [*([old.root] if old.root is not None else []), *old.copies]
    hints = _encode_hints(Hints(root, old.ancestors, old.blobs, copies))
    header_length, hints_length = _lengths(data, wanted)
    preamble = _PREAMBLE.pack(MAGIC, header_length, len(hints))
    body = data[_PREAMBLE.size : len(data) - hints_length]
    return preamble + body + hints, preamble + body[:header_length] + hints


def parse(data: bytes, wanted: CommitId) -> tuple[CommitObject, bytes]:
    """A whole commit object and its head; Damaged when its header is not that of `wanted`."""
    header_length, hints_length = _lengths(data, wanted)
    header_end = _PREAMBLE.size + header_length
    head = data[:header_end] + data[len(data) - hints_length :]
    return parse_head(head, wanted), head


def parse_head(head: bytes, wanted: CommitId) -> CommitObject:
    """The head of a commit object; Damaged when its header is not that of `wanted`."""
    header_length, hints_length = _lengths(head, wanted)
    header = head[_PREAMBLE.size : _PREAMBLE.size + header_length]
    if commit_id_of(header) != wanted:
        raise Damaged(f"commits/{wanted}: its header belongs to another commit")
    try:
        hints = _HINTS.decode(head[len(head) - hints_length :])
    except msgspec.MsgspecError as error:
        raise Damaged(f"commits/{wanted}: its hints cannot be read: {error}") from None
    return CommitObject(wanted, decode(header, Commit, f"commits/{wanted}"), hints)


def _lengths(data: bytes, wanted: CommitId) -> tuple[int, int]:
    if len(data) >= _PREAMBLE.size:
        magic, header, hints = _PREAMBLE.unpack_from(data)
        if magic == MAGIC and _PREAMBLE.size + header + hints <= len(data):
            return header, hints
    raise Damaged(f"commits/{wanted}: not a commit object, or cut short")
