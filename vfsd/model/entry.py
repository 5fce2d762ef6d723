"""Entries: what a directory holds under a name, and the pointers they carry.

A pointer has two parts: the id, which is identity, and the place, which is a hint. Identity never includes a hint, so
bytes may move (compaction) without any id changing. Field order is the order on disk: see docs/format.md.
"""

from __future__ import annotations

import enum
import stat

import msgspec

from vfsd.model.ids import ChunkId, Digest, NodeId, hash_bytes


class Kind(enum.IntEnum):
    """What an entry is; the values are the format's."""

    FILE = 0
    DIR = 1
    SYMLINK = 2
    FIFO = 3
    CHAR = 4
    BLOCK = 5
    SOCKET = 6


S_IFMT: dict[int, int] = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIR: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.CHAR: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
    Kind.SOCKET: stat.S_IFSOCK,
}
KIND_OF: dict[int, Kind] = {fmt: Kind(kind) for kind, fmt in S_IFMT.items()}


class Place(msgspec.Struct, array_like=True, gc=False):
    """Where a blob's stored bytes lie: a hint.

    container: a pack's id (16 bytes) or a commit's id (32 bytes); empty while the blob is not stored yet.
    offset, length: bytes within that object, the blob's frame included.

    The one mutable value of the model: a writer fills it in once it knows, and every pointer that shares it follows.
    """

    container: bytes = b""
    offset: int = 0
    length: int = 0


class Chunk(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A pointer to `size` plain bytes of a file."""

    id: ChunkId
    size: int
    place: Place


class Ref(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """A pointer to a tree node, with what is below it.

    digest: of the contents below (directories), or the id again (chunk lists).
    count: entries below that are not directories, or chunks. size: bytes of all files below. linked: how many of the
    entries are names of hard-linked files. directories: how many directories the directory itself has.
    """

    id: NodeId
    digest: Digest
    count: int
    size: int
    linked: int
    directories: int
    place: Place


class Extra(msgspec.Struct, array_like=True, frozen=True):
    """What most entries do not have.

    target: of a symlink. rdev: of a device. link: a number that the names of one hard-linked file share within a
    commit, 0 for none; names: how many these are. origin: id of the datum that wrote this file, empty for none.
    """

    target: bytes = b""
    rdev: int = 0
    link: int = 0
    xattrs: dict[bytes, bytes] = {}
    origin: bytes = b""
    names: int = 0


NO_EXTRA = Extra()


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """One name in a directory.

    mode: the 12 permission bits. mtime: nanoseconds since 1970. size: bytes of a file, of a symlink's target, or of all
    files below a directory. chunks: a file's chunks while they are few; node: the root of a longer chunk list, or of
    a directory's names (None when there are none).
    """

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    digest: Digest
    chunks: tuple[Chunk, ...] = ()
    node: Ref | None = None
    extra: Extra | None = None

    @property
    def st_mode(self) -> int:
        """Type and permission bits as stat(2) gives them."""
        return S_IFMT[self.kind] | self.mode

    @property
    def more(self) -> Extra:
        """The rare fields, with their defaults where there are none."""
        return self.extra or NO_EXTRA


def identity(entry: Entry) -> tuple[object, ...]:
    """The entry without its places: what node ids are made of."""
    node = entry.node
    return (
        entry.name,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime,
        entry.size,
        [(chunk.id, chunk.size) for chunk in entry.chunks],
        None if node is None else node.id,
        entry.extra,
    )


def likeness(entry: Entry) -> tuple[object, ...]:
    """What a directory's content digest is made of: name, kind, exec bit, contents; no times, no owners."""
    return (entry.name, entry.kind, bool(entry.mode & 0o111) and entry.kind == Kind.FILE, entry.digest)


def same(one: Entry | None, other: Entry | None) -> bool:
    """Whether two entries are equal but for places."""
    if one is None or other is None:
        return one is other
    return one is other or identity(one) == identity(other)


_ENCODE = msgspec.msgpack.Encoder().encode


def chunks_digest(chunks: tuple[Chunk, ...]) -> Digest:
    """The file id of a file whose chunk list is short: over kind, ids and sizes."""
    return Digest(hash_bytes(b"f" + _ENCODE([(chunk.id, chunk.size) for chunk in chunks])))


def symlink_digest(target: bytes) -> Digest:
    """The content digest of a symlink."""
    return Digest(hash_bytes(b"l" + target))


def special_digest(kind: int, rdev: int) -> Digest:
    """The content digest of a device, fifo or socket."""
    return Digest(hash_bytes(b"s" + _ENCODE((kind, rdev))))


EMPTY_FILE = chunks_digest(())
EMPTY_DIR = Digest(hash_bytes(b"d"))


def directory(
    name: bytes, node: Ref | None, *, mode: int = 0o755, uid: int = 0, gid: int = 0, mtime: int = 0,
    extra: Extra | None = None,
) -> Entry:
    """A directory entry over `node`, size and digest taken from it."""
    size, digest = (0, EMPTY_DIR) if node is None else (node.size, node.digest)
    return Entry(name, Kind.DIR, mode, uid, gid, mtime, size, digest, (), node, extra)


def storable_time(time_ns: int) -> int:
    """A time as entries can hold it, 64 bits with a sign: the nearest that there is, as filesystems do it."""
    return max(-(1 << 63), min(time_ns, (1 << 63) - 1))


def count_below(entry: Entry) -> int:
    """How many entries that are not directories `entry` stands for, itself included."""
    if entry.kind != Kind.DIR:
        return 1
    return 0 if entry.node is None else entry.node.count


def linked_below(entry: Entry) -> int:
    """How many names of hard-linked files `entry` stands for, itself included."""
    if entry.kind != Kind.DIR:
        return int(entry.more.link != 0)
    return 0 if entry.node is None else entry.node.linked
