"""Commit objects: a header, the few blobs that a small commit brings, and hints. Byte by byte in docs/format.md.

    "VFSDCMT1" | u32 length of the header | u32 length of the hints | header | blob frames | hints

The header is the commit's identity. The hints are msgpack and outside it: where the root node lies, the ids of the
last 64 ancestors, a directory of the blobs like a pack's, and where else nodes of the tree lie.
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
from vfsd.store.pack import NODE, Blob

MAGIC = b"VFSDCMT1"
_PREAMBLE = struct.Struct("<8sII")


class Hints(msgspec.Struct, array_like=True, frozen=True):
    """What helps to read a commit fast: root node's place (None for an empty tree), raw ids of the last 64 ancestors
    along first parents, nearest first, and the blobs in the object. window: in which other containers nodes of the tree
    lie that were not gathered (see repo/gather.py), and the pack that has its upper ones. gave_way: paths, at most 100,
    whose versions in the parent the writer had not seen, and put something else in their place."""

    root: Place | None
    ancestors: list[bytes]
    blobs: list[Blob]
    window: list[bytes] = []
    gave_way: list[bytes] = []


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
    def window(self) -> list[bytes]:
        """The containers that a walk over its tree needs first, or may; the window of a commit that is made on it."""
        own = any(blob.kind == NODE for blob in self.hints.blobs)
        return [*self.hints.window, bytes.fromhex(self.id)] if own else self.hints.window

    @property
    def ancestors(self) -> list[CommitId]:
        """Up to 64 ancestors along first parents, nearest first."""
        return [CommitId(raw.hex()) for raw in self.hints.ancestors]


_HINTS = msgspec.msgpack.Decoder(Hints)
_ENCODE = msgspec.msgpack.Encoder().encode


def build(
    header: bytes, root: Place | None, ancestors: Sequence[CommitId], pending: Sequence[Pending],
    window: Sequence[bytes] = (), gave_way: Sequence[bytes] = (),
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
    raw = [bytes.fromhex(ancestor) for ancestor in ancestors]
    hints = _encode_hints(Hints(root, raw, blobs, list(window), list(gave_way)))
    preamble = _PREAMBLE.pack(MAGIC, len(header), len(hints))
    return preamble + header + body + hints, preamble + header + hints, frames


def _encode_hints(hints: Hints) -> bytes:
    fields: list[object] = [hints.root, hints.ancestors, hints.blobs]
    if hints.window or hints.gave_way:
        fields += [hints.window, hints.gave_way] if hints.gave_way else [hints.window]
    return _ENCODE(fields)


def header_of(head: bytes) -> bytes:
    """The header's bytes in a whole commit object or in its head."""
    return head[_PREAMBLE.size : _PREAMBLE.size + _PREAMBLE.unpack_from(head)[1]]


def bare_head(header: bytes) -> bytes:
    """A head for a header of which nothing else is left: its first parent is the one ancestor that it names."""
    parents = decode(header, Commit, "a commit's header").parents[:1]
    hints = _encode_hints(Hints(None, [bytes.fromhex(parent) for parent in parents], []))
    return _PREAMBLE.pack(MAGIC, len(header), len(hints)) + header + hints


def joined(header: bytes, body: bytes, hints: Hints) -> bytes:
    """The object of its parts; the places in `hints` are those of `body`, which begins at `body_start`."""
    encoded = _encode_hints(hints)
    return _PREAMBLE.pack(MAGIC, len(header), len(encoded)) + header + body + encoded


def body_start(header: bytes) -> int:
    """Where the first blob lies in the object of a commit with this header."""
    return _PREAMBLE.size + len(header)


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
