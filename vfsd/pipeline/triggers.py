"""Looks after the branches that have triggers: when a head moves, and when a schedule's time comes.

Every node that runs pipelines does; vfsd.repo.triggered says why one of them moves a branch, and once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from vfsd.model.commit import BranchHead
from vfsd.model.errors import NotFound, VfsdError
from vfsd.model.names import from_key_part
from vfsd.pipeline.clock import Alarm, Clock, do_when_due
from vfsd.repo.refs import Head, ref_key
from vfsd.repo.repository import Repository
from vfsd.repo.triggered import Looks, goal, next_look, pull


class Triggers:
    """The triggers of one store. heads: where branches stand, by the keys of their refs, as somebody keeps it up to
    date. moved: called with each head that was moved here."""

    def __init__(
        self, repository: Repository, clock: Clock, heads: Mapping[str, BranchHead], moved: Callable[[Head], None]
    ) -> None:
        self._repository = repository
        self._alarm = Alarm(clock)
        self._heads = heads
        self._moved = moved
        self._sources: dict[str, str] = {}  # key of a branch that has a trigger → that of the one that it waits for
        self._came_to = Looks()
        self._looks: dict[str, int] = {}  # key → when it has to be looked at, if no head moves
        self._changed: set[str] = set()  # keys to look at now

    def changed(self, key: str) -> None:
        """A branch was moved, made, given a trigger, or deleted."""
        head = self._heads.get(key)
        if head is not None and head.trigger is not None:
            self._sources[key] = ref_key(_branch_of(key)[0], head.trigger.branch)
            self._changed.add(key)
        else:
            self._sources.pop(key, None)
            self._looks.pop(key, None)
        self._changed.update(other for other, source in self._sources.items() if source == key)
        if self._changed:
            self._alarm.ring()

    async def run(self) -> None:
        """Move branches until cancelled."""
        await do_when_due(self._alarm, self._due, self._look, "triggers")

    def _due(self) -> int | None:
        return self._alarm.clock.now() if self._changed else min(self._looks.values(), default=None)

    async def _look(self) -> None:
        """At all that may have to be moved. What fails is looked at again, behind the others."""
        now = self._alarm.clock.now()
        keys = self._changed | {key for key, moment in self._looks.items() if moment <= now}
        self._changed = set()
        failed: VfsdError | None = None
        for key in sorted(keys):
            self._note_next(key, now)
            try:
                head = await trio.to_thread.run_sync(self._pull, key, now)
            except NotFound as error:
                if key in self._heads and self._sources.get(key) in self._heads:
                    failed = error
                    self._changed.add(key)
            except VfsdError as error:
                failed = error
                self._changed.add(key)
            else:
                if head is not None:
                    self._moved(head)
        if failed is not None:
            raise failed

    def _note_next(self, key: str, now: int) -> None:
        head = self._heads.get(key)
        moment = None if head is None else next_look(head, now)
        if moment is None:
            self._looks.pop(key, None)
        else:
            self._looks[key] = moment

    def _pull(self, key: str, now: int) -> Head | None:
        """In a thread. What is known already decides whether the store is asked at all."""
        head = self._heads.get(key)
        if head is None or head.trigger is None:
            return None
        repo, branch = _branch_of(key)
        source = self._heads.get(ref_key(repo, head.trigger.branch))
        if goal(self._repository, head, None if source is None else source.commit, now, self._came_to) is None:
            return None
        return pull(self._repository, repo, branch, self._alarm.clock.now)


def _branch_of(key: str) -> tuple[str, str]:
    _, repo, branch = key.split("/")
    return from_key_part(repo), from_key_part(branch)
