"""The chunk cache: always right bytes, few reads of the store, bounded memory and disk, whatever befalls its files."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.cache.parts import KIB, MIB, files_in, held, is_right, store_chunks
from vfsd.cache import chunk_cache, disk
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index, PlaceRow
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotCached
from vfsd.store.blob import container_key
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "state" / "index.db"))) as index:
        yield index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


# In memory


def test_a_chunk_is_read_from_the_store_once(store: CountingStore, index: Index) -> None:
    (chunk,) = store_chunks(store, 1, 5 * KIB)
    cache = ChunkCache(store, index, None)
    assert cache.cached(chunk) is None
    assert is_right(chunk, cache.get(chunk))
    assert cache.get(chunk) == cache.cached(chunk) == cache.at_hand([chunk])[0]
    assert store.traffic()["get_range"].requests == 1


def test_what_is_not_at_hand_says_how_to_load_it(store: CountingStore, index: Index) -> None:
    (chunk,) = store_chunks(store, 1, 5 * KIB)
    cache = ChunkCache(store, index, None)
    with pytest.raises(NotCached) as missed:
        cache.at_hand([chunk])[0]
    assert missed.value.key == chunk.id
    missed.value.load()
    assert is_right(chunk, cache.at_hand([chunk])[0])


def test_memory_keeps_what_was_used_last_within_its_limit(store: CountingStore, index: Index) -> None:
    chunks = store_chunks(store, 40, 10 * KIB)
    cache = ChunkCache(store, index, None, memory_limit=110 * KIB)
    for chunk in chunks:
        cache.get(chunk)
        assert cache.cached(chunks[0]) is not None, "it is used again and again"
    kept = [chunk for chunk in chunks if cache.cached(chunk) is not None]
    assert kept == [chunks[0], *chunks[-9:]]


def test_a_hit_costs_at_most_one_statement_and_a_miss_little_more(
    store: CountingStore, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "UNTOLD", 500)
    chunks = store_chunks(store, 2000, 1 * KIB)
    seen: list[str] = []
    index.file.connection.set_trace_callback(seen.append)
    with closing(ChunkCache(store, index, str(folder), memory_limit=1 * MIB)) as cache:
        seen.clear()
        for chunk in chunks:
            with pytest.raises(NotCached) as missed:
                cache.at_hand([chunk])[0]
            missed.value.load()
        looked = [statement for statement in seen if statement.startswith("SELECT id, segment")]
        assert len(looked) == 2000
        assert sum(statement.startswith("BEGIN") for statement in seen) <= 20
        seen.clear()
        for chunk in chunks[-500:]:
            cache.at_hand([chunk])[0]
        assert seen == [], "from memory"
        for chunk in chunks[:500]:
            cache.at_hand([chunk])[0]
        assert len(seen) == 500


def test_a_chunk_larger_than_the_memory_can_still_be_had(store: CountingStore, index: Index) -> None:
    (chunk,) = store_chunks(store, 1, 100 * KIB)
    cache = ChunkCache(store, index, None, memory_limit=10 * KIB)
    cache.get(chunk)
    assert is_right(chunk, cache.at_hand([chunk])[0])


def test_threads_that_miss_one_chunk_at_once_share_one_read(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Semaphore(0)
    release = threading.Event()

    class Watched(Future[Mapping[bytes, bytes]]):
        def result(self, timeout: float | None = None) -> Mapping[bytes, bytes]:
            waiting.release()
            return super().result(timeout)

    def plan(request: Request) -> Fault | None:
        assert release.wait(60)
        return None

    monkeypatch.setattr(chunk_cache, "Load", Watched)
    inner = MemoryStore()
    (chunk,) = store_chunks(inner, 1, 5 * KIB)
    store = FaultyStore(inner, plan)
    cache = ChunkCache(store, index, None)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(cache.get, chunk) for _ in range(8)]
        for _ in range(7):
            assert waiting.acquire(timeout=60), "a thread reads for itself"
        release.set()
        assert all(is_right(chunk, result.result()) for result in results)
    assert len(store.requests) == 1


def test_a_failed_read_is_not_remembered(index: Index) -> None:
    inner = MemoryStore()
    (chunk,) = store_chunks(inner, 1, 5 * KIB)
    broken = container_key(chunk.place.container)
    good, _ = inner.get(broken)
    bad = bytearray(good)
    bad[chunk.place.offset + 100] ^= 1
    inner.put(broken, bad)
    cache = ChunkCache(inner, index, None)
    for _ in range(2):
        with pytest.raises(Damaged, match=broken):
            cache.get(chunk)
    inner.put(broken, good)
    assert is_right(chunk, cache.get(chunk))


def test_a_chunk_that_was_moved_is_found_by_the_index(store: CountingStore, index: Index) -> None:
    (chunk,) = store_chunks(store, 1, 5 * KIB)
    place = chunk.place
    stale = Chunk(chunk.id, chunk.size, Place(b"\x07" * 16, place.offset, place.length))
    cache = ChunkCache(store, index, None)
    with pytest.raises(Damaged):
        cache.get(stale)
    index.add_places([PlaceRow(chunk.id, place.container, place.offset, place.length)])
    assert is_right(chunk, cache.get(stale))


# On disk


def test_chunks_on_disk_survive_a_restart(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 50, 20 * KIB)
    with closing(ChunkCache(store, index, str(folder))) as cache:
        for chunk in chunks:
            cache.get(chunk)
    store.reset()
    with closing(ChunkCache(store, index, str(folder))) as cache:
        assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)
    with closing(ChunkCache(store, index, str(folder))) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    assert store.total().requests == 0


def test_chunks_on_disk_need_no_memory(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 50, 20 * KIB)
    with closing(ChunkCache(store, index, str(folder), memory_limit=0)) as cache:
        for _ in range(3):
            assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
            assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)
    assert store.traffic()["get_range"].requests == 50


def test_a_segment_that_is_being_filled_is_left_alone(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 20, 20 * KIB)
    with closing(ChunkCache(store, index, str(folder), memory_limit=0)) as cache:
        for chunk in chunks[:10]:
            cache.get(chunk)
        with closing(ChunkCache(store, index, str(folder), memory_limit=0)) as other:
            other.get(chunks[-1])
            assert len(files_in(folder)) == 2
        for chunk in chunks:
            assert is_right(chunk, cache.get(chunk))
        assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)


def test_what_another_process_caches_is_at_hand_once_it_was_read(
    store: CountingStore, index: Index, folder: Path
) -> None:
    chunks = store_chunks(store, 20, 20 * KIB)
    with (
        closing(ChunkCache(store, index, str(folder), memory_limit=0)) as cache,
        closing(ChunkCache(store, index, str(folder), memory_limit=0)) as other,
    ):
        other.bring(chunks, warm=True)
        store.reset()
        assert cache.cached(chunks[0]) is None, "a file has to be opened, which may take a while"
        assert is_right(chunks[0], cache.get(chunks[0]))
        assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)
        assert store.total().requests == 0


def test_a_segment_that_was_left_half_empty_is_filled_further(
    store: CountingStore, index: Index, folder: Path
) -> None:
    chunks = store_chunks(store, 20, 20 * KIB)
    for chunk in chunks:
        with closing(ChunkCache(store, index, str(folder))) as cache:
            cache.get(chunk)
    assert len(files_in(folder)) == 1
    store.reset()
    with closing(ChunkCache(store, index, str(folder))) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    assert store.total().requests == 0


def test_a_block_that_rotted_is_read_again_from_the_store(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 3, 20 * KIB)
    with closing(ChunkCache(store, index, str(folder))) as cache:
        for chunk in chunks:
            cache.get(chunk)
    (file,) = files_in(folder)
    with file.open("r+b") as segment:
        segment.seek(30 * KIB)
        segment.write(b"rot")
    store.reset()
    with closing(ChunkCache(store, index, str(folder), memory_limit=0)) as cache:
        assert [cache.cached(chunk) is None for chunk in chunks] == [False, True, False]
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
        assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)
    assert store.total().requests == 1


def test_a_segment_that_was_cut_off_gives_no_wrong_bytes(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 3, 20 * KIB)
    with closing(ChunkCache(store, index, str(folder))) as cache:
        for chunk in chunks:
            cache.get(chunk)
    (file,) = files_in(folder)
    os.truncate(file, 30 * KIB)
    with closing(ChunkCache(store, index, str(folder))) as cache:
        assert [cache.cached(chunk) is None for chunk in chunks] == [False, True, True]
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)


def test_the_disk_holds_no_more_than_its_limit(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 300, 64 * KIB)
    with closing(ChunkCache(store, index, str(folder), memory_limit=0, disk_limit=8 * MIB)) as cache:
        for chunk in chunks:
            cache.get(chunk)
            assert held(folder) <= 8 * MIB
        assert sum(cache.cached(chunk) is not None for chunk in chunks) >= 7 * MIB // (64 * KIB)
    assert {int(file.name, 16) for file in files_in(folder)} == {row.id for row in index.blocks.segments()}


def test_a_lower_limit_holds_from_the_next_run_on(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 200, 64 * KIB)
    for limit in (16 * MIB, 4 * MIB, 16 * MIB):
        with closing(ChunkCache(store, index, str(folder), memory_limit=0, disk_limit=limit)) as cache:
            assert held(folder) <= limit
            for chunk in chunks:
                assert is_right(chunk, cache.get(chunk))
                assert held(folder) <= limit
        assert held(folder) >= min(limit, 200 * 64 * KIB) * 7 // 8


def test_a_cache_of_no_bytes_keeps_nothing(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 3, 64 * KIB)
    with closing(ChunkCache(store, index, str(folder), memory_limit=0, disk_limit=0)) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks * 2)
    assert held(folder) == 0


def test_open_files_stay_few(
    store: CountingStore, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "OPEN_FILES", 20)
    chunks = store_chunks(store, 60, 1 * KIB)
    before = len(os.listdir("/proc/self/fd"))
    caches = [ChunkCache(store, index, str(folder), memory_limit=0) for _ in range(60)]
    for cache, chunk in zip(caches, chunks, strict=True):
        cache.get(chunk)  # each fills a segment of its own
    for cache in caches:
        cache.close()
    assert len(files_in(folder)) == 60
    with closing(ChunkCache(store, index, str(folder), memory_limit=0)) as cache:
        store.reset()
        for chunk in chunks:
            assert is_right(chunk, cache.get(chunk))
        assert store.total().requests == 0
        assert len(os.listdir("/proc/self/fd")) <= before + 20 + 2
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_deleting_the_folder_while_it_is_used_does_no_harm(store: CountingStore, index: Index, folder: Path) -> None:
    chunks = store_chunks(store, 30, 64 * KIB)
    with closing(ChunkCache(store, index, str(folder), memory_limit=0, disk_limit=8 * MIB)) as cache:
        for chunk in chunks:
            cache.get(chunk)
        shutil.rmtree(folder)
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    store.reset()
    with closing(ChunkCache(store, index, str(folder), disk_limit=8 * MIB)) as cache:
        for chunk in chunks:
            cache.get(chunk)
    with closing(ChunkCache(store, index, str(folder), disk_limit=8 * MIB)) as cache:
        assert all(is_right(chunk, cache.at_hand([chunk])[0]) for chunk in chunks)


def test_a_lost_index_leaves_no_unknown_files(store: CountingStore, tmp_path: Path, folder: Path) -> None:
    chunks = store_chunks(store, 3, 64 * KIB)
    for name in ("one", "two"):
        with closing(Index(str(tmp_path / name))) as index:
            with closing(ChunkCache(store, index, str(folder))) as cache:
                assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
            assert len(files_in(folder)) == 1


def test_a_folder_that_cannot_be_written_is_said_once_and_read_through(
    store: CountingStore, index: Index, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = store_chunks(store, 20, 64 * KIB)
    (tmp_path / "file").write_bytes(b"")
    with closing(ChunkCache(store, index, str(tmp_path / "file" / "cache"), memory_limit=0)) as cache:
        for chunk in chunks * 2:
            assert is_right(chunk, cache.get(chunk))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(tmp_path / "file" / "cache") in record.getMessage()


# All of it at random


class Cache(RuleBasedStateMachine):
    """Two caches on one folder, and somebody who tampers with their files: the bytes are right, the size is bounded."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="vfsd-tests-"))
        self.folder = self.root / "cache"
        self.index = Index(str(self.root / "index.db"))
        self.store = LocalStore(str(self.root / "store"))

    def open(self) -> ChunkCache:
        return ChunkCache(self.store, self.index, str(self.folder), memory_limit=0, disk_limit=256 * KIB)

    @initialize()
    def begin(self) -> None:
        self.chunks = [chunk for size in (1, 3000, 20_000, 40_000) for chunk in store_chunks(self.store, 8, size, size)]
        self.caches = [self.open(), self.open()]

    @rule(which=st.integers(0, 1), numbers=st.lists(st.integers(0, 31), max_size=20))
    def get(self, which: int, numbers: list[int]) -> None:
        for number in numbers:
            assert is_right(self.chunks[number], self.caches[which].get(self.chunks[number]))
        assert not self.folder.exists() or held(self.folder) <= 256 * KIB

    @rule(which=st.integers(0, 1), number=st.integers(0, 31))
    def ask(self, which: int, number: int) -> None:
        data = self.caches[which].cached(self.chunks[number])
        assert data is None or is_right(self.chunks[number], data)

    @rule(which=st.integers(0, 1), tidily=st.booleans())
    def restart(self, which: int, tidily: bool) -> None:
        if tidily:
            self.caches[which].close()
        self.caches[which] = self.open()

    @rule(which=st.integers(0, 99), where=st.floats(0, 0.99), how=st.sampled_from(["delete", "cut", "rot"]))
    def tamper(self, which: int, where: float, how: str) -> None:
        files = files_in(self.folder) if self.folder.exists() else []
        if not files:
            return
        file = files[which % len(files)]
        position = int(file.stat().st_size * where)
        if how == "delete":
            file.unlink()
        elif how == "cut":
            os.truncate(file, position)
        else:
            with file.open("r+b") as segment:
                segment.seek(position)
                segment.write(b"rot")

    @rule()
    def delete_all(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def teardown(self) -> None:
        for cache in getattr(self, "caches", ()):
            cache.close()
        self.index.close()
        self.store.close()
        shutil.rmtree(self.root)


TestCacheAtRandom = Cache.TestCase
TestCacheAtRandom.settings = settings(max_examples=30, stateful_step_count=30)
