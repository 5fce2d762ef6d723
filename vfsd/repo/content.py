"""Bytes of files, by range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vfsd.model.entry import Chunk
from vfsd.repo.chunklist import Content, iter_chunks
from vfsd.repo.nodes import NodeSource
from vfsd.store.api import Plain

SMALL = 512 << 10  # bytes of a small file, whose neighbours are likely to be read soon


class ChunkSource(Protocol):
    """Who gives the plain bytes of chunks."""

    def __call__(self, chunks: Sequence[Chunk], /, *, small: bool) -> Sequence[Plain]:
        """The bytes of chunks that are wanted together, or Damaged, Unavailable, or NotCached from a source that may
        not block. small: they are of a small file."""
        ...


def read_content(nodes: NodeSource, source: ChunkSource, content: Content, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset`; fewer only at the file's end."""
    return b"".join(read_pieces(nodes, source, content, offset, size))


def read_pieces(
    nodes: NodeSource, source: ChunkSource, content: Content, offset: int, size: int
) -> Sequence[Plain]:
    """What `read_content` gives, in pieces: whole chunks, of which none is copied."""
    end = min(offset + size, content.size)
    if offset >= end:
        return ()
    chunks: list[Chunk] = []
    first = last = 0  # where the first and the last of the chunks begin
    for start, chunk in iter_chunks(nodes, content, offset):
        if not chunks:
            first = start
        chunks.append(chunk)
        last = start
        if start + chunk.size >= end:
            break
    found = source(chunks, small=content.size < SMALL)
    pieces: list[Plain] = [*found]
    pieces[-1] = memoryview(found[-1])[: end - last]
    pieces[0] = memoryview(pieces[0])[offset - first :]
    return pieces
