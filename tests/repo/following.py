"""A directory that is followed in this process, into a store that says when a branch moved; and other processes that
write."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from tests.repo.parts import make_branch, open_repository, read_files
from vfsd.model.location import Location
from vfsd.repo.follow import Follower, Timing
from vfsd.repo.mirror import Mirror
from vfsd.repo.repository import Repository
from vfsd.repo.tree import walk
from vfsd.store.faulty import FaultyStore, Plan, no_faults
from vfsd.store.memory import MemoryStore
from vfsd.store.wrapped import WrappedStore

T = TypeVar("T")
MAIN = Location("r", "main")
LIMIT_S = 120.0
QUICK = Timing(quiet_s=0.1, max_wait_s=5.0)


class TellingStore(WrappedStore):
    """Wakes whoever waits for a request to have been made, when one was."""

    def __init__(self) -> None:
        self.faulty = FaultyStore(MemoryStore())
        super().__init__(self.faulty)
        self.requests: list[tuple[str, str]] = []
        self.told = trio.Event()
        self.token = trio.lowlevel.current_trio_token()

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        self.requests.append((kind, key))
        try:
            return act()
        finally:
            self.token.run_sync_soon(self._tell)

    def _tell(self) -> None:
        self.told.set()
        self.told = trio.Event()


class Scene:
    """folder: what is followed. error: what the follower ended with."""

    def __init__(self, folder: Path, repository: Repository, store: TellingStore) -> None:
        self.folder = folder
        self.repository = repository
        self.store = store
        self.error: Exception | None = None
        self.ended = trio.Event()
        self.follower: Follower

    def files(self) -> dict[str, bytes]:
        """Path → bytes of the files in the branch."""
        root = self.repository.root(MAIN)
        return {os.fsdecode(b"/".join(path)): data for path, data in read_files(self.repository, root).items()}

    def names(self) -> set[str]:
        """All paths in the branch."""
        return {os.fsdecode(b"/".join(path)) for path, _ in walk(self.repository.nodes, self.repository.root(MAIN))}

    def commits(self) -> int:
        """How many commits the branch has."""
        commit = self.repository.resolve(MAIN)
        return 0 if commit is None else 1 + len(commit.ancestors)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return when the store has come to be so."""
        with trio.fail_after(LIMIT_S):
            while True:
                told = self.store.told
                if condition():
                    return
                await told.wait()

    async def run(self, timing: Timing, *, delete: bool, task_status: trio.TaskStatus[None]) -> None:
        """Follow until stopped."""
        top = os.fsencode(self.folder)
        with closing(Mirror(self.repository, top, MAIN, delete=delete, author="a")) as mirror:
            self.follower = Follower(mirror, timing)
            self.error = await self.follower.run(task_status.started)
        self.ended.set()

    async def stop(self) -> None:
        """Have it end as a signal does."""
        self.follower.stop()
        with trio.fail_after(LIMIT_S):
            await self.ended.wait()


@asynccontextmanager
async def following(
    tmp_path: Path, timing: Timing = QUICK, *, delete: bool = False, plan: Plan = no_faults
) -> AsyncIterator[Scene]:
    """Follow `tmp_path`/folder, which is made if need be, for the time of the block."""
    folder = tmp_path / "folder"
    folder.mkdir(exist_ok=True)
    store = TellingStore()
    with closing(open_repository(store, tmp_path / "index")) as repository:
        make_branch(repository)
        store.faulty.plan = plan
        scene = Scene(folder, repository, store)
        async with trio.open_nursery() as nursery:

            async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
                await scene.run(timing, delete=delete, task_status=task_status)

            await nursery.start(run)
            yield scene
            if not scene.ended.is_set():
                await scene.stop()


@contextmanager
def writer(path: Path) -> Iterator[Callable[[str], None]]:
    """Another process that has a file open for writing; what is called writes there. It is closed with the block."""
    script = 'exec 3>>"$0"; echo open; while IFS= read -r line; do printf %s "$line" >&3; echo done; done'
    process = subprocess.Popen(
        ["sh", "-c", script, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "open\n"

    def write(text: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(text + "\n")
        assert process.stdout.readline() == "done\n"

    try:
        yield write
    finally:
        process.communicate()
