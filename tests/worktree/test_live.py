"""The committer of a branch in this process, over a store in memory."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import trio

from tests.repo.parts import make_branch, open_repository
from vfsd.index.journal import JournalFile
from vfsd.model.entry import Kind
from vfsd.model.errors import NotCached
from vfsd.store.memory import MemoryStore
from vfsd.worktree.branch import CommitTiming
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.staging import Staging
from vfsd.worktree.tries import tries_in


async def test_before_a_branch_is_moved_the_journal_knows_it_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, too, changes that are in a commit are not made again over what others did since."""
    repository = open_repository(MemoryStore(), tmp_path / "index")
    make_branch(repository)
    with closing(repository), closing(JournalFile(str(tmp_path / "journal.sqlite"))) as journal:
        async with trio.open_nursery() as nursery:
            branches = LiveBranches(
                repository, journal, Staging(str(tmp_path / "staging")), nursery=nursery,
                inline_chunks=lambda _: b"", chunks=lambda _: b"", timing=CommitTiming(quiet_s=3600), author="",
                on_stale=lambda _: None, on_commit=lambda _: None, on_reset=nobody,
            )  # fmt: skip
            with pytest.raises(NotCached) as missing:
                branches.get("r", "main")
            missing.value.load()
            live = branches.get("r", "main")
            live.tree.make(live.tree.root, b"d", Kind.DIR, 0o755, 0, 0)
            synced = []

            def sync() -> None:
                synced.append((repository.refs.head("r", "main").commit, [*tries_in(journal.records(live.row.id))]))

            monkeypatch.setattr(journal, "sync", sync)
            committed = await branches.commit(live)
            assert committed is not None
            assert synced == [(None, [committed.commit.id])]
            nursery.cancel_scope.cancel()


async def nobody(*_: object) -> None:
    """There is no kernel to tell."""
