"""Many chunks come with few requests; who wants them at the same time waits for the same one; memory is bounded."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cache.parts import KIB, MIB, held, is_right, store_chunks
from vfsd.cache import bulk
from vfsd.cache.bulk import BulkFetch, Fetched, runs, span
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index, PlaceRow
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, Unavailable
from vfsd.model.ids import ChunkId, PackId
from vfsd.store.blob import container_key
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "state" / "index.db"))) as index:
        yield index


@pytest.fixture
def cache(store: CountingStore, index: Index, tmp_path: Path) -> Iterator[ChunkCache]:
    with closing(ChunkCache(store, index, str(tmp_path / "cache"))) as cache:
        yield cache


@pytest.fixture
def fetcher(cache: ChunkCache) -> Iterator[BulkFetch]:
    with closing(BulkFetch(cache)) as fetcher:
        yield fetcher


# Which come together


def lying(container: int, offset: int, length: int, size: int = 0) -> Chunk:
    name = ChunkId(b"%d %d %d" % (container, offset, length))
    return Chunk(name, size or length - 1, Place(bytes([container]) * 16, offset, length))


places = st.builds(
    lying, st.integers(0, 2), st.integers(0, 40 * MIB), st.sampled_from([2, 5000, MIB]), st.sampled_from([0, 80 * MIB])
)


@given(st.lists(places, max_size=60), st.sampled_from([MIB, 16 * MIB]))
def test_every_chunk_is_in_one_run_and_a_run_is_a_part_of_one_object(chunks: list[Chunk], most: int) -> None:
    found = list(runs(chunks, most))
    assert sorted(chunk.id for run in found for chunk in run) == sorted({chunk.id for chunk in chunks})
    for run in found:
        start, length = span(run)
        assert len({chunk.place.container for chunk in run}) == 1
        assert all(start <= chunk.place.offset <= start + length - chunk.place.length for chunk in run)
        assert len(run) == 1 or length <= most
        assert len(run) == 1 or sum(chunk.size for chunk in run) <= bulk.PLAIN
        ends = accumulate((chunk.place.offset + chunk.place.length - start for chunk in run), max, initial=0)
        assert all(chunk.place.offset - start - end <= bulk.GAP for chunk, end in zip(run, ends, strict=False))


def test_what_lies_behind_one_another_is_cut_by_size_alone() -> None:
    chunks = [lying(1, number * MIB, MIB) for number in range(100)]
    random.Random(0).shuffle(chunks)
    assert [len(run) for run in runs(chunks)] == [16] * 6 + [4]


def test_a_pointer_that_leads_nowhere_is_alone() -> None:
    chunks = [lying(1, 0, 100), lying(1, -5, 100), lying(1, 1 << 62, 100), lying(1, 200, 0), lying(1, 300, 1 << 40)]
    assert [len(run) for run in runs(chunks)] == [1] * 5


# Into the cache


def test_a_pack_comes_with_a_request_for_each_range(
    store: CountingStore, fetcher: BulkFetch, cache: ChunkCache
) -> None:
    chunks = store_chunks(store, 600, 50 * KIB)
    store.reset()
    told: list[tuple[int, int]] = []
    found = fetcher.fetch(iter(chunks), progress=lambda count, size: told.append((count, size)))
    assert found == Fetched(600, 600 * 50 * KIB, 2)
    assert store.total().requests == 2
    assert (sum(count for count, _ in told), sum(size for _, size in told)) == (600, 600 * 50 * KIB)
    assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)
    assert fetcher.fetch(chunks) == Fetched()
    assert store.total().requests == 2


def test_what_is_here_is_left_out(store: CountingStore, fetcher: BulkFetch, cache: ChunkCache) -> None:
    chunks = store_chunks(store, 100, 50 * KIB)
    for chunk in chunks[::10]:
        cache.get(chunk)
    assert fetcher.fetch(chunks * 2).chunks == 90


def test_what_was_warmed_is_on_disk_after_a_restart(store: CountingStore, index: Index, tmp_path: Path) -> None:
    chunks = store_chunks(store, 200, 50 * KIB)
    folder = tmp_path / "cache"
    with closing(ChunkCache(store, index, str(folder))) as cache, closing(BulkFetch(cache)) as fetcher:
        fetcher.fetch(chunks, warm=True)
        assert held(folder) == 200 * 50 * KIB
    store.reset()
    with closing(ChunkCache(store, index, str(folder), memory_limit=0)) as cache:
        assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)
    assert store.total().requests == 0


def test_without_a_disk_chunks_come_to_memory(store: CountingStore, index: Index) -> None:
    chunks = store_chunks(store, 100, 10 * KIB)
    cache = ChunkCache(store, index, None)
    cache.bring(chunks)
    store.reset()
    assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)


# At the same time


class Gate:
    """A plan that holds requests until they are let through, and tells when one came."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, request: Request) -> Fault | None:
        self.came.release()
        assert self.open.wait(60)
        return None


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def slow_cache(gate: Gate, index: Index, count: int) -> tuple[FaultyStore, ChunkCache, list[Chunk]]:
    inner = MemoryStore()
    chunks = store_chunks(inner, count, 10 * KIB)
    store = FaultyStore(inner, gate)
    return store, ChunkCache(store, index, None), chunks


def test_a_reader_waits_for_the_range_that_its_chunk_is_in(gate: Gate, index: Index) -> None:
    store, cache, chunks = slow_cache(gate, index, 50)
    with ThreadPoolExecutor(12) as pool:
        fetching = pool.submit(cache.bring, chunks)
        assert gate.came.acquire(timeout=60)
        reading = [pool.submit(cache.get, chunk) for chunk in chunks[:10]]
        gate.open.set()
        fetching.result()
        assert all(is_right(chunk, found.result()) for chunk, found in zip(chunks, reading, strict=False))
    assert len(store.requests) == 1


def test_a_range_leaves_out_what_a_reader_is_reading(gate: Gate, index: Index) -> None:
    store, cache, chunks = slow_cache(gate, index, 3)
    with ThreadPoolExecutor(2) as pool:
        reading = pool.submit(cache.get, chunks[0])
        assert gate.came.acquire(timeout=60)
        fetching = pool.submit(cache.bring, chunks)
        assert gate.came.acquire(timeout=60)
        gate.open.set()
        assert fetching.result().chunks == 2
        assert is_right(chunks[0], reading.result())
    assert len(store.requests) == 2


def test_no_more_is_under_way_than_the_budget(gate: Gate, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "GAP", -1)  # each chunk is a range
    _, cache, chunks = slow_cache(gate, index, 30)
    with ThreadPoolExecutor(1) as pool, closing(BulkFetch(cache, threads=20, budget=5 * 21 * KIB)) as fetcher:
        fetching = pool.submit(fetcher.fetch, chunks)
        for _ in range(5):
            assert gate.came.acquire(timeout=60)
        assert not gate.came.acquire(timeout=0.2)
        gate.open.set()
        assert fetching.result().chunks == 30


def test_who_stops_gets_what_was_under_way_and_no_more(
    gate: Gate, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "GAP", -1)
    store, cache, chunks = slow_cache(gate, index, 30)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool, closing(BulkFetch(cache, threads=2)) as fetcher:
        fetching = pool.submit(lambda: fetcher.fetch(chunks, stop=stop.is_set))
        for _ in range(2):
            assert gate.came.acquire(timeout=60)
        stop.set()
        gate.open.set()
        assert fetching.result().chunks == 2
        assert len(store.requests) == 2
        assert fetcher.fetch(chunks).chunks == 28, "it can be used again"


def test_callers_at_the_same_time_read_nothing_twice(store: CountingStore, index: Index) -> None:
    chunks = store_chunks(store, 2000, 5 * KIB)
    store.reset()
    cache = ChunkCache(store, index, None)

    def bring(fetcher: BulkFetch, part: Sequence[Chunk]) -> Fetched:
        return fetcher.fetch(part)

    with closing(BulkFetch(cache)) as fetcher, ThreadPoolExecutor(6) as pool:
        parts = [random.Random(seed).sample(chunks, 1500) for seed in range(6)]
        found = list(pool.map(lambda part: bring(fetcher, part), parts))
    wanted = len({chunk.id for part in parts for chunk in part})
    assert sum(one.chunks for one in found) == wanted


# What goes wrong


def flip(store: CountingStore, chunk: Chunk) -> None:
    key = container_key(chunk.place.container)
    data = bytearray(store.get(key)[0])
    data[chunk.place.offset + 50] ^= 1
    store.put(key, data)


def test_a_damaged_chunk_is_named_and_its_neighbours_come(
    store: CountingStore, fetcher: BulkFetch, cache: ChunkCache
) -> None:
    chunks = store_chunks(store, 40, 10 * KIB)
    flip(store, chunks[20])
    found = fetcher.fetch(chunks)
    (problem,) = found.problems
    assert f"offset {chunks[20].place.offset}" in str(problem)
    assert [cache.cached(chunk) is None for chunk in chunks] == [number == 20 for number in range(40)]
    with pytest.raises(Damaged):
        cache.bring(chunks)


def test_chunks_of_an_object_that_is_gone_are_found_by_the_index(
    store: CountingStore, index: Index, cache: ChunkCache
) -> None:
    chunks = store_chunks(store, 3, 10 * KIB)
    stale = [Chunk(chunk.id, chunk.size, Place(b"\x07" * 16, 9, chunk.place.length)) for chunk in chunks]
    with pytest.raises(Damaged):
        cache.bring(stale)
    index.add_places(
        [PlaceRow(chunk.id, chunk.place.container, chunk.place.offset, chunk.place.length) for chunk in chunks]
    )
    cache.bring(stale)
    assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in stale)


def test_a_store_that_is_away_ends_it_and_can_be_asked_again(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "GAP", -1)
    inner = MemoryStore()
    chunks = store_chunks(inner, 200, 10 * KIB)
    store = FaultyStore(inner, lambda request: Fault.FAIL if request.number >= 20 else None)
    cache = ChunkCache(store, index, None)
    with closing(BulkFetch(cache, threads=2)) as fetcher:
        with pytest.raises(Unavailable):
            fetcher.fetch(chunks)
        assert len(store.requests) < 200
        store.plan = lambda request: None
        assert fetcher.fetch(chunks).chunks == 180


# One large request


def large(store: CountingStore, count: int = 40, seed: int = 0) -> list[Chunk]:
    """Chunks that lie together, 4 MB of them."""
    return store_chunks(store, count, 100_000, seed)


def test_what_came_with_one_large_request_is_in_memory_and_on_disk(
    store: CountingStore, index: Index, tmp_path: Path
) -> None:
    chunks = large(store)
    with closing(ChunkCache(store, index, str(tmp_path / "cache"))) as cache:
        cache.bring(chunks)
        assert all(map(is_right, chunks, cache.at_hand(chunks)))
    store.reset()
    with closing(ChunkCache(store, index, str(tmp_path / "cache"))) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    assert not store.traffic()
    assert held(tmp_path / "cache") < 4_000_000 + 100 * KIB


def test_a_read_through_piece_makes_room_for_the_next_ones(store: CountingStore, index: Index) -> None:
    cache = ChunkCache(store, index, None, memory_limit=1 << 30)
    packs = [large(store, seed=seed) for seed in range(6)]
    for chunks in packs:
        cache.bring(chunks)
        assert all(map(is_right, chunks, cache.at_hand(chunks)))
    assert [not cache.lacking(chunks) for chunks in packs] == [False] * 4 + [True] * 2


def test_a_piece_of_which_something_was_not_read_stays(store: CountingStore, index: Index) -> None:
    cache = ChunkCache(store, index, None, memory_limit=1 << 30)
    packs = [large(store, seed=seed) for seed in range(6)]
    for chunks in packs:
        cache.bring(chunks)
        for _ in range(3):
            cache.at_hand(chunks[1:])
    assert not any(cache.lacking(chunks) for chunks in packs)


def test_damage_in_a_large_request_is_told_to_who_reads_it_and_nobody_else(index: Index, tmp_path: Path) -> None:
    inner = MemoryStore()
    chunks = large(CountingStore(inner))
    key = container_key(chunks[0].place.container)
    content = bytearray(inner.get(key)[0])
    content[chunks[7].place.offset + 50] ^= 1
    inner.put(key, content)
    with closing(ChunkCache(inner, index, str(tmp_path / "cache"))) as cache:
        with pytest.raises(Damaged):
            cache.bring(chunks)
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks if chunk is not chunks[7])
        with pytest.raises(Damaged):
            cache.get(chunks[7])


def test_a_long_warm_up_holds_few_requests_in_memory() -> None:
    counts = []
    one_at_a_time = threading.Lock()  # what is counted is held by who counts it

    class Cache:
        def bring(self, run: Sequence[Chunk], *, warm: bool = False) -> Fetched:
            if run[0].place.offset % (1 << 30) == 0 and run[0].size == 2:
                with one_at_a_time:
                    counts.append(sum(isinstance(one, Future) for one in gc.get_objects()))
            return Fetched(len(run), 1, 1)

    many = 20_000
    far = (
        Chunk(ChunkId(number.to_bytes(32, "big")), 1 + (number % 1000 == 0), Place(PackId(bytes(16)), number << 30, 20))
        for number in range(many)
    )
    fetch = BulkFetch(Cache())
    try:
        assert fetch.fetch(far).chunks == many
    finally:
        fetch.close()
    assert counts and max(counts) < 5000
