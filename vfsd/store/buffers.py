"""Memory for what is read in large pieces, used again as soon as nobody refers to it.

What the kernel gives anew it has to clear before, page by page, which takes longer than filling it.
"""

from __future__ import annotations

import contextlib
import mmap
import threading

SMALLEST = 1 << 20  # bytes
LARGER = 4  # times what is asked for, that a piece which is there may have
PAGE = 4096  # bytes that pieces begin at a multiple of
HUGE = 2 << 20  # bytes of a huge page
MORE = 128 << 10  # bytes that a piece has in small pages behind its power of two: requests end with a whole chunk


class Buffers:
    """Pieces of memory, each a power of two in size, and a little. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pieces: list[mmap.mmap] = []

    def take(self, size: int) -> memoryview:
        """`size` bytes with anything in them, at the beginning of a piece (`obj` of the view), which is the caller's as
        long as there is any view of it."""
        least = max(SMALLEST, 1 << (size - MORE - 1).bit_length()) if size > MORE else SMALLEST
        with self._lock:
            fitting = (piece for piece in self._pieces if least <= len(piece) - HUGE <= LARGER * least)
            found = next(filter(_is_free, sorted(fitting, key=len)), None)
            view = memoryview(found or self._make(least))[:size]
        if found is None:
            _touch(view)
        return view

    def _make(self, size: int) -> mmap.mmap:
        """A new piece; those of other sizes that nobody uses go."""
        self._pieces = [piece for piece in self._pieces if len(piece) == size + HUGE or not _is_free(piece)]
        made = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without them
            made.madvise(mmap.MADV_HUGEPAGE, 0, size)
            made.madvise(mmap.MADV_NOHUGEPAGE, size, HUGE)
        self._pieces.append(made)
        return made


def room(view: memoryview) -> int:
    """Bytes of memory that a view keeps from being used again."""
    return memoryview(view.obj).nbytes


def whole_pages(view: memoryview) -> memoryview:
    """The beginning of a piece up to the end of the last page that a view of its beginning has."""
    return memoryview(view.obj)[: -(-len(view) // PAGE) * PAGE]


def _touch(view: memoryview) -> None:
    """Have the first page there. A huge page may take milliseconds, and who touches it first is the standard library,
    which copies what it has read along with an answer's head, and holds the interpreter's lock meanwhile."""
    with open("/dev/zero", "rb", buffering=0) as zeros:
        zeros.readinto(view[:1])


def _is_free(piece: mmap.mmap) -> bool:
    """Whether there is no view of a piece: only then may its size be changed, here to what it is."""
    try:
        piece.resize(len(piece))
    except BufferError:
        return False
    return True


BUFFERS = Buffers()  # of this process
