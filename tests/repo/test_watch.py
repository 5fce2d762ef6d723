"""Watching refs: every change is told, soon, once, whoever made it and whatever goes wrong in between."""

from __future__ import annotations

import errno
import logging
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio

from tests.proxy import proxy_to
from tests.servers import BUCKET, S3Server
from vfsd.index.index import Index
from vfsd.model.errors import InvalidArgument
from vfsd.repo.watch import RefChange, RefWatcher
from vfsd.store.api import ObjectStore
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.s3 import S3Store

SOON_S = 60  # less than nothing that a slow machine takes
Batches = trio.MemoryReceiveChannel[list[RefChange]]


@asynccontextmanager
async def watching(watcher: RefWatcher) -> AsyncIterator[Batches]:
    send, receive = trio.open_memory_channel[list[RefChange]](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run, send)
        async with receive:
            yield receive
        nursery.cancel_scope.cancel()


async def told(batches: Batches) -> dict[str, bytes | None]:
    """key → content of the next batch."""
    with trio.fail_after(SOON_S):
        batch = await batches.receive()
    assert len({change.key for change in batch}) == len(batch)
    return {change.key: change.data for change in batch}


async def told_until(batches: Batches, wanted: dict[str, bytes | None]) -> None:
    """Receive until the batches add up to `wanted`."""
    sum_: dict[str, bytes | None] = {}
    while sum_ != wanted:
        sum_ |= await told(batches)


@pytest.fixture(autouse=True)
def nothing_is_found_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """No listing finds what the kernel should have told."""
    monkeypatch.setattr("vfsd.repo.watch.SAFETY_S", 10 * SOON_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def local(folder: Path) -> Iterator[LocalStore]:
    with closing(LocalStore(str(folder))) as store:
        yield store


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "index.db"))) as index:
        yield index


# On a local store


async def test_the_first_batch_is_all_that_there_is(local: LocalStore) -> None:
    local.put("refs/a/main", b"1")
    local.put("refs/b/dev", b"2")
    local.put("pipelines/p", b"3")
    local.put("tags/a/v1", b"4")
    async with watching(RefWatcher(local)) as batches:
        assert await told(batches) == {"refs/a/main": b"1", "refs/b/dev": b"2"}
    async with watching(RefWatcher(local, ("refs/", "pipelines/"))) as batches:
        assert await told(batches) == {"refs/a/main": b"1", "refs/b/dev": b"2", "pipelines/p": b"3"}


async def test_created_moved_and_deleted_refs_are_told(local: LocalStore) -> None:
    etag = local.put("refs/a/main", b"1")
    async with watching(RefWatcher(local)) as batches:
        await told(batches)
        etag = local.put_if_match("refs/a/main", b"2", etag)
        with trio.fail_after(SOON_S):
            assert await batches.receive() == [RefChange("refs/a/main", etag, b"2")]
        etag = local.put_if_absent("refs/a/dev", b"3")
        with trio.fail_after(SOON_S):
            assert await batches.receive() == [RefChange("refs/a/dev", etag, b"3")]
        local.delete("refs/a/main")
        with trio.fail_after(SOON_S):
            assert await batches.receive() == [RefChange("refs/a/main", None, None)]


async def test_the_first_ref_of_a_new_repo_is_told(local: LocalStore) -> None:
    local.put("refs/a/main", b"1")
    async with watching(RefWatcher(local)) as batches:
        await told(batches)
        for number in range(50):
            local.put(f"refs/new-{number}/main", b"2")
            assert await told(batches) == {f"refs/new-{number}/main": b"2"}


async def test_a_store_that_is_not_there_yet_is_waited_for(local: LocalStore) -> None:
    async with watching(RefWatcher(local, ("refs/", "pipelines/"))) as batches:
        assert await told(batches) == {}
        local.put("refs/a/main", b"1")
        assert await told(batches) == {"refs/a/main": b"1"}
        local.put("pipelines/p", b"2")
        assert await told(batches) == {"pipelines/p": b"2"}
        local.put("refs/a/main", b"3")
        assert await told(batches) == {"refs/a/main": b"3"}


async def test_folders_that_vanish_and_come_back_are_watched_again(local: LocalStore, folder: Path) -> None:
    local.put("refs/a/main", b"1")
    async with watching(RefWatcher(local)) as batches:
        await told(batches)
        shutil.rmtree(folder / "refs")
        assert await told(batches) == {"refs/a/main": None}
        for data in (b"2", b"3"):
            local.put("refs/a/main", data)
            assert await told(batches) == {"refs/a/main": data}


async def test_files_that_are_no_objects_are_passed_over(local: LocalStore, folder: Path) -> None:
    local.put("refs/a/main", b"1")
    async with watching(RefWatcher(local)) as batches:
        await told(batches)
        (folder / "refs" / "a" / "not a key").write_bytes(b"")
        (folder / "refs" / "not a repo").mkdir()
        (folder / "refs" / "not a repo" / "main").write_bytes(b"")
        local.put("refs/a/main", b"2")
        assert await told(batches) == {"refs/a/main": b"2"}


async def test_another_process_s_refs_are_told(local: LocalStore, folder: Path) -> None:
    program = f"from vfsd.store.local import LocalStore; LocalStore({str(folder)!r}).put('refs/a/main', b'theirs')"
    async with watching(RefWatcher(local)) as batches:
        await told(batches)
        await trio.run_process([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
        assert await told(batches) == {"refs/a/main": b"theirs"}


async def test_batches_add_up_to_what_is_there_after_a_storm(local: LocalStore) -> None:
    def storm(writer: int) -> None:
        for step in range(60):
            local.put(f"refs/repo-{step % 7}/{writer}", b"%d" % step)
            if step % 5 == 0:
                local.delete(f"refs/repo-{step % 7}/{writer}")
        local.put(f"refs/done/{writer}", b"done")

    async with watching(RefWatcher(local)) as batches:
        await told(batches)
        with ThreadPoolExecutor(4) as pool:
            for writer in range(4):
                pool.submit(storm, writer)
            await trio.sleep(0)
        known: dict[str, bytes | None] = {}
        there = {stat.key: local.get(stat.key)[0] for stat in local.list("refs/")}
        while {key: data for key, data in known.items() if data is not None} != there:
            known |= await told(batches)


async def test_changes_gather_while_the_receiver_is_busy() -> None:
    store = MemoryStore()
    watcher = RefWatcher(store, poll_s=3600)
    async with watching(watcher) as batches:
        await told(batches)
        for number in range(20):
            for key in ("refs/a/main", f"refs/a/{number}"):
                store.put(key, b"%d" % number)
                watcher.nudge(key)
        count = 0
        known: dict[str, bytes | None] = {}
        while len(known) < 21 or known["refs/a/main"] != b"19":
            known |= await told(batches)
            count += 1
        assert count <= 2


async def test_a_listing_finds_what_the_kernel_cannot_tell(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*folders: str, **_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files", folders[0])

    local.put("refs/a/main", b"0")
    monkeypatch.setattr("watchfiles.watch", refuse)
    async with watching(RefWatcher(local, poll_s=0.01)) as batches:
        await told(batches)
        for data in (b"1", b"2"):
            local.put("refs/a/main", data)
            assert await told(batches) == {"refs/a/main": data}
    (record,) = caplog.records
    assert "Too many open files" in record.getMessage()


# By polling


async def test_a_poll_is_one_listing_and_reads_only_what_changed() -> None:
    store = CountingStore(MemoryStore())
    for number in range(20):
        store.put(f"refs/a/{number}", b"1")
    async with watching(RefWatcher(store, poll_s=0.01)) as batches:
        assert len(await told(batches)) == 20
        store.reset()
        store.put("refs/a/7", b"2")
        store.delete("refs/a/8")
        await told_until(batches, {"refs/a/7": b"2", "refs/a/8": None})
    assert store.traffic()["get"].requests == 1


async def test_of_what_a_nudge_names_it_is_told_that_it_is_gone_though_nobody_saw_it() -> None:
    watcher = RefWatcher(MemoryStore(), poll_s=3600)
    async with watching(watcher) as batches:
        assert await told(batches) == {}
        watcher.nudge("refs/a/brief")
        assert await told(batches) == {"refs/a/brief": None}


async def test_a_nudge_is_looked_at_at_once_from_any_thread() -> None:
    store = CountingStore(MemoryStore())
    watcher = RefWatcher(store, poll_s=3600)
    async with watching(watcher) as batches:
        assert await told(batches) == {}
        store.put("refs/a/main", b"1")
        watcher.nudge("tags/a/v1")
        watcher.nudge("refs/a/main")
        assert await told(batches) == {"refs/a/main": b"1"}
        store.delete("refs/a/main")
        await trio.to_thread.run_sync(watcher.nudge, "refs/a/main")
        assert await told(batches) == {"refs/a/main": None}
        assert store.traffic()["list"].requests == 1
    watcher.nudge("refs/a/main")


async def test_a_failing_store_is_said_once_and_asked_until_it_answers(caplog: pytest.LogCaptureFixture) -> None:
    fails, failed = [False], 0

    def plan(request: Request) -> Fault | None:
        return Fault.FAIL if fails[0] else None

    inner = MemoryStore()
    store = FaultyStore(inner, plan)
    async with watching(RefWatcher(store, poll_s=0.01)) as batches:
        await told(batches)
        fails[0], failed = True, len(store.requests)
        inner.put("refs/a/main", b"1")
        with trio.fail_after(SOON_S):
            while len(store.requests) < failed + 4:
                await trio.sleep(0.001)
        fails[0] = False
        assert await told(batches) == {"refs/a/main": b"1"}
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2, "one that it fails, one that it answers again"


async def test_a_store_that_fails_at_first_is_told_whole_later() -> None:
    inner = MemoryStore()
    inner.put("refs/a/main", b"1")
    store = FaultyStore(inner, lambda request: Fault.FAIL if request.number < 3 else None)
    watcher = RefWatcher(store, poll_s=0.01)
    async with watching(watcher) as batches:
        watcher.nudge("refs/a/dev")
        assert await told(batches) == {"refs/a/main": b"1"}


async def test_the_watcher_ends_when_nobody_listens(local: LocalStore) -> None:
    send, receive = trio.open_memory_channel[list[RefChange]](0)
    receive.close()
    with trio.fail_after(SOON_S):
        await RefWatcher(local).run(send)


def test_only_whole_folders_can_be_watched() -> None:
    with pytest.raises(InvalidArgument, match="refs/a"):
        RefWatcher(MemoryStore(), ("refs/a",))


# On S3


@pytest.fixture
def s3(moto: S3Server, s3_credentials: None) -> Iterator[ObjectStore]:
    with closing(S3Store(BUCKET, secrets.token_hex(8), moto.endpoint)) as store:
        yield store


async def test_changes_on_s3_are_told(s3: ObjectStore) -> None:
    s3.put("refs/a/main", b"1")
    async with watching(RefWatcher(s3, ("refs/", "pipelines/"), poll_s=0.05)) as batches:
        assert await told(batches) == {"refs/a/main": b"1"}
        s3.put("refs/a/main", b"2")
        assert await told(batches) == {"refs/a/main": b"2"}
        s3.put("pipelines/p", b"3")
        assert await told(batches) == {"pipelines/p": b"3"}
        s3.delete("refs/a/main")
        assert await told(batches) == {"refs/a/main": None}


async def test_a_look_at_several_folders_on_s3_is_one_request(moto: S3Server, s3_credentials: None) -> None:
    with proxy_to(moto.endpoint) as proxy, closing(S3Store(BUCKET, secrets.token_hex(8), proxy.endpoint)) as store:
        for key in ("commits/c", "format", "packs/aa/p", "pipelines/p", "refs/a/main", "repos/a", "tags/a/t"):
            store.put(key, key.encode())
        watcher = RefWatcher(store, ("refs/", "repos/", "pipelines/"), poll_s=0.02)
        async with watching(watcher) as batches:
            assert set(await told(batches)) == {"pipelines/p", "refs/a/main", "repos/a"}
            proxy.reset()
            for number in range(5):
                data = b"%d" % number
                store.put("repos/a", data)
                assert await told(batches) == {"repos/a": data}
                counts = proxy.reset()
                assert counts.requests("GET", "repos") == 1
                assert set(counts.by["LIST"]) == {"other"}  # of everything, and none of the folders alone


async def test_a_start_on_s3_reads_only_what_changed_since_the_last_one(s3: ObjectStore, index: Index) -> None:
    store = CountingStore(s3)
    for number in range(10):
        store.put(f"refs/a/{number}", b"%d" % number)
    async with watching(RefWatcher(store, index=index)) as batches:
        assert len(await told(batches)) == 10
        # A second batch, so that the first is written down for certain.
        store.put("refs/a/new", b"")
        assert await told(batches) == {"refs/a/new": b""}
    store.put("refs/a/3", b"changed")
    store.delete("refs/a/4")
    store.reset()
    wanted = {f"refs/a/{number}": b"%d" % number for number in range(10) if number != 4} | {"refs/a/new": b""}
    async with watching(RefWatcher(store, index=index)) as batches:
        assert await told(batches) == wanted | {"refs/a/3": b"changed"}
    assert store.traffic()["get"].requests <= 2
