"""Decoded chunks in this process's memory: the ones used last, within a bound of bytes. Safe from any thread.

It is what lies between a request that brought a chunk and the reads of its parts. Data that is larger passes through
without a hit, as through any such cache; what is read again comes from the disk cache or the local store below.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

OVERHEAD = 256  # bytes that an entry costs besides its data


class MemoryChunks:
    """Chunks by id. The least recently used go when they take more than `limit` bytes; the last one put stays."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __contains__(self, chunk: bytes) -> bool:
        return chunk in self._chunks

    def get(self, chunk: bytes) -> bytes | None:
        """The chunk's bytes when they are here."""
        with self._lock:
            data = self._chunks.get(chunk)
            if data is not None:
                self._chunks.move_to_end(chunk)
            return data

    def put(self, chunk: bytes, data: bytes) -> None:
        """Keep a chunk."""
        self.put_many([(chunk, data)])

    def put_many(self, chunks: Iterable[tuple[bytes, bytes]]) -> None:
        """Keep chunks, the last one the longest."""
        with self._lock:
            for chunk, data in chunks:
                if chunk not in self._chunks:
                    self._chunks[chunk] = data
                    self._size += len(data) + OVERHEAD
            while self._size > self._limit and len(self._chunks) > 1:
                self._size -= len(self._chunks.popitem(last=False)[1]) + OVERHEAD
