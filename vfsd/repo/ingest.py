"""Local directories into trees and back: what `put`, `watch`, `get` and a datum's output use."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from vfsd.model.entry import (
    EMPTY_DIR,
    KIND_OF,
    Chunk,
    Entry,
    Extra,
    Kind,
    directory,
    special_digest,
    storable_time,
    symlink_digest,
)
from vfsd.model.errors import AccessDenied, NoSpace, NotFound, Unavailable, VfsdError
from vfsd.repo.chunker import BlobSink, Chunker
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.closed import ClosedFile
from vfsd.repo.directory import DirectoryBuilder, entries
from vfsd.repo.nodes import NodeSource
from vfsd.store.api import Plain

Progress = Callable[[int, int], None]  # called with (files, bytes) that are done since the last call
ReadChunk = Callable[[Chunk], Plain]


def _quiet(files: int, size: int) -> None:
    """Progress that nobody watches."""


class Ingest:
    """Stores local files and directories; memory stays at a few chunks and one open node a level.

    `origin` marks every file with the datum that wrote it. Symlinks are kept as they are; owners, modes and mtimes
    too. Hard links become files of their own content, which is stored once. With `only_closed` a file that somebody
    writes is BeingWritten instead of half a version.
    """

    def __init__(
        self, chunker: Chunker, sink: BlobSink, nodes: NodeSource, *, origin: bytes = b"",
        progress: Progress = _quiet, only_closed: bool = False,
    ) -> None:
        self._chunker = chunker
        self._sink = sink
        self._nodes = nodes
        self._origin = origin
        self._progress = progress
        self._only_closed = only_closed

    def path(self, path: bytes, name: bytes) -> Entry:
        """The entry `name` for what is at a local path, everything below it included."""
        with local_errors(path):
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                return self._directory(path, name, status)
            return self.one(path, name, status)

    def one(self, path: bytes, name: bytes, status: os.stat_result) -> Entry:
        """The entry `name` for a local path that lstat(2) says is no directory. OSError, BeingWritten."""
        kind = KIND_OF[stat.S_IFMT(status.st_mode)]
        return self._file(path, name) if kind == Kind.FILE else self._special(path, name, kind, status)

    def _directory(self, path: bytes, name: bytes, status: os.stat_result) -> Entry:
        builder = DirectoryBuilder(self._sink)
        for child in sorted(os.listdir(path)):
            builder.add(self.path(os.path.join(path, child), child))
        return directory(
            name, builder.finish(), mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid,
            mtime=storable_time(status.st_mtime_ns),
        )

    def _file(self, path: bytes, name: bytes) -> Entry:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # it may be no file by now
        try:
            closed = ClosedFile(fd) if self._only_closed else None
            status = os.fstat(fd) if closed is None else closed.status
            content = self._chunker.cut_reader(
                lambda at, count: _pread(fd, at, count), status.st_size, self._sink, self._nodes
            )
            if closed is not None:
                closed.check()
        finally:
            os.close(fd)
        self._progress(1, content.size)
        extra = Extra(origin=self._origin) if self._origin else None
        return Entry(
            name, Kind.FILE, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
            storable_time(status.st_mtime_ns), content.size, content.digest, content.chunks, content.node, extra,
        )

    def _special(self, path: bytes, name: bytes, kind: Kind, status: os.stat_result) -> Entry:
        target = os.readlink(path) if kind == Kind.SYMLINK else b""
        rdev = status.st_rdev if kind in {Kind.CHAR, Kind.BLOCK} else 0
        digest = symlink_digest(target) if kind == Kind.SYMLINK else special_digest(kind, rdev)
        extra = Extra(target, rdev, 0, {}, self._origin)
        self._progress(1, 0)
        return Entry(
            name, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
            storable_time(status.st_mtime_ns), len(target), digest, (), None, None if extra == Extra() else extra,
        )


def _pread(fd: int, offset: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.pread(fd, count, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Export:
    """Writes entries to local paths. A file appears under its name only when it is whole."""

    def __init__(self, nodes: NodeSource, read_chunk: ReadChunk, *, progress: Progress = _quiet) -> None:
        self._nodes = nodes
        self._read = read_chunk
        self._progress = progress
        self._owners = os.geteuid() == 0

    def path(self, entry: Entry, path: bytes) -> None:
        """Make `path` what `entry` is; a directory that is there already is filled."""
        with local_errors(path):
            if entry.kind == Kind.DIR:
                self._directory(entry, path)
            elif entry.kind == Kind.FILE:
                self._file(entry, path)
            else:
                self._special(entry, path)

    def _directory(self, entry: Entry, path: bytes) -> None:
        os.makedirs(path, exist_ok=True)
        if entry.digest != EMPTY_DIR:
            for child in entries(self._nodes, entry.node):
                self.path(child, os.path.join(path, child.name))
        self._attributes(entry, path)

    def _file(self, entry: Entry, path: bytes) -> None:
        with _whole(path) as part:
            with open(part, "xb") as file:
                file.writelines(self._read(chunk) for _, chunk in iter_chunks(self._nodes, content_of(entry)))
            self._attributes(entry, part)
        self._progress(1, entry.size)

    def _special(self, entry: Entry, path: bytes) -> None:
        with _whole(path) as part:
            if entry.kind == Kind.SYMLINK:
                os.symlink(entry.more.target, part)
            else:
                os.mknod(part, entry.st_mode, entry.more.rdev)
            self._attributes(entry, part)
        self._progress(1, 0)

    def _attributes(self, entry: Entry, path: bytes) -> None:
        if self._owners:
            os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
        if entry.kind != Kind.SYMLINK:
            os.chmod(path, entry.mode)
        os.utime(path, ns=(entry.mtime, entry.mtime), follow_symlinks=False)


@contextmanager
def _whole(path: bytes) -> Iterator[bytes]:
    """A path beside `path`, of what takes its place at the end. Errors name `path`."""
    folder, name = os.path.split(path)
    part = os.path.join(folder, b".vfsd-%d-" % os.getpid() + name[:200])
    try:
        yield part
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(part)
        if isinstance(error, OSError) and error.filename == part:
            error.filename = path
        raise


class local_errors:  # noqa: N801  read as a phrase: `with local_errors(path):`
    """Turns the system's errors about a local path into VfsdErrors that name it."""

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, VfsdError):
            raise _local_error(os.fsdecode(error.filename or self._path), error) from error


def _local_error(path: str, error: OSError) -> VfsdError:
    text = f"{path}: {error.strerror}"
    match error.errno:
        case errno.ENOENT:
            return NotFound(text)
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return AccessDenied(text)
        case errno.ENOSPC | errno.EDQUOT:
            return NoSpace(text)
    return Unavailable(text)
