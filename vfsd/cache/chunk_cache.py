"""Decoded chunks: from memory, from this node's disk, or from the store, verified on their way in.

What is at hand is given without waiting, so that an event loop may ask; the rest is read where blocking is allowed.
No chunk is read from the store twice at the same time, alone or among others.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait

from vfsd.cache.bulk import Brought, Fetched, read_run, runs
from vfsd.cache.disk import DiskChunks
from vfsd.cache.memory import MemoryChunks
from vfsd.cache.packs import Packs
from vfsd.index.blocks import BlockRow
from vfsd.index.index import Index
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotCached, NotFound
from vfsd.store.api import ObjectStore, Plain
from vfsd.store.blob import read_chunk
from vfsd.store.buffers import room

MEMORY_LIMIT = 256 << 20  # bytes
DISK_LIMIT = 10 << 30  # bytes
PACK_SIZE = 32 << 20  # bytes of a full pack, about


Load = Future[Mapping[bytes, Plain]]  # of one thread: gives what it brought, by id


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

    def cached(self, chunk: Chunk) -> Plain | None:
        """The chunk's bytes when they are in memory, or on disk and in the kernel's page cache. Never waits."""
        data = self._memory.get(chunk.id)
        if data is None and self._disk is not None:
            data = self._disk.find(chunk)
            if data is not None:
                self._memory.put(chunk.id, data)
        return data

    def get(self, chunk: Chunk, *, small: bool = True) -> Plain:
        """The chunk's bytes; blocks. Threads that miss the same chunk at once share one read.

        small: it is of a small file, so what lies beside it is likely to be wanted too.
        Damaged when the store does not have the chunk as it was; Unavailable, AccessDenied.
        """
        while True:
            data = self._memory.get(chunk.id)
            if data is not None:
                return data
            mine, others = self._begin([chunk])
            if mine:
                return self._load_and_tell(chunk, small=small)
            data = others[0].result().get(chunk.id)
            if data is not None:
                return data
            # It was among many, and could not be had there: this thread finds out why.

    def _load_and_tell(self, chunk: Chunk, *, small: bool) -> Plain:
        try:
            data = self._load(chunk, small=small)
        except BaseException as error:
            self._end([chunk]).set_exception(error)
            raise
        self._end([chunk]).set_result({chunk.id: data})
        return data

    def _load(self, chunk: Chunk, *, small: bool) -> Plain:
        # Asked again: another thread's load may have ended between our look and our turn.
        known = self._memory.get(chunk.id)
        if known is not None:
            return known
        disk, packs = self._disk, self._packs
        data = None if disk is None else disk.read(chunk)
        if data is None and disk is not None and packs is not None and packs.bring(chunk, small=small):
            data = disk.read(chunk)
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

    def at_hand(self, chunks: Sequence[Chunk], *, small: bool = True) -> list[Plain]:
        """As `cached` for each of the chunks, but NotCached when any is not at hand. small: as of `get`."""
        found = self._memory.get_many(chunk.id for chunk in chunks)
        here = [data for data in found if data is not None]
        if len(here) == len(chunks):
            return here
        here, missing = [], []
        for chunk, known in zip(chunks, found, strict=True):
            data = known or self.cached(chunk)
            if data is None:
                missing.append(chunk)
            else:
                here.append(data)
        if missing:
            raise NotCached(missing[0].id, lambda: self._have(missing, small=small))
        return here

    def get_many(self, chunks: Sequence[Chunk], *, small: bool = True) -> list[Plain]:
        """The bytes of each of the chunks, as `get` gives them; blocks. Those that lie together come together."""
        if len(chunks) > 1:
            self._have(chunks, small=small)
        return [self.get(chunk, small=small) for chunk in chunks]

    def _have(self, chunks: Sequence[Chunk], *, small: bool) -> None:
        """Load chunks that somebody waits for."""
        if len(chunks) == 1:
            self.get(chunks[0], small=small)
            return
        if self._packs is not None:
            missing, _ = self._missing(chunks, warm=False)
            for first in {chunk.place.container: chunk for chunk in reversed(missing)}.values():
                self._packs.bring(first, small=small)
        self.bring(chunks)

    def add_many(self, chunks: Sequence[tuple[Chunk, bytes]]) -> None:
        """Keep chunks whose bytes, checked, somebody has: they will be read soon."""
        if self._disk is not None:
            self._disk.add_many(chunks, wanted=True)
        self._memory.put_many((chunk.id, data) for chunk, data in chunks)

    def fetch(self, run: Sequence[Chunk]) -> None:
        """Have chunks at hand that `lacking` has just named, a run as of bulk.runs; blocks. It is as `bring`, but does
        not ask the disk once more."""
        if self._packs is not None and self._packs.await_coming(run[0].place.container):
            self.bring(run)
            return
        mine, others = self._begin(run)
        left = self._read_many(mine, whole=len(run), warm=False)[1] if mine else []
        wait(others)
        for chunk in left:
            self.get(chunk)

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
                part, lost = self._read_many(mine, whole=len(run), warm=warm)
                brought += part
                left += lost
        if not warm and self._disk is not None and here:
            on_disk = {row.id: row for row in here}
            rows = [(chunk, on_disk[chunk.id]) for chunk in chunks if chunk.id in on_disk]
            read = self._disk.read_many([row for _, row in rows])
            self._memory.put_many(read.items())
            left += [chunk for chunk, _ in rows if chunk.id not in read]
        wait(others)
        for chunk in left:
            self.get(chunk)
        return brought

    def lacking(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those that are neither in memory nor on disk, as far as is known; the disk is told to read the others. Never
        waits."""
        lacking = [chunk for chunk in chunks if chunk.id not in self._memory]
        if self._disk is None or not lacking:
            return lacking
        expected = self._disk.expect([chunk.id for chunk in lacking])
        return [chunk for chunk in lacking if chunk.id not in expected]

    def _missing(self, chunks: Sequence[Chunk], *, warm: bool) -> tuple[list[Chunk], list[BlockRow]]:
        """Those that have to come from the store; and where the others lie, of which those in memory need no mention
        unless the disk is to be warmed."""
        lacking = [chunk for chunk in chunks if warm or chunk.id not in self._memory]
        if self._disk is None:
            return lacking, []
        here = self._disk.here([chunk.id for chunk in lacking])
        return [chunk for chunk in lacking if chunk.id not in here], list(here.values())

    def _read_many(self, chunks: list[Chunk], *, whole: int, warm: bool) -> tuple[Fetched, list[Chunk]]:
        """Read what this thread has begun, of a run of `whole` chunks; and what could not be had."""
        data: dict[bytes, Plain] = {}
        requests = 0
        try:
            # Asked again: another thread's load may have ended between our look and our turn.
            came = self._came([chunk.id for chunk in chunks], warm=warm)
            missing = [chunk for chunk in chunks if chunk.id not in came] if came else chunks
            # Several runs, when others are reading, or have read, what lies between.
            for run in [missing] if len(missing) == whole else runs(missing):
                brought = read_run(self._store, run)
                data |= brought.plain
                requests += 1
                if warm and self._disk is not None:
                    self._disk.warm([(chunk, data[chunk.id]) for chunk in run if chunk.id in data], ())
                else:
                    self._keep(run, brought)
        except BaseException as error:
            self._end(chunks).set_exception(error)
            raise
        self._end(chunks).set_result(data)
        done = Fetched(len(data), sum(map(len, data.values())), requests)
        return done, [chunk for chunk in missing if chunk.id not in data]

    def _keep(self, run: Sequence[Chunk], brought: Brought) -> None:
        """Keep what a request brought; somebody is about to read it. The disk is later: nobody waits for it."""
        apart = [(chunk, brought.apart[chunk.id]) for chunk in run if chunk.id in brought.apart]
        self._memory.put_together({name: data for name, (_, data) in brought.parts.items()}, room(brought.stored))
        self._memory.put_many((chunk.id, data) for chunk, data in apart)
        if self._disk is not None:
            self._disk.add_together(brought.stored, brought.parts)
            self._disk.add_many(apart, wanted=True)

    def _came(self, chunks: Sequence[bytes], *, warm: bool) -> set[bytes]:
        """Those of the chunks that came just now."""
        came = set() if warm else self._memory.among(chunks)
        return came if self._disk is None else came | self._disk.recent(chunks)

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
