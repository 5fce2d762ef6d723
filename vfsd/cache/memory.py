"""Decoded chunks in this process's memory: the ones used last, within a bound of bytes. Safe from any thread.

It is what lies between a request that brought chunks and the reads of their parts. Data that is larger passes through
without a hit, as through any such cache; what is read again comes from the disk cache or the local store below.

Chunks that came with one large request are parts of one piece of memory. They stay together and go together: else one
of them would hold all of it. And they go early: once all of them were read the kernel has them, and their memory is of
more use for what is read next, because new memory costs more than all that is done to these bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping

from vfsd.store.api import Plain

OVERHEAD = 256  # bytes that an entry costs besides its data


PASSED = 2  # pieces that were read and stay a while: reads end in the middle of a chunk, and come in any order


class _Held:
    """What stays and goes together. unread: those of them that were never read, where they go early."""

    __slots__ = ("chunks", "size", "unread")

    def __init__(self, chunks: Iterable[bytes], size: int, unread: set[bytes] | None) -> None:
        self.chunks = chunks
        self.size = size
        self.unread = unread


class MemoryChunks:
    """Chunks by id. The least recently used go when they take more than `limit` bytes; the last one put stays."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: dict[bytes, tuple[Plain, _Held]] = {}
        self._held: OrderedDict[_Held, None] = OrderedDict()
        self._passed: deque[_Held] = deque()
        self._size = 0
        self._lock = threading.Lock()

    def __contains__(self, chunk: bytes) -> bool:
        return chunk in self._chunks

    def among(self, chunks: Iterable[bytes]) -> set[bytes]:
        """Those of the chunks that are here."""
        return self._chunks.keys() & chunks

    def get(self, chunk: bytes) -> Plain | None:
        """The chunk's bytes when they are here."""
        return self.get_many([chunk])[0]

    def get_many(self, chunks: Iterable[bytes]) -> list[Plain | None]:
        """The bytes of each that is here."""
        found: list[Plain | None] = []
        last = None
        with self._lock:
            for chunk in chunks:
                data, held = self._chunks.get(chunk, (None, None))
                found.append(data)
                if held is None:
                    continue
                if held is not last:
                    self._held.move_to_end(held)
                    last = held
                if held.unread is not None:
                    held.unread.discard(chunk)
                    if not held.unread:
                        held.unread = None
                        self._passed.append(held)
            while len(self._passed) > PASSED:
                self._drop(self._passed.popleft())
        return found

    def put(self, chunk: bytes, data: Plain) -> None:
        """Keep a chunk."""
        self.put_many([(chunk, data)])

    def put_many(self, chunks: Iterable[tuple[bytes, Plain]]) -> None:
        """Keep chunks, the last one the longest."""
        with self._lock:
            for chunk, data in chunks:
                if chunk not in self._chunks:
                    self._hold({chunk: data}, len(data), None)
            self._let_go()

    def put_together(self, chunks: Mapping[bytes, Plain], size: int) -> None:
        """Keep chunks that are parts of `size` bytes of memory."""
        with self._lock:
            new = {chunk: data for chunk, data in chunks.items() if chunk not in self._chunks}
            if new:
                self._hold(new, size, set(new))
            self._let_go()

    def _hold(self, chunks: Mapping[bytes, Plain], size: int, unread: set[bytes] | None) -> None:
        held = _Held(list(chunks), size + OVERHEAD * len(chunks), unread)
        self._held[held] = None
        self._size += held.size
        self._chunks.update((chunk, (data, held)) for chunk, data in chunks.items())

    def _let_go(self) -> None:
        while self._size > self._limit and len(self._held) > 1:
            self._drop(next(iter(self._held)))

    def _drop(self, held: _Held) -> None:
        if held in self._held:
            del self._held[held]
            self._size -= held.size
            for chunk in held.chunks:
                del self._chunks[chunk]
