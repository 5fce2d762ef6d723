"""The files of the disk cache, and how many there may be: begun, taken over, dropped whole.

While a process fills a segment it holds flock(2) on it, so one that can be locked is nobody's: what a dead writer had
not told the index is cut off then, or the file removed. From its beginning a segment counts with the size that it may
come to have, so processes that begin one at the same moment stay within the limit together. The disk is never filled
up: where others use it too, the cache gives way.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from vfsd.cache.eviction import Eviction
from vfsd.index.blocks import SegmentRow
from vfsd.index.index import Index

SMALLEST, LARGEST = 16 << 20, 64 << 20  # bytes of a full segment, as far as the limit leaves the choice
MOST = 256  # segments: of a large cache they are larger
FEW = 8  # of a small one they are smaller, so that dropping one leaves most of the cache
FREE = 1 << 30  # bytes that are left free on the disk, or a twentieth of it when that is less

_NAME = re.compile(r"[0-9a-f]{16}")


def is_segment(name: str) -> bool:
    """Whether a file of this name is a segment."""
    return _NAME.fullmatch(name) is not None


class Segment:
    """A segment that this process alone fills or removes, until nobody refers to this object any more."""

    __slots__ = ("_direct", "_path", "end", "fd", "id")

    def __init__(self, path: str, segment: int, flags: int = 0) -> None:
        """BlockingIOError when another process fills it, FileNotFoundError when it is gone."""
        self.fd = self._direct = -1
        self._path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if self.is_gone():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.id = segment
        self.end = os.fstat(self.fd).st_size

    def is_gone(self) -> bool:
        """Whether the file has lost its name: others cannot read it any more."""
        return os.fstat(self.fd).st_nlink == 0

    def open_past_cache(self) -> None:
        """Have `write_past_cache` go past the kernel's cache, if the file system can. For one thread at a time."""
        if self._direct < 0:
            with contextlib.suppress(OSError):
                self._direct = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)

    def write_past_cache(self, pages: memoryview, offset: int) -> None:
        """Write whole pages at a page's beginning. OSError when not all of them could be."""
        written = 0
        try:
            if self._direct >= 0:
                written = os.pwrite(self._direct, pages, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # it wants them to lie otherwise in memory
                raise
        if not written:
            written = os.pwrite(self.fd, pages, offset)
        if written != len(pages):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def __del__(self) -> None:
        for fd in (self.fd, self._direct):
            if fd >= 0:
                os.close(fd)


def segment_size(limit: int) -> int:
    """Bytes of a full segment of a cache of `limit` bytes."""
    return min(max(min(limit // 32, LARGEST), SMALLEST, limit // MOST), limit // FEW)


class Segments:
    """The segments in `folder`, at most `limit` bytes of them. For one thread at a time; processes share the folder.

    on_drop: is told the path of a segment that was dropped. OSError and VfsdError leave every method.
    """

    def __init__(self, index: Index, folder: str, limit: int, on_drop: Callable[[str], None]) -> None:
        self.folder = folder
        self.full = segment_size(limit)
        self.eviction = Eviction(limit, self.full)
        self._index = index
        self._limit = limit
        self._ceiling = limit  # what the disk has been found to hold
        self._filled = 0  # bytes since it was
        self._on_drop = on_drop

    @property
    def room(self) -> int:
        """Bytes that can be kept whatever passes through."""
        return max(self._limit - self.eviction.passing - 2 * self.full, 0)

    def path(self, segment: int) -> str:
        """The file of a segment."""
        return f"{self.folder}/{segment:016x}"

    # Filling

    def begin(self) -> Segment:
        """A segment to fill, with room for it. OSError(ENOSPC) when there is none to be had."""
        os.makedirs(self.folder, 0o700, exist_ok=True)
        segment = self._take_over() or self._make()
        try:
            self._make_room(segment)
        except BaseException:
            self.leave(segment, segment.end)
            raise
        return segment

    def leave(self, segment: Segment, end: int) -> None:
        """A segment is not filled further. `end`: where what was written ends; nothing was when it is 0."""
        if end:
            self._index.blocks.resize_segment(segment.id, end)
        else:
            self._remove(segment)

    def filled(self) -> None:
        """A segment was filled to its end. When all that there is was filled anew, the disk may hold more by now."""
        self._filled += self.full
        if self._filled >= self._ceiling:
            self._filled = 0
            self._ceiling = min(self._ceiling + self._ceiling // 8 + self.full, self._limit)

    def found_full(self) -> None:
        """Writing found no room. Where the disk says that it has some there is a quota: hold no more than now."""
        if self._free() >= self.full:
            held = sum(self._held(row) for row in self._index.blocks.segments())
            self._ceiling = max(min(self._ceiling, held), self.full)
            self._filled = 0

    def _take_over(self) -> Segment | None:
        """A segment that a process has left no more than half full, as the newest."""
        for row in self._index.blocks.segments():
            if row.size <= self.full // 2 and not row.kept:
                segment = self._lock(row.id)
                if segment is not None and self._index.blocks.has_segment(row.id):
                    segment.end = min(self._index.blocks.segment_end(row.id), segment.end)
                    os.ftruncate(segment.fd, segment.end)
                    self._register(segment)
                    return segment
        return None

    def _make(self) -> Segment:
        while True:
            number = secrets.randbits(63)
            try:
                segment = Segment(self.path(number), number, os.O_CREAT | os.O_EXCL)
            except (BlockingIOError, FileNotFoundError, FileExistsError):
                continue  # another process that has just started took the new file for a dead one's
            self._register(segment)
            return segment

    def _register(self, segment: Segment) -> None:
        now = time.time_ns()
        self._index.blocks.add_segment(SegmentRow(segment.id, self.full, now, now))
        self.eviction.begun(segment.id)

    # Dropping

    def _make_room(self, own: Segment | None) -> None:
        """Drop segments until the others fit, and leave some of the disk free."""
        rows = self._index.blocks.segments()
        held = sum(row.size for row in rows)
        free = self._free() - (self.full if own is not None else 0)
        is_full = held > self._ceiling or free < 0
        rows = self._review(rows, is_full=is_full)
        stuck = {own.id} if own is not None else set()
        while held > self._ceiling or free < 0:
            candidates = [row for row in self.eviction.order(rows) if row.id not in stuck]
            if not candidates:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.folder)
            row = candidates[0]
            if not self._drop(row, [other for other in rows if other.id not in stuck]):
                stuck.add(row.id)  # someone is filling it
                continue
            rows = [other for other in rows if other.id != row.id]
            held -= row.size
            free += row.size

    def _drop(self, row: SegmentRow, others: Sequence[SegmentRow]) -> bool:
        """Drop a segment that nobody fills; whether it went."""
        try:
            segment = Segment(self.path(row.id), row.id)
        except BlockingIOError:
            return False
        except FileNotFoundError:
            self._index.blocks.drop_segment(row.id)
            return True
        heir = self.eviction.heir(others, row)
        self.eviction.went(row, self._remove(segment))
        if heir is not None:
            self._note([msgspec.structs.replace(heir, kept=True)])
        return True

    def _remove(self, segment: Segment) -> list[bytes]:
        gone = self._index.blocks.drop_segment(segment.id)
        path = self.path(segment.id)
        os.ftruncate(segment.fd, 0)  # frees the bytes at once, also while others have the file open
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self._on_drop(path)
        return gone

    def review(self) -> None:
        """Write down what follows from the use of the segments so far, and forget those whose files are gone."""
        rows = self._index.blocks.segments()
        try:
            files = set(os.listdir(self.folder))
        except FileNotFoundError:
            files = set()
        here = [row for row in rows if f"{row.id:016x}" in files]
        for row in rows:
            if row not in here:
                self._index.blocks.drop_segment(row.id)
                self._on_drop(self.path(row.id))
        self._review(here, is_full=False)

    def _review(self, rows: Sequence[SegmentRow], *, is_full: bool) -> list[SegmentRow]:
        found = self.eviction.review(rows, time.time_ns(), is_full=is_full)
        self._note([new for new, old in zip(found, rows, strict=True) if new != old])
        return found

    def keep(self, segments: Iterable[int]) -> None:
        """These are kept from now on, and count as used now."""
        now = time.time_ns()
        self._note([SegmentRow(segment, 0, now, now, True) for segment in segments])

    def _note(self, rows: Sequence[SegmentRow]) -> None:
        if rows:
            self._index.blocks.note_segments(rows)

    # What others left

    def settle(self) -> None:
        """Reclaim what dead processes left, forget rows without a file, and keep to the limit, which may be lower than
        it was. The rows are read first: a segment's file is made before its row."""
        rows = {row.id: row for row in self._index.blocks.segments()}
        with os.scandir(self.folder) as found:
            files = {int(entry.name, 16): entry.stat().st_size for entry in found if is_segment(entry.name)}
        for number in rows.keys() - files.keys():
            self._index.blocks.drop_segment(number)
        for number, size in files.items():
            if number not in rows or rows[number].size != size:
                self._settle(number)
        self._make_room(None)

    def _settle(self, number: int) -> None:
        """Cut a segment that nobody fills to what the index knows of it."""
        segment = self._lock(number)
        if segment is None:
            return
        end = min(self._index.blocks.segment_end(number), segment.end)
        os.ftruncate(segment.fd, end)
        self.leave(segment, end)

    def _lock(self, number: int) -> Segment | None:
        """A segment that nobody fills, or None."""
        try:
            return Segment(self.path(number), number)
        except (BlockingIOError, FileNotFoundError):
            return None

    def _held(self, row: SegmentRow) -> int:
        """Bytes that a segment takes on the disk now."""
        try:
            return os.stat(self.path(row.id)).st_size
        except FileNotFoundError:
            return 0

    def _free(self) -> int:
        """Bytes of the disk that the cache may still take."""
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize - min(FREE, disk.f_blocks * disk.f_frsize // 20)
