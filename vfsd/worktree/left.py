"""What the journal has of branches that are not open: changes of an earlier run, or of a branch that was deleted."""

from __future__ import annotations

from vfsd.index.journal import BranchRow, JournalFile
from vfsd.worktree.replay import staged_names
from vfsd.worktree.staging import Staging
from vfsd.worktree.worktree import Worktree


def recover(journal: JournalFile, staging: Staging) -> list[tuple[str, str]]:
    """Branches that have changes, or a transaction, of an earlier run. To be called before any is opened: staging files
    that none of them names are removed, and the others stay."""
    records = {row: journal.records(row.id) for row in journal.branches()}
    staging.clean({row.id: staged_names(found) for row, found in records.items()})
    return [(row.repo, row.branch) for row, found in records.items() if found or row.held is not None]


def discard(journal: JournalFile, staging: Staging, row: BranchRow, tree: Worktree | None) -> None:
    """Give up what there is of a deleted branch. tree: its head, when it was open since this process began."""
    records = journal.records(row.id)
    last = records[-1][0] if records else 0
    journal.committed(row.id, last, "")
    journal.hold(row.id, None)
    if tree is None:
        staging.forget(row.id, staged_names(records))
    else:
        tree.abandon()
        staging.settled(row.id, last)
        staging.committed(last)
