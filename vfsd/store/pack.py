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
from vfsd.store.api import ObjectStore
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
    """A pack being filled in memory. Its id is chosen first, so that pointers can name it before it is full."""

    def __init__(self) -> None:
        self.id = PackId(secrets.token_bytes(16))
        self.blobs: list[Blob] = []
        self._data = bytearray(HEAD)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._data)

    def add(self, kind: int, blob_id: bytes, stored: bytes, place: Place) -> None:
        """Append a framed blob and write where it lies into `place`."""
        place.container, place.offset, place.length = self.id, len(self._data), len(stored)
        self.blobs.append(Blob(kind, blob_id, len(self._data), len(stored)))
        self._data += stored

    def finish(self) -> bytearray:
        """The whole object's bytes."""
        directory = encode_blob(msgspec.msgpack.encode(self.blobs))
        self._data += directory
        self._data += _TAIL.pack(len(directory), END)
        return self._data


def read_directory(store: ObjectStore, pack: PackId, size: int) -> list[Blob]:
    """What lies where in a pack of `size` bytes: two ranged reads."""
    key = container_key(pack)
    tail = store.get_range(key, max(size - _TAIL.size, 0), _TAIL.size)
    start, length = _span(key, tail, size)
    return _directory(key, store.get_range(key, start, length), start)


def parse_directory(key: str, pack: bytes) -> list[Blob]:
    """What lies where in a whole pack; Damaged names it by `key`."""
    start, length = _span(key, pack[-_TAIL.size :], len(pack))
    return _directory(key, pack[start : start + length], start)


def _span(key: str, tail: bytes, size: int) -> tuple[int, int]:
    """Where the directory begins, and its length."""
    if len(tail) != _TAIL.size:
        raise Damaged(f"{key}: too short for a pack")
    length, end = _TAIL.unpack(tail)
    start: int = size - _TAIL.size - length
    if end != END or start < len(HEAD):
        raise Damaged(f"{key}: does not end like a pack")
    return start, length


def _directory(key: str, stored: bytes, start: int) -> list[Blob]:
    try:
        blobs = _DIRECTORY.decode(decode_blob(stored, _MAX_DIRECTORY))
    except (msgspec.MsgspecError, Damaged) as error:
        raise Damaged(f"{key}: its directory cannot be read: {error}") from None
    if len(HEAD) + sum(blob.length for blob in blobs) != start:
        raise Damaged(f"{key}: its directory does not account for its bytes")
    return blobs
