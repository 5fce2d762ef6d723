"""Decoded chunks: from memory, from this node's disk, or from the store, verified on their way in.

What is at hand is given without waiting, so that an event loop may ask; the rest is read where blocking is allowed.
No chunk is read from the store twice at the same time, alone or among others.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait

from vfsd.cache.bulk import Fetched, read_run, runs
from vfsd.cache.disk import DiskChunks
from vfsd.cache.memory import MemoryChunks
from vfsd.cache.packs import Packs
from vfsd.index.blocks import BlockRow
from vfsd.index.index import Index
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotCached, NotFound
from vfsd.store.api import ObjectStore
from vfsd.store.blob import read_chunk

MEMORY_LIMIT = 256 << 20  # bytes
DISK_LIMIT = 10 << 30  # bytes
PACK_SIZE = 32 << 20  # bytes of a full pack, about


Load = Future[Mapping[bytes, bytes]]  # of one thread: gives what it brought, by id


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
            disk = self._disk
            self._packs = Packs(
                store, disk.lacks, disk.add_many, lambda: disk.ahead_pays, max(1, disk_limit // 4 // PACK_SIZE)
            )
        self._loads: dict[bytes, Load] = {}  # chunks that are being read
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """Bytes on disk that can be kept whatever else passes through."""
        return 0 if self._disk is None else self._disk.room

    # One chunk

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
        while True:
            data = self._memory.get(chunk.id)
            if data is not None:
                return data
            mine, others = self._begin([chunk])
            if mine:
                return self._load_and_tell(chunk)
            data = others[0].result().get(chunk.id)
            if data is not None:
                return data
            # It was among many, and could not be had there: this thread finds out why.

    def _load_and_tell(self, chunk: Chunk) -> bytes:
        try:
            data = self._load(chunk)
        except BaseException as error:
            self._end([chunk]).set_exception(error)
            raise
        self._end([chunk]).set_result({chunk.id: data})
        return data

    def _load(self, chunk: Chunk) -> bytes:
        # Asked again: another thread's load may have ended between our look and our turn.
        data = self._memory.get(chunk.id)
        if data is not None:
            return data
        data = None if self._disk is None else self._disk.read(chunk)
        if data is None and self._disk is not None and self._packs is not None and self._packs.bring(chunk):
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

    # Several chunks

    def add_many(self, chunks: Sequence[tuple[Chunk, bytes]]) -> None:
        """Keep chunks whose bytes, checked, somebody has: they will be read soon."""
        if self._disk is not None:
            self._disk.add_many(chunks, wanted=True)
        self._memory.put_many((chunk.id, data) for chunk, data in chunks)

    def fetch(self, chunks: Sequence[Chunk]) -> None:
        """Have chunks at hand; blocks. See `bring`."""
        self.bring(chunks)

    def bring(self, chunks: Sequence[Chunk], *, warm: bool = False) -> Fetched:
        """Have chunks at hand, and say what had to come; blocks. Those that lie near each other come with one request
        (see bulk.runs); what somebody else is reading is waited for. Few at a time: all are in memory at once.

        warm: bring them to the disk only, for later, and keep them longer there than what passes through. Raises what
        `get` does, after having brought the rest.
        """
        if self._packs is not None:
            for container in {chunk.place.container for chunk in chunks}:
                self._packs.await_coming(container)
        brought = Fetched()
        left: list[Chunk] = []
        others: list[Load] = []
        missing, here = self._missing(chunks, warm=warm)
        if warm and self._disk is not None:
            self._disk.warm((), here)
        for run in runs(missing):
            mine, joined = self._begin(run)
            others += joined
            if mine:
                part, lost = self._read_many(mine, warm=warm)
                brought += part
                left += lost
        if not warm:
            on_disk = {row.id for row in here}
            left += [chunk for chunk in chunks if chunk.id in on_disk]
        wait(others)
        for chunk in left:
            self.get(chunk)
        return brought

    def lacking(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those that are neither in memory nor on disk, as far as is known. Never waits; for many it is quicker than
        `has`."""
        return self._missing(chunks, warm=False)[0]

    def _missing(self, chunks: Sequence[Chunk], *, warm: bool) -> tuple[list[Chunk], list[BlockRow]]:
        """Those that have to come from the store; and where the others lie, of which those in memory need no mention
        unless the disk is to be warmed."""
        lacking = [chunk for chunk in chunks if warm or chunk.id not in self._memory]
        if self._disk is None:
            return lacking, []
        here = self._disk.here([chunk.id for chunk in lacking])
        return [chunk for chunk in lacking if chunk.id not in here], list(here.values())

    def _read_many(self, chunks: list[Chunk], *, warm: bool) -> tuple[Fetched, list[Chunk]]:
        """Read what this thread has begun, and what could not be had."""
        data: dict[bytes, bytes] = {}
        requests = 0
        try:
            # Asked again: another thread's load may have ended between our look and our turn.
            missing, _ = self._missing(chunks, warm=warm)
            for run in runs(missing):  # several, when others are reading what lies between
                data |= read_run(self._store, run)
                requests += 1
            found = [(chunk, data[chunk.id]) for chunk in missing if chunk.id in data]
            if warm and self._disk is not None:
                self._disk.warm(found, ())
            else:
                self.add_many(found)
        except BaseException as error:
            self._end(chunks).set_exception(error)
            raise
        self._end(chunks).set_result(data)
        brought = Fetched(len(data), sum(map(len, data.values())), requests)
        return brought, [chunk for chunk in missing if chunk.id not in data]

    # Who reads what

    def _begin(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Load]]:
        """Those of the chunks that nobody is reading, which the caller now is; and what gives the others."""
        own = Load()
        with self._lock:
            mine = [chunk for chunk in chunks if self._loads.setdefault(chunk.id, own) is own]
            others = {self._loads[chunk.id] for chunk in chunks} - {own}
        return mine, list(others)

    def _end(self, chunks: Sequence[Chunk]) -> Load:
        """The caller is not reading them any more, and tells those that wait."""
        with self._lock:
            own = {self._loads.pop(chunk.id) for chunk in chunks}
        return own.pop()

    def close(self) -> None:
        """Write down what the disk holds, so that it is found again."""
        if self._packs is not None:
            self._packs.close()
        if self._disk is not None:
            self._disk.close()
