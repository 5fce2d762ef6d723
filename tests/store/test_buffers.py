"""Memory for large pieces is used again, and never while anybody looks at it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from vfsd.store.buffers import PAGE, Buffers, room, whole_pages


def test_memory_is_used_again_once_nobody_looks_at_it() -> None:
    buffers = Buffers()
    first = buffers.take(3_000_000)
    where = first.obj
    assert buffers.take(3_000_000).obj is not where
    part = first[10:20]
    del first
    assert buffers.take(3_000_000).obj is not where, "a part of it is looked at"
    del part
    held = [buffers.take(3_000_000) for _ in range(2)]
    assert any(piece.obj is where for piece in held)


def test_memory_is_used_for_less_than_it_has() -> None:
    buffers = Buffers()
    where = buffers.take((8 << 20) + 50_000).obj
    small, large = buffers.take(3 << 20), buffers.take(8 << 20)
    assert small.obj is where
    assert large.obj is not where
    assert room(buffers.take(1 << 20)) < room(small), "what is much larger is not held for little"


@pytest.mark.parametrize("size", [1, 4096, 1 << 20, (1 << 20) + 1, 8 << 20])
def test_a_piece_is_as_large_as_asked_and_ends_with_a_page(size: int) -> None:
    piece = Buffers().take(size)
    assert len(piece) == size <= room(piece)
    pages = whole_pages(piece)
    assert len(pages) % PAGE == 0
    assert 0 <= len(pages) - size < PAGE
    piece[-1] = 7
    assert pages[size - 1] == 7


def test_threads_never_share_memory() -> None:
    buffers = Buffers()

    def use(number: int) -> bool:
        piece = buffers.take(1 << 20)
        mark = os.urandom(16)
        piece[:16] = mark
        piece[-16:] = mark
        os.sched_yield()
        return piece[:16] == piece[-16:] == mark

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(2000)))
