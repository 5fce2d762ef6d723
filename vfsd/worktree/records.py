"""Journal records: what changed in a branch, by path, so that replaying them on a commit gives the head again.

msgpack, each a tagged array; docs/semantics.md says which operation writes which. `time` is when it was, in ns: it is
what directories get their times back from. Replaying tolerates a path that is not there: the commit may have moved on,
and a removal of nothing is nothing.
"""

from __future__ import annotations

import msgspec

from vfsd.model.errors import Damaged
from vfsd.repo.chunklist import Content

Path = tuple[bytes, ...]


class Attributes(msgspec.Struct, array_like=True, frozen=True):
    """mode: 12 permission bits. mtime: ns since 1970."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: dict[bytes, bytes] = {}


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """Where written bytes are: in the staging file `name`. A segment holds many small files, so `offset` says where
    byte 0 of this one is; a file of its own has offset 0. extents: the ranges that were written."""

    name: str
    offset: int
    extents: tuple[tuple[int, int], ...]


class FileRecord(msgspec.Struct, array_like=True, frozen=True, tag="file"):
    """A file was closed (or synced): its whole state. base: what the bytes outside the extents are up to byte
    `base_limit`; zeros from there to `size`. stored None: nothing but the base. time: ns, when it was made, if no
    record before has it. runs: numbers of the runs that wrote it since the last commit."""

    path: Path
    attributes: Attributes
    size: int
    base: Content | None
    base_limit: int
    stored: Stored | None
    time: int = 0
    runs: tuple[int, ...] = ()


class MakeRecord(msgspec.Struct, array_like=True, frozen=True, tag="make"):
    """A directory, symlink or special file was made."""

    path: Path
    kind: int
    attributes: Attributes
    target: bytes = b""
    rdev: int = 0
    time: int = 0


class RemoveRecord(msgspec.Struct, array_like=True, frozen=True, tag="remove"):
    """A name was removed."""

    path: Path
    time: int = 0


class MoveRecord(msgspec.Struct, array_like=True, frozen=True, tag="move"):
    """A name was moved over another, or both exchanged."""

    old: Path
    new: Path
    exchange: bool = False
    time: int = 0


class LinkRecord(msgspec.Struct, array_like=True, frozen=True, tag="link"):
    """A second name was given to a file."""

    old: Path
    new: Path
    time: int = 0


class AttributesRecord(msgspec.Struct, array_like=True, frozen=True, tag="attributes"):
    """Mode, owner, time or xattrs were changed."""

    path: Path
    attributes: Attributes


class RebaseRecord(msgspec.Struct, array_like=True, frozen=True, tag="rebase"):
    """The head followed its branch to another commit, somebody else's: the records before this one were made on the
    commit before it, the later ones on this. commit: its id, empty for none."""

    commit: str


class TryRecord(msgspec.Struct, array_like=True, frozen=True, tag="try"):
    """A commit was written that holds the records up to number `upto`, and the branch is being moved to it. If it is
    in the branch's history, they are done."""

    commit: str
    upto: int


class ReadPart(msgspec.Struct, array_like=True, frozen=True):
    """Names that were read in the directory `path` of a commit (see model.observation.Source); an empty one stands for
    something in or below it."""

    repo: str
    branch: str
    commit: str
    changed: bool
    path: Path
    names: tuple[bytes, ...]


class RunRecord(msgspec.Struct, array_like=True, frozen=True, tag="run"):
    """Who writes, and what its job had read, as far as no earlier record has it (see worktree.runs). reads: number of
    what the job read, which its runs share."""

    run: int
    command: str
    job: str
    reads: int
    partial: bool
    parts: tuple[ReadPart, ...]


Record = (
    FileRecord | MakeRecord | RemoveRecord | MoveRecord | LinkRecord | AttributesRecord | RebaseRecord | TryRecord
    | RunRecord
)

_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Record).decode


def encode_record(record: Record) -> bytes:
    """The bytes that stand in the journal."""
    return _ENCODE(record)


def decode_record(data: bytes) -> Record:
    """What `encode_record` gave; Damaged."""
    try:
        record: Record = _DECODE(data)
        return record
    except msgspec.MsgspecError as error:
        raise Damaged(f"a journal record cannot be read: {error}") from None
