"""Finds the bytes of blobs that are lost or damaged where pointers say: elsewhere in the store, or on this node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import zstandard

from vfsd.index.index import Index
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import ChunkId, hash_bytes
from vfsd.model.node import decode_node, node_id
from vfsd.repo.node_walk import decoded_node
from vfsd.repo.nodes import MAX_NODE, row_id
from vfsd.repo.tree_check import BadBlob
from vfsd.store.api import ObjectStore
from vfsd.store.blob import FRAME, MAX_STORED, RAW, decode_blob, encode_blob, read_stored
from vfsd.store.pack import CHUNK, HEAD, NODE, Blob

Local = Callable[[Chunk], bytes | None]  # a chunk's plain bytes, of what this node has beside the store
UNKNOWN = b"\0" * 32  # the id in a directory of bytes of which nobody knows what they are


class Rescue:
    """What can be had of blobs. A frame is right when its bytes are those of the id, and it is as long as the pointer
    says: else it could not stand where the pointer leads."""

    def __init__(self, store: ObjectStore, index: Index, local: Local) -> None:
        self._store = store
        self._index = index
        self._local = local

    def frame(self, blob: BadBlob) -> bytes | None:
        """The stored form of a blob; None when it is nowhere, or nowhere in that form."""
        for candidate in (self._copied, self._indexed if blob.kind == NODE else self._cached):
            stored = candidate(blob)
            if stored is not None and len(stored) == blob.place.length and is_right(blob.kind, blob.id, stored):
                return stored
        return None

    def _copied(self, blob: BadBlob) -> bytes | None:
        if blob.copy is None:
            return None
        try:
            stored = read_stored(self._store, blob.copy)
            if len(stored) != blob.place.length and blob.kind == CHUNK:
                return _fitting(decode_blob(stored, MAX_STORED), blob.place.length)
        except (Damaged, NotFound):
            return None
        return stored

    def _indexed(self, blob: BadBlob) -> bytes | None:
        return self._index.node(row_id(blob.id, blob.place))

    def _cached(self, blob: BadBlob) -> bytes | None:
        plain = self._local(Chunk(ChunkId(blob.id), blob.size, blob.place))
        return None if plain is None else _fitting(plain, blob.place.length)


def _fitting(plain: bytes, length: int) -> bytes | None:
    """The stored form of a chunk that is `length` bytes long."""
    if length == len(plain) + FRAME:
        return bytes([RAW]) + plain
    stored = encode_blob(plain)
    return stored if len(stored) == length else None


def is_right(kind: int, blob_id: bytes, stored: bytes) -> bool:
    """Whether these are the stored bytes of a blob."""
    try:
        if kind == NODE:
            decoded_node(stored, blob_id)
            return True
        return hash_bytes(decode_blob(stored, MAX_STORED)) == blob_id
    except Damaged:
        return False


def scan(data: bytes, end: int, known: Sequence[Blob]) -> list[Blob]:
    """What lies in the first `end` bytes of a pack whose directory is gone: what is `known` and right, and between that
    compressed blobs, whose frames tell where they end. The rest stands in a directory as UNKNOWN bytes."""
    found: list[Blob] = []
    right = {blob.offset: blob for blob in known if is_right(blob.kind, blob.id, data[blob.offset : _end(blob)])}
    starts = sorted(right)
    is_nodes = any(blob.kind == NODE for blob in right.values())
    at, unknown = len(HEAD), None
    while at < end:
        blob = right.get(at) or _compressed(data, at, end, is_nodes=is_nodes)
        if blob is None:
            unknown = at if unknown is None else unknown
            at = next((start for start in starts if start > at), end)
            continue
        if unknown is not None:
            found.append(Blob(CHUNK, UNKNOWN, unknown, at - unknown))
            unknown = None
        found.append(blob)
        at = _end(blob)
    if unknown is not None:
        found.append(Blob(CHUNK, UNKNOWN, unknown, end - unknown))
    return found


def _end(blob: Blob) -> int:
    return blob.offset + blob.length


def _compressed(data: bytes, at: int, end: int, *, is_nodes: bool) -> Blob | None:
    """The blob that begins at an offset, if it is compressed."""
    if data[at] == RAW:
        return None
    reader = zstandard.ZstdDecompressor().decompressobj()
    try:
        plain = reader.decompress(data[at + FRAME : min(end, at + MAX_STORED)])
    except zstandard.ZstdError:
        return None
    if not reader.eof:
        return None
    length = min(end, at + MAX_STORED) - at - len(reader.unused_data)
    if is_nodes or _is_node(plain):
        try:
            return Blob(NODE, node_id(decode_node(plain)), at, length)
        except Damaged:
            return None
    return Blob(CHUNK, hash_bytes(plain), at, length)


def _is_node(plain: bytes) -> bool:
    if len(plain) > MAX_NODE:
        return False
    try:
        decode_node(plain)
    except Damaged:
        return False
    return True


def place_of(blob: Blob, container: bytes) -> Place:
    """Where a blob of a container lies."""
    return Place(container, blob.offset, blob.length)
