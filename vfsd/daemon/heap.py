"""How the C library manages the daemon's memory: in few heaps, however many threads there are.

glibc gives threads a heap each, up to eight a core. What one thread brings and another lets go of stays with the heap
that it came from, so chunks on their way through kept several times the memory that they take: docs/decisions/0015 has
figures.
"""

from __future__ import annotations

import ctypes

HEAPS = 2  # hardly a thread waits for another here: most of the time one of them runs Python
_M_ARENA_MAX = -8  # malloc.h


def limit_heaps() -> None:
    """Before threads are started. Nothing where the C library knows no such limit."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, HEAPS)
