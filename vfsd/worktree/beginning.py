"""What is in the store already of a file that is still being written.

A new file is mostly written in order. Then its chunks up to where it stands now are final, unless something is written
over them, so they may be stored while the rest comes. How that is done says `vfsd.worktree.early`.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from vfsd.model.entry import Chunk, Place
from vfsd.model.ids import ChunkId

FROM = 64 << 20  # bytes that a file has before any of them is stored
STEP = 32 << 20  # bytes that come before more of them are
MOST = 64 << 20  # bytes of a step: a commit waits for its end
ID = 32  # bytes of a chunk's id
_TOGETHER = 1000  # chunks whose places are asked for at once


class Places(Protocol):
    """Who knows where chunks lie."""

    def places(self, chunks: list[ChunkId]) -> dict[ChunkId, Place]:
        """Where those of the chunks lie that are there."""
        ...


class Beginning:
    """Of one file; 36 bytes a chunk. `on_growth` is called when there is a step more to store, once for each call of
    `end_step`.

    asked: bytes that are, or are being, stored, and may be written over only with a word to `touched`. stored: those
    whose chunks are here.
    """

    def __init__(self, on_growth: Callable[[], None]) -> None:
        self._on_growth = on_growth
        self._ids = bytearray()
        self._sizes = array("I")
        self._sound = sys.maxsize  # chunks that end before it are the file's
        self._next = FROM
        self._is_told = False
        self.asked = self.stored = 0

    def wrote(self, start: int, end: int) -> None:
        """Bytes were written; called for each write, so it does little."""
        if start < self.asked:
            self.touched(start)
        elif end >= self._next and not self._is_told and self.is_sound:
            self._is_told = True
            self._on_growth()

    def touched(self, start: int) -> None:
        """Something from byte `start` on is not as it was, or is not there any more."""
        if start < self.asked:
            self._sound = min(self._sound, start)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was written over: else the file is not written in order, and no more is stored."""
        return self._sound == sys.maxsize

    def begin_step(self, size: int) -> tuple[int, int]:
        """(start, end) of what is to be stored now that the file has `size` bytes."""
        self.asked = max(self.asked, min(size, self.stored + MOST))
        return self.stored, min(size, self.stored + MOST)

    def end_step(self, chunks: Iterable[Chunk]) -> None:
        """The chunks that follow are stored; none if that failed."""
        for chunk in chunks:
            self._ids += chunk.id
            self._sizes.append(chunk.size)
            self.stored += chunk.size
        self.asked = max(self.asked, self.stored)
        self._next = max(FROM, self.asked + STEP)
        self._is_told = False

    def chunks(self, sink: Places) -> Iterator[Chunk]:
        """The chunks that the file begins with, as far as they are still there. Whether one ends at a place depends on
        the byte behind it, too."""
        end = 0
        for first in range(0, len(self._sizes), _TOGETHER):
            sizes = self._sizes[first : first + _TOGETHER]
            ids = [ChunkId(bytes(self._ids[ID * at : ID * (at + 1)])) for at in range(first, first + len(sizes))]
            places = sink.places(ids)
            for name, size in zip(ids, sizes, strict=True):
                end += size
                if end >= self._sound or name not in places:
                    return
                yield Chunk(name, size, places[name])
