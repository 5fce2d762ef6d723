"""What the disk cache keeps when more is read than fits: a part of data that is read again and again, whatever the
order; nothing of data that is read once; and after a change the new data."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.cache.parts import KIB, store_chunks
from vfsd.cache import chunk_cache
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.cache.eviction import Eviction
from vfsd.index.blocks import SegmentRow
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.store.counting import CountingStore
from vfsd.store.memory import MemoryStore

LIMIT = 1024 * KIB
SIZE = 4 * KIB
FITS = LIMIT // SIZE  # chunks


class Far(CountingStore):
    """A store that a request takes a while to reach."""

    @property
    def is_local(self) -> bool:
        return False


class Reader:
    """Reads through a cache of FITS chunks, and tells what share it had."""

    def __init__(self, folder: Path) -> None:
        self.store = CountingStore(MemoryStore())
        self.index = Index(str(folder / "index"))
        self.cache = ChunkCache(self.store, self.index, str(folder / "cache"), memory_limit=0, disk_limit=LIMIT)

    def close(self) -> None:
        self.cache.close()
        self.index.close()

    def make(self, share: float, seed: int = 0) -> list[Chunk]:
        """Data of `share` times the size of the cache."""
        return store_chunks(self.store, int(FITS * share), SIZE, seed)

    def read(self, chunks: Sequence[Chunk]) -> float:
        self.store.reset()
        for chunk in chunks:
            self.cache.get(chunk)
        return 1 - self.store.traffic()["get_range"].requests / len(chunks) if self.store.traffic() else 1.0


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with closing(Reader(tmp_path)) as found:
        yield found


def in_order(chunks: list[Chunk]) -> list[Chunk]:
    return chunks


def shuffled(chunks: list[Chunk]) -> list[Chunk]:
    return random.Random(chunks[0].id[0]).sample(chunks, len(chunks))


@pytest.mark.parametrize("order", [in_order, shuffled])
@pytest.mark.parametrize("share", [1.25, 2, 4])
def test_of_data_larger_than_the_cache_most_of_a_caches_worth_is_found_again(
    reader: Reader, share: float, order: Callable[[list[Chunk]], list[Chunk]]
) -> None:
    chunks = reader.make(share)
    reader.read(order(chunks))
    best = 1 / share
    epochs = [reader.read(order(chunks)) for _ in range(4)]
    assert all(0.75 * best <= epoch <= best for epoch in epochs)


def test_data_that_fits_is_found_whole(reader: Reader) -> None:
    chunks = reader.make(0.8)
    assert reader.read(chunks) == 0
    assert reader.read(shuffled(chunks)) == 1


def test_data_that_is_read_again_outlives_data_that_is_read_once(reader: Reader) -> None:
    hot = reader.make(0.5)
    reader.read(hot)
    reader.read(hot)
    reader.read(reader.make(5, seed=1))
    assert reader.read(hot) >= 0.99


def test_a_hot_chunk_that_comes_late_is_kept_too(reader: Reader) -> None:
    reader.read(reader.make(3))
    hot = reader.make(0.05, seed=1)
    scan = iter(reader.make(5, seed=2))
    found = [reader.read(hot) for _ in zip(range(40), *[scan] * 20, strict=False)]
    assert sum(found[10:]) / len(found[10:]) >= 0.6
    assert found[-1] == 1


def test_other_data_that_fits_takes_the_place_of_what_is_not_read_any_more(reader: Reader) -> None:
    before, after = reader.make(2), reader.make(0.75, seed=1)
    for _ in range(3):
        reader.read(before)
    found = [reader.read(after) for _ in range(5)]
    assert found[-1] >= 0.9


def test_what_was_loaded_ahead_is_not_taken_for_read_again(reader: Reader) -> None:
    kept = reader.make(0.75)
    reader.read(kept)
    reader.read(kept)
    ahead = reader.make(4, seed=1)
    for start in range(0, len(ahead), 16):
        part = ahead[start : start + 16]
        reader.cache.bring(part)
        reader.read(part)
    assert reader.read(kept) >= 0.99


def test_what_was_warmed_outlives_what_passes_through(reader: Reader) -> None:
    for seed in range(1, 4):
        reader.read(reader.make(1, seed))
    warm = reader.make(0.5, seed=9)
    reader.cache.bring(warm, warm=True)
    reader.read(reader.make(3, seed=10))
    assert reader.read(warm) == 1


def test_packs_that_go_before_they_are_read_are_not_brought_whole_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_cache, "PACK_SIZE", 128 * KIB)
    store = Far(MemoryStore())
    chunks = [chunk for seed in range(16) for chunk in store_chunks(store, 64, SIZE, seed)]
    with (
        closing(Index(str(tmp_path / "index"))) as index,
        closing(ChunkCache(store, index, str(tmp_path / "cache"), memory_limit=0, disk_limit=LIMIT)) as cache,
    ):
        dice = random.Random(0)
        for _ in range(8):
            for chunk in dice.sample(chunks, len(chunks)):
                cache.get(chunk)
        assert store.total().received <= 3 * 8 * len(chunks) * SIZE, "and not eight times as much"
        store.reset()
        for chunk in chunks:
            cache.get(chunk)
        assert store.total().requests <= len(chunks) // 2, "in order they are brought again"


def test_what_is_known_of_use_survives_a_restart(tmp_path: Path) -> None:
    with closing(Reader(tmp_path)) as reader:
        hot = reader.make(0.5)
        reader.read(hot)
        reader.read(hot)
        scan = reader.make(5, seed=1)
        store = reader.store
    with closing(Reader(tmp_path)) as reader:
        reader.store.inner = store.inner
        reader.read(scan)
        assert reader.read(hot) >= 0.99


# The rule alone


def rows(*sizes: int) -> list[SegmentRow]:
    return [SegmentRow(number, size, number, number) for number, size in enumerate(sizes, 1)]


def test_nothing_is_kept_while_there_is_room() -> None:
    rule = Eviction(1600, 100)
    assert rule.review(rows(*[100] * 10), 99, is_full=False) == rows(*[100] * 10)


def test_when_room_becomes_short_all_but_the_newest_is_kept_and_the_newest_goes_by_age() -> None:
    rule = Eviction(1600, 100)
    found = rule.review(rows(*[100] * 17), 99, is_full=True)
    assert [row.kept for row in found] == [True] * 15 + [False] * 2
    assert [row.id for row in rule.order(found)] == [16, 17, *range(1, 16)]


def test_what_is_kept_goes_when_less_is_passing_than_should() -> None:
    rule = Eviction(1600, 100)
    found = [msgspec.structs.replace(row, kept=True, used=100 - row.id) for row in rows(*[100] * 16)]
    order = rule.order([*found, SegmentRow(17, 100, 200, 200)])
    assert [row.id for row in order] == [*range(16, 0, -1), 17]


@pytest.mark.parametrize("limit", [1, 1000, 1 << 20, (1 << 30) + 7])
def test_a_segment_of_another_limit_may_have_any_size(limit: int) -> None:
    rule = Eviction(limit, limit // 8)
    rule.begun(1)
    for offset in (0, limit, 1 << 40):
        rule.hit(1, offset, 1 << 40)
        rule.hit(2, offset, 1)
    rule.review(rows(1 << 40, 0), 5, is_full=True)
    rule.missed(b"\xff" * 32, 1 << 50, 7)


def test_the_memory_of_what_went_is_bounded() -> None:
    rule = Eviction(1 << 30, 1 << 20)
    dice = random.Random(0)
    for number in range(100):
        rule.went(SegmentRow(number, 1 << 20, number, number), [dice.randbytes(32) for _ in range(2000)])
        assert len(rule._ghosts) <= 1 << 15
    assert len(rule._ghosts) > 1 << 13
