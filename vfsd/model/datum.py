"""Datums: the pieces that a glob cuts a pipeline's input into, their ids and their states.

A datum's id says what would be computed, not when: it is over the pipeline, its code, and names, paths and contents of
the inputs. Two commits that hold the same file there give the same datum, which is what lets done work be skipped.
"""

from __future__ import annotations

import enum

import msgspec

from vfsd.model.ids import CommitId, DatumId, Digest, hash_bytes

_ENCODE = msgspec.msgpack.Encoder().encode
_PREFIX = b"vfsd datum 1\0"


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


class DatumInput(msgspec.Struct, frozen=True):
    """One file or directory of a datum.

    name: of the input in the spec. path: from the repo's root, as `/d/e`, without a trailing `/` (`/` is the root).
    digest: of the contents, for a directory those below. size: bytes of the file, or of all files below.
    """

    name: str
    repo: str
    branch: str
    commit: CommitId
    path: bytes
    is_dir: bool
    digest: Digest
    size: int


class Datum(msgspec.Struct, frozen=True):
    """What one run of a pipeline's command works on. inputs: in the order of the spec."""

    id: DatumId
    inputs: tuple[DatumInput, ...]

    def __str__(self) -> str:
        """The datum as messages name it: `texts:/a.txt`, several joined by ` + `."""
        return " + ".join(
            f"{one.name}:{one.path.decode(errors='backslashreplace')}{'/' * (one.is_dir and one.path != b'/')}"
            for one in self.inputs
        )


def datum_id(pipeline_name: str, code_identity: str, inputs: tuple[DatumInput, ...]) -> DatumId:
    """The id of a datum: BLAKE3-256, in hex, of the bytes `vfsd datum 1`, NUL, and then, as msgpack,

        [pipeline name, code identity, [[input name, path, is it a directory, digest], ...]]

    names and code identity being str, path and digest bin, the inputs in the order of the spec.
    """
    identity = [(one.name, one.path, one.is_dir, one.digest) for one in inputs]
    return DatumId(hash_bytes(_PREFIX + _ENCODE((pipeline_name, code_identity, identity))).hex())
