"""Opens a branch: its head as the last run left it, over the commit that the branch stands at now."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from vfsd.index.journal import BranchRow, JournalFile
from vfsd.model.entry import Entry
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import CommitId
from vfsd.repo.diff import Changed, diff
from vfsd.repo.refs import Head, kept_from_users
from vfsd.repo.repository import Repository, empty_root
from vfsd.worktree.adopt import adopt
from vfsd.worktree.branch import LiveBranch
from vfsd.worktree.others import remember
from vfsd.worktree.replay import replay
from vfsd.worktree.tries import landed, tries_in
from vfsd.worktree.worktree import Worktree

log = logging.getLogger(__name__)


def open_branch(
    repository: Repository, journal: JournalFile, repo: str, branch: str,
    make_tree: Callable[[BranchRow, Entry], Worktree],
) -> tuple[LiveBranch, int]:
    """Read the head, bring the journal's changes back, how many they are, and follow the head to where it is now.
    Blocks.

    Where the commit that the changes were made on is not there any more, they are made on the one that the branch
    stands at: a node may have been away for long.
    """
    head = repository.refs.head(repo, branch)
    row = _row(repository, journal, head)
    newest = head.commit or ""
    at = newest
    if row.base != newest and journal.has_records(row.id):
        if _leads_on(repository, row.base, head.commit):
            at = row.base
        else:
            log.warning("%s/%s: what its changes were made on is gone: they are made on its head", repo, branch)
    base = _root(repository, at)
    tree = make_tree(row, base)
    tree.read_only = kept_from_users(repo, branch, head.head)
    live = LiveBranch(row, head, base, tree)

    def follow(commit: str) -> None:
        nonlocal at
        root, changes = move(repository, live.base, CommitId(commit) if commit else None)
        remember(live.others, adopt(tree, root, changes, frozenset()).left)
        live.base, at = root, commit

    def follow_again(commit: str) -> None:
        if at != newest and _leads_on(repository, commit, head.commit):
            follow(commit)

    records = replay(tree, follow_again)
    live.done = 0 if records else tree.last_record
    if at != newest:
        follow(newest)
        rebased(journal, live)
    elif not records and row.base != newest:
        rebased(journal, live)
    return live, records


def move(repository: Repository, base: Entry, commit: CommitId | None) -> tuple[Entry, list[Changed]]:
    """The root of a commit, and what is other there than below `base`. Blocks."""
    root = _root(repository, commit or "")
    return root, list(diff(repository.nodes, base, root))


def rebased(journal: JournalFile, live: LiveBranch) -> None:
    """Let the journal know that the head is over another commit now. Records that are in it were made on the one
    before, and are brought back on that."""
    commit = live.head.commit or ""
    if live.tree.last_record > live.done:
        live.tree.rebased(commit)
    else:
        journal.committed(live.row.id, 0, commit)


def _row(repository: Repository, journal: JournalFile, head: Head) -> BranchRow:
    """The journal's row of a branch. A commit that was made when the last run ended is known from then on."""
    row = journal.branch(head.repo, head.branch, head.commit or "")
    tries = tries_in(journal.records(row.id))
    commit = landed(repository.commits, head.commit, CommitId(row.base), tries)
    if commit is None:
        return row
    journal.committed(row.id, tries[commit], commit)
    return journal.branch(head.repo, head.branch, commit)


def _root(repository: Repository, commit: str) -> Entry:
    return repository.commits.get(CommitId(commit)).root if commit else empty_root()


def _leads_on(repository: Repository, commit: str, head: CommitId | None) -> bool:
    """Whether all is there by which a commit differs from the one that the branch stands at."""
    try:
        deque(diff(repository.nodes, _root(repository, commit), _root(repository, head or "")), maxlen=0)
    except (NotFound, Damaged):
        return False
    return True
