"""Decoded chunks in files of this node's disk: segments, filled one behind another, dropped whole.

The index says which chunk lies where. A process fills a segment of its own, and tells the index in batches; what it
had not told when it died is lost. A block is checked by its xxh3-64 whenever it is read from the disk, so neither rot,
a power cut, nor a file that vanished or was dropped meanwhile can give wrong bytes. Trouble with the files, or with
writing to the index, is logged once and never raised: chunks come from the store until the cache can be used again.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import xxhash

from vfsd.cache.segments import MOST, Segment, Segments
from vfsd.index.blocks import BlockRow
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.model.errors import VfsdError
from vfsd.store.api import Plain
from vfsd.store.buffers import PAGE, whole_pages
from vfsd.store.open_files import OpenFile, OpenFiles

TELL_S = 2.0  # seconds after which the index is told, however little there is to say
WRITES = 4  # large pieces that wait in memory for being written; others are written by who brought them
UNTOLD = 8192  # blocks of which the index is told before that time has passed
PAUSE_S = 10.0  # seconds without writing after the folder could not be written
OPEN_FILES = MOST + 16
PIECES = 1024  # blocks that one system call writes: IOV_MAX of Linux
LENT = 64 << 10  # bytes from which on reading into a lent buffer is worth it
REMEMBERED = 1 << 14  # lookups that `find` did for nothing, for the `read` that comes after it; or `expect` for `find`
TOGETHER = 8 << 20  # bytes of blocks that are read at once
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DAY_S = 86400
_NOT_LOOKED = BlockRow(b"", 0, 0, 0, 0)

_log = logging.getLogger(__name__)


class DiskChunks:
    """Chunks in `folder`, at most `limit` bytes of them. Safe from any thread; processes share the folder."""

    def __init__(self, index: Index, folder: str, limit: int) -> None:
        self._index = index
        self._files = OpenFiles(OPEN_FILES)
        self._segments = Segments(index, folder, limit, self._files.discard)
        self._lock = threading.RLock()  # of segments and what is untold, for writing; `_row` reads without
        self._telling = threading.Lock()
        self._segment: Segment | None = None
        self._untold: dict[bytes, BlockRow] = {}
        self._being_told: dict[bytes, BlockRow] = {}
        self._looked: dict[bytes, BlockRow | None] = {}
        self._warm: set[int] = set()
        self._wanted = self._from_store = 0  # bytes since the index was told
        self._paused_until = 0.0
        self._complained = False
        self._wake, self._closed = threading.Event(), threading.Event()
        self._teller: threading.Thread | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="vfsd-cache-write")
        self._to_write = threading.Semaphore(WRITES)
        weakref.finalize(self, _end, self._wake, self._closed)
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            self._segments.settle()
            for row in index.blocks.segments():
                with contextlib.suppress(FileNotFoundError):  # dropped meanwhile
                    self._open(row.id)  # now, because `find` may not wait for it
        except (OSError, VfsdError) as error:
            self._pause(error)

    @property
    def room(self) -> int:
        """Bytes that can be kept whatever else passes through."""
        return self._segments.room

    # Reading

    def find(self, chunk: Chunk) -> bytes | None:
        """The chunk when that takes no waiting for the disk."""
        row = self._looked.get(chunk.id, _NOT_LOOKED)
        if row is None or row is _NOT_LOOKED:
            row = self._row(chunk)
        data = None
        if row is not None:
            file = self._files.get(self._segments.path(row.segment))
            data = None if file is None else _read_now(file.fd, row)
            if data is not None and self._is_right(row, data):
                self._looked.pop(chunk.id, None)
                return data
        if len(self._looked) >= REMEMBERED:
            self._looked.clear()
        self._looked[chunk.id] = row
        return None

    def expect(self, chunks: Sequence[bytes]) -> dict[bytes, BlockRow]:
        """Where those of the chunks lie that are here; `find` will be asked for them, and the kernel reads them now."""
        found = self.here(chunks)
        if len(self._looked) + len(found) > REMEMBERED:
            self._looked.clear()
        self._looked.update(found)
        for segment, start, run in _runs(found.values()):
            file = self._files.get(self._segments.path(segment))
            if file is not None:
                os.posix_fadvise(file.fd, start, run[-1].offset + run[-1].length - start, os.POSIX_FADV_WILLNEED)
        return found

    def read_many(self, rows: Sequence[BlockRow]) -> dict[bytes, bytes]:
        """Blocks by the ids of their chunks, without those that fail their check, which are forgotten; blocks. What
        lies together is read together."""
        found: dict[bytes, bytes] = {}
        for segment, start, run in _runs(rows):
            try:
                data = os.pread(self._open(segment).fd, run[-1].offset + run[-1].length - start, start)
            except FileNotFoundError:
                data = b""
            except OSError as error:
                self._complain(error)
                data = b""
            for row in run:
                block = data[row.offset - start : row.offset - start + row.length]
                if self._is_right(row, block):
                    found[row.id] = block
                else:
                    self._forget(row)
        return found

    def read(self, chunk: Chunk) -> bytes | None:
        """The chunk when it is here; blocks. A block that fails its check is forgotten."""
        row = self._looked.pop(chunk.id, _NOT_LOOKED)
        if row is _NOT_LOOKED:
            row = self._row(chunk)
        if row is None:
            return None
        try:
            data = os.pread(self._open(row.segment).fd, row.length, row.offset)
        except FileNotFoundError:
            data = b""
        except OSError as error:
            self._complain(error)
            data = b""
        if not self._is_right(row, data):
            self._forget(row)
            return None
        return data

    def lacks(self, chunk: bytes) -> bool:
        """Whether a chunk is not here, and can be kept."""
        return time.monotonic() >= self._paused_until and not self.has(chunk)

    @property
    def ahead_pays(self) -> bool:
        """Whether what is brought before anybody asks for it can be kept, and is likely to be read before it goes."""
        return time.monotonic() >= self._paused_until and self._segments.eviction.ahead_pays

    def has(self, chunk: bytes) -> bool:
        """Whether a chunk is here, as far as is known."""
        return self._recent(chunk) is not None or self._index.blocks.find(chunk) is not None

    def recent(self, chunks: Sequence[bytes]) -> set[bytes]:
        """Those of the chunks that are here since a moment ago."""
        return self._untold.keys() & chunks | self._being_told.keys() & chunks

    def here(self, chunks: Sequence[bytes]) -> dict[bytes, BlockRow]:
        """Where those of the chunks lie that are here."""
        found = {chunk: row for chunk in self.recent(chunks) if (row := self._recent(chunk)) is not None}
        return self._index.blocks.find_many([chunk for chunk in chunks if chunk not in found]) | found

    def _row(self, chunk: Chunk) -> BlockRow | None:
        row = self._recent(chunk.id) or self._index.blocks.find(chunk.id)
        return row if row is not None and row.length == chunk.size else None

    def _recent(self, chunk: bytes) -> BlockRow | None:
        return self._untold.get(chunk) or self._being_told.get(chunk)

    def _is_right(self, row: BlockRow, data: bytes) -> bool:
        if len(data) != row.length or _check64(data) != row.check64:
            return False
        self._segments.eviction.hit(row.segment, row.offset, row.length)
        self._wanted += row.length
        self._soon()
        return True

    def _open(self, segment: int) -> OpenFile:
        path = self._segments.path(segment)
        return self._files.get(path) or self._files.add(path, OpenFile(path))

    def _forget(self, row: BlockRow) -> None:
        self._files.discard(self._segments.path(row.segment))
        try:
            with self._lock:
                if self._untold.get(row.id) == row:
                    del self._untold[row.id]
            self._index.blocks.drop(row)
        except VfsdError as error:
            self._pause(error)

    # Writing

    def add(self, chunk: bytes, data: Plain) -> None:
        """Keep a chunk that somebody reads, if the folder can be written."""
        self._from_store += len(data)
        self._missed([(chunk, data)])
        for row in self._add([(chunk, data)]):
            self._segments.eviction.hit(row.segment, row.offset, row.length)

    def add_many(self, chunks: Sequence[tuple[Chunk, Plain]], *, wanted: bool = False) -> None:
        """Keep chunks that may be read, as far as the folder can be written. wanted: somebody is about to."""
        self._from_store += sum(len(data) for _, data in chunks)
        named = [(chunk.id, data) for chunk, data in chunks]
        if wanted:
            self._missed(named)
        self._add(named)

    def add_together(self, stored: memoryview, parts: Mapping[bytes, tuple[int, memoryview]]) -> None:
        """Keep chunks that somebody is about to read from memory, and that are parts of `stored`, memory of
        `store.buffers`: by id, where they begin in it, and their bytes.

        It is written as it is, and past the kernel's cache where that can be: a copy there takes new pages, which cost
        more than all else that is done to these bytes. A thread does it: whoever waits for them need not wait for that.
        """
        if not parts:
            return
        named = [(chunk, data) for chunk, (_, data) in parts.items()]
        self._from_store += sum(len(data) for _, data in named)
        self._missed(named)
        if self._to_write.acquire(blocking=False):
            try:
                self._writer.submit(self._write_together, stored, parts).add_done_callback(self._wrote)
                return
            except RuntimeError:  # closed
                self._to_write.release()
        self._write_together(stored, parts)  # the disk is slower than the store

    def _wrote(self, done: Future[None]) -> None:
        self._to_write.release()
        if error := done.exception():
            _log.error("the cache could not keep what was read", exc_info=error)

    def _write_together(self, stored: memoryview, parts: Mapping[bytes, tuple[int, memoryview]]) -> None:
        pages = whole_pages(stored)
        if len(pages) + PAGE > self._segments.full:
            self._add([(chunk, data) for chunk, (_, data) in parts.items()])
            return
        if not self._can_add(len(pages) + PAGE):
            return
        rows: list[BlockRow] = []
        try:
            with self._lock:
                segment = self._segment_with_room(len(pages) + PAGE)
                segment.open_past_cache()
                offset = -(-segment.end // PAGE) * PAGE
                segment.end = offset + len(pages)
            segment.write_past_cache(pages, offset)
            rows = [
                BlockRow(chunk, segment.id, offset + at, len(data), _check64(data))
                for chunk, (at, data) in parts.items()
            ]
        except (OSError, VfsdError) as error:
            self._pause(error)
        self._added(rows)

    def _missed(self, chunks: Sequence[tuple[bytes, Plain]]) -> None:
        """Chunks were wanted and not here."""
        now = time.time_ns()
        with self._lock:
            for chunk, data in chunks:
                self._wanted += len(data)
                self._segments.eviction.missed(chunk, len(data), now)

    def warm(self, chunks: Sequence[tuple[Chunk, Plain]], here: Sequence[BlockRow]) -> None:
        """Keep chunks, and those that are here already, longer than what passes through."""
        rows = self._add([(chunk.id, data) for chunk, data in chunks])
        with self._lock:
            self._warm.update(row.segment for row in (*rows, *here))
        self.tell()

    def _add(self, chunks: Sequence[tuple[bytes, Plain]]) -> list[BlockRow]:
        """Write chunks, behind one another where there is room; where they lie now."""
        chunks = [(chunk, data) for chunk, data in chunks if len(data) <= self._segments.full]
        rows: list[BlockRow] = []
        if not chunks or not self._can_add(sum(len(data) for _, data in chunks)):
            return rows
        try:
            with self._lock:
                runs = self._place(chunks)
            # Outside the lock; a segment stays open and ours as long as it is referred to here.
            for segment, offset, run in runs:
                _write(segment.fd, [data for _, data in run], offset)
                at = offset
                for chunk, data in run:
                    rows.append(BlockRow(chunk, segment.id, at, len(data), _check64(data)))
                    at += len(data)
        except (OSError, VfsdError) as error:
            self._pause(error)
        self._added(rows)
        return rows

    def _can_add(self, size: int) -> bool:
        """Whether so many bytes can be tried to be written now."""
        if time.monotonic() < self._paused_until:
            return False
        if not self._has_room(size):
            self.tell()  # when a segment is dropped, the index should know its chunks
        return True

    def _added(self, rows: Sequence[BlockRow]) -> None:
        with self._lock:
            for row in rows:
                self._untold[row.id] = row
                self._looked.pop(row.id, None)
        if len(self._untold) >= UNTOLD:
            self.tell()
        self._soon()

    def _place(self, chunks: Sequence[tuple[bytes, Plain]]) -> list[tuple[Segment, int, list[tuple[bytes, Plain]]]]:
        """(segment, offset, chunks that belong there) in order."""
        runs = []
        at = 0
        while at < len(chunks):
            segment = self._segment_with_room(len(chunks[at][1]))
            offset, first = segment.end, at
            while at < len(chunks) and segment.end + len(chunks[at][1]) <= self._segments.full:
                segment.end += len(chunks[at][1])
                at += 1
            runs.append((segment, offset, list(chunks[first:at])))
        return runs

    def _has_room(self, length: int) -> bool:
        segment = self._segment
        return segment is not None and segment.end + length <= self._segments.full

    def _segment_with_room(self, length: int) -> Segment:
        segment = self._segment
        if segment is not None and (segment.end + length > self._segments.full or segment.is_gone()):
            self._segment = None
            if not segment.is_gone():
                self._segments.leave(segment, segment.end)
                self._segments.filled()
                self._complained = False
            segment = None
        if segment is None:
            segment = self._segment = self._segments.begin()
            self._open(segment.id)
        return segment

    def tell(self) -> None:
        """Let the index know what was written and read since the last time."""
        with self._telling:
            with self._lock:
                self._being_told = self._untold  # first, so that who looks meanwhile finds a block in one of them
                self._untold = {}
                wanted, self._wanted = self._wanted, 0
                from_store, self._from_store = self._from_store, 0
                warm, self._warm = self._warm, set()
            try:
                self._index.blocks.add(list(self._being_told.values()))
                self._index.blocks.note_reads(int(time.time()) // _DAY_S, wanted, from_store)
                with self._lock:
                    self._segments.keep(warm)
                    self._segments.review()
            except (OSError, VfsdError) as error:
                self._pause(error)
            finally:
                self._being_told = {}

    def close(self) -> None:
        """Tell the index the rest, and leave the segment for others to fill."""
        self._writer.shutdown()
        _end(self._wake, self._closed)
        if self._teller is not None:
            self._teller.join()
        self.tell()
        with self._lock:
            self._abandon()
        self._files.clear()

    def _soon(self) -> None:
        """Have the index told in a while."""
        if not self._wake.is_set():
            self._wake.set()
            if self._teller is None and not self._closed.is_set():
                arguments = (weakref.ref(self), self._wake, self._closed)
                self._teller = threading.Thread(target=_tell, args=arguments, name="vfsd-cache", daemon=True)
                self._teller.start()

    # Trouble

    def _pause(self, error: OSError | VfsdError) -> None:
        """Something could not be written: do without for a while."""
        self._complain(error)
        with self._lock:
            self._paused_until = time.monotonic() + PAUSE_S
            self._abandon()
            if isinstance(error, OSError) and error.errno in _FULL:
                try:
                    self._segments.found_full()
                except (OSError, VfsdError) as further:
                    self._complain(further)

    def _abandon(self) -> None:
        """Leave the segment to others, with what is in it."""
        segment, self._segment = self._segment, None
        if segment is not None:
            try:
                ends = (row.offset + row.length for row in self._untold.values() if row.segment == segment.id)
                self._segments.leave(segment, max(self._index.blocks.segment_end(segment.id), *ends, 0))
            except (OSError, VfsdError) as error:
                self._complain(error)

    def _complain(self, error: OSError | VfsdError) -> None:
        if not self._complained:
            self._complained = True
            reason = error.strerror if isinstance(error, OSError) else error
            folder = self._segments.folder
            _log.warning("the chunk cache in %s cannot be used (%s): reading from the store", folder, reason)


def _tell(reference: weakref.ref[DiskChunks], wake: threading.Event, closed: threading.Event) -> None:
    """Tell the index from time to time, while there is something to say. A thread of its own does it, because who asks
    for what is at hand may not wait for the index."""
    while True:
        wake.wait()
        if closed.wait(TELL_S):
            return
        wake.clear()
        disk = reference()
        if disk is None:
            return
        disk.tell()
        del disk


def _end(wake: threading.Event, closed: threading.Event) -> None:
    closed.set()
    wake.set()


def _read_now(fd: int, row: BlockRow) -> bytes | None:
    """A block when all of it is in the page cache."""
    try:
        if row.length < LENT:
            small = bytearray(row.length)
            return bytes(small) if os.preadv(fd, [small], row.offset, os.RWF_NOWAIT) == row.length else None
        # A BytesIO lends its buffer and gives it away as bytes, without the copy that bytes(bytearray) is.
        lender = io.BytesIO()
        lender.seek(row.length - 1)
        lender.write(b"\0")
        with lender.getbuffer() as buffer:
            if os.preadv(fd, [buffer], row.offset, os.RWF_NOWAIT) != row.length:
                return None
        return lender.getvalue()
    except OSError:
        return None  # nothing is, or it cannot be told here: `read` finds out


def _runs(rows: Iterable[BlockRow]) -> Iterator[tuple[int, int, list[BlockRow]]]:
    """(segment, offset, blocks that lie behind one another there), up to TOGETHER bytes of them."""
    run: list[BlockRow] = []
    for row in sorted(rows, key=lambda row: (row.segment, row.offset)):
        if run:
            last = run[-1]
            behind = (last.segment, last.offset + last.length) == (row.segment, row.offset)
            if not behind or row.offset + row.length - run[0].offset > TOGETHER:
                yield run[0].segment, run[0].offset, run
                run = []
        run.append(row)
    if run:
        yield run[0].segment, run[0].offset, run


def _write(fd: int, pieces: list[Plain], offset: int) -> None:
    """Write pieces behind one another; OSError when not all of them could be."""
    for at in range(0, len(pieces), PIECES):
        part = pieces[at : at + PIECES]
        size = sum(map(len, part))
        if os.pwritev(fd, part, offset) != size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        offset += size


def _check64(data: Plain) -> int:
    return int.from_bytes(xxhash.xxh3_64_digest(data), "big", signed=True)
