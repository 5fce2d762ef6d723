"""Packs of a far store, brought whole: for who soon wants a second small file of one, or many places in large ones.

An epoch over a million small files, in whatever order, then costs a few thousand large requests. Single reads all over
a store that is larger than the cache stay single: a pack counts as wanted again only while it is among the last ones,
and none is brought while what was brought went again before anybody had read it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, VfsdError
from vfsd.model.ids import ChunkId, PackId, hash_bytes
from vfsd.store.api import ObjectStore, Plain
from vfsd.store.blob import FRAME, MAX_STORED, RAW, container_key, decode_blob
from vfsd.store.pack import CHUNK, Blob, parse_directory

SMALL_ONES = 2  # small files of a pack that are read before all of it is
LARGE_ONES = 32  # places in large files, far apart in the pack, that are read before all of it is
NEAR = 1 << 20  # bytes: what stands so near each other is a file being read, of which more is read ahead anyway
RANGE = 8 << 20  # bytes of a pack that one request brings
RANGES = 5  # requests that a pack is read by at once; more if its blobs are so small that its directory is long
PACKS = 2  # packs under way at once, which bounds the memory that this takes
BATCH = 8 << 20  # plain bytes that are decoded before they are kept
FAILED = 100  # packs that could not be had whole have to be wanted so much more often before they are tried again
PATIENCE_S = 1.0  # for which a reader waits for a pack, before it reads its chunk alone
_PACK = 16  # bytes of a pack's name

log = logging.getLogger(__name__)


class Packs:
    """Brings packs. Safe from any thread.

    lacks: whether a chunk is not kept yet. keep: is given chunks with their bytes, some at a time. pays: whether what
    is kept is likely to be read. window: among how many packs one counts as wanted again.
    """

    def __init__(
        self, store: ObjectStore, lacks: Callable[[bytes], bool], keep: Callable[[list[tuple[Chunk, Plain]]], None],
        pays: Callable[[], bool], window: int,
    ) -> None:
        self._store = store
        self._lacks = lacks
        self._keep = keep
        self._pays = pays
        self._window = window
        self._wanted: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._coming: dict[bytes, Future[None]] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self._packs = ThreadPoolExecutor(PACKS, thread_name_prefix="vfsd-packs")
        self._ranges = ThreadPoolExecutor(PACKS * RANGES, thread_name_prefix="vfsd-ranges")

    def bring(self, chunk: Chunk, *, small: bool) -> bool:
        """A chunk is missing: wait for its pack if that is on its way, or is wanted now; whether it may have come.
        small: it is of a small file."""
        pack = chunk.place.container
        if len(pack) != _PACK or not self._pays():
            return False
        with self._lock:
            coming = self._coming.get(pack)
            if coming is None:
                if not self._is_wanted(chunk, small=small) or len(self._coming) >= 2 * PACKS or self._is_closed:
                    return False
                coming = self._coming[pack] = self._packs.submit(self._bring, PackId(pack), chunk.place.offset)
        wait([coming], PATIENCE_S)
        return True

    def await_coming(self, pack: bytes) -> bool:
        """Wait for a pack if it is on its way; whether it was."""
        with self._lock:
            coming = self._coming.get(pack)
        if coming is None:
            return False
        wait([coming], PATIENCE_S)
        return True

    def _is_wanted(self, chunk: Chunk, *, small: bool) -> bool:
        """Whether enough of a pack was wanted, this chunk counted in. To be brought once more it begins anew."""
        pack, offset = chunk.place.container, chunk.place.offset
        wanted, last = self._wanted.pop(pack, (0.0, -NEAR))
        if small:
            wanted += 1 / SMALL_ONES
        elif abs(offset - last) >= NEAR:
            wanted += 1 / LARGE_ONES
        if wanted >= 1:
            return True
        self._wanted[pack] = (wanted, offset)
        if len(self._wanted) > self._window:
            self._wanted.popitem(last=False)
        return False

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        with self._lock:
            self._is_closed = True
        self._packs.shutdown(wait=True, cancel_futures=True)
        self._ranges.shutdown(wait=True, cancel_futures=True)

    def _bring(self, pack: PackId, offset: int) -> None:
        key = container_key(pack)
        try:
            data = self._read(key, offset // RANGE + 1)
            batch: list[tuple[Chunk, Plain]] = []
            size = 0
            for blob, plain in self._decoded(data, parse_directory(key, data)):
                batch.append((Chunk(ChunkId(blob.id), len(plain), Place(pack, blob.offset, blob.length)), plain))
                size += len(plain)
                if size >= BATCH:
                    self._keep(batch)
                    batch, size = [], 0
            self._keep(batch)
        except VfsdError as error:
            # Readers then ask for their chunk alone, and are told what is wrong with it.
            log.debug("%s cannot be read whole: %s", key, error)
            with self._lock:
                self._wanted[pack] = (-FAILED, offset)
        finally:
            with self._lock:
                del self._coming[pack]

    def _read(self, key: str, least: int) -> _Ranges:
        """The whole pack, which has at least so many ranges, or nearly."""
        def read(numbers: range) -> list[memoryview]:
            return list(self._ranges.map(lambda number: self._store.get_large(key, number * RANGE, RANGE), numbers))

        parts = read(range(min(least, RANGES)))
        while len(parts[-1]) == RANGE:
            parts += read(range(len(parts), max(RANGES, len(parts) + 2)))
        short = next(number for number, part in enumerate(parts) if len(part) < RANGE)
        return _Ranges(parts[: short + 1])  # what was asked for behind its end is nothing

    def _decoded(self, data: _Ranges, blobs: list[Blob]) -> Iterator[tuple[Blob, Plain]]:
        """The chunks that are lacking, and whole; those that are not compressed stay where they came."""
        for blob in blobs:
            if blob.kind == CHUNK and self._lacks(blob.id):
                stored = data[blob.offset : blob.offset + blob.length]
                try:
                    plain = stored[FRAME:] if len(stored) and stored[0] == RAW else decode_blob(stored, MAX_STORED)
                except Damaged:
                    continue
                if hash_bytes(plain) == blob.id:
                    yield blob, plain


class _Ranges:
    """An object's bytes as they came: all parts but the last have RANGE."""

    def __init__(self, parts: list[memoryview]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return (len(self._parts) - 1) * RANGE + len(self._parts[-1])

    def __getitem__(self, span: slice) -> memoryview:
        start, end, _ = span.indices(len(self))
        pieces = []
        while start < end:
            number, at = divmod(start, RANGE)
            piece = self._parts[number][at : at + end - start]
            pieces.append(piece)
            start += len(piece)
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
