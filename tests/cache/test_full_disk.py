"""A disk without room costs speed and nothing else; when there is room again, the cache is used again, by itself."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cache.parts import KIB, MIB, held, is_right, store_chunks
from vfsd.cache import disk, segments
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.store.counting import CountingStore
from vfsd.store.memory import MemoryStore

SIZE = 64 * KIB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("a small filesystem cannot be mounted here")
    yield folder / "cache"
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def store() -> CountingStore:
    return CountingStore(MemoryStore())


@pytest.fixture
def chunks(store: CountingStore) -> list[Chunk]:
    return store_chunks(store, 100, SIZE)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "state" / "index.db"))) as index:
        yield index


def opened(store: CountingStore, index: Index, folder: Path, limit: int) -> closing[ChunkCache]:
    return closing(ChunkCache(store, index, str(folder), memory_limit=0, disk_limit=limit))


def hits(store: CountingStore, cache: ChunkCache, chunks: list[Chunk]) -> int:
    store.reset()
    assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
    return len(chunks) - store.total().requests


def test_a_cache_gives_way_on_a_disk_that_is_smaller_than_its_limit(
    store: CountingStore, index: Index, small: Path, chunks: list[Chunk], caplog: pytest.LogCaptureFixture
) -> None:
    with opened(store, index, small, 8 * MIB) as cache:
        hits(store, cache, chunks)
        assert hits(store, cache, chunks) >= 20
        disk = os.statvfs(small)
        assert disk.f_bavail >= disk.f_blocks // 20, "some of it is left to others"
    assert caplog.records == []


def test_a_full_disk_is_said_once_and_read_through_and_used_again_when_there_is_room(
    store: CountingStore, index: Index, small: Path, chunks: list[Chunk], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk, "PAUSE_S", 0.0)
    other = small.parent / "other"
    other.write_bytes(bytes(4 * MIB - 64 * KIB))
    with opened(store, index, small, 8 * MIB) as cache:
        assert hits(store, cache, chunks) == hits(store, cache, chunks) == 0
        (record,) = caplog.records
        assert record.levelno == logging.WARNING and "No space left" in record.getMessage()
        other.unlink()
        hits(store, cache, chunks)
        assert hits(store, cache, chunks) >= 20


def test_a_disk_that_fills_up_while_a_segment_is_written_is_read_through(
    store: CountingStore, index: Index, small: Path, chunks: list[Chunk], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk, "PAUSE_S", 0.0)
    with opened(store, index, small, 8 * MIB) as cache:
        assert is_right(chunks[0], cache.get(chunks[0]))
        other = small.parent / "other"
        room = os.statvfs(small)
        other.write_bytes(bytes(room.f_bavail * room.f_frsize - SIZE // 2))
        assert hits(store, cache, chunks) == 1, "what is here is still of use"
        (record,) = caplog.records
        assert "No space left" in record.getMessage()
        other.unlink()
        hits(store, cache, chunks)
        assert hits(store, cache, chunks) >= 20


def test_a_quota_that_the_disk_does_not_tell_of_is_found_and_kept_to(
    store: CountingStore, index: Index, small: Path, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "PAUSE_S", 0.0)
    monkeypatch.setattr(segments, "FREE", -(1 << 40))  # the disk seems to have room whatever happens
    with opened(store, index, small, 8 * MIB) as cache:
        for _ in range(3):
            hits(store, cache, chunks)
        assert hits(store, cache, chunks) >= 10, "it goes on with what it has"
        assert held(small) <= 4 * MIB


def test_an_index_without_room_is_read_through(
    store: CountingStore, index: Index, tmp_path: Path, chunks: list[Chunk], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disk, "PAUSE_S", 0.0)
    with opened(store, index, tmp_path / "cache", 8 * MIB) as cache:
        with index.file.write() as db:
            pages = db.execute("PRAGMA page_count").fetchone()[0]
        index.file.connection.execute(f"PRAGMA max_page_count = {pages}")
        hits(store, cache, chunks * 3)
        assert any("the disk is full" in record.getMessage() for record in caplog.records)
        index.file.connection.execute("PRAGMA max_page_count = 1000000")
        hits(store, cache, chunks)
        assert hits(store, cache, chunks) == len(chunks)


def test_large_pieces_give_way_on_a_disk_that_is_smaller_than_the_limit(
    store: CountingStore, index: Index, small: Path, chunks: list[Chunk], caplog: pytest.LogCaptureFixture
) -> None:
    with opened(store, index, small, 16 * MIB) as cache:
        for at in range(0, 96, 24):
            piece = chunks[at : at + 24]
            cache.bring(piece)
            assert all(map(is_right, piece, cache.at_hand(piece)))
    with opened(store, index, small, 16 * MIB) as cache:
        assert hits(store, cache, chunks) >= 20
    assert caplog.records == []
