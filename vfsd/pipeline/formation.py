"""Forms a job's datums: the matches of the glob in the input commit, less those that are done.

Where the last output stands on a job with the same glob and code, only what differs between the two input trees is
looked at; equal subtrees are not even read. Otherwise every match is held against the names in the ledger. In both
ways only directories that can hold a match are walked, and datums come out as they are found.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping

import msgspec

from vfsd.model.datum import Datum, DatumInput, datum_id
from vfsd.model.entry import Entry, Kind, Ref
from vfsd.model.glob import Glob, Position
from vfsd.model.ids import CommitId, DatumId
from vfsd.model.pipeline_spec import PipelineSpec, code_identity
from vfsd.repo.diff import changed_names
from vfsd.repo.nodes import NodeSource

BATCH = 1024  # datums given out at once
BATCH_S = 0.01  # seconds after which fewer are given out, so that the first can start

Match = tuple[bytes, Entry | None, Entry | None]


class Work(msgspec.Struct, frozen=True):
    """A datum to run. targets: what those of its inputs that are symbolic links point to, empty for the others."""

    datum: Datum
    targets: tuple[bytes, ...]

    def __str__(self) -> str:
        return str(self.datum)


class Batch(msgspec.Struct, frozen=True):
    """What was formed: datums to run, how many more were done already, and whether to ask again."""

    work: list[Work]
    skipped: int
    more: bool


class Done(msgspec.Struct, frozen=True):
    """What is done already.

    names: ids of the datums in the ledger that the output stands on, as that ledger has them. root: of the input tree
    of which they are all the datums, by the same glob and code; None when they are not, then `names` holds them.
    count: how many they are. spare: datums that other jobs did, id → directory in their ledgers. finished: datums that
    this very job did before it was interrupted.
    """

    names: set[bytes]
    root: Entry | None
    count: int
    spare: Mapping[bytes, Entry]
    finished: Container[DatumId]


NOTHING_DONE = Done(set(), None, 0, {}, frozenset())


class Formation:
    """The datums of one job. For one thread at a time; reads trees, so it blocks."""

    def __init__(self, nodes: NodeSource, spec: PipelineSpec, commit: CommitId, root: Entry, done: Done) -> None:
        self._pipeline = spec.name
        self._code = code_identity(spec)
        self._pfs = spec.input.pfs
        self._commit = commit
        self._done = done
        self._left = set(done.names)  # of the ledger's names: those that were not met yet
        self._gone: list[bytes] = []
        self._matches = changed_matches(nodes, Glob(self._pfs.glob), done.root, root)
        self.carried: dict[bytes, Entry] = {}  # datums met that other jobs did
        self.finished = 0  # datums met that this job did before

    @property
    def removed(self) -> list[bytes]:
        """Names in the ledger that are no datums any more; known once nothing is left to form."""
        return sorted(self._left) if self._done.root is None else sorted(self._gone)

    def batch(self) -> Batch:
        """The next datums. Whatever reading trees raises."""
        work: list[Work] = []
        skipped = 0
        until = time.monotonic() + BATCH_S
        for path, old, new in self._matches:
            if old is not None and new is not None and _content(old) == _content(new):
                continue  # only times or owners are others
            if old is not None:
                self._gone.append(self._datum(path, old).id.encode())
            if new is not None:
                datum = self._datum(path, new)
                if self._is_done(datum):
                    skipped += 1
                else:
                    work.append(Work(datum, (new.more.target if new.kind == Kind.SYMLINK else b"",)))
            if len(work) == BATCH or (not (len(work) + skipped) % 64 and time.monotonic() > until):
                return Batch(work, skipped, True)
        if self._done.root is not None:
            skipped += self._done.count - len(self._gone)
        return Batch(work, skipped, False)

    def _is_done(self, datum: Datum) -> bool:
        name = datum.id.encode()
        if name in self._left:
            self._left.discard(name)
            return True
        spare = self._done.spare.get(name)
        if spare is not None:
            self.carried[name] = spare
            return True
        if datum.id in self._done.finished:
            self.finished += 1
            return True
        return False

    def _datum(self, path: bytes, entry: Entry) -> Datum:
        pfs = self._pfs
        one = DatumInput(
            pfs.name, pfs.repo, pfs.branch, self._commit, path, entry.kind == Kind.DIR, entry.digest, entry.size
        )
        return Datum(datum_id(self._pipeline, self._code, (one,)), (one,))


def same_datums(one: PipelineSpec, other: PipelineSpec) -> bool:
    """Whether two specs cut equal trees into equal datums."""
    return _cut(one) == _cut(other)


def _cut(spec: PipelineSpec) -> tuple[str, str, str, str]:
    pfs = spec.input.pfs
    return (spec.name, code_identity(spec), pfs.name, pfs.glob)


def _content(entry: Entry) -> tuple[bool, bytes]:
    return (entry.kind == Kind.DIR, entry.digest)


def changed_matches(nodes: NodeSource, glob: Glob, old: Entry | None, new: Entry) -> Iterator[Match]:
    """(path, old entry, new entry) of the matches that are not the same in two trees, a directory ahead of what is in
    it; None where there is none. With no old tree all matches of the new one."""
    position = glob.root
    if position.matches:
        yield b"/", old, new
    yield from _below(nodes, position, b"", None if old is None else old.node, new.node)


def _below(
    nodes: NodeSource, position: Position, directory: bytes, old: Ref | None, new: Ref | None
) -> Iterator[Match]:
    inside = position.below
    if inside is None:
        return
    for name, one, other in changed_names(nodes, old, new):
        if not name.startswith(inside.prefix):
            continue
        there = inside.behind(name.decode(errors="surrogateescape"))
        path = directory + b"/" + name
        if there.matches:
            yield path, one, other
        yield from _below(nodes, there, path, _node(one), _node(other))


def _node(entry: Entry | None) -> Ref | None:
    return entry.node if entry is not None and entry.kind == Kind.DIR else None
