"""Writers wait for room as long as a commit may give some, in this process, over a store in memory."""

from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import trio
import trio.testing

from tests.worktree.parts import committing
from vfsd.model.entry import Kind
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore
from vfsd.worktree.room import Room
from vfsd.worktree.staging import Staging


async def test_room_that_a_commit_has_just_given_back_is_taken_at_once(tmp_path: Path) -> None:
    with closing(Staging(str(tmp_path), 1_000_000)) as staging:
        room = Room(staging, list)
        assert not room.is_crowded
        await room.make(1000)


async def test_a_commit_that_is_under_way_is_waited_for(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 1
    store = FaultyStore(MemoryStore())
    storing, go = threading.Event(), threading.Event()

    def plan(request: Request) -> Fault | None:
        if request.key.startswith("commits/"):
            storing.set()
            assert go.wait(60)
        return None

    with closing(Staging(str(tmp_path / "staging"), 1_000_000)) as staging:
        async with committing(store, tmp_path, staging) as (_, _, branches, live):
            file = live.tree.make(live.tree.root, b"file", Kind.FILE, 0o644, 0, 0)
            live.tree.opened(file, write=True, truncate=True)
            live.tree.write(file, 0, os.urandom(900_000))
            live.tree.released(file, write=True)
            store.plan = plan
            async with trio.open_nursery() as both:
                both.start_soon(branches.commit, live)
                await trio.to_thread.run_sync(storing.wait)
                both.start_soon(branches.room.make, 500_000)
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(1)  # its pause, as who writes into little room makes one
                await trio.testing.wait_all_tasks_blocked()
                go.set()
            assert staging.has_room(500_000)
