"""Cuts bytes into chunks by content, from nothing or around the edits of an older version.

FastCDC: Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", IEEE
TPDS 2020, as the native library pyfastcdc has it, normalisation 1, default gear table, sizes from the store's format.
A cut depends only on the bytes since the cut before it and on the one byte behind it, so cutting again from any old
cut gives what cutting the whole file gives: an edited file's chunks are a function of its bytes, not of its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from pyfastcdc import FastCDC

from vfsd.model.commit import StoreFormat
from vfsd.model.entry import EMPTY_FILE, Chunk, Place, Ref
from vfsd.model.ids import ChunkId, hash_bytes
from vfsd.model.node import ChunkInner, ChunkLeaf
from vfsd.repo.ahead import ahead
from vfsd.repo.chunklist import ChunkListBuilder, Content
from vfsd.repo.directory import NodeSink
from vfsd.repo.nodes import NodeSource

NOTHING = Content(0, EMPTY_FILE)
RUN = 4 << 20  # bytes that are cut, hashed and stored together
THREADS = 2  # that hash and store runs of one file


class BlobSink(NodeSink, Protocol):
    """Who stores new chunks and nodes."""

    def add_chunks(self, chunks: Sequence[tuple[ChunkId, bytes | memoryview]]) -> list[Place]:
        """Store those of the chunks that are not stored already; their bytes are taken over before the call returns."""
        ...

    def places(self, chunks: list[ChunkId]) -> dict[ChunkId, Place]:
        """Where those of the chunks lie that are stored already."""
        ...


class Reader(Protocol):
    """A file's bytes, wherever they are."""

    def __call__(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end."""
        ...


class Chunker:
    """Cuts with the sizes of one store."""

    def __init__(self, store_format: StoreFormat) -> None:
        self._min = store_format.chunk_min
        self._avg = store_format.chunk_avg
        self._max = store_format.chunk_max
        self._together = max(RUN, 4 * self._max)

    def cut_bytes(self, data: bytes, sink: BlobSink, nodes: NodeSource) -> Content:
        """The content of a file whose bytes are all at hand."""
        if not data:
            return NOTHING
        return self.cut_reader(lambda offset, size: data[offset : offset + size], len(data), sink, nodes)

    def cut_reader(
        self, read: Reader, size: int, sink: BlobSink, nodes: NodeSource, begun: Iterable[Chunk] = ()
    ) -> Content:
        """The content of a file of `size` bytes, read in order; memory stays at a few runs of RUN bytes, or of some
        chunks where those are large. Runs are hashed and stored in threads, beside the reading and cutting. begun: the
        chunks that it begins with, as `cut_on` gave them, which are not read again."""
        if not size:
            return NOTHING
        builder = ChunkListBuilder(sink)
        start = 0
        for chunk in begun:
            builder.add(chunk)
            start += chunk.size
        runs = (list(run) for run in self._runs(read, start, size, self._together))
        is_long = size - start > self._together
        for chunks in self._side_by_side(sink, runs) if is_long else (_store(sink, run) for run in runs):
            for chunk in chunks:
                builder.add(chunk)
        return builder.finish(nodes)

    def cut_on(self, read: Reader, start: int, end: int, sink: BlobSink) -> list[Chunk]:
        """The chunks of a file from `start`, where one begins, up to the last cut that does not depend on what stands
        at `end` and behind it. Hashed and stored as in `cut_reader`."""
        runs = (list(run) for run in self._runs(read, start, end, self._together, final=False))
        return [chunk for chunks in self._side_by_side(sink, runs) for chunk in chunks]

    def _side_by_side(self, sink: BlobSink, runs: Iterator[list[memoryview]]) -> Iterator[list[Chunk]]:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="vfsd-chunks") as pool:
            for _, chunks in ahead(pool, lambda run: _store(sink, run), runs, THREADS + 1):
                yield chunks

    def recut(
        self, base: Content, dirty: Sequence[tuple[int, int]], read: Reader, size: int, sink: BlobSink,
        nodes: NodeSource,
    ) -> Content:
        """The content of a file that was `base` and is now `size` bytes with `dirty` ranges (start, end) written anew:
        sorted, not overlapping. `read` gives the new bytes; only those in and around the dirty ranges are read."""
        if not base.size or size <= self._min:
            return self.cut_reader(read, size, sink, nodes)
        ranges = list(dirty)
        if size != base.size:
            # The old last chunk may have ended only because the file did.
            edge = min(size, base.size)
            ranges = [(start, min(end, edge)) for start, end in ranges if start < edge]
            ranges.append((edge - 1, max(size, base.size)))
        builder = ChunkListBuilder(sink)
        _Recut(self, base, _joined(ranges), read, size, sink, nodes, builder).run()
        return builder.finish(nodes)

    def _stream(self, read: Reader, start: int, size: int, sink: BlobSink) -> Iterator[tuple[int, Chunk]]:
        """(end, chunk) from `start` to the end of the file."""
        end = start
        for run in self._runs(read, start, size, 2 * self._max):
            for piece in run:
                end += len(piece)
                yield end, _store(sink, [piece])[0]

    def _runs(
        self, read: Reader, start: int, size: int, together: int, *, final: bool = True
    ) -> Iterator[Iterator[memoryview]]:
        """The chunks' bytes from `start` to `size`, those of `together` bytes at a time. final: the file ends there."""
        cutter = FastCDC(self._avg, min_size=self._min, max_size=self._max)
        while start < size:
            wanted = min(together, size - start)
            data = read(start, wanted)
            if not data:
                return
            run = _Run(cutter, data, is_last=final and (len(data) < wanted or start + wanted == size))
            yield run.pieces()
            if not run.end:
                return
            start += run.end


class _Recut:
    """One run of `Chunker.recut`: walks the old list, takes what is clean, cuts again what is not."""

    def __init__(
        self, chunker: Chunker, base: Content, dirty: list[tuple[int, int]], read: Reader, size: int, sink: BlobSink,
        nodes: NodeSource, builder: ChunkListBuilder,
    ) -> None:
        self._chunker = chunker
        self._base = base
        self._dirty = dirty
        self._read = read
        self._size = size
        self._sink = sink
        self._nodes = nodes
        self._builder = builder
        self._done = 0  # bytes of the new file that the builder has
        self._stream: Iterator[tuple[int, Chunk]] | None = None

    def run(self) -> None:
        if self._base.node is not None:
            self._walk(self._base.node, 0, final=True)
        else:
            start = 0
            for chunk in self._base.chunks:
                self._old_chunk(chunk, start)
                start += chunk.size
        if self._done < self._size:
            self._cut_until(self._size)

    def _walk(self, ref: Ref, start: int, *, final: bool) -> None:
        node = self._nodes.get(ref)
        if isinstance(node, ChunkLeaf):
            for chunk in node.items:
                self._old_chunk(chunk, start)
                start += chunk.size
        elif isinstance(node, ChunkInner):
            for child in node.items:
                last = final and child is node.items[-1]
                if last or not self._take(child, start, node.level - 1):
                    self._walk(child, start, final=last)
                start += child.size

    def _take(self, ref: Ref, start: int, level: int) -> bool:
        """Take a whole old node over, when that gives what cutting would give."""
        if self._done != start or self._is_dirty(start, start + ref.size) or not self._builder.takes_node(level):
            return False
        self._stream = None
        self._builder.add_node(ref, level, self._last_chunk(ref))
        self._done += ref.size
        return True

    def _last_chunk(self, ref: Ref) -> bytes:
        node = self._nodes.get(ref)
        while isinstance(node, ChunkInner):
            node = self._nodes.get(node.items[-1])
        return node.items[-1].id if isinstance(node, ChunkLeaf) else b""

    def _old_chunk(self, chunk: Chunk, start: int) -> None:
        end = start + chunk.size
        if self._done == start and not self._is_dirty(start, end):
            self._stream = None
            self._builder.add(chunk)
            self._done = end
        elif self._done < end:
            self._cut_until(min(end, self._size))

    def _cut_until(self, end: int) -> None:
        """Cut the new bytes until a cut lies at or behind `end`."""
        if self._stream is None:
            self._stream = self._chunker._stream(self._read, self._done, self._size, self._sink)
        while self._done < end:
            self._done, chunk = next(self._stream)
            self._builder.add(chunk)

    def _is_dirty(self, start: int, end: int) -> bool:
        """Whether an old cut at `end` may not be one now: it looked at the bytes from `start` to `end`, included."""
        while self._dirty and self._dirty[0][1] <= start:
            self._dirty.pop(0)
        return bool(self._dirty) and self._dirty[0][0] <= end


class _Run:
    """Some bytes that are cut. end: where the last chunk that was given ended; what is behind it is read again,
    together with what follows, unless these are the last bytes of the file."""

    def __init__(self, cutter: FastCDC, data: bytes, *, is_last: bool) -> None:
        self._cutter = cutter
        self._data = data
        self._is_last = is_last
        self.end = 0

    def pieces(self) -> Iterator[memoryview]:
        for piece in self._cutter.cut_buf(self._data):
            end = piece.offset + piece.length
            if end == len(self._data) and not self._is_last:
                return  # it ends because the bytes do
            self.end = end
            yield piece.data


def _store(sink: BlobSink, pieces: Sequence[memoryview]) -> list[Chunk]:
    named = [(ChunkId(hash_bytes(piece)), piece) for piece in pieces]
    return [Chunk(id_, len(data), place) for (id_, data), place in zip(named, sink.add_chunks(named), strict=True)]


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
