"""Condemns blobs: a list is published, decided, and carried out after its grace period. See repo/condemned.py.

For gc, which deletes, and compact, which rewrites. Killed at any moment, the next run takes over: lists that were not
decided are dropped, those that were are carried out.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from vfsd.index.survey import ContainerRow
from vfsd.model.commit import decode
from vfsd.model.errors import Conflict, NotFound
from vfsd.repo.condemned import (
    KEEP_S,
    LISTS,
    Condemned,
    GcState,
    Kind,
    Phase,
    Verdict,
    change_state,
    read_list,
    write_list,
)
from vfsd.repo.holds import LIFE_S, Hold
from vfsd.repo.holds import PREFIX as HOLDS
from vfsd.repo.marking import COMMIT
from vfsd.repo.repository import Repository
from vfsd.store.api import ObjectStore
from vfsd.store.moved import without_maps

GRACE_S = 12 * 3600.0  # seconds
LEFT_S = 86400.0  # seconds after which what a dead run of anything left is removed, and what was written once more
ORPHANED = "no branch leads to it any more"  # why a commit was dropped that others were made from
CLOCK = "probe/"  # objects that are written to learn what time it is


class Amount(msgspec.Struct, frozen=True):
    """Objects that hold blobs. maps: of packs and commits that were moved. bytes: of all."""

    packs: int = 0
    commits: int = 0
    maps: int = 0
    bytes: int = 0

    @property
    def objects(self) -> int:
        """All of them."""
        return self.packs + self.commits + self.maps

    def plus(self, other: Amount) -> Amount:
        """Both together."""
        return Amount(
            self.packs + other.packs, self.commits + other.commits, self.maps + other.maps, self.bytes + other.bytes
        )

    def less(self, other: Amount) -> Amount:
        """Without some."""
        return Amount(
            self.packs - other.packs, self.commits - other.commits, self.maps - other.maps, self.bytes - other.bytes
        )


def total(rows: Iterable[ContainerRow]) -> Amount:
    """What these are together."""
    packs = commits = maps = size = 0
    for row in rows:
        size += row.size
        if row.moved:
            maps += 1
        elif len(row.id) == COMMIT:
            commits += 1
        else:
            packs += 1
    return Amount(packs, commits, maps, size)


def store_now(store: ObjectStore) -> float:
    """What time it is, by the store's clock: seconds since 1970."""
    key = CLOCK + secrets.token_hex(16)
    store.put(key, key.encode())
    try:
        return store.stat(key).modified
    finally:
        store.delete(key)


class Young(msgspec.Struct, frozen=True):
    """since: what was written at this time or later is young (s since 1970, store's clock). held: by whom, if it is for
    longer than the grace period. now: by the store's clock."""

    since: float
    held: tuple[str, ...]
    now: float


def young_since(store: ObjectStore, grace_s: float) -> Young:
    """What is too young to be condemned."""
    now = store_now(store)
    since, held = now - grace_s, []
    for stat in list(store.list(HOLDS)):
        if now - stat.modified > LIFE_S:
            continue
        try:
            hold = decode(store.get(stat.key)[0], Hold, stat.key)
        except NotFound:
            continue
        since = min(since, stat.modified - hold.age_s)
        held.append(hold.by)
    return Young(since, tuple(sorted(held)), now)


class Lists:
    """The lists of one kind."""

    def __init__(self, repository: Repository, kind: Kind) -> None:
        self._repository = repository
        self._store = without_maps(repository.store)
        self._kind = kind

    def condemn(
        self, lines: Callable[[], Iterator[Condemned]], total: Callable[[], Amount], follow: Callable[[], None]
    ) -> Verdict:
        """Publish a list, make sure that no writer that does not know it can move a ref, follow the refs again, and
        take out what they lead to by now.

        lines: makes the lines of the list, the same each time but for what was marked meanwhile. total: of its whole
        containers. Conflict when another run took over.
        """
        proposed = self._propose(write_list(self._store, lines()))
        self._fence()
        follow()
        amount = total()
        parts = write_list(self._store, lines())
        verdict = msgspec.structs.replace(
            proposed, phase=Phase.CONDEMNED, parts=parts, containers=amount.objects, size=amount.bytes
        )

        def decide(state: GcState) -> GcState:
            there = state.find(verdict.number)
            if there is None or there.phase is not Phase.PROPOSED:
                raise Conflict("another run of `vfsd gc` or `vfsd compact` has taken over: see what it does")
            return state.with_list(
                msgspec.structs.replace(verdict, pardoned=there.pardoned, pardon_parts=there.pardon_parts)
            )

        self._repository.guard.take_in(change_state(self._store, decide))
        for key in proposed.parts:
            self._store.delete(key)
        return verdict

    def _propose(self, parts: tuple[str, ...]) -> Verdict:
        made = Verdict(number=0, kind=self._kind, phase=Phase.PROPOSED, parts=parts, containers=0, size=0)

        def propose(state: GcState) -> GcState:
            for other in state.lists:
                if other.parts == parts:
                    return state  # it was written, and the answer lost
                if other.phase is Phase.PROPOSED:
                    state = state.without(other.number)  # of a run that died, or that ends when it sees this
            return state.with_list(msgspec.structs.replace(made, number=state.number + 1))

        state = change_state(self._store, propose)
        self._repository.guard.take_in(state)
        return next(one for one in state.lists if one.parts == parts)

    def _fence(self) -> None:
        """Write each branch head again: whoever read it before cannot move it any more."""
        refs = self._repository.refs
        for repo, branch, _ in list(refs.branches()):
            try:
                refs.touch(refs.head(repo, branch))
            except (Conflict, NotFound):
                continue  # it was moved since it was read, or is gone: that does as well

    def due(self, state: GcState | None, grace_s: float, now: float) -> Iterator[tuple[Verdict, float]]:
        """(list, seconds until it is due) of all that are decided and not carried out."""
        for verdict in () if state is None else state.lists:
            if verdict.kind is self._kind and verdict.phase is Phase.SWEEPING:
                yield verdict, 0.0
            elif verdict.kind is self._kind and verdict.phase is Phase.CONDEMNED:
                yield verdict, max(0.0, self._written(verdict) + grace_s - now)

    def _written(self, verdict: Verdict) -> float:
        """When a list was written as it is: s since 1970."""
        try:
            return self._store.stat(verdict.parts[0]).modified if verdict.parts else 0.0
        except NotFound:
            return 0.0  # whoever reads it says so

    def advance(self, number: int, phase: Phase, spared: Sequence[bytes] = ()) -> Verdict | None:
        """Move a list on to SWEEPING or SWEPT; as it is then. None when it is not there any more. spared: containers
        that stay, and are taken out."""

        def move(state: GcState) -> GcState:
            there = state.find(number)
            if there is None or there.phase is Phase.SWEPT:
                return state
            parts = there.parts
            if spared:
                stay = set(spared)
                lines = (line for line in read_list(self._store, there) if line.container not in stay)
                parts = write_list(self._store, lines)
            return state.with_list(msgspec.structs.replace(there, phase=phase, parts=parts))

        state = change_state(self._store, move)
        self._repository.guard.take_in(state)
        return state.find(number)

    def forget(self, now: float) -> None:
        """Forget lists that were carried out long ago, and the objects of lists that nothing names."""
        named: set[str] = set()

        def forget(state: GcState) -> GcState:
            for verdict in state.lists:
                if verdict.phase is Phase.SWEPT and now - self._written(verdict) > KEEP_S:
                    state = msgspec.structs.replace(
                        state.without(verdict.number), forgotten=max(state.forgotten, verdict.number)
                    )
            named.clear()
            named.update(key for verdict in state.lists for key in (*verdict.parts, *verdict.pardon_parts))
            return state

        self._repository.guard.take_in(change_state(self._store, forget))
        for stat in list(self._store.list(LISTS)):
            if stat.key not in named and now - stat.modified > LEFT_S:
                self._store.delete(stat.key)
