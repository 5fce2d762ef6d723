"""Bytes of files, by range."""

from __future__ import annotations

from typing import Protocol

from vfsd.model.entry import Chunk
from vfsd.repo.chunklist import Content, iter_chunks
from vfsd.repo.nodes import NodeSource


class ChunkSource(Protocol):
    """Who gives the plain bytes of a chunk."""

    def __call__(self, chunk: Chunk, /) -> bytes:
        """The bytes, or Damaged, Unavailable, or NotCached from a source that may not block."""
        ...


def read_content(nodes: NodeSource, source: ChunkSource, content: Content, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset`; fewer only at the file's end."""
    end = min(offset + size, content.size)
    if offset >= end:
        return b""
    size = end - offset
    parts = []
    for start, chunk in iter_chunks(nodes, content, offset):
        data = source(chunk)
        low, high = max(offset - start, 0), min(end - start, chunk.size)
        if high - low == size:
            return data[low:high]
        parts.append(memoryview(data)[low:high])
        if start + chunk.size >= end:
            break
    return b"".join(parts)  # the only copy that is made here
