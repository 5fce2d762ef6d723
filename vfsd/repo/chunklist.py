"""Chunk lists: a file's chunks, in its entry while they are few, as a tree cut by content when they are many.

Unchanged parts of a long list are taken over as whole nodes, so appending to a file costs what is appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from vfsd.model.entry import Chunk, Entry, Ref, chunks_digest
from vfsd.model.errors import Damaged
from vfsd.model.ids import Digest
from vfsd.model.node import INLINE_CHUNKS, ChunkInner, ChunkLeaf, chunk_level
from vfsd.repo.directory import NodeSink
from vfsd.repo.nodes import NodeSource


class Content(msgspec.Struct, frozen=True):
    """A file's bytes: size in bytes, file id, and the chunk list in one of its two forms."""

    size: int
    digest: Digest
    chunks: tuple[Chunk, ...] = ()
    node: Ref | None = None


def content_of(entry: Entry) -> Content:
    """The content of a file's entry."""
    return Content(entry.size, entry.digest, entry.chunks, entry.node)


class ChunkListBuilder:
    """Takes chunks in order (or whole nodes of an older list) and gives a Content."""

    def __init__(self, sink: NodeSink) -> None:
        self._sink = sink
        self._chunks: list[Chunk] = []
        self._levels: list[list[Ref]] = []  # [k]: nodes of level k that wait for their parent

    def add(self, chunk: Chunk) -> None:
        """The next chunk."""
        self._chunks.append(chunk)
        for level in range(chunk_level(chunk.id)):
            self._close(level)

    def takes_node(self, level: int) -> bool:
        """Whether a node of `level` may come next: nothing waits on the levels below."""
        return not self._chunks and not any(self._levels[:level])

    def add_node(self, ref: Ref, level: int, last: bytes) -> None:
        """The next chunks are those of `ref`, a node of `level` that a boundary ends; `last` is its last chunk's id."""
        self._append(level, ref)
        for above in range(level + 1, chunk_level(last)):
            self._close(above)

    def _append(self, level: int, ref: Ref) -> None:
        while len(self._levels) <= level:
            self._levels.append([])
        self._levels[level].append(ref)

    def _close(self, level: int) -> None:
        if level == 0:
            if self._chunks:
                self._append(0, self._sink.add_node(ChunkLeaf(self._chunks)))
                self._chunks = []
        elif level <= len(self._levels) and self._levels[level - 1]:
            self._append(level, self._sink.add_node(ChunkInner(level, self._levels[level - 1])))
            self._levels[level - 1] = []

    def finish(self, nodes: NodeSource) -> Content:
        """The whole list."""
        if not any(self._levels) and len(self._chunks) <= INLINE_CHUNKS:
            chunks = tuple(self._chunks)
            return Content(sum(chunk.size for chunk in chunks), chunks_digest(chunks), chunks)
        level = 0
        while self._chunks or sum(map(len, self._levels)) != 1:
            self._close(level)
            level += 1
        root = next(refs[0] for refs in self._levels if refs)
        return _settle(nodes, root)


def _settle(nodes: NodeSource, root: Ref) -> Content:
    """The canonical form: the lowest node that has everything, or no node when the list is short."""
    while isinstance(node := nodes.get(root), ChunkInner) and len(node.items) == 1:
        root = node.items[0]
    if isinstance(node, ChunkLeaf) and len(node.items) <= INLINE_CHUNKS:
        return Content(root.size, chunks_digest(tuple(node.items)), tuple(node.items))
    return Content(root.size, Digest(root.id), (), root)


def iter_chunks(nodes: NodeSource, content: Content, offset: int = 0) -> Iterator[tuple[int, Chunk]]:
    """(start, chunk) of the chunks of a file from the one that holds byte `offset`; start in bytes."""
    if content.node is None:
        yield from _from(content.chunks, 0, offset)
    else:
        yield from _below(nodes, content.node, 0, offset)


def _below(nodes: NodeSource, ref: Ref, start: int, offset: int) -> Iterator[tuple[int, Chunk]]:
    node = nodes.get(ref)
    if isinstance(node, ChunkLeaf):
        yield from _from(node.items, start, offset)
    elif isinstance(node, ChunkInner):
        for child in node.items:
            if start + child.size > offset:
                yield from _below(nodes, child, start, offset)
            start += child.size
    else:
        raise Damaged("a file points to a node of a directory")


def _from(chunks: Iterable[Chunk], start: int, offset: int) -> Iterator[tuple[int, Chunk]]:
    for chunk in chunks:
        if start + chunk.size > offset:
            yield start, chunk
        start += chunk.size
