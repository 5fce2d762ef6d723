"""Garbage collection: what no ref leads to is condemned, and deleted by a later run, as `vfsd gc` does.

Safe beside writers on any node, see docs/invariants.md; may be killed at any moment and run by several at once. What is
old is decided by the store's clock alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import msgspec

from vfsd.index.survey import ContainerRow, Survey
from vfsd.index.verdicts import WHOLE, Blob
from vfsd.model.commit import GlobalRecord, decode
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import CommitId
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import parse
from vfsd.repo.commits import commit_key
from vfsd.repo.condemned import Condemned, Kind, Phase, Verdict, read_list, read_pardons
from vfsd.repo.condemning import CLOCK, GRACE_S, LEFT_S, ORPHANED, Amount, Lists, Young, store_now, total, young_since
from vfsd.repo.holds import PREFIX as HOLDS
from vfsd.repo.leftovers import leftovers
from vfsd.repo.marking import COMMIT
from vfsd.repo.node_walk import AT_ONCE
from vfsd.repo.reach import Progress, Reach, Trees
from vfsd.repo.refs import global_key
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.blob import container_key
from vfsd.store.keys import IN_PARTS
from vfsd.store.moved import moved_key, without_maps

BATCH = 10_000  # containers of which the sum is made at once

class GcResult(msgspec.Struct, frozen=True):
    """What there is. reachable: from refs. young: not reachable, and not old enough, or needed by what is not.
    condemned: not reachable and old enough; by this run if it `delete`s. waiting: condemned before, and not due yet.
    deleted: due, and deleted by this run if it does. kept: due, and needed all the same. next: seconds until something
    that is condemned is due, None when nothing waits. uploads: abandoned ones, removed if it deletes. records: those of
    dropped commits, and lineage objects, to which nothing leads any more, likewise. lost: chunks that are not where
    pointers say. held: processes at work for long, whose blobs count as young."""

    reachable: Amount
    young: Amount
    condemned: Amount
    waiting: Amount
    deleted: Amount
    kept: int
    next: float | None
    uploads: int
    records: int
    lost: int
    held: tuple[str, ...]


def collect(
    repository: Repository, trees: Trees, *, delete: bool, author: str, grace_s: float = GRACE_S,
    progress: Progress = lambda what, count: None,
) -> GcResult:
    """Find what no ref leads to; with `delete`, condemn it, and delete what was condemned `grace_s` ago or earlier.

    trees: what of other layers leads to trees. author: of what is noted of commits that go and that others were made
    from. Damaged when it cannot be said what is reachable: then nothing was deleted. Conflict when another run took
    over. Unavailable and the like: whatever was not done is done by the next run.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vfsd-gc") as pool, Survey() as survey:
        reach = Reach(repository, survey, pool, trees, progress)
        return _Collection(repository, reach, survey, pool, author, grace_s, progress).run(delete=delete)


class _Collection:
    def __init__(
        self, repository: Repository, reach: Reach, survey: Survey, pool: ThreadPoolExecutor, author: str,
        grace_s: float, progress: Progress,
    ) -> None:
        self._repository = repository
        self._store = without_maps(repository.store)
        self._verdicts = repository.index.verdicts
        self._reach = reach
        self._survey = survey
        self._pool = pool
        self._author = author
        self._grace_s = grace_s
        self._progress = progress
        self._lists = Lists(repository, Kind.DELETE)
        self._young = Young(0.0, (), 0.0)
        self._before: tuple[Verdict, ...] = ()  # the lists that were decided when this run began

    def run(self, *, delete: bool) -> GcResult:
        self._young = young_since(self._store, self._grace_s)
        state = self._repository.guard.refresh()
        lists = state.lists if state is not None else ()
        self._before = tuple(verdict for verdict in lists if verdict.phase is not Phase.PROPOSED)
        self._reach.list_containers()
        self._reach.follow()
        reachable, others = total(self._survey.marked()), total(self._survey.unmarked())
        self._reach.follow_young(self._young.since)
        young = others.less(total(row for row in self._survey.unmarked() if row.modified < self._young.since))
        condemned = self._total_condemned()
        if delete and condemned != Amount():
            self._lists.condemn(self._lines, self._total_condemned, self._reach.follow)
        deleted, kept, waiting, until = self._sweep(delete=delete)
        # Not of all that is in the bucket: others may have theirs there, too.
        uploads = sum(self._store.abort_uploads(prefix, LEFT_S, dry_run=not delete) for prefix in IN_PARTS)
        left = leftovers(self._repository, self._reach, self._survey, self._young.since)
        records = sum(1 for _ in ahead(self._pool, self._store.delete if delete else _spare, left, 2 * AT_ONCE))
        if delete:
            self._lists.forget(self._young.now)
            self._clear_leftovers()
            self._repository.drops.merge(self._young.now - LEFT_S)
        return GcResult(
            reachable, young, condemned, waiting, deleted, kept, until, uploads, records,
            self._reach.marking.lost, self._young.held,
        )

    # What is condemned

    def _garbage(self) -> Iterator[ContainerRow]:
        """What is not needed, old, and on no list yet that will be carried out."""
        active = {verdict.number for verdict in self._before if verdict.phase is not Phase.SWEPT}
        for row in self._survey.unmarked():
            if row.modified < self._young.since:
                listed = self._verdicts.listed(row.id)
                if not any(offset == WHOLE and number in active for offset, number in listed):
                    yield row

    def _lines(self) -> Iterator[Condemned]:
        return self._reach.marking.under_all_names(self._found())

    def _found(self) -> Iterator[Condemned]:
        """Containers that can go, and nodes that nothing may lead to then: what is below them may go too."""
        for row in self._garbage():
            yield Condemned(row.id)
        known = {verdict.number for verdict in self._before}
        unneeded = self._reach.marking.unneeded_nodes()
        nodes = (blob for blob in unneeded if not known.intersection(self._verdicts.numbers(*blob)))
        for container, blobs in groupby(nodes, lambda blob: blob[0]):
            yield Condemned(container, [offset for _, offset in blobs])
        for verdict in self._before:
            if verdict.phase is not Phase.SWEPT:
                for container, offset in read_pardons(self._store, verdict):
                    if offset != WHOLE and not self._survey.is_marked(container):
                        yield Condemned(container, [offset])  # needed once, and not any more

    def _total_condemned(self) -> Amount:
        return total(self._garbage())

    # What is due

    def _sweep(self, *, delete: bool) -> tuple[Amount, int, Amount, float | None]:
        """(what is due, how much of it is kept, what waits, for how many seconds yet)"""
        deleted, waiting, kept = Amount(), Amount(), 0
        until: float | None = None
        now = store_now(self._store)
        for verdict, left in list(self._lists.due(self._repository.guard.refresh(), self._grace_s, now)):
            if left > 0:
                until = left if until is None else min(until, left)
                waiting = waiting.plus(total(self._condemned_rows(verdict)))
                continue
            current = self._lists.advance(verdict.number, Phase.SWEEPING) if delete else verdict
            if current is None:
                continue
            amount, spared, pardoned = self._carry_out(current, delete=delete)
            deleted, kept = deleted.plus(amount), kept + len(spared) + pardoned
            if delete:
                self._lists.advance(verdict.number, Phase.SWEPT, spared)
        return deleted, kept, waiting, until

    def _condemned_rows(self, verdict: Verdict) -> Iterator[ContainerRow]:
        """The whole containers of a list that are there."""
        for line in read_list(self._store, verdict):
            if not line.offsets:
                row = self._survey.container(line.container)
                if row is not None:
                    yield row

    def _carry_out(self, verdict: Verdict, *, delete: bool) -> tuple[Amount, list[bytes], int]:
        """Delete what a list names, but for what was pardoned and what is needed all the same: the latter is nothing if
        all who write ask before. (what goes, what is needed, how much was pardoned)"""
        pardons = {container for container, _ in self._pardoned(verdict)}
        spared: list[bytes] = []
        pardoned = 0
        if delete:
            self._keep_headers(verdict, pardons)

        def doomed() -> Iterator[_Doomed]:
            nonlocal pardoned
            for row in self._condemned_rows(verdict):
                if row.id in pardons:
                    pardoned += 1
                elif self._survey.is_marked(row.id):
                    spared.append(row.id)
                else:
                    yield _Doomed(row, not row.moved and len(row.id) == COMMIT, self._survey.is_moved(row.id))

        amount, done = Amount(), []
        for one, _ in ahead(self._pool, self._delete if delete else _spare, doomed(), 2 * AT_ONCE):
            done.append(one.row)
            if len(done) == BATCH:
                amount, done = amount.plus(total(done)), []
            self._progress("deleted" if delete else "due", 1)
        return amount.plus(total(done)), spared, pardoned

    def _pardoned(self, verdict: Verdict) -> Iterator[Blob]:
        return self._reach.marking.wherever_moved(read_pardons(self._store, verdict))

    def _keep_headers(self, verdict: Verdict, pardons: set[bytes]) -> None:
        """Of commits that go and that others were made from, keep the headers."""

        def goes(commit: CommitId) -> bool:
            container = bytes.fromhex(commit)
            return (WHOLE, verdict.number) in self._verdicts.listed(container) and container not in pardons

        orphans = self._reach.orphans(b"%d" % verdict.number)
        headers = (header for commit, header in orphans if goes(commit))
        self._repository.drops.add(headers, time=now_ns(), author=self._author, reason=ORPHANED)

    def _delete(self, doomed: _Doomed) -> None:
        """In a thread. A commit's global record goes first: its key is in the commit."""
        container = doomed.row.id
        if doomed.is_commit and self._repository.drops.find(commit := CommitId(container.hex())) is None:
            self._delete_record(commit)
        if not doomed.row.moved:
            self._store.delete(container_key(container))
        if doomed.has_map:
            self._store.delete(moved_key(container))

    def _delete_record(self, commit: CommitId) -> None:
        try:
            header = parse(self._store.get(commit_key(commit))[0], commit)[0].header
            key = global_key(header.global_id, header.repo, header.branch)
            if decode(self._store.get(key)[0], GlobalRecord, key).commit == commit:
                self._store.delete(key)
        except (NotFound, Damaged):
            pass  # nothing that could be found by it

    def _clear_leftovers(self) -> None:
        """What dead runs of gc and init have left."""
        for prefix in (CLOCK, HOLDS):
            for stat in list(self._store.list(prefix)):
                if self._young.now - stat.modified > LEFT_S:
                    self._store.delete(stat.key)


class _Doomed(msgspec.Struct, frozen=True):
    """A container to delete: whether it is a commit's object, and whether there is a map of it."""

    row: ContainerRow
    is_commit: bool
    has_map: bool


def _spare(doomed: object) -> None:
    """Delete nothing."""
