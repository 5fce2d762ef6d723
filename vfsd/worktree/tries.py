"""Commits whose outcome this node has not heard of: the branch may stand at one, or have gone on from it.

The history tells. Making such a commit's changes once more instead would put them over what others did after it.
"""

from __future__ import annotations

from collections.abc import Collection

from vfsd.index.journal import BranchRow, JournalFile
from vfsd.model.ids import CommitId
from vfsd.repo.commits import Commits
from vfsd.worktree.freeze import Frozen
from vfsd.worktree.others import Settling
from vfsd.worktree.records import TryRecord, decode_record, encode_record
from vfsd.worktree.runs import observed


class Tries:
    """The commits that were written for one freeze of a branch. The journal knows each before the branch is moved to
    it. seen: what they say of their writers, as of now."""

    def __init__(self, journal: JournalFile, row: BranchRow, frozen: Frozen) -> None:
        self.frozen = frozen
        self.seen = observed(row.repo, row.branch, frozen.wrote)
        self.settling: Settling | None = None  # what made their trees
        self.commits: list[CommitId] = []
        self._journal = journal
        self._branch = row.id
        self._last = frozen.upto

    def add(self, commit: CommitId) -> None:
        """The branch is about to be moved to this one. In the event loop."""
        self._last = self._journal.append(self._branch, encode_record(TryRecord(commit, self.frozen.upto)))
        self.commits.append(commit)

    def done(self, last_record: int) -> int:
        """Up to which number the journal's records are done when the commit is made; `last_record` is the head's."""
        return self._last if last_record <= self.frozen.upto else self.frozen.upto


def landed(commits: Commits, head: CommitId | None, base: CommitId | None, tried: Collection[str]) -> CommitId | None:
    """The one of `tried` that is in the history of `head`, no further back than `base`; None for none. Blocks."""
    if head is None or not tried:
        return None
    for commit in commits.log(head):
        if commit.id in tried:
            return commit.id
        if commit.id == base:
            break
    return None


def tries_in(records: list[tuple[int, bytes]]) -> dict[str, int]:
    """Commit → up to which number the journal's records are done if it was made, of the tries that they tell of."""
    found: dict[str, int] = {}
    others = last = 0  # of other kinds, and of any
    for last, data in records:
        record = decode_record(data)
        if isinstance(record, TryRecord):
            found[record.commit] = record.upto
        else:
            others = last
    return {commit: upto if others > upto else last for commit, upto in found.items()}
