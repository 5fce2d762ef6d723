"""Several processes on one cache: they share it, keep to its limit together, and survive each other's death."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from tests.cache.parts import MIB, files_in, held, is_right, store_chunks
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.cache.inspection import empty
from vfsd.index.index import Index
from vfsd.store.counting import CountingStore
from vfsd.store.local import LocalStore

CHILD = """
import os, signal, sys
from pathlib import Path
from tests.cache.parts import store_chunks
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index
from vfsd.model.ids import hash_bytes
from vfsd.store.counting import CountingStore
from vfsd.store.local import LocalStore

root, end, limit, seed, rounds = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
store = CountingStore(LocalStore(str(root / "store")))
chunks = store_chunks(store, 40, 100_000, seed)
store.reset()
index = Index(str(root / "state" / "index.db"))
cache = ChunkCache(store, index, str(root / "cache"), memory_limit=0, disk_limit=limit)
for chunk in chunks * rounds:
    assert hash_bytes(cache.get(chunk)) == chunk.id
if end == "killed when the index knows":
    while index.blocks.count() < 40:
        os.sched_yield()
    cache.get(*store_chunks(store, 1, 70_000, 99))
print(store.total().requests, flush=True)
if end != "closed":
    os.kill(os.getpid(), signal.SIGKILL)
cache.close()
"""


@contextmanager
def child(
    root: Path, end: str, *, limit: int = 64 * MIB, seed: int = 0, rounds: int = 3
) -> Iterator[subprocess.Popen[str]]:
    project = Path(__file__).parents[2]
    command = [sys.executable, "-c", CHILD, str(root), end, str(limit), str(seed), str(rounds)]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as running:
        yield running


def test_processes_share_the_disk(tmp_path: Path) -> None:
    with child(tmp_path, "closed") as first:
        assert first.communicate()[0] == "40\n"
    with child(tmp_path, "closed") as second:
        assert second.communicate()[0] == "0\n"
    assert len(files_in(tmp_path / "cache")) == 1


def test_processes_may_fill_the_disk_at_once(tmp_path: Path) -> None:
    Index(str(tmp_path / "state" / "index.db")).close()
    with child(tmp_path, "closed") as first, child(tmp_path, "closed") as second:
        assert (first.wait(), second.wait()) == (0, 0)
    with child(tmp_path, "closed") as third:
        assert third.communicate()[0] == "0\n"


def held_at_once(folder: Path) -> int:
    """Bytes that were there at one moment, or fewer: what of each file was there before it and after it. Files only
    grow until they go, and one that went while others were looked at has made room for these."""
    before, after = sizes(folder), sizes(folder)
    return sum(min(size, after.get(name, 0)) for name, size in before.items())


def sizes(folder: Path) -> dict[str, int]:
    found = {}
    for file in folder.glob("*"):
        with suppress(FileNotFoundError):
            found[file.name] = file.stat().st_size
    return found


def test_processes_keep_to_the_limit_together(tmp_path: Path) -> None:
    limit = 2 * MIB
    with ExitStack() as stack:
        running = [stack.enter_context(child(tmp_path, "closed", limit=limit, seed=seed)) for seed in range(3)]
        most = 0
        while any(process.poll() is None for process in running):
            most = max(most, held_at_once(tmp_path / "cache"))
        assert [process.returncode for process in running] == [0] * 3
    assert limit // 2 <= most <= limit


def test_what_a_killed_process_had_told_is_found_and_the_rest_reclaimed(tmp_path: Path) -> None:
    with child(tmp_path, "killed when the index knows") as running:
        assert int(running.communicate()[0]) > 40
        assert running.returncode == -signal.SIGKILL
    (file,) = files_in(tmp_path / "cache")
    assert file.stat().st_size == 40 * 100_000 + 70_000
    with (
        closing(CountingStore(LocalStore(str(tmp_path / "store")))) as store,
        closing(Index(str(tmp_path / "state" / "index.db"))) as index,
    ):
        chunks = store_chunks(store, 40, 100_000)
        store.reset()
        with closing(ChunkCache(store, index, str(tmp_path / "cache"), memory_limit=0)) as cache:
            assert held(tmp_path / "cache") == 40 * 100_000
            assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
            assert store.total().requests == 0


def test_what_a_process_left_that_had_told_nothing_is_removed(tmp_path: Path) -> None:
    with child(tmp_path, "killed", rounds=1) as running:
        assert running.communicate()[0] == "40\n"
        assert running.returncode == -signal.SIGKILL
    left = files_in(tmp_path / "cache")
    assert sum(file.stat().st_size for file in left) == 40 * 100_000
    with child(tmp_path, "closed") as next_one:
        assert next_one.communicate()[0] == "40\n"
    assert not set(left) & set(files_in(tmp_path / "cache"))


def test_killed_processes_leave_a_cache_that_keeps_to_its_limit(tmp_path: Path) -> None:
    limit = 2 * MIB
    for seed in range(3):
        with child(tmp_path, "killed", limit=limit, seed=seed) as running:
            assert running.wait() == -signal.SIGKILL
    with child(tmp_path, "closed", limit=limit, seed=7) as last:
        assert last.wait() == 0
    assert held(tmp_path / "cache") <= limit


def test_a_cache_may_be_emptied_while_others_use_it(tmp_path: Path) -> None:
    with (
        closing(CountingStore(LocalStore(str(tmp_path / "store")))) as store,
        closing(Index(str(tmp_path / "state" / "index.db"))) as index,
        closing(ChunkCache(store, index, str(tmp_path / "cache"), memory_limit=0)) as cache,
    ):
        chunks = store_chunks(store, 40, 100_000)
        for _ in range(3):
            assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
            assert empty(index, str(tmp_path / "cache")).used == 40 * 100_000
            assert held(tmp_path / "cache") == 0
        store.reset()
        for _ in range(2):
            assert all(is_right(chunk, cache.get(chunk)) for chunk in chunks)
        assert store.total().requests == 40
