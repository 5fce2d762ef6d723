"""Packs: many blobs in one immutable object. Byte by byte in docs/format.md.

    "VFSDPACK" | blob frames, one behind the other | directory | u32 length of the directory | "VFSDPEND"

The directory is a framed blob of msgpack: [kind, id, offset, length] of each blob. Kinds: 0 chunk, 1 node.
"""

from __future__ import annotations

import secrets
import struct

import msgspec

from vfsd.model.entry import Place
from vfsd.model.errors import Damaged
from vfsd.model.ids import PackId
from vfsd.store.api import Buffer, ObjectStore, Sliced
from vfsd.store.blob import container_key, decode_blob, encode_blob

HEAD = b"VFSDPACK"
END = b"VFSDPEND"
CHUNK, NODE = 0, 1
_TAIL = struct.Struct("<I8s")
_MAX_DIRECTORY = 256 << 20


class Blob(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One line of a pack's directory: kind (CHUNK or NODE), id, and where its frame lies in bytes."""

    kind: int
    id: bytes
    offset: int
    length: int


_DIRECTORY = msgspec.msgpack.Decoder(list[Blob])


class PackBuilder:
    """A pack being filled in memory. Its id is chosen first, so that pointers can name it before it is full.

    buffer: memory to fill, from a pack that is done with: the kernel takes as long to give new as it takes to fill it.
    """

    def __init__(self, buffer: bytearray | None = None) -> None:
        self.id = PackId(secrets.token_bytes(16))
        self.blobs: list[Blob] = []
        self.buffer = bytearray() if buffer is None else buffer
        self.size = 0  # bytes so far
        self._append(HEAD)

    def add(self, kind: int, blob_id: bytes, stored: bytes, place: Place) -> None:
        """Append a framed blob and write where it lies into `place`."""
        place.container, place.offset, place.length = self.id, self.size, len(stored)
        self.blobs.append(Blob(kind, blob_id, self.size, len(stored)))
        self._append(stored)

    def _append(self, data: bytes) -> None:
        end = self.size + len(data)
        self.buffer[self.size : end] = data
        self.size = end

    def finish(self) -> memoryview:
        """The whole object's bytes."""
        self._append(_ending(self.blobs))
        return memoryview(self.buffer)[: self.size]


def with_directory(data: bytes, blobs: list[Blob]) -> bytes:
    """A whole pack of its beginning up to the end of the last blob, which it is made of, and what lies there."""
    return data + _ending(blobs)


def _ending(blobs: list[Blob]) -> bytes:
    directory = encode_blob(msgspec.msgpack.encode(blobs))
    return directory + _TAIL.pack(len(directory), END)


def blobs_end(pack: bytes) -> int:
    """Where the last blob of a whole pack ends, as its last bytes say; all of it when they say nothing."""
    try:
        return _span("", pack[-_TAIL.size :], len(pack))[0]
    except Damaged:
        return len(pack)


def read_directory(store: ObjectStore, pack: PackId, size: int) -> list[Blob]:
    """What lies where in a pack of `size` bytes: two ranged reads."""
    return read_directory_at(store, pack, *directory_span(store, pack, size))


def directory_span(store: ObjectStore, pack: PackId, size: int) -> tuple[int, int]:
    """Where the directory of a pack of `size` bytes begins, and its length: some 45 bytes a blob. One ranged read."""
    key = container_key(pack)
    return _span(key, store.get_range(key, max(size - _TAIL.size, 0), _TAIL.size), size)


def read_directory_at(store: ObjectStore, pack: PackId, start: int, length: int) -> list[Blob]:
    """The second of the two reads. In memory a directory is some four times as long."""
    key = container_key(pack)
    return _directory(key, store.get_range(key, start, length), start)


def parse_directory(key: str, pack: Sliced) -> list[Blob]:
    """What lies where in a whole pack; Damaged names it by `key`."""
    start, length = _span(key, pack[-_TAIL.size :], len(pack))
    return _directory(key, pack[start : start + length], start)


def _span(key: str, tail: Buffer, size: int) -> tuple[int, int]:
    """Where the directory begins, and its length."""
    if len(tail) != _TAIL.size:
        raise Damaged(f"{key}: too short for a pack")
    length, end = _TAIL.unpack(tail)
    start: int = size - _TAIL.size - length
    if end != END or start < len(HEAD):
        raise Damaged(f"{key}: does not end like a pack")
    return start, length


def _directory(key: str, stored: Buffer, start: int) -> list[Blob]:
    try:
        blobs = _DIRECTORY.decode(decode_blob(stored, _MAX_DIRECTORY))
    except (msgspec.MsgspecError, Damaged) as error:
        raise Damaged(f"{key}: its directory cannot be read: {error}") from None
    if len(HEAD) + sum(blob.length for blob in blobs) != start:
        raise Damaged(f"{key}: its directory does not account for its bytes")
    return blobs
