"""The staging folder: what was written and is in no commit yet, on local disk; the journal makes it durable.

Small files share segment files, everything else has a sparse file of its own. The content of one file is a StagedFile.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vfsd.model.errors import Refused
from vfsd.worktree.disk import unlink, write_all
from vfsd.worktree.records import Stored
from vfsd.worktree.segments import Segment, Segments

SEGMENT = 64 << 20  # bytes at which a segment is full
_WORTH_REMOVING = 1 << 20  # bytes from which on a segment that nobody needs goes before it is full
_LOOK = 1 << 20  # bytes written between two looks at the disk's free space
_RESERVE = 16 << 20  # bytes that stay free for the journal, so that a full disk can still be cleaned up


class Staging:
    """The staging folder of one node. Used by the event loop's thread, by threads that open branches, and by commits
    only to read.

    limit: bytes that may be in it. used: bytes that are; a little more where files were cut short, until `recount`.
    files: how many files may be in it, each of which takes a descriptor.
    """

    def __init__(self, folder: str, limit: int = 1 << 62, files: int = 1 << 62) -> None:
        self.folder = folder
        self.limit = limit
        self.files = files
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._sizes = dict.fromkeys(os.listdir(folder), 0)  # staging file or segment → bytes of disk
        self.used = 0
        self.recount()
        taken = [int(name[1:]) for name in self._sizes if name[1:].isdigit()]
        self._numbers = itertools.count(max(taken, default=0) + 1)
        self._segment: Segment | None = None  # that is being filled
        self._segments = Segments(folder, self._remove)
        self.on_growth: Callable[[Any], None] | None = None  # gets a StagedFile that may be stored as far as it is
        self._admitted = _LOOK  # bytes since the last look at the disk
        self._limbo: list[tuple[int, int, str, int]] = []  # (branch, last record naming it, name, descriptor or -1)
        self._settled: dict[int, int] = {}  # branch → its records up to this number are in a commit
        self._made, self._made_synced = 1, 0  # files that were made, at first by others; how many names are durable

    @property
    def fullness(self) -> float:
        """The share of the limits that is used."""
        return max(self.used / max(self.limit, 1), len(self._sizes) / self.files)

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes, in a file of their own, are within the limits."""
        if self.used + size > self.limit:
            self.recount()
        return self.used + size <= self.limit and len(self._sizes) < self.files

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
        unlink(self.path(name))

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

    def append(self, data: bytes | bytearray) -> tuple[Segment, int]:
        """Put a small file's bytes into a segment; (the segment, offset). The segment counts one user more."""
        segment = self._segment
        if segment is None or segment.size + len(data) > min(SEGMENT, self.limit // 8):
            if segment is not None:
                self._segments.release(segment.name)
            segment = self._segment = self.segment(f"s{next(self._numbers)}")
        offset = segment.size
        write_all(segment.fd, data, offset)
        segment.size += len(data)
        self.grew(segment.name, len(data))
        return self._segments.use(segment.name), offset

    def segment(self, name: str) -> Segment:
        """An open segment, counted as used once more by the caller."""
        is_new = name not in self._segments
        segment = self._segments.use(name)
        self._made += is_new  # not before it is there: a sync of names in between would count it
        return segment

    def release(self, name: str) -> None:
        """A user of a segment is gone; the last one takes the file along."""
        self._segments.release(name)
        segment = self._segment
        if segment is not None and segment.name == name and segment.users == 1 and segment.size >= _WORTH_REMOVING:
            self._segment = None  # nothing but what is to come is in it
            self._segments.release(name)

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
            else:
                self.give_back(name, fd)
        self._limbo = keep

    def give_back(self, name: str, fd: int) -> None:
        """No journal record names this segment's part (fd -1) or staging file."""
        if fd < 0:
            self.release(name)
        else:
            os.close(fd)
            self._remove(name)

    def new_file(self) -> tuple[str, int]:
        """(name, descriptor) of a fresh staging file."""
        name = f"f{next(self._numbers)}"
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sizes[name] = 0
        self._made += 1  # not before it is there: a sync of names in between would count it
        return name, fd

    def has(self, stored: Stored) -> bool:
        """Whether the bytes that a journal record names are there."""
        end = stored.extents[-1][1] if stored.extents else 0
        try:
            return os.stat(self.path(stored.name)).st_size >= stored.offset + end
        except FileNotFoundError:
            return False

    def path(self, name: str) -> str:
        """Path of a staging file."""
        return os.path.join(self.folder, name)

    def sync_segments(self) -> None:
        """Make all segments' bytes durable against a power cut. Runs in any thread, in several at once too: none
        returns before what it found is durable."""
        self._segments.sync()
        self.sync_names()

    def sync_names(self) -> None:
        """Make the names of all files durable against a power cut. In any thread."""
        made = self._made
        if self._made_synced < made:
            fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._made_synced = made

    def clean(self, named: Mapping[int, set[str]]) -> None:
        """Remove what a dead process left that no journal record names. named: branch → what its records name; its
        segments, which others share, stay until it is `opened`."""
        used = set().union(*named.values())
        for name in os.listdir(self.folder):
            if name not in used and name not in self._segments:
                self._remove(name)
        self._segments.expect(named)

    def forget(self, branch: int, names: Collection[str]) -> None:
        """Nobody will open a branch whose records name these files and segments."""
        self._segments.opened(branch)
        for name in names:
            if name[0] == "f":
                self._remove(name)

    def opened(self, branch: int) -> None:
        """The records of a branch are brought back, and what they need is in use."""
        self._segments.opened(branch)

    def close(self) -> None:
        """Close descriptors; files stay."""
        for *_, fd in self._limbo:
            if fd >= 0:
                os.close(fd)
        self._limbo.clear()
        self._segments.close()
        self._segment = None
