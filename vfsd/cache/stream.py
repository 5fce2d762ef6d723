"""Chunks one after another, as somebody who reads everything takes them, brought in windows ahead of him."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

from vfsd.cache.bulk import BulkFetch, Fetched
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.store.api import ObjectStore, Plain

WINDOW = 32 << 20  # plain bytes that are brought together
MEMORY = 4 * WINDOW  # bytes of memory that the cache needs: a window being read, one that comes, and repeated chunks


@contextmanager
def streamed(store: ObjectStore, index: Index, coming: Iterator[Chunk]) -> Iterator[Callable[[Chunk], Plain]]:
    """What gives chunks in the order of `coming`, from a store that is read through once and not cached."""
    with closing(Stream(ChunkCache(store, index, None, memory_limit=MEMORY), coming)) as stream:
        yield stream.get


class Stream:
    """Gives chunks that are asked for in the order of `coming`, all of them or nearly. For one thread."""

    def __init__(self, cache: ChunkCache, coming: Iterator[Chunk]) -> None:
        """cache: with MEMORY bytes of memory."""
        self._cache = cache
        self._chunks = coming
        self._fetcher = BulkFetch(cache)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vfsd-stream")
        self._coming: Future[Fetched] | None = None

    def get(self, chunk: Chunk) -> Plain:
        """The chunk's bytes; blocks. Raises what ChunkCache.get does."""
        data = self._cache.cached(chunk)
        if data is None:
            self._go_on()
            data = self._cache.get(chunk)  # which also says what is wrong, if it did not come
        return data

    def _go_on(self) -> None:
        """Wait for the window that is under way, and have the next one begun."""
        coming = self._coming or self._begin()
        self._coming = self._begin()
        coming.result()

    def _begin(self) -> Future[Fetched]:
        window: list[Chunk] = []
        size = 0
        for chunk in self._chunks:
            window.append(chunk)
            size += chunk.size
            if size >= WINDOW:
                break
        return self._pool.submit(self._fetcher.fetch, window)

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._fetcher.close()
