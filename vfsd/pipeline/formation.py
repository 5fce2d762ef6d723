"""Forms a job's datums: what the inputs of its spec give, less what is done.

Where the last output stands on a job that cut its inputs in the same way, with the same code, only what differs between
the trees of then and now is looked at. Otherwise every datum is held against the names in the ledger. In both ways
datums come out as they are found, and memory is bounded by what changed, not by how many there are. How inputs are put
together is left to vfsd.pipeline.combine.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterator, Mapping

import msgspec

from vfsd.model.datum import Datum, DatumInput, DatumNamer, Identity, input_identity
from vfsd.model.entry import Entry
from vfsd.model.ids import CommitId, DatumId, Digest
from vfsd.model.pipeline_spec import PipelineSpec, code_identity
from vfsd.model.spec_input import Input
from vfsd.pipeline.combine import source
from vfsd.pipeline.pieces import Change, Combo, Piece
from vfsd.repo.nodes import NodeSource

BATCH = 1024  # datums given out at once
BATCH_S = 0.01  # seconds after which fewer are given out, so that the first can start

Roots = tuple[Entry | None, ...]  # of the trees of the spec's inputs, in their order; None for a branch without commits


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

    names: ids of the datums in the ledger that the output stands on, as that ledger has them; the formation takes the
    set over. before: the input trees of which they are all the datums, cut in the same way by the same code; None when
    they are not, then `names` holds them. count: how many they are. spare: datums that other jobs did, id → directory
    in their ledgers. finished: datums that this very job did before it was interrupted. again: nothing but those counts
    as done; `names` are still what the output stands on. redo: ids of datums of which the same holds.
    """

    names: set[bytes]
    before: Roots | None
    count: int
    spare: Mapping[bytes, Entry]
    finished: Container[DatumId]
    again: bool = False
    redo: Container[bytes] = frozenset()


NOTHING_DONE = Done(set(), None, 0, {}, frozenset())


class Formation:
    """The datums of one job. For one thread at a time; reads trees, so it blocks.

    commits, roots: of the inputs, in the order of PipelineSpec.pfs_inputs().
    """

    def __init__(
        self, nodes: NodeSource, spec: PipelineSpec, commits: tuple[CommitId | None, ...], roots: Roots, done: Done
    ) -> None:
        self._leaves = spec.pfs_inputs()
        self._namer = DatumNamer(spec.name, code_identity(spec))
        self._commits = commits
        self._done = done
        self._left = done.names  # those that were not met yet
        self._gone: list[bytes] = []
        before = done.before or (None,) * len(roots)
        inputs = source(nodes, spec.input, self._leaves, list(zip(before, roots, strict=True)))
        self._met: set[bytes] | None = set() if may_repeat(spec.input, spec.name) else None
        self._stream: Iterator[Change] = (
            ((combo, True) for combo in inputs.all(True)) if done.before is None else inputs.changes()
        )
        self.carried: dict[bytes, Entry] = {}  # datums met that other jobs did
        self.finished = 0  # datums met that this job did before

    @property
    def removed(self) -> list[bytes]:
        """Names in the ledger that are no datums any more; known once nothing is left to form."""
        return sorted(self._left) if self._done.before is None else sorted(self._gone)

    def batch(self) -> Batch:
        """The next datums. Whatever reading trees raises."""
        work: list[Work] = []
        skipped = 0
        until = time.monotonic() + BATCH_S
        for seen, (combo, new) in enumerate(self._stream):
            id_ = self._namer.id(map(self._identity, combo))
            name = id_.encode()
            if not new:
                self._gone.append(name)
            elif self._met is not None and name in self._met:
                pass  # an equal file under the same name in another part of a union is the same datum
            elif self._is_done(id_, name):
                skipped += 1
            else:
                work.append(Work(self._datum(id_, combo), tuple(piece.target for piece in combo)))
            if self._met is not None:
                self._met.add(name)
            if len(work) == BATCH or (not seen % 64 and time.monotonic() > until):
                return Batch(work, skipped, True)
        if self._done.before is not None:
            skipped += self._done.count - len(self._gone)
        return Batch(work, skipped, False)

    def _is_done(self, id_: DatumId, name: bytes) -> bool:
        if self._done.again or name in self._done.redo:
            return self._was_finished(id_)
        if name in self._left:
            self._left.discard(name)
            return True
        spare = self._done.spare.get(name)
        if spare is not None:
            self.carried[name] = spare
            return True
        return self._was_finished(id_)

    def _was_finished(self, id_: DatumId) -> bool:
        if id_ in self._done.finished:
            self.finished += 1
            return True
        return False

    def _identity(self, piece: Piece) -> Identity:
        pfs = self._leaves[piece.leaf]
        return input_identity(
            pfs.name, piece.path, piece.is_dir, piece.digest, piece.join_on, piece.group_by, pfs.empty_files
        )

    def _datum(self, id_: DatumId, combo: Combo) -> Datum:
        return Datum(id_, tuple(map(self._input, combo)))

    def _input(self, piece: Piece) -> DatumInput:
        pfs, commit = self._leaves[piece.leaf], self._commits[piece.leaf]
        assert commit is not None  # what has no commit has no files
        return DatumInput(
            pfs.name, pfs.repo, pfs.branch, commit, piece.path, piece.is_dir, Digest(piece.digest), piece.size,
            piece.join_on, piece.group_by, pfs.empty_files,
        )  # fmt: skip


def same_datums(one: PipelineSpec, other: PipelineSpec) -> bool:
    """Whether two specs cut equal trees into equal datums, and each of them only once."""
    return _cut(one) == _cut(other) and not may_repeat(one.input, one.name)


def _cut(spec: PipelineSpec) -> tuple[object, ...]:
    def shape(one: Input) -> tuple[object, ...]:
        if one.parts:
            return (one.kind, *map(shape, one.parts))
        (pfs,) = one.leaves(spec.name)
        return (pfs.name, pfs.glob, pfs.join_on, pfs.group_by, pfs.outer_join, pfs.empty_files)

    return (spec.name, code_identity(spec), shape(spec.input))


def may_repeat(one: Input, pipeline: str) -> bool:
    """Whether an input may give one datum twice: parts of a union that have a name in common."""
    names = [{pfs.name for pfs in part.leaves(pipeline)} for part in one.union]
    if sum(map(len, names)) > len(set().union(*names)):
        return True
    return any(may_repeat(part, pipeline) for part in one.parts)
