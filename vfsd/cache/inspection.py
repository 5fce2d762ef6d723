"""What a disk cache holds, and emptying it: for commands, beside the processes that use it, which need not be asked."""

from __future__ import annotations

import os

import msgspec

from vfsd.cache.segments import is_segment
from vfsd.index.index import Index


class Holding(msgspec.Struct, frozen=True):
    """What is in a cache: bytes and files on disk, chunks that the index knows of them. free: bytes of the disk that
    anybody may still write. wanted, store: bytes that were read and were not in memory, and those that the store gave,
    in the last days of use."""

    used: int
    segments: int
    blocks: int
    free: int
    wanted: int
    store: int

    @property
    def hit_rate(self) -> float | None:
        """The share of what was wanted that the store did not have to give; None when nothing was wanted. What is read
        from the store and never wanted counts against it."""
        return max(1 - self.store / self.wanted, 0.0) if self.wanted else None


def holding(index: Index, folder: str) -> Holding:
    """What is in the cache in `folder`, which need not be there."""
    sizes = _sizes(folder)
    wanted, store = index.blocks.reads()
    disk = os.statvfs(_nearest(folder))
    return Holding(
        used=sum(sizes.values()), segments=len(sizes), blocks=index.blocks.count(),
        free=disk.f_bavail * disk.f_frsize, wanted=wanted, store=store,
    )  # fmt: skip


def empty(index: Index, folder: str) -> Holding:
    """Drop everything in the cache in `folder`, also what is being filled: whoever does begins anew. What there was."""
    before = holding(index, folder)
    index.blocks.clear()
    for name in _sizes(folder):
        path = os.path.join(folder, name)
        try:
            os.truncate(path, 0)  # frees the bytes at once, also while others have the file open
            os.unlink(path)
        except FileNotFoundError:
            pass  # somebody else dropped it
    return before


def _sizes(folder: str) -> dict[str, int]:
    """The segments' files, with their sizes in bytes."""
    try:
        with os.scandir(folder) as found:
            return {entry.name: _size(entry) for entry in found if is_segment(entry.name)}
    except FileNotFoundError:
        return {}


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _nearest(folder: str) -> str:
    """The folder, or the one above it that is there."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
