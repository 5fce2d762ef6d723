"""The committer beside a transaction, in this process, over a store that may be slow or away."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.repo.parts import make_branch, open_repository
from vfsd.index.journal import JournalFile
from vfsd.model.entry import Kind
from vfsd.model.errors import InvalidArgument, NotCached, Unavailable
from vfsd.repo.repository import Committed, Repository
from vfsd.repo.tree import walk
from vfsd.store.faulty import Fault, FaultyStore, Request, no_faults
from vfsd.store.memory import MemoryStore
from vfsd.worktree.branch import CommitTiming, LiveBranch
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.staging import Staging


class Branch:
    """A branch whose committer waits for nothing."""

    def __init__(self, repository: Repository, store: FaultyStore, branches: LiveBranches, live: LiveBranch) -> None:
        self.repository = repository
        self.store = store
        self.branches = branches
        self.live = live
        self.committed = trio.Event()  # set at each commit, and replaced

    def make(self, name: bytes) -> None:
        """A change."""
        tree = self.live.tree
        tree.make(tree.root, name, Kind.DIR, 0o755, 0, 0)

    def names(self) -> list[bytes]:
        """What the branch has in the store."""
        head = self.repository.refs.head("r", "main").commit
        root = None if head is None else self.repository.commits.get(head).root
        return [] if root is None else [path[0] for path, _ in walk(self.repository.nodes, root)]


@pytest.fixture
async def branch(tmp_path: Path) -> AsyncIterator[Branch]:
    def told(_: Committed) -> None:
        found.committed.set()
        found.committed = trio.Event()

    store = FaultyStore(MemoryStore())
    repository = open_repository(store, tmp_path / "index")
    make_branch(repository)
    with closing(repository), closing(JournalFile(str(tmp_path / "journal.sqlite"))) as journal:
        async with trio.open_nursery() as nursery:
            branches = LiveBranches(
                repository, journal, Staging(str(tmp_path / "staging")), nursery=nursery,
                inline_chunks=lambda _: b"", chunks=lambda _: b"", timing=CommitTiming(quiet_s=0), author="",
                on_stale=lambda _: None, on_commit=told, on_reset=nobody,
            )  # fmt: skip
            with pytest.raises(NotCached) as missing:
                branches.get("r", "main")
            missing.value.load()
            found = Branch(repository, store, branches, branches.get("r", "main"))
            yield found
            store.plan = no_faults
            nursery.cancel_scope.cancel()


async def nobody(*_: object) -> None:
    """There is no kernel to tell."""


async def test_what_is_done_while_a_transaction_ends_is_committed_by_itself(branch: Branch) -> None:
    await branch.branches.start_transaction(branch.live, "")
    branch.make(b"within")
    begun, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> Fault | None:
        if request.key.startswith("commits/"):
            begun.set()
            go_on.wait(10)
        return None

    branch.store.plan = wait
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(branch.branches.finish_transaction, branch.live)
            await trio.to_thread.run_sync(begun.wait)
            branch.make(b"behind")
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        while branch.names() != [b"behind", b"within"]:
            await branch.committed.wait()




async def test_a_commit_that_failed_before_a_transaction_is_not_tried_again_within(
    branch: Branch, mock_clock: trio.testing.MockClock
) -> None:
    branch.store.plan = lambda _: Fault.FAIL
    branch.make(b"before")
    await branch.live.attempted.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert branch.live.retries
    branch.store.plan = no_faults
    await branch.branches.start_transaction(branch.live, "")
    branch.make(b"within")
    mock_clock.jump(3600)
    await trio.testing.wait_all_tasks_blocked()
    assert await branch.branches.finish_transaction(branch.live) is not None


async def test_what_was_committed_after_all_is_not_said_to_be_aborted(branch: Branch) -> None:
    await branch.branches.start_transaction(branch.live, "")
    branch.make(b"within")
    branch.store.plan = lambda request: Fault.LOSE if request.kind == "put_if_match" else None
    with pytest.raises(Unavailable):
        await branch.branches.finish_transaction(branch.live)
    branch.store.plan = lambda request: Fault.FAIL
    with pytest.raises(Unavailable):
        await branch.branches.abort_transaction(branch.live)
    branch.store.plan = no_faults
    with pytest.raises(InvalidArgument, match="committed it after all"):
        await branch.branches.abort_transaction(branch.live)
    assert branch.names() == [b"within"]
    assert not branch.live.is_changed
    assert branch.live.held is None
