"""A runner in the store: its beat, the pipelines that it was given, and how their jobs stand.

    runners/<runner>             Beat: written anew several times in the life that it states, deleted at the end
    pipelines/<name>/job         Standing: the newest job of a pipeline, moved by compare-and-swap by whoever has it
    datums/<job>/<number>        results of a job in flight, in parts; deleted once it has ended

Who has a pipeline is written in the head of its output branch, so that being given a pipeline and moving its branch
exclude each other by one compare-and-swap. What is concluded from beats is vfsd.pipeline.lease_state's. A result counts
as known to the store once a Standing counts its part: another node that takes the job over does not run that datum.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec

from vfsd.model.commit import BranchHead, decode, encode
from vfsd.model.errors import Conflict, NotFound, Unavailable
from vfsd.model.ids import JobId
from vfsd.pipeline.lease_state import BeatGone, BeatSeen, Event, HeadSeen
from vfsd.pipeline.records import JobRecord, Standing, part_key, read_standing, results_of, standing_key
from vfsd.repo.refs import Head, Refs, nonce
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.api import ETag

PREFIX = "runners/"
LIFE_S = 30.0  # seconds without a beat after which a runner is dead
BEATS = 3  # in a life
CAS_TRIES = 16


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `runners/<runner>`. life_s: seconds without a change after which the runner is dead. by: host and
    process, for people."""

    format: int = 1
    nonce: str
    life_s: float
    by: str


def runner_of(key: str) -> str | None:
    """The runner whose beat has this key; None for every other key."""
    return key.removeprefix(PREFIX) if key.startswith(PREFIX) else None


def read_beat(runner: str, data: bytes | None) -> Event:
    """What a beat says; `data`: the content of its object, None when there is none. Damaged."""
    if data is None:
        return BeatGone(runner)
    beat = decode(data, Beat, PREFIX + runner)
    return BeatSeen(runner, beat.nonce, beat.life_s)


class Runner:
    """This process, as other nodes see it. Blocks; for one thread at a time.

    path: a file of this node that says which runner was here last. Whoever makes a Runner holds the state directory,
    so that one is dead, and need not be waited for.
    """

    def __init__(self, repository: Repository, path: str, life_s: float = LIFE_S) -> None:
        self.id = nonce()
        self.beat_s = life_s / BEATS
        self._store = repository.store
        self._life_s = life_s
        self._path = path
        self._beats = False

    def beat(self) -> None:
        """Show that this runner lives."""
        value = Beat(nonce=nonce(), life_s=self._life_s, by=f"{os.uname().nodename}:{os.getpid()}")
        if not self._beats:
            self._write_down()
        self._store.put(PREFIX + self.id, encode(value))
        self._beats = True

    def give_up(self) -> None:
        """Leave all pipelines to others."""
        if self._beats:
            self._beats = False
            self._store.delete(PREFIX + self.id)
            os.unlink(self._path)

    def bury(self) -> None:
        """Have all know, this runner too, that its predecessor is dead."""
        try:
            with open(self._path, encoding="ascii") as file:
                before = file.read().strip()
        except FileNotFoundError:
            return
        self._store.delete(PREFIX + before)
        os.unlink(self._path)

    def _write_down(self) -> None:
        new = f"{self._path}.new"
        with open(new, "w", encoding="ascii") as file:
            file.write(self.id)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self._path)


def claim(repository: Repository, runner: str, pipeline: str, branch: str, holder: str, beat: str) -> Claim:
    """Give a pipeline to a runner. An output branch that is gone is made again; NotFound when even the repo is gone.

    holder: who has it and seems to be dead, beat: the nonce of its beat as it was last seen. Both are looked at again,
    for what is known may be old. No tenure when somebody lives that has it, or was faster.
    """
    refs, store = repository.refs, repository.store
    try:
        head = refs.head(pipeline, branch)
    except NotFound:
        refs.repo(pipeline)
        head = refs.create_branch(pipeline, branch, None, now_ns(), pipeline=pipeline)
    there = head.head.holder
    seen: list[Event] = [HeadSeen(pipeline, there, head.head.epoch)]
    if there not in {"", runner}:
        try:
            known = read_beat(there, store.get(PREFIX + there)[0])
        except NotFound:
            known = BeatGone(there)
        seen.append(known)
        if isinstance(known, BeatSeen) and (there != holder or known.nonce != beat):
            return Claim(seen, None)
    standing = read_standing(store, pipeline)  # a branch that was made again begins its epochs anew
    epoch = 1 + max(head.head.epoch, 0 if standing is None else standing[0].epoch)
    try:
        given = refs.hand_over(head, runner, epoch)
    except Conflict:
        return Claim(seen, None)
    return Claim(seen, Tenure(repository, given))


class Claim(msgspec.Struct, frozen=True):
    """What came of claiming a pipeline: what was seen on the way, and the tenure if it was given."""

    seen: list[Event]
    tenure: Tenure | None


class Tenure:
    """A pipeline in the hands of this runner, in one epoch. Blocks; for one thread at a time.

    Whatever finds that the epoch is over raises Unavailable, with which a job breaks off and leaves no trace.
    """

    def __init__(self, repository: Repository, head: Head) -> None:
        self.pipeline = head.repo
        self.epoch = head.head.epoch
        self._refs: Refs = repository.refs
        self._store = repository.store
        self._index = repository.index
        self._known: tuple[Standing, ETag] | None = None

    def admit(self, head: Head) -> None:
        """Unavailable when the output branch may not be moved from this head for the pipeline."""
        if head.head.epoch != self.epoch:
            raise self._over()

    def take_over(self) -> JobRecord | None:
        """The pipeline's newest job, whoever ran it; what is known of one in flight is in the index then."""
        for _ in range(CAS_TRIES):
            self._known = read_standing(self._store, self.pipeline)
            if self._known is None:
                return None
            standing, etag = self._known
            self._check(standing)
            if not standing.record.finished:
                # Written first and read then: nothing that its last holder still adds is taken for known.
                if not self._replaced(msgspec.structs.replace(standing, epoch=self.epoch), etag):
                    continue
                for part in results_of(self._store, standing):
                    self._index.add_datum_results(standing.record.id, part)
            elif standing.parts:
                self._clear(standing.record.id)
            return standing.record
        raise self._over()

    def note(self, record: JobRecord, results: Sequence[tuple[str, bytes]] = ()) -> None:
        """Let the store know how a job stands, and what more of its datums came to. What the results point to must be
        durable."""
        for _ in range(CAS_TRIES):
            old = self._known[0] if self._known is not None else None
            same_job = old is not None and old.record.id == record.id
            parts = old.parts if old is not None and same_job else 0
            if results:
                self._store.put(part_key(record.id, parts), msgspec.msgpack.encode(list(results)))
                parts += 1
            value = Standing(nonce=nonce(), epoch=self.epoch, parts=parts, record=record)
            if self._replaced(value, None if self._known is None else self._known[1]):
                break
            self._known = read_standing(self._store, self.pipeline)
            if self._known is not None:
                self._check(self._known[0])
        else:
            raise self._over()
        if record.finished and parts:
            self._clear(record.id)

    def _replaced(self, value: Standing, etag: ETag | None) -> bool:
        key, value = standing_key(self.pipeline), msgspec.structs.replace(value, nonce=nonce())
        data = encode(value)
        try:
            made = self._store.put_if_absent(key, data) if etag is None else self._store.put_if_match(key, data, etag)
        except Conflict:
            return False
        self._known = (value, made)
        return True

    def _check(self, standing: Standing) -> None:
        if standing.epoch > self.epoch:
            raise self._over()

    def _clear(self, job: JobId) -> None:
        for stat in list(self._store.list(f"datums/{job}/")):
            self._store.delete(stat.key)

    def _over(self) -> Unavailable:
        return Unavailable(f"pipeline {self.pipeline} was taken over by another node")


def head_event(pipeline: str, head: BranchHead) -> Event:
    """What the head of a pipeline's output branch says of who has it."""
    return HeadSeen(pipeline, head.holder, head.epoch)
