"""Commits, branch heads, tags and the other small objects of the store: canonical JSON, one line each.

JSON is canonical here when fields stand in the order of their declaration, without spaces; `encode` writes just that.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId, GlobalId, JobId, hash_bytes
from vfsd.model.trigger import Trigger

T = TypeVar("T", bound=msgspec.Struct)
FORMAT = 1  # of every object below, see docs/format.md
ANCESTORS = 64  # how many ancestors a commit object names, so that history is read in parallel
CHUNK_SIZE = 22 << 10  # bytes of a chunk on average, where nothing else is said: docs/decisions/0017-chunk-size.md
SMALLEST_CHUNKS, LARGEST_CHUNKS = 4 << 10, 4 << 20  # averages that a store can be made with


class Provenance(msgspec.Struct, frozen=True):
    """One direct input of a commit: what was read to make it. `name` is the input's name in the pipeline. `kind`: how
    that is known: empty when whoever made the commit said so, else as in model.observation."""

    repo: str
    branch: str
    commit: CommitId
    name: str = ""
    kind: str = ""


class RootAttributes(msgspec.Struct, frozen=True):
    """Attributes of a commit's root directory: permission bits, owner, mtime in ns."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit's header: its identity. The commit id is the BLAKE3-256 of these bytes.

    tree: hex id of the root directory's node, empty when the commit holds no file. digest: content digest of the
    root. files, size: how many files it holds and their bytes. linked: how many of them are names of hard-linked files.
    directories: how many the root has. parents: first the one that the branch stood at. time: ns since 1970, never
    below the parent's. pipeline, job: what wrote it, empty for users' commits. lineage: id of the object that says
    what was seen of its writers (model.observation), empty for none.
    """

    format: int = FORMAT
    repo: str
    branch: str
    tree: str
    digest: str
    root: RootAttributes = RootAttributes()
    files: int
    size: int
    linked: int = 0
    directories: int = 0
    parents: tuple[CommitId, ...]
    author: str
    time: int
    message: str
    global_id: GlobalId
    provenance: tuple[Provenance, ...] = ()
    pipeline: str = ""
    job: JobId | None = None
    lineage: str = ""


class BranchHead(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `refs/<repo>/<branch>`, the only object that changes.

    commit: None before the first commit. nonce: fresh 128 bits in each write, so that no two writes are equal bytes
    (an ETag may be a hash of the content) and a writer whose answer was lost recognises its own write.
    pipeline: whose output branch this is; users may not write to it then. holder: of an output branch, the runner that
    has the pipeline (vfsd.pipeline.lease), empty before the first. epoch: how often that was decided anew; only who was
    given the present epoch may move the branch for the pipeline. ticked: of the branch with the ticks of a cron input,
    which is its pipeline's too, until when they are made, in ns since 1970; 0 elsewhere. trigger: what moves the
    branch; users do not write to it then.
    """

    format: int = FORMAT
    commit: CommitId | None
    nonce: str
    moved: int
    pipeline: str = ""
    holder: str = ""
    epoch: int = 0
    ticked: int = 0
    trigger: Trigger | None = None


class RepoObject(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `repos/<repo>`."""

    format: int = FORMAT
    created: int
    description: str = ""
    nonce: str


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `tags/<repo>/<tag>`: written once, deleted at most."""

    format: int = FORMAT
    commit: CommitId
    created: int
    message: str = ""


class GlobalRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `globals/<gid>/<repo>/<branch>`: the commit of that branch that carries the global id."""

    format: int = FORMAT
    commit: CommitId
    time: int


class StoreFormat(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `format`: what a store is, fixed when it is made.

    chunk_min, chunk_avg, chunk_max: FastCDC's sizes in bytes. shared: whether the conditional writes that several
    nodes need were seen to work when the store was made.
    """

    vfsd: int = 1
    id: str
    created: int
    chunk_min: int = CHUNK_SIZE // 4
    chunk_avg: int = CHUNK_SIZE
    chunk_max: int = CHUNK_SIZE * 4
    shared: bool = True


def encode(value: msgspec.Struct) -> bytes:
    """Canonical JSON bytes."""
    return msgspec.json.encode(value)


def decode(data: bytes, kind: type[T], what: str) -> T:
    """What `encode` gave; `what` names the object in the error. Damaged, also for a later format's."""
    try:
        value = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"{what} cannot be read: {error}") from None
    if getattr(value, "format", FORMAT) != FORMAT:
        raise Damaged(f"{what} has format {value.format}, this vfsd knows format {FORMAT}: update vfsd")  # type: ignore[attr-defined]
    return value


def commit_id_of(header: bytes) -> CommitId:
    """The id of the commit whose header bytes these are."""
    return CommitId(hash_bytes(header).hex())
