"""The branches that are mounted for writing on this node: opens them, commits them, keeps them at their heads.

One task a branch gathers closed writes until the branch has been quiet, or has waited long enough, and makes one commit
of them. What fails is tried again with backoff and shown in `vfsd status`; nothing that goes on locally stops.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Iterator

import trio

from vfsd.index.journal import BranchRow, JournalFile
from vfsd.model.entry import Entry
from vfsd.model.errors import InvalidArgument, NotCached, NotFound, ReadOnly, VfsdError
from vfsd.model.ids import SHORT, CommitId
from vfsd.repo.content import ChunkSource
from vfsd.repo.refs import Head, check_writable, kept_from_users
from vfsd.repo.repository import Committed, Repository
from vfsd.repo.writer import BlobWriter
from vfsd.worktree.adopt import Stale, adopt
from vfsd.worktree.branch import CommitTiming, LiveBranch, Outcome
from vfsd.worktree.early import Early
from vfsd.worktree.freeze import Storer, as_before, forget_unused, freeze, keep_records, summary, thaw
from vfsd.worktree.left import discard
from vfsd.worktree.node import WorkNode
from vfsd.worktree.opening import move, open_branch, rebased
from vfsd.worktree.others import Settled, Settling, remember
from vfsd.worktree.room import Room
from vfsd.worktree.staging import Staging
from vfsd.worktree.tries import Tries, landed
from vfsd.worktree.worktree import Worktree

log = logging.getLogger(__name__)
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0
MOST_COMMITS_FIRST = 10  # before a transaction, while others go on writing


class LiveBranches:
    """All writable branches of one node. Everything but the loads it hands out runs in the event loop. `on_reset` gets
    the root that is not a branch's head any more and the one that is, None when the branch is gone."""

    def __init__(
        self,
        repository: Repository,
        journal: JournalFile,
        staging: Staging,
        *,
        nursery: trio.Nursery,
        inline_chunks: ChunkSource,
        chunks: ChunkSource,
        numbers: Iterator[int] | None = None,
        timing: CommitTiming,
        author: str,
        read_only: bool = False,
        on_stale: Callable[[Stale], None],
        on_commit: Callable[[Committed], None],
        on_reset: Callable[[LiveBranch, WorkNode, WorkNode | None], Awaitable[None]],
    ) -> None:
        self._repository = repository
        self._journal = journal
        self._staging = staging
        self._nursery = nursery
        self._inline_chunks = inline_chunks
        self._chunks = chunks
        self._numbers = numbers or itertools.count(2)
        self._timing = timing
        self._author = author
        self._read_only = read_only
        self._on_stale = on_stale
        self._on_commit = on_commit
        self._on_reset = on_reset
        self._live: dict[tuple[str, str], LiveBranch] = {}
        self._opened: dict[tuple[str, str], LiveBranch] = {}
        self._deleted: dict[tuple[str, str], Worktree] = {}  # with changes
        self.room = Room(staging, self.hurry)
        self._early = Early(repository, nursery)
        staging.on_growth = None if repository.store.is_local else self._early.grew

    # Opening

    def get(self, repo: str, branch: str) -> LiveBranch:
        """A branch's head; NotCached while it is not open, NotFound when there is no such branch."""
        key = (repo, branch)
        found = self._live.get(key)
        if found is None:
            found = self._opened.pop(key, None)
            if found is None:
                raise NotCached(("branch", *key), lambda: self._open(repo, branch))
            self._live[key] = found
            self._deleted.pop(key, None)
            if not self._read_only:
                self._nursery.start_soon(self._run, found)
            if found.first_change is not None:
                found.woken.set()
        return found

    def known(self, repo: str, branch: str) -> LiveBranch | None:
        """A branch's head when it is open."""
        return self._live.get((repo, branch))

    def all(self) -> list[LiveBranch]:
        """The open ones."""
        return list(self._live.values())

    def _open(self, repo: str, branch: str) -> None:
        """Blocks."""
        live, changes = open_branch(
            self._repository, self._journal, repo, branch, lambda row, base: self._tree(row, base, next(self._numbers))
        )
        self._staging.opened(live.row.id)
        live.tree.on_change = live.changed
        if changes:
            log.info("%s: %d changes of an earlier run brought back", live.name, changes)
            live.first_change = 0.0
            live.urgent = live.held is None
        self._opened[repo, branch] = live

    def _tree(self, row: BranchRow, base: Entry, number: int) -> Worktree:
        """A head without changes. number: of its root's inode."""
        return Worktree(
            row, base, nodes=self._repository.inline, blocking=self._repository.nodes, chunks=self._inline_chunks,
            journal=self._journal, staging=self._staging, numbers=self._numbers, number=number,
            on_change=lambda: None,
        )  # fmt: skip

    # Following the branch

    async def head_moved(self, repo: str, branch: str) -> None:
        """The branch may stand elsewhere now: follow it. Returns when that is done."""
        live = self._live.get((repo, branch))
        if live is None:
            return
        live.is_behind = True
        async with live.following:
            await self._follow_moves(live)

    async def _follow_moves(self, live: LiveBranch) -> None:
        """Until there are none; what fails for a moment is tried again."""
        delay = 0.0
        while live.is_behind and self._live.get((live.row.repo, live.row.branch)) is live:
            live.is_behind = False
            try:
                await self._follow(live)
            except (VfsdError, OSError) as error:
                if not delay:
                    log.warning("%s: cannot follow the branch, will try again: %s", live.name, error)
                live.is_behind = True
                delay = min(LAST_RETRY_S, 2 * delay or FIRST_RETRY_S)
                await trio.sleep(random.uniform(delay / 2, delay))
            else:
                delay = 0.0

    async def _follow(self, live: LiveBranch) -> None:
        async with live.lock:
            await self._settle(live)
            try:
                head = await trio.to_thread.run_sync(self._repository.refs.head, live.row.repo, live.row.branch)
            except NotFound:
                return
            live.tree.read_only = kept_from_users(head.repo, head.branch, head.head)
            if head.commit == live.head.commit:
                live.head = head
                return
            root, changes = await trio.to_thread.run_sync(move, self._repository, live.base, head.commit)
            stale = adopt(live.tree, root, changes, frozenset())
            remember(live.others, stale.left)
            live.base, live.head = root, head
            rebased(self._journal, live)
        self._on_stale(stale)

    # Committing

    async def _run(self, live: LiveBranch) -> None:
        with live.scope:
            await self._commit_forever(live)

    async def _commit_forever(self, live: LiveBranch) -> None:
        while True:
            await live.woken.wait()
            live.woken = trio.Event()
            await self._wait_for_quiet(live)
            live.urgent = False
            if live.held is not None:
                continue
            failed: Exception | None = None
            try:
                await self.commit(live)
            except Exception as error:
                # Also what nobody foresaw: the filesystem beside must not end with it.
                failed = error
            if failed is not None:
                await self._failed(live, failed)

    async def _wait_for_quiet(self, live: LiveBranch) -> None:
        while not live.urgent and live.first_change is not None:
            now = trio.current_time()
            due = min(live.last_change + self._timing.quiet_s, live.first_change + self._timing.max_wait_s)
            if now >= due:
                return
            with trio.move_on_after(due - now):
                await live.woken.wait()
                live.woken = trio.Event()

    async def _failed(self, live: LiveBranch, error: Exception) -> None:
        if str(error) != live.error:
            foreseen = isinstance(error, VfsdError | OSError)
            log.warning("%s: cannot commit, will try again: %s", live.name, error, exc_info=not foreseen)
        live.error = str(error)
        live.retries += 1
        delay = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(live.retries - 1, 10))
        with trio.move_on_after(random.uniform(delay / 2, delay)):
            while not live.urgent:
                await live.woken.wait()
                live.woken = trio.Event()
        live.first_change = live.first_change or trio.current_time()
        live.urgent = True
        live.woken.set()

    async def commit(self, live: LiveBranch, message: str = "") -> Committed | None:
        """Make a commit of what is closed, now; None when there is nothing. VfsdError leaves everything as it was."""
        self._check_mounted_for_writing(live.name)  # the branch may be an output: what was changed there is a spout's
        async with live.lock:
            live.is_being_committed = True
            try:
                return await self._commit(live, message)
            finally:
                live.is_being_committed = False
                live.attempted.set()
                live.attempted = trio.Event()

    async def _commit(self, live: LiveBranch, message: str) -> Committed | None:
        live.first_change = None
        try:
            earlier = await self._settle(live)
            frozen = freeze(live.tree)
            if frozen is None:
                return earlier
            keep_records(live.tree, frozen)
            live.unsettled = tries = Tries(self._journal, live.row, frozen)
            writer = await self._early.take(live.row.id)
            try:
                outcome = await trio.to_thread.run_sync(self._store, live, tries, message or live.held or "", writer)
            except trio.Cancelled:  # perhaps before it was begun, which ends the writer otherwise
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(writer.close)
                raise
        except BaseException:
            live.first_change = live.first_change or trio.current_time()
            if live.unsettled is not None and not live.unsettled.commits:
                thaw(live.tree, live.unsettled.frozen, committed=False)
                live.unsettled = None
            raise
        return self._made(live, tries, outcome)

    async def _settle(self, live: LiveBranch) -> Committed | None:
        """Find out whether a commit that failed was made after all; then it did not fail. With the branch's lock."""
        tries = live.unsettled
        if tries is None:
            return None
        outcome = await trio.to_thread.run_sync(self._find, live, tries)
        if outcome is not None:
            return self._made(live, tries, outcome)
        thaw(live.tree, tries.frozen, committed=False)
        live.unsettled = None
        return None

    def _made(self, live: LiveBranch, tries: Tries, outcome: Outcome) -> Committed | None:
        """A commit was made: the head is over it from now on."""
        head, committed, root, changes = outcome.head, outcome.committed, outcome.root, outcome.changes
        frozen, live.unsettled = tries.frozen, None
        live.done = tries.done(live.tree.last_record)
        thaw(live.tree, frozen, committed=True)
        own = frozenset(node.ino for node, _, _ in frozen.nodes)
        if committed is not None and committed.commit.id != head.commit:
            own = frozenset()  # others went on from it before this node heard that it was made
        stale = adopt(live.tree, root, changes, own)
        forget_unused(live.tree, frozen)
        live.base, live.head = root, head
        self._journal.committed(live.row.id, live.done, head.commit or "")
        self._staging.committed(frozen.upto)
        live.error, live.retries = "", 0
        live.others_settled(outcome.settled)
        self._on_stale(stale)
        if committed is not None:
            self._on_commit(committed)
        return committed

    def _store(self, live: LiveBranch, tries: Tries, message: str, writer: BlobWriter) -> Outcome:
        """Blocks: cut and store what is staged, make the commit, find out what it changed."""
        repository = self._repository

        def about_to_move(commit: CommitId) -> None:
            trio.from_thread.run_sync(tries.add, commit)
            self._journal.sync()  # else what a power cut leaves would be committed over what others did since

        try:
            check = trio.from_thread.check_cancelled  # a large file may take longer than anybody waits
            storer = Storer(repository.chunker, writer, repository.nodes, self._chunks, check)
            settling = Settling(repository.nodes, live.base, tries.frozen, storer.changes(tries.frozen), live.others)
            tries.settling = settling
            committed = repository.commit(
                live.row.repo,
                live.row.branch,
                settling.change,
                writer=writer,
                message=message or summary(tries.frozen),
                author=self._author,
                pipeline=live.head.head.pipeline,
                job=live.job if live.head.head.pipeline else None,
                provenance=tries.seen.provenance,
                lineage=tries.seen.data,
                head=live.head,
                before_move=about_to_move,
                gave_way=settling.gave_way,
            )
        finally:
            writer.close()
        head = committed.head if committed else repository.refs.head(live.row.repo, live.row.branch)
        return self._outcome(live, tries, head, committed, settling.settled)

    def _find(self, live: LiveBranch, tries: Tries) -> Outcome | None:
        """Blocks: what came of a commit that failed; None when it was not made."""
        head = self._repository.refs.head(live.row.repo, live.row.branch)
        commit = landed(self._repository.commits, head.commit, live.head.commit, tries.commits)
        if commit is None:
            return None
        return self._outcome(live, tries, head, Committed(self._repository.commits.get(commit), head))

    def _outcome(
        self, live: LiveBranch, tries: Tries, head: Head, committed: Committed | None, settled: Settled | None = None
    ) -> Outcome:
        root, changes = move(self._repository, live.base, head.commit)
        changes += as_before(self._repository.nodes, root, tries.frozen, changes)
        if tries.settling is not None:
            changes += tries.settling.removed(root)
        return Outcome(head, committed, root, changes, settled)

    # Room for what is written

    def hurry(self) -> list[LiveBranch]:
        """Have all branches that have changes committed at once; which, and which are being committed. One that fails
        keeps its own pace."""
        changed = [live for live in self._live.values() if live.first_change is not None and live.held is None]
        for live in changed:
            if not live.retries:
                live.urgent = True
                live.woken.set()
        return changed + [live for live in self._live.values() if live.is_being_committed and live not in changed]

    # Transactions

    async def start_transaction(self, live: LiveBranch, message: str) -> None:
        """Hold commits back until the transaction ends. What was closed before is committed first: an abort must not
        take it along. InvalidArgument when one is open."""
        self._check_writable(live)
        if live.held is not None:
            raise InvalidArgument(f"{live.name} has an open transaction: finish or abort it first")
        for _ in range(MOST_COMMITS_FIRST):
            if await self.commit(live) is None:
                break
        if live.held is not None:
            raise InvalidArgument(f"{live.name} has an open transaction: somebody else has just begun it")
        self._journal.hold(live.row.id, message)
        live.held = message

    async def finish_transaction(self, live: LiveBranch, message: str = "") -> Committed | None:
        """Commit everything since the start as one commit."""
        self._need_transaction(live)
        committed = await self.commit(live, message)
        self._end_transaction(live)
        return committed

    def _end_transaction(self, live: LiveBranch) -> None:
        self._journal.hold(live.row.id, None)
        live.held = None
        live.woken.set()  # the committer has let pass by what was done meanwhile

    async def abort_transaction(self, live: LiveBranch) -> None:
        """Forget everything since the start: the head is the commit again, in an instant, and the kernel knows when
        this returns. Open files keep their bytes until closed. InvalidArgument when a `finish` that failed had made the
        commit, Unavailable when that cannot be told."""
        self._check_writable(live)
        async with live.lock:
            self._need_transaction(live)
            made = await self._settle(live)
            if made is not None:
                self._end_transaction(live)
                commit = made.commit.id[:SHORT]
                raise InvalidArgument(f"{live.name}: a finish that failed has committed it after all, as {commit}")
            old = live.tree
            self._journal.committed(live.row.id, old.last_record, live.head.commit or "")
            old.abandon()
            self._staging.settled(live.row.id, old.last_record)
            self._staging.committed(old.last_record)
            self._journal.hold(live.row.id, None)
            self._let_go(live)
            live.held, live.first_change, live.error, live.retries = None, None, "", 0
            live.others = {}
            live.tree = self._tree(live.row, live.base, old.root.ino)
            live.tree.last_record = live.done = old.last_record
            live.tree.on_change = live.changed
            await self._on_reset(live, old.root, live.tree.root)

    def close(self, live: LiveBranch) -> None:
        """Let go of a branch that is deleted; one that is made in its place is opened anew, and has its changes."""
        if live.is_changed:
            self._deleted[live.row.repo, live.row.branch] = live.tree
        self._live.pop((live.row.repo, live.row.branch), None)
        live.tree.is_detached = True
        if not live.lock.locked():
            self._let_go(live)
        live.scope.cancel()
        self._nursery.start_soon(self._on_reset, live, live.tree.root, None)

    def unopened(self) -> list[BranchRow]:
        """Branches that are not open and have changes, or a transaction: deleted ones, and those that cannot be."""
        return [row for row in self._journal.left() if (row.repo, row.branch) not in self._live]

    async def discard(self, repo: str, branch: str) -> None:
        """Give up what a deleted branch has left; NotFound when that is nothing."""
        name = f"{repo}/{branch}"
        self._check_mounted_for_writing(name)
        if await trio.to_thread.run_sync(self._repository.refs.has_branch, repo, branch):
            raise InvalidArgument(f"{name} is no deleted branch: what is closed there is committed")
        rows = [row for row in self.unopened() if (row.repo, row.branch) == (repo, branch)]
        if not rows:
            raise NotFound(f"nothing is left of a branch {name}")
        discard(self._journal, self._staging, rows[0], self._deleted.pop((repo, branch), None))

    def _let_go(self, live: LiveBranch) -> None:
        """Of a tree that is detached."""
        live.tree.on_change = lambda: None
        if live.unsettled is not None:
            thaw(live.tree, live.unsettled.frozen, committed=False)
            live.unsettled = None

    def _check_writable(self, live: LiveBranch) -> None:
        check_writable(live.head)
        self._check_mounted_for_writing(live.name)

    def _check_mounted_for_writing(self, name: str) -> None:
        if self._read_only:
            raise ReadOnly(f"{name} is mounted read-only: mount it for writing first")

    def _need_transaction(self, live: LiveBranch) -> None:
        if live.held is None:
            raise InvalidArgument(f"{live.name} has no open transaction: `vfsd commit start` begins one")
