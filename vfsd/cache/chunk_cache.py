"""Decoded chunks: from memory, from this node's disk, or from the store, verified on their way in.

What is at hand is given without waiting, so that an event loop may ask; the rest is read where blocking is allowed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import pairwise

from vfsd.cache.disk import DiskChunks
from vfsd.cache.memory import MemoryChunks
from vfsd.cache.packs import Packs
from vfsd.index.index import Index
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotCached, NotFound
from vfsd.store.api import ObjectStore
from vfsd.store.blob import check_chunk, container_key, read_chunk

MEMORY_LIMIT = 256 << 20  # bytes
DISK_LIMIT = 10 << 30  # bytes
PACK_SIZE = 32 << 20  # bytes of a full pack, about


class ChunkCache:
    """The chunks of `store`, cached in memory and, where `folder` is given, in files there. Safe from any thread; the
    processes of a node share the folder. It may be deleted at any time, and reading goes on when it cannot be written.
    """

    def __init__(
        self,
        store: ObjectStore,
        index: Index,
        folder: str | None,
        *,
        memory_limit: int = MEMORY_LIMIT,
        disk_limit: int = DISK_LIMIT,
    ) -> None:
        self._store = store
        self._index = index
        self._memory = MemoryChunks(memory_limit)
        self._disk = None if folder is None else DiskChunks(index, folder, disk_limit)
        self._packs: Packs | None = None
        if self._disk is not None and not store.is_local:
            self._packs = Packs(store, self._disk.lacks, self._disk.add_many, max(1, disk_limit // 4 // PACK_SIZE))
        self._loads: dict[bytes, Future[bytes]] = {}
        self._lock = threading.Lock()

    def cached(self, chunk: Chunk) -> bytes | None:
        """The chunk's bytes when they are in memory, or on disk and in the kernel's page cache. Never waits."""
        data = self._memory.get(chunk.id)
        if data is None and self._disk is not None:
            data = self._disk.find(chunk)
            if data is not None:
                self._memory.put(chunk.id, data)
        return data

    def has(self, chunk: Chunk) -> bool:
        """Whether the chunk is in memory or on disk, as far as is known. Never waits."""
        return chunk.id in self._memory or (self._disk is not None and self._disk.has(chunk.id))

    def at_hand(self, chunk: Chunk) -> bytes:
        """As `cached`, but NotCached instead of None."""
        data = self.cached(chunk)
        if data is None:
            raise NotCached(chunk.id, lambda: self.get(chunk))
        return data

    def get(self, chunk: Chunk) -> bytes:
        """The chunk's bytes; blocks. Threads that miss the same chunk at once share one read.

        Damaged when the store does not have the chunk as it was; Unavailable, AccessDenied.
        """
        data = self._memory.get(chunk.id)
        if data is not None:
            return data
        with self._lock:
            shared = self._loads.get(chunk.id)
            if shared is None:
                mine = self._loads[chunk.id] = Future()
        if shared is not None:
            return shared.result()
        try:
            data = self._load(chunk)
        except BaseException as error:
            mine.set_exception(error)
            raise
        else:
            mine.set_result(data)
            return data
        finally:
            with self._lock:
                del self._loads[chunk.id]

    def fetch(self, chunks: Sequence[Chunk]) -> None:
        """Bring chunks here; blocks. Those that lie behind one another in a far store come in one request. Errors as
        of `get`."""
        if self._packs is not None:
            for pack in {chunk.place.container for chunk in chunks}:
                self._packs.await_coming(pack)
        missing = [chunk for chunk in chunks if not self.has(chunk)]
        if len(missing) > 1 and not self._store.is_local and _is_run(missing):
            missing = self._fetch_run(missing)
        for chunk in missing:
            self.get(chunk)

    def _fetch_run(self, chunks: list[Chunk]) -> list[Chunk]:
        """Read them with one request; those that did not come as they should."""
        first, last = chunks[0].place, chunks[-1].place
        start, end = first.offset, last.offset + last.length
        try:
            stored = memoryview(self._store.get_range(container_key(first.container), start, end - start))
        except NotFound:
            return chunks
        found, left = [], []
        for chunk in chunks:
            at = chunk.place.offset - start
            try:
                found.append((chunk, check_chunk(self._store, chunk, stored[at : at + chunk.place.length])))
            except Damaged:
                left.append(chunk)
        if self._disk is not None:
            self._disk.add_many(found)
        for chunk, data in found:
            self._memory.put(chunk.id, data)
        return left

    def close(self) -> None:
        """Write down what the disk holds, so that it is found again."""
        if self._packs is not None:
            self._packs.close()
        if self._disk is not None:
            self._disk.close()

    def _load(self, chunk: Chunk) -> bytes:
        # Asked again: another thread's load may have ended between our look and our turn.
        data = self._memory.get(chunk.id)
        if data is not None:
            return data
        data = None if self._disk is None else self._disk.read(chunk)
        if data is None and self._disk is not None and self._packs is not None:
            self._packs.bring(chunk)
            data = self._disk.read(chunk)
        if data is None:
            data = self._read(chunk)
            if self._disk is not None:
                self._disk.add(chunk.id, data)
        self._memory.put(chunk.id, data)
        return data

    def _read(self, chunk: Chunk) -> bytes:
        """From the store, by the pointer's hint or, where bytes have moved, by what the index knows."""
        try:
            return read_chunk(self._store, chunk)
        except (NotFound, Damaged):
            known = self._index.place(chunk.id)
            if known is None or (known.container, known.offset) == (chunk.place.container, chunk.place.offset):
                raise
            place = Place(known.container, known.offset, known.length)
            return read_chunk(self._store, Chunk(chunk.id, chunk.size, place))


def _is_run(chunks: Sequence[Chunk]) -> bool:
    """Whether each lies right behind the one before it."""
    return all(
        (one.container, one.offset + one.length) == (other.container, other.offset)
        for one, other in pairwise(chunk.place for chunk in chunks)
    )
