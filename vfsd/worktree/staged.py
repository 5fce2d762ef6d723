"""The uncommitted content of one file.

A small new file stays in memory until it is closed and then goes, with others, into a segment file: one append, no
file of its own. Everything else has a sparse file of its own, with the written ranges known, over the committed
content.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial

from vfsd.model.errors import NotCached, Refused
from vfsd.repo.chunklist import Content
from vfsd.worktree.beginning import Beginning
from vfsd.worktree.disk import copy_ranges, nothing, punch_hole, write_all
from vfsd.worktree.extents import Extents
from vfsd.worktree.records import Stored
from vfsd.worktree.staging import Staging

SMALL = 128 << 10  # bytes up to which a new file stays in memory
ReadBase = Callable[[Content, int, int], bytes]


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
        self._fd, self._in_segment = -1, False
        self.recorded = 0  # last journal record that names these bytes; 0: none does
        self.recorded_state: object = None  # version and attributes that it has
        self.is_journalled = False  # a record has these bytes, or earlier ones of the same writing
        self.closed_version = -1  # what `version` was when nobody was writing
        self.doomed = False  # to be discarded once no commit reads it
        self._refused: tuple[int, bytes] | None = None  # what the disk did not take; offset, bytes
        self._successor: StagedFile | None = None  # a copy that was begun, and that a writer will take
        self._whole = True  # False of a copy that is not done yet
        self.beginning: Beginning | None = None  # of one that may be stored while it is written

    @property
    def is_closed(self) -> bool:
        """Whether nothing was written since nobody was writing."""
        return self.closed_version == self.version

    @property
    def is_small(self) -> bool:
        """Whether a change is made to a copy, so that what was closed stays."""
        return self._in_segment or self.size <= SMALL

    # Changing

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write."""
        self.write_behind(offset, data)()
        self._settle()

    def write_behind(self, offset: int, data: bytes | memoryview) -> Callable[[], None]:
        """Write, but for the last part: that is what is returned, and to be called before anything else is done here.
        It tells of no error. Should the disk refuse the bytes, although there was room for them, they are kept and
        tried again: whoever writes on, reads, closes or syncs is told as long as they cannot be stored."""
        end = offset + len(data)
        self._staging.admit(len(data))
        self._make_writable(end)
        rest = nothing
        if self._memory is not None:
            if offset > len(self._memory):
                self._memory.extend(bytes(offset - len(self._memory)))
            self._memory[offset:end] = data
            self.extents.add(min(offset, self.size), end)
        else:
            rest = partial(self._put, offset, data)
            self._staging.grew(self._name, self.extents.add(offset, end))
        self.size = max(self.size, end)
        self.version += 1
        if self.beginning is not None:
            self.beginning.wrote(offset, end)
        return rest

    def _put(self, offset: int, data: bytes | memoryview) -> None:
        try:
            write_all(self._fd, data, offset)
        except OSError:
            self._refused = (offset, bytes(data))

    def _settle(self) -> None:
        """Have all bytes on disk that are to be there, or say why they are not."""
        refused = self._refused  # a commit may read it, in a thread
        if refused is not None:
            offset, data = refused
            write_all(self._fd, data, offset)
            self._refused = None

    def share(self, content: Content, offset: int, size: int) -> bool:
        """Have `size` bytes from `offset` be those of the same place in committed `content`, without moving any; False
        unless the file has just the bytes before them, of the same content."""
        if self._memory or self._fd >= 0 or self.extents.ranges() or not self.size == self.base_limit == offset:
            return False
        if offset and (self.base is None or self.base.digest != content.digest):
            return False
        self._memory, self.base = None, content
        self.size = self.base_limit = offset + size
        self.version += 1
        return True

    def zero(self, start: int, end: int) -> None:
        """Have zeros from byte `start` to `end`, both within the file; they take no room."""
        if start >= end:
            return
        self._make_writable(self.size)
        if self.beginning is not None:
            self.beginning.touched(start)
        if self._memory is not None:
            self._memory[start:end] = bytes(end - start)
        else:
            if os.fstat(self._fd).st_size < end:
                os.ftruncate(self._fd, end)
            punch_hole(self._fd, start, end - start)
            self._staging.grew(self._name, self.extents.add(start, end))  # as what is written there later is not
        self.version += 1

    def truncate(self, size: int) -> None:
        """Cut off or extend with zeros."""
        self._make_writable(size)
        if self.beginning is not None:
            self.beginning.touched(size)
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
        self._settle()
        if self._in_segment:
            self._memory = bytearray(self.read_written(0, self.size))
            self._leave_storage()
        if self._memory is not None and end > SMALL:
            name, fd = self._staging.new_file()
            try:
                write_all(fd, self._memory, 0)
            except OSError:
                self._staging.give_back(name, fd)
                raise
            self._name, self._fd = name, fd
            self._staging.grew(self._name, len(self._memory))
            self._memory = None
            if self._staging.on_growth is not None:
                self.beginning = Beginning(partial(self._staging.on_growth, self))
        elif self._memory is None and self._fd < 0:
            self._name, self._fd = self._staging.new_file()

    def successor(self) -> StagedFile:
        """A copy that may be changed while a commit reads this one; NotCached(load) when copying takes time."""
        self._settle()
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
        self._settle()
        data = os.pread(self._fd, size, self._offset + offset)
        if len(data) != size:
            raise Refused(errno.EIO, f"{self._staging.path(self._name)} is cut short")
        return data

    def duplicate(self) -> int:
        """A descriptor, for the caller to close, of a file that has all bytes at their places; -1 if there is none, or
        somebody reads them already. Bytes that are there stay, unless they are written over. OSError."""
        if self.frozen or self.base is not None or self._memory is not None or self._in_segment or self._fd < 0:
            return -1
        self._settle()
        return os.dup(self._fd) if self.extents.ranges() == [(0, self.size)] else -1

    # Durability

    def store(self) -> Stored | None:
        """Bring the bytes to disk as far as the end of this process matters; where they are."""
        self._settle()
        if self._memory is not None:
            if not self._memory:
                return None
            segment, self._offset = self._staging.append(self._memory)
            self._name, self._fd = segment.name, segment.fd
            self._in_segment, self._memory = True, None
        if self._fd < 0:
            return None
        return Stored(self._name, self._offset, tuple(self.extents.ranges()))

    def syncing(self) -> Callable[[], None]:
        """What makes the bytes durable against a power cut, in any thread, whatever becomes of this file meanwhile;
        `store` came before."""
        if self._in_segment or self._fd < 0:
            return self._staging.sync_segments
        fd = os.dup(self._fd)

        def run() -> None:
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._staging.sync_names()

        return run

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
        self._memory = self._refused = None
        self._leave_storage()

    def drop(self) -> None:
        """The bytes are not needed any more, but for a commit that reads them."""
        if self.frozen:
            self.doomed = True
        else:
            self.discard()

    def thawed(self) -> None:
        """A commit does not read the bytes any more."""
        self.frozen -= 1
        if self.doomed and not self.frozen:
            self.discard()

    def superseded_by(self, later: StagedFile) -> None:
        """A later journal record has the same file as `later`: let go of what `later` does not use."""
        if self._name == later._name and not self._in_segment and self._fd >= 0:
            os.close(self._fd)
            self._name, self._fd = "", -1
        else:
            self.discard()

    def _leave_storage(self) -> None:
        if self._fd >= 0 or self._in_segment:
            fd = -1 if self._in_segment else self._fd
            if self.recorded:
                self._staging.retire(self._name, fd, self.recorded, self.branch)
            else:
                self._staging.give_back(self._name, fd)
        self._name, self._fd, self._offset, self._in_segment = "", -1, 0, False
        self.recorded = 0


def _fill(copy: StagedFile, source: str, target: str) -> None:
    """Copy what is written, in a thread; either file may be discarded meanwhile, and then there is nothing to do."""
    if copy_ranges(source, target, copy.extents.ranges()):
        copy._whole = True
