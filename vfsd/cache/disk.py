"""Decoded chunks in files of this node's disk: segments, filled one behind another, dropped whole.

The index says which chunk lies where. A process fills a segment of its own, on which it holds flock(2), and tells the
index in batches; what it had not told when it died is garbage in the file. Every block is checked by its xxh3-64 when
it is read, so neither rot, a power cut nor a file that vanished can give wrong bytes. Trouble with the files, or in
writing to the index, is logged once and never raised: then chunks come from the store.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence

import xxhash

from vfsd.index.index import BlockRow, Index, SegmentRow
from vfsd.model.entry import Chunk
from vfsd.model.errors import VfsdError
from vfsd.store.open_files import OpenFile, OpenFiles

SEGMENT = 64 << 20  # bytes of a full segment
SHARE = 8  # a segment is at most this part of the whole cache, so that dropping one leaves most of it
ROWS = 512  # blocks told to the index at once
TELL_S = 2.0  # seconds after which fewer are told as well
PAUSE_S = 60.0  # seconds without writing after the folder could not be written
OPEN_FILES = 64

_NAME = re.compile(r"[0-9a-f]{16}")
_log = logging.getLogger(__name__)


class _Segment:
    """A segment that this process alone fills or removes, until nobody refers to this object any more."""

    __slots__ = ("end", "fd", "id")

    def __init__(self, path: str, segment: int, flags: int = 0) -> None:
        """BlockingIOError when another process fills it, FileNotFoundError when it is gone."""
        self.fd = -1
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self.is_gone():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.id = segment
        self.end = os.fstat(self.fd).st_size

    def is_gone(self) -> bool:
        """Whether the file has lost its name: others cannot read it any more."""
        return os.fstat(self.fd).st_nlink == 0

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class DiskChunks:
    """Chunks in `folder`, at most about `limit` bytes of them. Safe from any thread; processes share the folder."""

    def __init__(self, index: Index, folder: str, limit: int) -> None:
        self._index = index
        self._folder = folder
        self._limit = limit
        self._segment_size = min(SEGMENT, limit // SHARE)
        self._files = OpenFiles(OPEN_FILES)
        self._lock = threading.RLock()  # of what follows, for writing; `_find` reads `_untold` without
        self._segment: _Segment | None = None
        self._untold: dict[bytes, BlockRow] = {}
        self._sizes: dict[int, int] = {}
        self._used: set[int] = set()
        self._told = time.monotonic()
        self._paused_until = 0.0
        self._complained = False
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            self._clean()
        except (OSError, VfsdError) as error:
            self._pause(error)

    # Reading

    def find(self, chunk: Chunk) -> bytes | None:
        """The chunk when that takes no waiting for the disk."""
        row = self._row(chunk)
        if row is None:
            return None
        buffer = bytearray(row.length)
        try:
            if os.preadv(self._open(row.segment).fd, [buffer], row.offset, os.RWF_NOWAIT) != row.length:
                return None  # only a part is in the page cache
        except OSError:
            return None  # nothing is, or the file is gone: `read` finds out which
        data = bytes(buffer)
        return data if self._is_right(row, data) else None

    def read(self, chunk: Chunk) -> bytes | None:
        """The chunk when it is here; blocks. A block that fails its check is forgotten."""
        row = self._row(chunk)
        if row is None:
            return None
        try:
            data = os.pread(self._open(row.segment).fd, row.length, row.offset)
        except FileNotFoundError:
            self._forget(row, whole_segment=True)
            return None
        except OSError as error:
            self._complain(error)
            data = b""
        if not self._is_right(row, data):
            self._forget(row)
            return None
        return data

    def _row(self, chunk: Chunk) -> BlockRow | None:
        row = self._untold.get(chunk.id) or self._index.block(chunk.id)
        return row if row is not None and row.length == chunk.size else None

    def _is_right(self, row: BlockRow, data: bytes) -> bool:
        if len(data) != row.length or _check64(data) != row.check64:
            return False
        self._used.add(row.segment)
        return True

    def _open(self, segment: int) -> OpenFile:
        path = self._path(segment)
        return self._files.get(path) or self._files.add(path, OpenFile(path))

    def _path(self, segment: int) -> str:
        return f"{self._folder}/{segment:016x}"

    def _forget(self, row: BlockRow, *, whole_segment: bool = False) -> None:
        self._files.discard(self._path(row.segment))
        try:
            with self._lock:
                if whole_segment:
                    self._untold = {key: kept for key, kept in self._untold.items() if kept.segment != row.segment}
                    self._index.drop_segments([row.segment])
                else:
                    if self._untold.get(row.id) == row:
                        del self._untold[row.id]
                    self._index.drop_block(row)
        except VfsdError as error:
            self._pause(error)

    # Writing

    def add(self, chunk: bytes, data: bytes) -> None:
        """Keep a chunk, if the folder can be written."""
        if len(data) > self._segment_size or time.monotonic() < self._paused_until:
            return
        try:
            with self._lock:
                segment = self._segment_with_room(len(data))
                offset = segment.end
                segment.end += len(data)
            # Outside the lock; `segment` stays open and ours as long as it is referred to here.
            if os.pwrite(segment.fd, data, offset) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            with self._lock:
                self._untold[chunk] = BlockRow(chunk, segment.id, offset, len(data), _check64(data))
                self._sizes[segment.id] = segment.end
                if len(self._untold) >= ROWS or time.monotonic() - self._told > TELL_S:
                    self._tell()
        except (OSError, VfsdError) as error:
            self._pause(error)

    def lacks(self, chunk: bytes) -> bool:
        """Whether a chunk is not here, and can be kept."""
        return time.monotonic() >= self._paused_until and not self.has(chunk)

    def has(self, chunk: bytes) -> bool:
        """Whether a chunk is here, as far as is known."""
        return chunk in self._untold or self._index.block(chunk) is not None

    def add_many(self, chunks: Sequence[tuple[Chunk, bytes]]) -> None:
        """As `add`, of several."""
        for chunk, data in chunks:
            self.add(chunk.id, data)

    def close(self) -> None:
        """Tell the index the rest, and leave the segment for others to fill."""
        try:
            with self._lock:
                self._tell()
                self._segment = None
        except VfsdError as error:
            self._pause(error)
        self._files.clear()

    def _tell(self) -> None:
        """Let the index know what was written and used since the last time."""
        used, self._used = self._used, set()
        rows, sizes = list(self._untold.values()), self._sizes
        if rows or sizes or used:
            self._index.add_blocks(rows, sizes, used | sizes.keys(), time.time_ns())
        self._untold, self._sizes = {}, {}  # only now: whoever looks meanwhile finds a block in one of the two
        self._told = time.monotonic()

    def _pause(self, error: OSError | VfsdError) -> None:
        with self._lock:
            self._paused_until = time.monotonic() + PAUSE_S
            self._segment = None
            self._untold, self._sizes = {}, {}
        self._complain(error)

    def _complain(self, error: OSError | VfsdError) -> None:
        if not self._complained:
            self._complained = True
            reason = error.strerror if isinstance(error, OSError) else error
            _log.warning("the chunk cache in %s cannot be used (%s): reading from the store", self._folder, reason)

    # Segments

    def _segment_with_room(self, length: int) -> _Segment:
        segment = self._segment
        if segment is None or segment.end + length > self._segment_size or segment.is_gone():
            self._tell()
            self._segment = None
            rows = self._index.segments()
            segment = self._take_over(rows) or self._make()
            self._make_room(rows, self._segment_size - segment.end)
            self._segment = segment
        return segment

    def _take_over(self, rows: list[SegmentRow]) -> _Segment | None:
        """A segment that a process has left no more than half full."""
        for row in rows:
            if row.size <= self._segment_size // 2:
                try:
                    segment = _Segment(self._path(row.id), row.id)
                except (BlockingIOError, FileNotFoundError):
                    continue
                if segment.end <= self._segment_size // 2 and self._index.has_segment(row.id):
                    return segment
        return None

    def _make(self) -> _Segment:
        os.makedirs(self._folder, 0o700, exist_ok=True)
        while True:
            number = secrets.randbits(63)
            try:
                segment = _Segment(self._path(number), number, os.O_CREAT | os.O_EXCL)
            except (BlockingIOError, FileNotFoundError, FileExistsError):
                continue  # another process that has just started took the new file for a dead one's
            self._index.add_segment(SegmentRow(number, 0, time.time_ns()))
            return segment

    def _make_room(self, rows: list[SegmentRow], needed: int) -> None:
        """Drop segments, the least recently used first, until `needed` bytes more fit."""
        total = sum(row.size for row in rows)
        for row in rows:
            if total + needed <= self._limit:
                return
            try:
                segment = _Segment(self._path(row.id), row.id)
            except BlockingIOError:
                continue  # someone is filling it
            except FileNotFoundError:
                self._index.drop_segments([row.id])
            else:
                self._remove(segment)
            total -= row.size

    def _remove(self, segment: _Segment) -> None:
        path = self._path(segment.id)
        self._index.drop_segments([segment.id])
        os.ftruncate(segment.fd, 0)  # frees the bytes at once, also while others have the file open
        os.unlink(path)
        self._files.discard(path)

    def _clean(self) -> None:
        """Remove what dead processes left: files that the index does not know or knows no block of, and rows without
        a file. The rows are read first: a segment's file is made before its row."""
        rows = {row.id for row in self._index.segments()}
        with os.scandir(self._folder) as found:
            files = {int(entry.name, 16) for entry in found if _NAME.fullmatch(entry.name)}
        self._index.drop_segments(sorted(rows - files))
        for number in files:
            if number not in rows or not self._index.has_blocks(number):
                try:
                    segment = _Segment(self._path(number), number)
                except (BlockingIOError, FileNotFoundError):
                    continue
                # Asked again, now that nobody else can have it.
                if not self._index.has_blocks(number):
                    self._remove(segment)


def _check64(data: bytes) -> int:
    return int.from_bytes(xxhash.xxh3_64_digest(data), "big", signed=True)
