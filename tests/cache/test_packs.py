"""A far store is asked by the pack once a reader comes back to one, and single reads all over it stay single."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.cache.test_chunk_cache import is_right, store_chunks
from vfsd.cache import packs
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.model.errors import Damaged, NotCached
from vfsd.store.api import ObjectStore
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Fault, FaultyStore
from vfsd.store.memory import MemoryStore

KIB, MIB = 1 << 10, 1 << 20


class Far(CountingStore):
    """A store that a request takes a while to reach."""

    @property
    def is_local(self) -> bool:
        return False


@contextmanager
def cache_of(store: ObjectStore, folder: Path, *, disk: int = 1 << 30) -> Iterator[ChunkCache]:
    with (
        closing(Index(str(folder / "index"))) as index,
        closing(ChunkCache(store, index, str(folder / "cache"), memory_limit=64 * KIB, disk_limit=disk)) as cache,
    ):
        yield cache


def filled(count: int, each: int, size: int) -> tuple[MemoryStore, list[Chunk]]:
    """`count` packs of `each` chunks of `size` bytes."""
    store = MemoryStore()
    return store, [chunk for seed in range(count) for chunk in store_chunks(store, each, size, seed)]


@pytest.mark.parametrize("order", ["as they lie", "shuffled"])
def test_an_epoch_costs_requests_by_the_pack(tmp_path: Path, order: str) -> None:
    store, chunks = filled(8, 100, 10 * KIB)
    if order == "shuffled":
        random.Random(0).shuffle(chunks)
    far = Far(store)
    with cache_of(far, tmp_path) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
        assert far.total().requests <= 8 * 3
        far.reset()
        assert all(is_right(chunk, cache.get(chunk)) for chunk in reversed(chunks))
        assert far.total().requests == 0


def test_readers_beside_one_another_share_the_pack(tmp_path: Path) -> None:
    store, chunks = filled(2, 200, 10 * KIB)
    far = Far(store)
    with cache_of(far, tmp_path) as cache, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda chunk: is_right(chunk, cache.get(chunk)), chunks))
    assert far.total().requests <= 30  # the eight may all have asked before the pack was on its way


def test_a_pack_of_several_ranges_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "RANGE", 256 * KIB)
    store, chunks = filled(1, 100, 10 * KIB)
    for wanted in ([0, 1], [98, 99], [0, 99]):
        far = Far(store)
        folder = tmp_path / str(wanted[0] + wanted[1])
        folder.mkdir()
        with cache_of(far, folder) as cache:
            for number in wanted:
                cache.get(chunks[number])
            requests = far.total().requests
            assert requests <= 1 + packs.RANGES
            assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
            assert far.total().requests == requests


def test_a_pack_with_a_long_directory_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "RANGE", 8 * KIB)
    store, chunks = filled(1, 2000, 20)  # three times as much directory as chunks
    far = Far(store)
    with cache_of(far, tmp_path) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    assert far.total().requests <= 30


def test_single_reads_all_over_a_large_store_stay_single(tmp_path: Path) -> None:
    store, chunks = filled(40, 20, 10 * KIB)
    far = Far(store)
    with cache_of(far, tmp_path, disk=8 * 32 * MIB) as cache:  # two packs count as the last ones
        for first in range(3):
            for pack in range(40):
                assert is_right(chunks[pack * 20 + first], cache.get(chunks[pack * 20 + first]))
    total = far.total()
    assert (total.requests, total.received) == (120, 120 * (10 * KIB + 1))


def test_what_is_whole_of_a_damaged_pack_is_read_and_the_rest_is_named(tmp_path: Path) -> None:
    store, chunks = filled(1, 50, 10 * KIB)
    (key,) = (stat.key for stat in store.list("packs/"))
    data = bytearray(store.get(key)[0])
    data[chunks[7].place.offset + 100] ^= 1
    store.put(key, data)
    with cache_of(Far(store), tmp_path) as cache:
        for number, chunk in enumerate(chunks):
            if number == 7:
                with pytest.raises(Damaged, match=key):
                    cache.get(chunk)
            else:
                assert is_right(chunk, cache.get(chunk))


@pytest.mark.parametrize("end", [b"", b"no end of a pack"])
def test_chunks_are_read_alone_when_the_pack_has_no_directory(tmp_path: Path, end: bytes) -> None:
    store, chunks = filled(1, 20, 10 * KIB)
    (key,) = (stat.key for stat in store.list("packs/"))
    last = chunks[-1].place
    store.put(key, store.get(key)[0][: last.offset + last.length] + end)
    with cache_of(Far(store), tmp_path) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)


def test_a_pack_that_cannot_be_read_whole_is_not_tried_again_and_again(tmp_path: Path) -> None:
    store, chunks = filled(1, 100, 10 * KIB)
    (key,) = (stat.key for stat in store.list("packs/"))
    last = chunks[-1].place
    store.put(key, store.get(key)[0][: last.offset + last.length])
    far = Far(store)
    with cache_of(far, tmp_path) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    assert far.total().received <= 3 * 100 * 10 * KIB


def test_a_request_for_a_pack_that_fails_does_not_fail_the_reader(tmp_path: Path) -> None:
    store, chunks = filled(1, 20, 10 * KIB)
    failing = FaultyStore(
        Far(store), lambda request: Fault.FAIL if threading.current_thread().name.startswith("vfsd-ranges") else None
    )
    with cache_of(failing, tmp_path) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)


def test_nothing_is_brought_for_a_cache_that_cannot_keep_it(tmp_path: Path) -> None:
    store, chunks = filled(1, 50, 10 * KIB)
    far = Far(store)
    (tmp_path / "cache").write_text("a file where the folder should be")
    with cache_of(far, tmp_path) as cache:
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    assert far.total().received <= 3 * 50 * 10 * KIB


def test_what_is_read_ahead_comes_in_one_request(tmp_path: Path) -> None:
    store, chunks = filled(1, 8, MIB)
    far = Far(store)
    with cache_of(far, tmp_path) as cache:
        cache.bring(chunks)
        assert far.total().requests == 1
        assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
        assert far.total().requests == 1


def test_what_is_damaged_of_a_run_is_named_and_the_rest_is_here(tmp_path: Path) -> None:
    store, chunks = filled(1, 8, MIB)
    (key,) = (stat.key for stat in store.list("packs/"))
    data = bytearray(store.get(key)[0])
    data[chunks[5].place.offset + 100] ^= 1
    store.put(key, data)
    far = Far(store)
    with cache_of(far, tmp_path) as cache:
        with pytest.raises(Damaged, match=key):
            cache.bring(chunks)
        assert cache.lacking(chunks) == [chunks[5]]
        assert far.total().requests == 2
    store.delete(key)
    with cache_of(far, tmp_path) as cache, pytest.raises(Damaged, match=key):
        cache.bring(chunks)


def test_reads_here_and_there_in_large_files_move_only_what_is_read(tmp_path: Path) -> None:
    store, chunks = filled(4, 400, 64 * KIB)
    far = Far(store)
    dice = random.Random(0)
    with cache_of(far, tmp_path) as cache:
        for _ in range(100):
            at = dice.randrange(len(chunks) // 4) * 4
            assert all(map(is_right, chunks[at : at + 4], cache.get_many(chunks[at : at + 4], small=False)))
        assert far.total().requests <= 100
        assert far.total().received <= 100 * 4 * (64 * KIB + 1)


def test_a_pack_of_which_much_is_read_here_and_there_comes_whole(tmp_path: Path) -> None:
    store, chunks = filled(1, 400, 64 * KIB)
    far = Far(store)
    random.Random(0).shuffle(chunks)
    with cache_of(far, tmp_path) as cache:
        for chunk in chunks:
            assert is_right(chunk, cache.get(chunk, small=False))
        assert far.total().requests <= 2 * packs.LARGE_ONES + packs.RANGES


def test_what_a_read_lacks_comes_in_one_request(tmp_path: Path) -> None:
    store, chunks = filled(1, 40, 10 * KIB)
    far = Far(store)
    with cache_of(far, tmp_path) as cache:
        with pytest.raises(NotCached) as missed:
            cache.at_hand(chunks[5:15], small=False)
        missed.value.load()
        assert all(map(is_right, chunks[5:15], cache.at_hand(chunks[5:15], small=False)))
    assert far.total().requests == 1
    with cache_of(far, tmp_path) as cache:
        assert all(map(is_right, chunks[5:15], cache.get_many(chunks[5:15], small=False)))
    assert far.total().requests == 1, "from the disk"
