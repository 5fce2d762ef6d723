"""Blobs: how one chunk or tree node stands in a container object (a pack or a commit), and how it is read back.

    blob = codec (1 byte: 0 raw, 1 zstd) payload

A zstd payload is one frame (RFC 8878) whose header gives the content size. Nothing here guards against rot but the
hash of the plain bytes, which the reader checks: `read_chunk` does, readers of nodes check the node's id.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import zstandard

from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import hash_bytes
from vfsd.store.api import Buffer, ObjectStore

RAW = 0
ZSTD = 1
FRAME = 1  # bytes that a stored blob has more than its payload
MAX_STORED = 64 * 1024 * 1024  # bytes of the largest blob; a place that claims more is damaged
_SAMPLE_FROM = 64 * 1024  # larger blobs are compressed only if a sample of them shrinks
_PIECE = 16 * 1024  # bytes of each of the sample's three pieces
_SMALL_PIECE = 4 * 1024  # bytes of a small sample

_local = threading.local()  # zstd contexts: costly to make, and not for two threads at once


def encode_blob(data: Buffer, level: int = 1) -> bytes:
    """The stored form of `data`, compressed with zstd `level` if that saves at least a twentieth."""
    packed = _compress(data, level) if _is_compressible(data, level) else None
    if packed is None or not _saves(len(data), len(packed)):
        return b"\0" + bytes(data)
    return b"\1" + packed


def encode_run(run: Sequence[Buffer], level: int = 1) -> list[bytes]:
    """The stored forms of blobs that belong together, as `encode_blob` gives them. Behind one that does not shrink the
    next ones are compressed only if a small sample of them does: it is quicker, and neighbours are alike."""
    found = []
    shrinks = True
    for data in run:
        stored = encode_blob(data, level) if shrinks or _is_sample_good(data, level) else b"\0" + bytes(data)
        shrinks = stored[0] == ZSTD
        found.append(stored)
    return found


def decode_blob(stored: Buffer, limit: int) -> bytes:
    """The plain bytes, at most `limit` of them; Damaged when `stored` is nothing that `encode_blob` makes."""
    view = memoryview(stored)
    if not view:
        raise Damaged("an empty blob")
    payload = view[FRAME:]
    if view[0] == RAW:
        if len(payload) > limit:
            raise Damaged(f"a blob of {len(payload)} bytes where at most {limit} belong")
        return bytes(payload)
    if view[0] != ZSTD:
        raise Damaged(f"a blob with the unknown codec {view[0]}")
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= limit:  # checked first: zstandard allocates whatever the header claims
            raise Damaged(f"a blob that claims {size} bytes where at most {limit} belong")
        return _decompressor().decompress(payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Damaged(f"a blob that zstd cannot decompress: {error}") from None


def container_key(container: bytes) -> str:
    """The key of the object that a place names: a pack by 16 bytes, a commit by 32."""
    name = container.hex()
    match len(container):
        case 16:
            return f"packs/{name[:2]}/{name}"
        case 32:
            return f"commits/{name}"
    raise Damaged(f"a pointer names a container by {len(container)} bytes; packs have 16 and commits 32")


def read_stored(store: ObjectStore, place: Place) -> bytes:
    """The stored bytes that `place` points to. Damaged names the object when it is gone or too short."""
    key = container_key(place.container)
    if place.offset < 0 or not FRAME <= place.length <= MAX_STORED or place.offset >= 1 << 62:
        raise Damaged(f"a pointer into {key} claims {place.length} bytes at {place.offset}")
    try:
        stored = store.get_range(key, place.offset, place.length)
    except NotFound:
        raise Damaged(f"{key} is gone from {store.url}, and data is needed from it") from None
    if len(stored) != place.length:
        raise Damaged(f"{key} in {store.url} is cut off: {len(stored)} of {place.length} bytes at {place.offset}")
    return stored


def read_chunk(store: ObjectStore, chunk: Chunk) -> bytes:
    """The chunk's plain bytes, checked against its id. Damaged names the object and the offset."""
    return check_chunk(store, chunk, read_stored(store, chunk.place))


def check_chunk(store: ObjectStore, chunk: Chunk, stored: Buffer) -> bytes:
    """Decode `stored`, which came from the chunk's place, for instance as a part of a larger read; Damaged likewise."""
    try:
        plain = decode_blob(stored, chunk.size)
    except Damaged as error:
        raise Damaged(f"{_where(store, chunk.place)}: {error}") from None
    if len(plain) != chunk.size or hash_bytes(plain) != chunk.id:
        raise Damaged(f"{_where(store, chunk.place)}: the bytes are not those of chunk {chunk.id.hex()[:12]}")
    return plain


def _where(store: ObjectStore, place: Place) -> str:
    return f"{container_key(place.container)} in {store.url} is damaged at offset {place.offset}"


def _is_sample_good(data: Buffer, level: int) -> bool:
    start = max(0, len(data) - _SMALL_PIECE) // 2
    sample = memoryview(data)[start : start + _SMALL_PIECE]
    return _saves(len(sample), len(_compress(sample, level)))


def _is_compressible(data: Buffer, level: int) -> bool:
    if len(data) <= _SAMPLE_FROM:
        return True
    view = memoryview(data)
    middle = (len(view) - _PIECE) // 2
    sample = b"".join((view[:_PIECE], view[middle : middle + _PIECE], view[-_PIECE:]))
    return _saves(len(sample), len(_compress(sample, level)))


def _saves(plain: int, packed: int) -> bool:
    return packed + FRAME <= plain - plain // 20


def _compress(data: Buffer, level: int) -> bytes:
    compressors: dict[int, zstandard.ZstdCompressor] = _local.__dict__.setdefault("compressors", {})
    if level not in compressors:
        compressors[level] = zstandard.ZstdCompressor(level=level)
    return compressors[level].compress(data)


def _decompressor() -> zstandard.ZstdDecompressor:
    found: zstandard.ZstdDecompressor | None = getattr(_local, "decompressor", None)
    if found is None:
        found = _local.decompressor = zstandard.ZstdDecompressor()
    return found
