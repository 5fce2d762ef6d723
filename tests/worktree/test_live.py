"""The committer of a branch in this process, over a store in memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.repo.parts import commit
from tests.worktree.parts import committing
from vfsd.model.entry import Kind
from vfsd.repo import writer
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK
from vfsd.worktree.tries import tries_in

MIB = 1 << 20


async def test_before_a_branch_is_moved_the_journal_knows_it_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, too, changes that are in a commit are not made again over what others did since."""
    async with committing(MemoryStore(), tmp_path) as (repository, journal, branches, live):
        live.tree.make(live.tree.root, b"d", Kind.DIR, 0o755, 0, 0)
        synced = []

        def sync() -> None:
            synced.append((repository.refs.head("r", "main").commit, [*tries_in(journal.records(live.row.id))]))

        monkeypatch.setattr(journal, "sync", sync)
        committed = await branches.commit(live)
        assert committed is not None
        assert synced == [(None, [committed.commit.id])]


async def test_whoever_has_a_head_follow_its_branch_waits_until_it_does(tmp_path: Path) -> None:
    """Also when somebody else is at it."""
    store = FaultyStore(MemoryStore())
    async with committing(store, tmp_path) as (repository, _, branches, live):
        made = commit(repository, {(b"file",): b"bytes"})
        assert made is not None
        reading, go = threading.Event(), threading.Event()
        returned = []

        def plan(request: Request) -> Fault | None:
            if request.key.startswith("refs/"):
                reading.set()
                assert go.wait(60)
            return None

        async def follow() -> None:
            await branches.head_moved("r", "main")
            returned.append(live.head.commit)

        store.plan = plan
        async with trio.open_nursery() as both:
            both.start_soon(follow)
            await trio.to_thread.run_sync(reading.wait)
            both.start_soon(follow)
            await trio.testing.wait_all_tasks_blocked()
            assert returned == []
            go.set()
        assert returned == [made.commit.id] * 2


async def test_a_commit_that_nobody_waits_for_any_more_ends_before_a_large_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmounting leaves what takes long to the next mount."""
    monkeypatch.setitem(writer.PACK_SIZE, CHUNK, MIB)
    begun, go_on = threading.Event(), threading.Event()
    packs: list[Request] = []

    def wait(request: Request) -> None:
        if request.key.startswith("packs/"):
            packs.append(request)
            begun.set()
            go_on.wait(30)

    store = FaultyStore(MemoryStore())
    async with committing(store, tmp_path) as made:
        tree = made.live.tree
        node = tree.make(tree.root, b"f", Kind.FILE, 0o644, 0, 0)
        tree.opened(node, write=True, truncate=False)
        for at in range(60):
            tree.write(node, at * MIB, os.urandom(MIB))
        tree.flushed(node)
        tree.released(node, write=True)
        await trio.testing.wait_all_tasks_blocked()  # the committer waits for quiet
        store.plan = wait
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.branches.commit, made.live)
                await trio.to_thread.run_sync(begun.wait)
                scope.cancel()
                go_on.set()
        assert len(packs) < 40
        assert made.repository.refs.head("r", "main").commit is None
        assert await made.branches.commit(made.live) is not None
        assert made.repository.refs.head("r", "main").commit is not None
