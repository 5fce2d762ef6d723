"""The journal's records, in order, in files that are only appended to: one write(2) a record, and no more.

    record = length of data: u32, xxh3-64 of what follows: u64, number: u64, branch: u32, data        (little-endian)

A record that was written whole survives the end of this process, and after `sync` that of the machine. What cannot be
read is passed over, up to the next whole record. Files are removed once every record in them is done.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator

import xxhash

from vfsd.model.errors import NoSpace

log = logging.getLogger(__name__)
FULL = 16 << 20  # bytes at which another file is begun
SMALL = 1 << 20  # bytes up to which a file with nothing left in it is gone on with
_FRAME = struct.Struct("<IQ")
_HEAD = struct.Struct("<QI")
_SMALLEST = _FRAME.size + _HEAD.size
_READ = 1 << 20


class _Segment:
    """One file. last: branch → number of its last record here."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0
        self.synced = 0
        self.last: dict[int, int] = {}

    def records(self, end: int | None = None) -> Iterator[tuple[int, int, bytes, int]]:
        """(number, branch, data, where it ends) of the whole records in order, up to byte `end`."""
        at, start, data = 0, 0, b""  # `data` begins at byte `start`, the next record at `start + at`
        last, there = 0, os.fstat(self.fd).st_size
        while end is None or start + at < end:
            length = _SMALLEST
            if len(data) - at >= _FRAME.size:
                length += _FRAME.unpack_from(data, at)[0]
            is_whole = start + at + length <= there
            if is_whole and len(data) - at < length:
                data, start, at = os.pread(self.fd, max(_READ, length), start + at), start + at, 0
                continue
            body = data[at + _FRAME.size : at + length]
            if not is_whole or xxhash.xxh3_64_intdigest(body) != _FRAME.unpack_from(data, at)[1]:
                resumed = self._resumed(start + at, last)
                if resumed is None:
                    return
                data, start, at = b"", resumed, 0
                continue
            at += length
            last, branch = _HEAD.unpack_from(body)
            yield last, branch, body[_HEAD.size :], start + at

    def _resumed(self, at: int, last: int) -> int | None:
        """Where the next whole record begins behind byte `at`, at which none does; None when there is none. last: the
        number of the one before, 0 for none. Numbers are given without a gap, so hardly any other bytes look right."""
        data = os.pread(self.fd, max(0, os.fstat(self.fd).st_size - at), at)
        highest = (last or int(os.path.basename(self.path), 16)) + len(data) // _SMALLEST + 1
        for place in range(1, min(len(data) - _SMALLEST + 1, len(data.rstrip(b"\0")))):
            number, _ = _HEAD.unpack_from(data, place + _FRAME.size)
            if last < number <= highest:
                length, digest = _FRAME.unpack_from(data, place)
                body = data[place + _FRAME.size : place + _SMALLEST + length]
                if len(body) == _HEAD.size + length and xxhash.xxh3_64_intdigest(body) == digest:
                    return at + place
        return None


class JournalLog:
    """The files in `folder`. One process writes; safe from any thread."""

    def __init__(self, folder: str, is_done: Callable[[int, int], bool]) -> None:
        """is_done(branch, number): whether a commit holds the record, or nobody will ask for it."""
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._folder = folder
        self._is_done = is_done
        self._lock = threading.Lock()  # of adding records and of removing files
        self._current: _Segment | None = None  # one that this process began: a torn record may end any other
        self._begun, self._begun_synced = 1, 0  # files that were made, at first by others; how many names are durable
        self.last = 0  # number of the last record
        self._segments = [_Segment(os.path.join(folder, name)) for name in sorted(os.listdir(folder))]
        for segment in self._segments:
            before = 0
            for number, branch, data, end in segment.records():
                begin = end - len(data) - _SMALLEST
                if begin != segment.size:
                    what = f"{number - before - 1} changes" if before else "some changes"
                    log.error("%s: damaged from byte %d to %d: %s are lost", segment.path, segment.size, begin, what)
                self.last = segment.last[branch] = before = number
                segment.size = end
            torn = os.fstat(segment.fd).st_size - segment.size
            if torn:
                log.warning("%s: %d bytes of a record that was not written to its end", segment.path, torn)

    def append(self, branch: int, data: bytes) -> int:
        """Add a record; its number. NoSpace leaves the journal as it was."""
        with self._lock:
            segment = self._current
            if segment is None or segment.size >= FULL:
                segment = self._begin()
            body = _HEAD.pack(self.last + 1, branch) + data
            frame = _FRAME.pack(len(data), xxhash.xxh3_64_intdigest(body)) + body
            self._current = None  # should it fail: what is behind half a record would be lost
            try:
                written = os.write(segment.fd, frame)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                written = 0
            if written != len(frame):
                os.ftruncate(segment.fd, segment.size)
                self._current = segment
                raise NoSpace(f"{segment.path}: the disk is full")
            self._current = segment
            segment.size += written
            self.last += 1
            segment.last[branch] = self.last
            return self.last

    def records(self, branch: int) -> list[tuple[int, bytes]]:
        """(number, data) of a branch that are not done, in order. In any thread."""
        return [
            (number, data)
            for segment in list(self._segments)
            if not self._is_done(branch, segment.last.get(branch, 0))
            for number, owner, data, _ in segment.records(segment.size)
            if owner == branch and not self._is_done(branch, number)
        ]

    def has_records(self, branch: int) -> bool:
        """Whether a branch has any that are not done."""
        return any(not self._is_done(branch, segment.last.get(branch, 0)) for segment in self._segments)

    def removable(self) -> list[tuple[_Segment, int]]:
        """Files of which every record is done, and their sizes; the one that is appended to only once it has some."""
        with self._lock:
            done = [
                segment
                for segment in self._segments
                if all(self._is_done(branch, number) for branch, number in segment.last.items())
            ]
            return [(one, one.size) for one in done if one is not self._current or one.size > SMALL]

    def remove(self, files: list[tuple[_Segment, int]]) -> None:
        """Remove files that were `removable`, but those that have more records by now; that all others are done must be
        durable."""
        with self._lock:
            for segment, size in files:
                if segment.size != size or segment not in self._segments:
                    continue
                self._segments.remove(segment)
                if segment is self._current:
                    self._current = None
                os.unlink(segment.path)
                os.close(segment.fd)

    def sync(self) -> None:
        """Make every record durable against a power cut. In any thread, in several at once too."""
        begun = self._begun
        if self._begun_synced < begun:
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._begun_synced = begun
        for segment in list(self._segments):
            size = segment.size
            if segment.synced >= size:
                continue
            try:
                os.fdatasync(segment.fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # removed meanwhile: all of it is done
                    raise
            segment.synced = size

    def close(self) -> None:
        """Close the files."""
        for segment in self._segments:
            os.close(segment.fd)
        self._segments.clear()

    def _begin(self) -> _Segment:
        number = self.last + 1
        while os.path.exists(path := os.path.join(self._folder, f"{number:016x}")):
            number += 1  # a process ended before its first record here
        segment = self._current = _Segment(path)
        self._segments.append(segment)
        self._begun += 1
        return segment
