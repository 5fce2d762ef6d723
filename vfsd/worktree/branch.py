"""One branch that is mounted for writing on this node: where its head stands, and what its committer waits for."""

from __future__ import annotations

import logging

import msgspec
import trio

from vfsd.index.journal import BranchRow
from vfsd.model.entry import Entry
from vfsd.model.ids import JobId
from vfsd.repo.diff import Changed
from vfsd.repo.refs import Head
from vfsd.repo.repository import Committed
from vfsd.repo.tree import show
from vfsd.worktree.others import NAMED, Others, Settled
from vfsd.worktree.tries import Tries
from vfsd.worktree.worktree import Worktree

log = logging.getLogger(__name__)
SHOWN = 3  # paths that a line of the log names


class CommitTiming(msgspec.Struct, frozen=True):
    """When closed writes become a commit. quiet_s: after no change for so long. max_wait_s: at the latest so long
    after the first change."""

    quiet_s: float = 1.0
    max_wait_s: float = 30.0


class Outcome(msgspec.Struct):
    """What came of a commit: where the branch stands, what that changed for this head, and, unless the commit was found
    out about later, what became of others' changes that were not in the head."""

    head: Head
    committed: Committed | None
    root: Entry
    changes: list[Changed]
    settled: Settled | None = None


class LiveBranch:
    """One branch's head on this node, and the state of its committer."""

    def __init__(self, row: BranchRow, head: Head, base: Entry, tree: Worktree) -> None:
        self.row = row
        self.head = head
        self.base = base  # root of the commit that the head is over
        self.tree = tree
        self.held = row.held
        self.job: JobId | None = None  # whose commits these are: a spout's
        self.first_change: float | None = None
        self.last_change = 0.0
        self.woken = trio.Event()  # something for the committer to look at
        self.urgent = False  # do not wait for quiet
        self.lock = trio.Lock()  # held while a commit is made or another head adopted
        self.scope = trio.CancelScope()  # of the committer
        self.done = 0  # last journal record that is in a commit
        self.is_behind = False  # there is a move to follow
        self.following = trio.Lock()  # held by whoever is at it
        self.unsettled: Tries | None = None  # of a commit that failed, and may have been made
        self.others: Others = {}  # what others committed, and this head has not taken over
        self.gave_way: list[str] = []  # of that, what this node's commits put something else in the place of, the last
        self.error = ""
        self.retries = 0
        self.is_being_committed = False
        self.attempted = trio.Event()  # set, and replaced, when a commit was made, or could not be

    def changed(self) -> None:
        """The head was changed; called for every operation, so it does little."""
        self.last_change = trio.current_time()
        if self.first_change is None:
            self.first_change = self.last_change
            self.woken.set()

    def others_settled(self, settled: Settled | None) -> None:
        """A commit was made: say what gave way to it, and go on with what no change of this head has met yet."""
        if settled is None:
            return
        self.others = settled.left if self.is_changed else {}
        if settled.gave_way:
            paths = [show(path) for path in settled.gave_way]
            more = f" and {len(paths) - SHOWN} more" if len(paths) > SHOWN else ""
            log.warning(
                "%s: what others had committed gave way to changes of this node, and is in the commit before: %s%s",
                self.name, ", ".join(paths[:SHOWN]), more,
            )  # fmt: skip
            self.gave_way = (self.gave_way + paths)[-NAMED:]

    @property
    def is_changed(self) -> bool:
        """Whether the head has changes that no commit holds."""
        root = self.tree.root
        return bool(root.changed or root.below or root.removed)

    @property
    def name(self) -> str:
        """repo/branch."""
        return f"{self.row.repo}/{self.row.branch}"
