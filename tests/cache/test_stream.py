"""Who reads everything in order gets it with few large requests, also what was edited often and lies in pieces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cache.parts import KIB, MIB, is_right, store_chunks
from vfsd.cache import stream
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.cache.stream import MEMORY, Stream
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.model.errors import Damaged
from vfsd.store.counting import CountingStore
from vfsd.store.memory import MemoryStore


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "index.db"))) as index:
        yield index


def read(store: CountingStore, index: Index, chunks: list[Chunk]) -> Iterator[tuple[Chunk, bytes]]:
    cache = ChunkCache(store, index, None, memory_limit=MEMORY)
    with closing(Stream(cache, iter(chunks))) as coming:
        for chunk in chunks:
            yield chunk, coming.get(chunk)


def test_everything_comes_in_order_with_few_requests(
    store: CountingStore, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "WINDOW", MIB)
    chunks = store_chunks(store, 400, 16 * KIB) + store_chunks(store, 400, 16 * KIB, seed=1)
    store.reset()
    assert all(is_right(chunk, data) for chunk, data in read(store, index, chunks))
    assert store.total().requests <= 20
    assert store.total().received <= 800 * (16 * KIB + 1)


def test_what_comes_again_is_had_again(store: CountingStore, index: Index) -> None:
    chunks = store_chunks(store, 20, 16 * KIB)
    order = [random.Random(0).choice(chunks) for _ in range(200)]
    assert all(is_right(chunk, data) for chunk, data in read(store, index, order))


def test_what_was_edited_often_comes_with_few_requests(store: CountingStore, index: Index) -> None:
    dice = random.Random(0)
    chunks = store_chunks(store, 1000, 16 * KIB)
    for version in range(20):  # each replaces ten chunks here and there
        for chunk in store_chunks(store, 10, 16 * KIB, seed=version + 1):
            chunks[dice.randrange(1000)] = chunk
    store.reset()
    assert all(is_right(chunk, data) for chunk, data in read(store, index, chunks))
    assert store.total().requests <= 20 + 2, "a request for each pack: all lies within one window"
    assert store.total().received <= 1.3 * 1000 * 16 * KIB


def test_what_is_damaged_is_named(store: CountingStore, index: Index) -> None:
    chunks = store_chunks(store, 20, 16 * KIB)
    (key,) = (stat.key for stat in store.list("packs/"))
    data = bytearray(store.get(key)[0])
    data[chunks[7].place.offset + 100] ^= 1
    store.put(key, data)
    found = []
    with pytest.raises(Damaged, match=key):
        found.extend(is_right(chunk, plain) for chunk, plain in read(store, index, chunks))
    assert found == [True] * 7
