"""Datums: the pieces that a glob cuts a pipeline's input into, their ids and their states.

A datum's id says what would be computed, not when: it is over the pipeline, its code, and names, paths and contents of
the inputs. Two commits that hold the same file there give the same datum, which is what lets done work be skipped.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

from vfsd.model.ids import CommitId, DatumId, Digest, hash_bytes
from vfsd.model.shown import shown_name

_ENCODE = msgspec.msgpack.Encoder().encode
_PREFIX = b"vfsd datum 1\0"
SHOWN = 4  # inputs that a message names


class DatumState(enum.StrEnum):
    """Where a datum stands in a job: waiting or at work in the first three, done with in the others."""

    PENDING = "pending"  # waits for its turn, or for another try
    STARTING = "starting"  # its process is being made
    RUNNING = "running"
    SUCCESS = "success"  # its outputs are part of the output commit
    SKIPPED = "skipped"  # an earlier job did it; its outputs of then are part of the output commit
    FAILED = "failed"  # after its last try
    RECOVERED = "recovered"  # failed, but its err_cmd did not: no outputs, tried again by the next job

    @property
    def final(self) -> bool:
        """Whether this job is done with the datum."""
        return self not in {DatumState.PENDING, DatumState.STARTING, DatumState.RUNNING}


class DatumInput(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file or directory of a datum.

    name: of the input in the spec. path: from the repo's root, as `/d/e`, without a trailing `/` (`/` is the root).
    digest: of the contents, for a directory those below. size: bytes of the file, or of all files below. join_on,
    group_by: the input's templates filled with what its glob captured here; empty for none. empty: the command sees
    files without their bytes.
    """

    name: str
    repo: str
    branch: str
    commit: CommitId
    path: bytes
    is_dir: bool
    digest: Digest
    size: int
    join_on: bytes = b""
    group_by: bytes = b""
    empty: bool = False


class Datum(msgspec.Struct, frozen=True):
    """What one run of a pipeline's command works on. inputs: in the order of the spec."""

    id: DatumId
    inputs: tuple[DatumInput, ...]

    def __str__(self) -> str:
        """The datum as messages name it: `texts:/a.txt`, several joined by ` + `, the first of very many."""
        shown = " + ".join(
            f"{one.name}:{shown_name(one.path)}{'/' * (one.is_dir and one.path != b'/')}" for one in self.inputs[:SHOWN]
        )
        more = len(self.inputs) - SHOWN
        return f"{shown} and {more} more" if more > 0 else shown


Identity = tuple[str, bytes, bool, bytes] | tuple[str, bytes, bool, bytes, bytes, bytes, bool]


def input_identity(
    name: str, path: bytes, is_dir: bool, digest: bytes, join_on: bytes, group_by: bytes, empty: bool
) -> Identity:
    """What a datum's id says of one of its inputs: all that its command can see of it. See DatumInput."""
    if join_on or group_by or empty:
        return (name, path, is_dir, digest, join_on, group_by, empty)
    return (name, path, is_dir, digest)


class DatumNamer:
    """Gives ids to the datums of one pipeline: BLAKE3-256, in hex, of the bytes `vfsd datum 1`, NUL, and then, as
    msgpack,

        [pipeline name, code identity, [[input name, path, is it a directory, digest], ...]]

    names and code identity being str, path and digest bin, the inputs in the order of the spec. An input with one of
    them has three elements more: join_on and group_by as bin, and whether its files are shown empty.
    """

    def __init__(self, pipeline_name: str, code_identity: str) -> None:
        self._prefix = _PREFIX + b"\x93" + _ENCODE(pipeline_name) + _ENCODE(code_identity)  # an array of three

    def id(self, inputs: Iterable[Identity]) -> DatumId:
        """The id of the datum with these inputs."""
        return DatumId(hash_bytes(self._prefix + _ENCODE(list(inputs))).hex())


def datum_id(pipeline_name: str, code_identity: str, inputs: tuple[DatumInput, ...]) -> DatumId:
    """The id of a datum, see DatumNamer."""
    return DatumNamer(pipeline_name, code_identity).id(
        input_identity(one.name, one.path, one.is_dir, one.digest, one.join_on, one.group_by, one.empty)
        for one in inputs
    )
