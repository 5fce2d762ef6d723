"""What was seen of the processes that wrote a commit: which files each had read before. One object of the store.

A commit's header names the commits that were read (`provenance`, of the kinds below) and, as `lineage`, the id of this
object, which has the paths. It is bounded: where too much was read of a directory, the directory stands for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId, hash_bytes

Path = tuple[bytes, ...]

READ = "observed"  # kinds of Provenance: a process that wrote the commit had read it
READ_CHANGED = "uncommitted"  # the same, and what it read was not in that commit yet
MAX_OBSERVATION = 64 << 20  # bytes of the largest object that is read

_ENCODE = msgspec.msgpack.Encoder().encode


class Folder(msgspec.Struct, array_like=True, frozen=True):
    """Files of one directory. names: sorted; empty for something in or below it, too much to be named."""

    path: Path
    names: tuple[bytes, ...] = ()


class Source(msgspec.Struct, array_like=True, frozen=True):
    """What was read of one commit. commit: empty when the branch had none. changed: these files had changes on the
    node that were in no commit; the branch stood at `commit`."""

    repo: str
    branch: str
    commit: str
    changed: bool
    folders: tuple[Folder, ...]


class Writer(msgspec.Struct, array_like=True, frozen=True):
    """Processes of a job that are called alike, and what they wrote. command: the program and its script, no
    arguments."""

    command: str
    wrote: tuple[Folder, ...]


class ObservedJob(msgspec.Struct, array_like=True, frozen=True):
    """The processes that one command started. command: of the first of them. partial: more was read than is told."""

    command: str
    partial: bool
    sources: tuple[Source, ...]
    writers: tuple[Writer, ...]


class Observation(msgspec.Struct, array_like=True, frozen=True):
    """The content of `lineage/<id>`: the jobs that wrote a commit and had read something."""

    jobs: tuple[ObservedJob, ...]

    @property
    def commands(self) -> str:
        """The programs that wrote, for people."""
        return ", ".join(dict.fromkeys(writer.command for job in self.jobs for writer in job.writers))


_DECODE = msgspec.msgpack.Decoder(Observation).decode


def encode_observation(observation: Observation) -> bytes:
    """The plain bytes of a lineage object; its id is their BLAKE3-256, in hex."""
    return _ENCODE(observation)


def decode_observation(data: bytes, wanted: str) -> Observation:
    """What `encode_observation` gave; Damaged when it is not that of the id `wanted`."""
    if hash_bytes(data).hex() != wanted:
        raise Damaged(f"lineage/{wanted}: its bytes are not those of its id")
    try:
        return _DECODE(data)
    except msgspec.MsgspecError as error:
        raise Damaged(f"lineage/{wanted} cannot be read: {error}") from None


def folders_of(paths: Iterable[Path]) -> tuple[Folder, ...]:
    """Paths of files by their directories, in order."""
    found: dict[Path, set[bytes]] = {}
    for path in paths:
        found.setdefault(path[:-1], set()).add(path[-1])
    return tuple(Folder(path, tuple(sorted(names))) for path, names in sorted(found.items()))


def paths_in(folders: Iterable[Folder]) -> Iterator[Path]:
    """The paths that folders name: files, or a directory for all that is in it."""
    for folder in folders:
        if not folder.names:
            yield folder.path
        for name in folder.names:
            yield (*folder.path, name)


def touches(folders: Iterable[Folder], path: Path) -> bool:
    """Whether folders name `path`, something below it, or a directory above it."""
    for folder in folders:
        depth = len(folder.path)
        if depth >= len(path):
            if folder.path[: len(path)] == path:
                return True
        elif path[:depth] == folder.path and (not folder.names or path[depth] in folder.names):
            # A name is a file's: nothing of the commit that was read lies below it.
            return True
    return False


def commit_of(source: Source) -> CommitId | None:
    """The commit that was read, None when the branch had none."""
    return CommitId(source.commit) if source.commit else None
