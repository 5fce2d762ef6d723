"""What LocalStore does beyond the contract: other processes, crashes, power cuts, full and vanished disks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conformance import raise_counter
from vfsd.model.errors import AccessDenied, Conflict, InvalidArgument, NoSpace, NotFound, Unavailable
from vfsd.store.local import OPEN_FILES, STALE, LocalStore

ROUNDS = 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with closing(LocalStore(str(tmp_path / "store"))) as store:
        yield store


# other processes


class _Racer:
    """Runs in the processes of a pool, which all wait at one barrier."""

    barrier: Barrier

    @classmethod
    def begin(cls, barrier: Barrier) -> None:
        cls.barrier = barrier

    @classmethod
    def swap(cls, root: str) -> list[bool]:
        store = LocalStore(root)
        won = []
        for number in range(ROUNDS):
            etag = store.stat(f"refs/r/{number}").etag
            cls.barrier.wait(120)
            try:
                store.put_if_match(f"refs/r/{number}", os.urandom(16), etag)
                won.append(True)
            except Conflict:
                won.append(False)
        return won

    @classmethod
    def count(cls, root: str) -> None:
        store = LocalStore(root)
        cls.barrier.wait(120)
        for _ in range(ROUNDS):
            raise_counter(store, "refs/r/counter")


def _processes(count: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, spawn, _Racer.begin, (spawn.Barrier(count),))


def test_of_two_processes_that_replace_one_version_exactly_one_wins(store: LocalStore, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        store.put(f"refs/r/{number}", b"first")
    with _processes(2) as pool:
        one, other = pool.map(_Racer.swap, [str(tmp_path / "store")] * 2)
    assert [int(a) + int(b) for a, b in zip(one, other, strict=True)] == [1] * ROUNDS


def test_a_counter_that_processes_raise_by_compare_and_swap_counts_all(store: LocalStore, tmp_path: Path) -> None:
    store.put("refs/r/counter", b"0")
    with _processes(4) as pool:
        list(pool.map(_Racer.count, [str(tmp_path / "store")] * 4))
    assert int(store.get("refs/r/counter")[0].split()[0]) == 4 * ROUNDS


def test_an_etag_tells_versions_apart_that_were_written_in_quick_turn(store: LocalStore) -> None:
    etags = {store.put("refs/r/main", b"%06d" % number) for number in range(200)}
    assert len(etags) == 200


# crashes and power cuts

_WRITER = """
import sys
from vfsd.store.local import LocalStore
store = LocalStore(sys.argv[1])
etag = store.put("refs/r/main", b"%08d" % 0 * 1000)
for number in range(1, 100_000):
    store.put_if_absent(f"packs/{number % 256:02x}/{number}", b"%08d" % number * 50_000)
    etag = store.put_if_match("refs/r/main", b"%08d" % number * 1000, etag)
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 2, 5, 9, 14])
def test_a_killed_writer_leaves_whole_objects_and_all_that_it_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    root = tmp_path / "store"
    command = [sys.executable, "-c", _WRITER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(acknowledged):
            last = int(writer.stdout.readline())
        threading.Event().wait(secrets.randbelow(2000) / 1e6)  # anywhere in the next turn
        writer.kill()
    with closing(LocalStore(str(root))) as store:
        packs = {item.key: item.size for item in store.list("packs/")}
        assert {f"packs/{number % 256:02x}/{number}" for number in range(1, last + 1)} <= set(packs)
        for key in packs:
            assert store.get(key)[0] == b"%08d" % int(key.rpartition("/")[2]) * 50_000
        head = store.get("refs/r/main")[0]
        assert head == head[:8] * 1000
        assert int(head[:8]) >= last
        assert [item.key for item in store.list()] == [*packs, "refs/r/main"]
        store.put_if_match("refs/r/main", b"nobody holds the lock", store.stat("refs/r/main").etag)


def test_temporary_files_of_dead_writers_go_when_the_store_is_opened(store: LocalStore, tmp_path: Path) -> None:
    store.put("format", b"1")
    dead, alive = (tmp_path / "store" / "tmp" / name for name in ("dead", "alive"))
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    long_ago = alive.stat().st_mtime - STALE - 60
    os.utime(dead, (long_ago, long_ago))
    with closing(LocalStore(str(tmp_path / "store"))) as again:
        assert [item.key for item in again.list()] == ["format"]
    assert (dead.exists(), alive.exists()) == (False, True)


def test_a_write_returns_once_content_name_and_new_folders_are_synced(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    events: list[str] = []
    fsync, link, rename = os.fsync, os.link, os.rename

    def note_fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        events.append("content" if path.startswith(f"{root}/tmp/") else os.path.relpath(path, root))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "link", lambda *names: (events.append("named"), link(*names)))
    monkeypatch.setattr(os, "rename", lambda *names: (events.append("named"), rename(*names)))
    store.put("a/b/c", b"1")
    first = [event for event in events if event != "named"]
    assert first[-4:] == ["content", "a/b", "a", "."]
    assert ".." in first  # the store's own folder is new as well
    assert events.index("content") < events.index("named") < events.index("a/b")
    for write in (
        lambda: store.put("a/b/c", b"2"),
        lambda: store.put_if_match("a/b/c", b"3", store.stat("a/b/c").etag),
        lambda: store.put_if_absent("a/b/d", b"4"),
    ):
        events.clear()
        write()
        assert events == ["content", "named", "a/b"]
    events.clear()
    store.delete("a/b/c")
    assert events == ["a/b"]


def test_folders_that_another_process_made_are_synced_too(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("a/b/c", b"1")
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    with closing(LocalStore(str(tmp_path / "store"))) as other:
        other.put_if_absent("a/b/c", b"1")  # is there already: then that must be durable
    assert synced[-3:] == [f"{tmp_path}/store/a/b", f"{tmp_path}/store/a", f"{tmp_path}/store"]


# disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of one MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "vfsd-tests", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_named_and_leaves_nothing_half(small_disk: Path) -> None:
    with closing(LocalStore(str(small_disk / "store"))) as store:
        store.put("packs/ab/small", b"1")
        for write in (store.put, store.put_if_absent):
            with pytest.raises(NoSpace, match=r"packs/ab/large: no space left"):
                write("packs/ab/large", bytes(2 << 20))
        assert [item.key for item in store.list()] == ["packs/ab/small"]
        assert list((small_disk / "store" / "tmp").iterdir()) == []
        store.put("packs/ab/other", bytes(1 << 19))


def test_a_read_only_disk_can_be_read_and_says_so_when_written(small_disk: Path) -> None:
    with closing(LocalStore(str(small_disk / "store"))) as store:
        etag = store.put("refs/r/main", b"1")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with closing(LocalStore(str(small_disk / "store"))) as store:
        assert store.get("refs/r/main") == (b"1", etag)
        assert [item.etag for item in store.list()] == [etag]
        for write in (
            lambda: store.put("refs/r/main", b"2"),
            lambda: store.put_if_match("refs/r/main", b"2", etag),
            lambda: store.put_if_absent("refs/r/new", b"2"),
            lambda: store.delete("refs/r/main"),
        ):
            with pytest.raises(AccessDenied, match="Read-only file system"):
                write()


def test_objects_of_a_vanished_store_are_not_taken_for_deleted(store: LocalStore, tmp_path: Path) -> None:
    etag = store.put("refs/r/main", b"1")
    (tmp_path / "store").rename(tmp_path / "unmounted")
    (tmp_path / "store").mkdir()  # the mount point
    for call in (
        lambda: store.get("refs/r/main"),
        lambda: store.stat("refs/r/main"),
        lambda: list(store.list("refs/")),
        lambda: list(store.list_folders("refs/")),
        lambda: store.put("refs/r/main", b"2"),
        lambda: store.put_if_match("refs/r/main", b"2", etag),
        lambda: store.put_if_absent("refs/r/main", b"2"),
        lambda: store.delete("refs/r/main"),
    ):
        with pytest.raises(Unavailable, match="is gone: is its disk still mounted"):
            call()
    assert list((tmp_path / "store").iterdir()) == []


def test_reading_makes_no_store(tmp_path: Path) -> None:
    with closing(LocalStore(str(tmp_path / "not" / "there"))) as store:
        assert [*store.list(), *store.list_folders("")] == []
        store.delete("refs/r/main")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="is not a directory"):
        LocalStore(str(tmp_path / "file"))


# open files


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_open_packs_are_bounded_and_closed_with_the_store(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left open
    before = _open_descriptors()
    store = LocalStore(str(tmp_path / "store"))
    keys = [f"packs/{number % 4:02x}/{number:04}" for number in range(3 * OPEN_FILES)]
    for key in keys:
        store.put(key, key.encode() * 100)

    def read(seed: int) -> None:
        for number in range(500):
            key = keys[(number * 37 + seed * 11) % len(keys)]
            assert store.get_range(key, len(key) * 50, len(key)) == key.encode()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(8)))
    assert before < _open_descriptors() <= before + OPEN_FILES
    store.close()
    assert _open_descriptors() <= before


# listings


def test_what_another_process_mended_or_deleted_is_read_as_it_is_now(store: LocalStore, tmp_path: Path) -> None:
    key = "packs/aa/" + "a" * 32
    store.put(key, b"damaged")
    assert store.get_range(key, 0, 10) == b"damaged"
    with closing(LocalStore(str(tmp_path / "store"))) as other:
        other.put(key, b"mended")
        assert store.get_range(key, 0, 10) == b"mended"
        other.delete(key)
        with pytest.raises(NotFound):
            store.get_range(key, 0, 10)


def test_files_that_are_no_objects_are_not_listed(store: LocalStore, tmp_path: Path) -> None:
    store.put("refs/r/main", b"1")
    for name in ("naïve", "with space", "new\nline"):
        (tmp_path / "store" / "refs" / name).write_bytes(b"")
    (tmp_path / "store" / "lost found").mkdir()
    assert [item.key for item in store.list()] == ["refs/r/main"]
    assert list(store.list_folders("")) == ["refs"]


def without_clashes(keys: set[str]) -> list[str]:
    """The keys of which none is a folder of another."""
    return [key for key in keys if not any(other.startswith(key + "/") for other in keys)]


_component = st.text("a0-.%", min_size=1, max_size=3).filter(lambda name: name not in {".", ".."})
_key = st.lists(_component, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60)
@given(st.sets(_key, max_size=15).map(without_clashes), _key, _key)
def test_every_listing_is_sorted_by_bytes_and_complete(keys: list[str], prefix: str, after: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for key in keys:
            path = Path(folder, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        store = LocalStore(folder)
        assert [item.key for item in store.list()] == sorted(keys)
        for start in ("", prefix, prefix + "/"):
            for behind in ("", after):
                expected = sorted(key for key in keys if key.startswith(start) and key > behind)
                assert [item.key for item in store.list(start, after=behind)] == expected
        folders = {key.partition("/")[0] for key in keys if "/" in key}
        assert list(store.list_folders("")) == sorted(folders, key=lambda name: name + "/")


def test_a_large_folder_can_be_emptied_while_it_is_listed(store: LocalStore, tmp_path: Path) -> None:
    for number in range(50):
        store.put(f"refs/r/{number:03}", b"")
    listing = store.list("refs/")
    first = next(listing)
    shutil.rmtree(tmp_path / "store" / "refs" / "r")
    assert [first.key, *(item.key for item in listing)] == ["refs/r/000"]


def test_error_messages_are_one_line(store: LocalStore) -> None:
    store.put("refs/r/main", b"1")
    with pytest.raises(Unavailable) as raised:
        store.put("refs/r/main/below", b"1")
    assert re.fullmatch(r"/.*/store/refs/r/main/below: Not a directory", str(raised.value))
