"""Memory for what is read in large pieces, used again as soon as nobody refers to it.

What the kernel gives anew it has to clear before, page by page, which takes longer than filling it.
"""

from __future__ import annotations

import contextlib
import mmap
import threading

SMALLEST = 1 << 20  # bytes
PAGE = 4096  # bytes that pieces begin at a multiple of


class Buffers:
    """Pieces of memory, each a power of two in size. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """`size` bytes with anything in them, at the beginning of a piece (`obj` of the view), which is the caller's as
        long as there is any view of it."""
        room = max(SMALLEST, 1 << (size - 1).bit_length())
        with self._lock:
            fitting = (piece for piece in self._pieces if len(piece) == room)
            return memoryview(next(filter(_is_free, fitting), None) or self._make(room))[:size]

    def _make(self, room: int) -> mmap.mmap:
        """A new piece; those of other sizes that nobody uses go."""
        self._pieces = [piece for piece in self._pieces if len(piece) == room or not _is_free(piece)]
        made = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE)
        self._pieces.append(made)
        return made


def room(view: memoryview) -> int:
    """Bytes of memory that a view keeps from being used again."""
    return memoryview(view.obj).nbytes


def whole_pages(view: memoryview) -> memoryview:
    """The beginning of a piece up to the end of the last page that a view of its beginning has."""
    return memoryview(view.obj)[: -(-len(view) // PAGE) * PAGE]


def _is_free(piece: mmap.mmap) -> bool:
    """Whether there is no view of a piece: only then may its size be changed, here to what it is."""
    try:
        piece.resize(len(piece))
    except BufferError:
        return False
    return True


BUFFERS = Buffers()  # of this process
