"""Staged bytes: what was written and is in no commit yet, on local disk.

A small new file stays in memory until it is closed and then goes, with others, into a segment file: one append, no
file of its own. Everything else has a sparse file of its own, with the written ranges known, over the committed
content. `StagedFile` is the content of one file; the journal makes it durable.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from functools import partial

from vfsd.model.errors import NotCached, Refused
from vfsd.repo.chunklist import Content
from vfsd.worktree.extents import Extents
from vfsd.worktree.records import Stored

SMALL = 128 << 10  # bytes up to which a new file stays in memory
SEGMENT = 64 << 20  # bytes at which a segment is full
_COPY = 8 << 20
_LOOK = 1 << 20  # bytes written between two looks at the disk's free space
_RESERVE = 16 << 20  # bytes that stay free for the journal, so that a full disk can still be cleaned up
ReadBase = Callable[[Content, int, int], bytes]


class Staging:
    """The staging folder of one node. Used by the event loop's thread, and by commits only to read.

    limit: bytes that may be in it. used: bytes that are; a little more where files were cut short, until `recount`.
    """

    def __init__(self, folder: str, limit: int = 1 << 62) -> None:
        self.folder = folder
        self.limit = limit
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._sizes = dict.fromkeys(os.listdir(folder), 0)  # staging file or segment → bytes of disk
        self.used = 0
        self.recount()
        taken = [int(name[1:]) for name in self._sizes if name[1:].isdigit()]
        self._numbers = itertools.count(max(taken, default=0) + 1)
        self._segment: _Segment | None = None
        self._segments: dict[str, _Segment] = {}
        self._admitted = _LOOK  # bytes since the last look at the disk
        self._limbo: list[tuple[int, int, str, int]] = []  # (branch, last record naming it, name, descriptor or -1)
        self._settled: dict[int, int] = {}  # branch → its records up to this number are in a commit

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes are within the limit."""
        if self.used + size > self.limit:
            self.recount()
        return self.used + size <= self.limit

    def recount(self) -> None:
        """Ask the disk how much there is."""
        for name in self._sizes:
            try:
                self._sizes[name] = os.stat(self.path(name)).st_blocks * 512
            except FileNotFoundError:
                self._sizes[name] = 0
        self.used = sum(self._sizes.values())

    def grew(self, name: str, size: int) -> None:
        """Some bytes more are in a file."""
        self._sizes[name] = self._sizes.get(name, 0) + size
        self.used += size

    def _remove(self, name: str) -> None:
        self.used -= self._sizes.pop(name, 0)
        _unlink(self.path(name))

    def admit(self, size: int) -> None:
        """ENOSPC when the limit or the disk has no room for `size` more bytes: said at write, so that a close never
        fails."""
        if self.used + size > self.limit and not self.has_room(size):
            raise Refused(errno.ENOSPC, f"{self.folder}: {self.limit} bytes wait for their commits already")
        self._admitted += size
        if self._admitted < _LOOK:
            return
        disk = os.statvfs(self.folder)
        reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // 8)
        if disk.f_bavail * disk.f_frsize < reserve + size:
            raise Refused(errno.ENOSPC, f"{self.folder}: the disk is full")
        self._admitted = 0

    def append(self, data: bytes | bytearray) -> tuple[_Segment, int]:
        """Put a small file's bytes into a segment; (the segment, offset). The segment counts one user more."""
        segment = self._segment
        if segment is None or segment.size + len(data) > SEGMENT:
            if segment is not None:
                self.release(segment.name)
            segment = self._segment = self.segment(f"s{next(self._numbers)}")
        offset = segment.size
        _write_all(segment.fd, data, offset)
        segment.size += len(data)
        segment.users += 1
        self.grew(segment.name, len(data))
        return segment, offset

    def segment(self, name: str) -> _Segment:
        """An open segment, counted as used once more by the caller."""
        found = self._segments.get(name)
        if found is None:
            fd = os.open(os.path.join(self.folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            found = self._segments[name] = _Segment(name, fd, os.fstat(fd).st_size)
        found.users += 1
        return found

    def release(self, name: str) -> None:
        """A user of a segment is gone; the last one takes the file along."""
        segment = self._segments[name]
        segment.users -= 1
        if not segment.users:
            del self._segments[name]
            os.close(segment.fd)
            self._remove(name)

    def retire(self, name: str, fd: int, seq: int, branch: int) -> None:
        """Nothing reads this segment's part or staging file any more, but journal records of `branch` up to `seq` may
        name it."""
        self._limbo.append((branch, seq, name, fd))

    def settled(self, branch: int, seq: int) -> None:
        """A commit holds the journal records of one branch up to `seq`; those of others stay what they are."""
        self._settled[branch] = seq

    def committed(self, seq: int) -> None:
        """Journal records up to `seq` that are settled are gone: give back what only they named."""
        keep = []
        for item in self._limbo:
            branch, last, name, fd = item
            if last > min(seq, self._settled.get(branch, 0)):
                keep.append(item)
            elif fd < 0:
                self.release(name)
            else:
                os.close(fd)
                self._remove(name)
        self._limbo = keep

    def new_file(self) -> tuple[str, int]:
        """(name, descriptor) of a fresh staging file."""
        name = f"f{next(self._numbers)}"
        self._sizes[name] = 0
        return name, os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def path(self, name: str) -> str:
        """Path of a staging file."""
        return os.path.join(self.folder, name)

    def sync_segments(self) -> None:
        """Make all segments' bytes durable against a power cut. Runs in any thread, in several at once too: none
        returns before what it found is durable."""
        for segment in list(self._segments.values()):
            size = segment.size
            if segment.synced >= size:
                continue
            try:
                os.fsync(segment.fd)
            except OSError as error:
                if error.errno != errno.EBADF:  # its last user is gone meanwhile
                    raise
            segment.synced = size

    def clean(self, used: set[str]) -> None:
        """Remove what a dead process left that no journal record names."""
        for name in os.listdir(self.folder):
            if name not in used and name not in self._segments:
                self._remove(name)

    def close(self) -> None:
        """Close descriptors; files stay."""
        for *_, fd in self._limbo:
            if fd >= 0:
                os.close(fd)
        self._limbo.clear()
        for segment in self._segments.values():
            os.close(segment.fd)
        self._segments.clear()
        self._segment = None


class _Segment:
    def __init__(self, name: str, fd: int, size: int) -> None:
        self.name = name
        self.fd = fd
        self.size = size
        self.synced = 0  # bytes that survive a power cut
        self.users = 0


class StagedFile:
    """The uncommitted content of one file. Bytes: written ranges, else the base up to `base_limit`, else zeros."""

    def __init__(self, staging: Staging, base: Content | None = None, branch: int = 0) -> None:
        self._staging = staging
        self.base = base
        self.branch = branch  # whose journal records name these bytes
        self.base_limit = base.size if base else 0
        self.size = self.base_limit
        self.extents = Extents()
        self.version = 0  # counts changes; a commit compares it
        self.frozen = 0  # commits that are reading it: it may not change
        self._memory: bytearray | None = bytearray() if base is None else None
        self._name = ""  # of the staging file or segment, once there is one
        self._offset = 0  # of byte 0 in it
        self._fd = -1
        self._in_segment = False
        self.recorded = 0  # last journal record that names these bytes; 0: none does
        self.recorded_state: object = None  # version and attributes that it has
        self.is_journalled = False  # a record has these bytes, or earlier ones of the same writing
        self.closed_version = -1  # what `version` was when nobody was writing
        self.doomed = False  # to be discarded once no commit reads it
        self._successor: StagedFile | None = None  # a copy that was begun, and that a writer will take
        self._whole = True  # False of a copy that is not done yet

    @property
    def is_closed(self) -> bool:
        """Whether nothing was written since nobody was writing."""
        return self.closed_version == self.version

    @property
    def is_small(self) -> bool:
        """Whether a change is made to a copy, so that what was closed stays."""
        return self._in_segment or self.size <= SMALL

    # Changing

    def write(self, offset: int, data: bytes) -> None:
        """Write; NotCached when a commit reads this version and it is too large to copy at once."""
        end = offset + len(data)
        self._staging.admit(len(data))
        self._make_writable(end)
        if self._memory is not None:
            if offset > len(self._memory):
                self._memory.extend(bytes(offset - len(self._memory)))
            self._memory[offset:end] = data
            self.extents.add(min(offset, self.size), end)
        else:
            _write_all(self._fd, data, offset)
            self._staging.grew(self._name, self.extents.add(offset, end))
        self.size = max(self.size, end)
        self.version += 1

    def truncate(self, size: int) -> None:
        """Cut off or extend with zeros."""
        self._make_writable(size)
        if self._memory is not None:
            if size <= len(self._memory):
                del self._memory[size:]
            else:
                self._memory.extend(bytes(size - len(self._memory)))
                self.extents.add(self.size, size)
        # A file is not cut short on disk: the journal may name its bytes, until what is here is recorded instead.
        self.extents.cut(size)
        self.base_limit = min(self.base_limit, size)
        self.size = size
        self.version += 1

    def _make_writable(self, end: int) -> None:
        """Have the bytes in memory or in a file of its own."""
        if self._in_segment:
            self._memory = bytearray(os.pread(self._fd, self.size, self._offset))
            self._leave_storage()
        if self._memory is not None and end > SMALL:
            self._name, self._fd = self._staging.new_file()
            _write_all(self._fd, self._memory, 0)
            self._staging.grew(self._name, len(self._memory))
            self._memory = None
        elif self._memory is None and self._fd < 0:
            self._name, self._fd = self._staging.new_file()

    def successor(self) -> StagedFile:
        """A copy that may be changed while a commit reads this one; NotCached(load) when copying takes time."""
        found = self._successor
        if found is not None and found.version != self.version:
            found.discard()  # of an earlier commit, and never taken
            found = self._successor = None
        if found is None:
            found = StagedFile(self._staging, self.base, self.branch)
            found.base_limit, found.size, found.version = self.base_limit, self.size, self.version
            found.extents = Extents(self.extents.ranges())
            if self._memory is not None or self._in_segment:
                found._memory = bytearray(self.read_written(0, self.size))
            elif self._fd >= 0:
                found._memory = None
                found._name, found._fd = self._staging.new_file()
                self._staging.grew(found._name, found.extents.covered())
                found._whole = False
                self._successor = found
        if not found._whole:
            source, target = self._staging.path(self._name), self._staging.path(found._name)
            raise NotCached(("copy", source), partial(_fill, found, source, target))
        self._successor = None
        return found

    # Reading

    def read(self, offset: int, size: int, read_base: ReadBase) -> bytes:
        """Up to `size` bytes from `offset`; `read_base(content, offset, size)` reads committed bytes."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        if self._memory is not None:
            return bytes(self._memory[offset:end])
        parts = []
        for low, high, written in self.extents.pieces(offset, end):
            if written:
                parts.append(self.read_written(low, high - low))
                continue
            middle = min(high, max(low, self.base_limit))
            if low < middle:
                assert self.base is not None
                parts.append(read_base(self.base, low, middle - low))
            if middle < high:
                parts.append(bytes(high - middle))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read_written(self, offset: int, size: int) -> bytes:
        """Bytes of a written range."""
        if self._memory is not None:
            return bytes(self._memory[offset : offset + size])
        data = os.pread(self._fd, size, self._offset + offset)
        if len(data) != size:
            raise Refused(errno.EIO, f"{self._staging.path(self._name)} is cut short")
        return data

    # Durability

    def store(self) -> Stored | None:
        """Bring the bytes to disk as far as the end of this process matters; where they are."""
        if self._memory is not None:
            if not self._memory:
                return None
            segment, self._offset = self._staging.append(self._memory)
            self._name, self._fd = segment.name, segment.fd
            self._in_segment, self._memory = True, None
        if self._fd < 0:
            return None
        return Stored(self._name, self._offset, tuple(self.extents.ranges()))

    def sync(self) -> None:
        """Make the bytes durable against a power cut; `store` came before."""
        if self._in_segment:
            self._staging.sync_segments()
        elif self._fd >= 0:
            os.fsync(self._fd)

    @classmethod
    def restore(
        cls, staging: Staging, size: int, base: Content | None, base_limit: int, stored: Stored | None, branch: int = 0
    ) -> StagedFile:
        """The content that a journal record of `branch` describes."""
        found = cls(staging, base, branch)
        found.size, found.base_limit = size, base_limit
        if stored is not None:
            found._memory = None
            found.extents = Extents(list(stored.extents))
            found._name, found._offset = stored.name, stored.offset
            found._in_segment = stored.name.startswith("s")
            if found._in_segment:
                found._fd = staging.segment(stored.name).fd
            else:
                found._fd = os.open(staging.path(stored.name), os.O_RDWR | os.O_CLOEXEC)
        return found

    def discard(self) -> None:
        """The content is committed or gone: give its disk space back, once no journal record names it."""
        if self._successor is not None:
            self._successor.discard()
            self._successor = None
        self._memory = None
        self._leave_storage()

    def superseded_by(self, later: StagedFile) -> None:
        """A later journal record has the same file as `later`: let go of what `later` does not use."""
        if self._name == later._name and not self._in_segment and self._fd >= 0:
            os.close(self._fd)
            self._name, self._fd = "", -1
        else:
            self.discard()

    def _leave_storage(self) -> None:
        if self._fd >= 0 or self._in_segment:
            self._staging.retire(self._name, -1 if self._in_segment else self._fd, self.recorded, self.branch)
            if not self.recorded:
                self._staging.committed(0)
        self._name, self._fd, self._offset, self._in_segment = "", -1, 0, False
        self.recorded = 0


def _fill(copy: StagedFile, source: str, target: str) -> None:
    """Copy what is written. Runs in a thread; either file may be discarded meanwhile, so they are opened by names,
    which are not used twice, and then there is nothing to do."""
    try:
        with open(source, "rb", buffering=0) as old, open(target, "r+b", buffering=0) as new:
            for start, end in copy.extents.ranges():
                for at in range(start, end, _COPY):
                    _write_all(new.fileno(), os.pread(old.fileno(), min(_COPY, end - at), at), at)
    except FileNotFoundError:
        return
    copy._whole = True


def _write_all(fd: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
