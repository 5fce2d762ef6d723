"""Takes over what a datum wrote to /pfs/out.

A symbolic link to one of the datum's inputs becomes what it points to, without a byte being moved. Every other one
stays as it is: nothing is read through it. What is neither file, directory nor link is refused.

Processes of the datum may still run (those that work on many datums do), so each directory is entered by a descriptor:
nobody can put a link in the place of a part of a path.
"""

from __future__ import annotations

import os
import posixpath
import stat

import msgspec

from vfsd.model.datum import Datum, DatumInput
from vfsd.model.entry import KIND_OF, Entry, Kind, directory, storable_time
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.names import split_path
from vfsd.model.shown import shown_name
from vfsd.repo.directory import DirectoryBuilder, entries
from vfsd.repo.ingest import Ingest, local_errors
from vfsd.repo.repository import Repository
from vfsd.repo.tree import find
from vfsd.repo.writer import BlobWriter

_OUT = b"/pfs/out"  # where messages say that it is
_CALLED = {Kind.FIFO: "a named pipe", Kind.SOCKET: "a socket", Kind.CHAR: "a device", Kind.BLOCK: "a device"}


class Collector:
    """Stores one datum's output. seen: where its inputs and its output were for its command. Blocks."""

    def __init__(self, repository: Repository, writer: BlobWriter, datum: Datum, seen: tuple[bytes, bytes]) -> None:
        self._repository = repository
        self._nodes = repository.nodes
        self._writer = writer
        self._datum = datum
        self._pfs, self._out = seen
        self._origin = bytes.fromhex(datum.id)
        self._ingest = Ingest(repository.chunker, writer, repository.nodes, origin=self._origin)

    def collect(self, out: bytes) -> Entry:
        """The directory `out` for the local directory of that path. InvalidArgument for what is not taken; NotFound,
        AccessDenied, NoSpace, Unavailable."""
        return self._directory(out, b"out", _OUT)

    def _directory(self, path: bytes, name: bytes, shown: bytes) -> Entry:
        """shown: its path as the command knows it."""
        with local_errors(shown):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            here = b"/proc/self/fd/%d/" % fd
            builder = DirectoryBuilder(self._writer)
            for child in sorted(map(os.fsencode, os.listdir(fd))):
                builder.add(self._entry(here + child, child, shown + b"/" + child))
        finally:
            os.close(fd)
        return directory(
            name, builder.finish(), mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid,
            mtime=storable_time(status.st_mtime_ns),
        )  # fmt: skip

    def _entry(self, path: bytes, name: bytes, shown: bytes) -> Entry:
        try:
            status = os.lstat(path)
            kind = KIND_OF[stat.S_IFMT(status.st_mode)]
            if kind == Kind.DIR:
                return self._directory(path, name, shown)
            if kind == Kind.SYMLINK:
                taken = self._input(os.readlink(path), shown)
                return self._ingest.one(path, name, status) if taken is None else self._taken(taken, name)
            if kind == Kind.FILE:
                return self._ingest.one(path, name, status)
        except OSError as error:
            error.filename = shown  # and not by which way it was reached
            with local_errors(shown):
                raise
        raise InvalidArgument(
            f"{shown_name(shown)} is {_CALLED[kind]}: only files, directories and symbolic links can be kept"
        )

    def _input(self, target: bytes, shown: bytes) -> Entry | None:
        """The file or directory of an input that a link points to; None when it points elsewhere."""
        folder = self._out + posixpath.dirname(shown)[len(_OUT) :]
        place = b"/" + posixpath.normpath(posixpath.join(folder, target)).lstrip(b"/")  # POSIX lets two slashes be
        if not place.startswith(self._pfs + b"/") or (place + b"/").startswith(self._out + b"/"):
            return None
        wanted = place[len(self._pfs) + 1 :]
        for one in self._datum.inputs:
            top = os.fsencode(one.name) + one.path.rstrip(b"/")
            if wanted == top or wanted.startswith(top + b"/"):
                return self._found(one, wanted[len(os.fsencode(one.name)) :], shown, target)
        raise InvalidArgument(f"{shown_name(shown)} is a link to {shown_name(target)}, which is no input of this datum")

    def _found(self, one: DatumInput, path: bytes, shown: bytes, target: bytes) -> Entry:
        root = self._repository.commits.get(one.commit).root
        try:
            return find(self._nodes, root, split_path(path or b"/"))
        except (NotFound, Refused):
            raise InvalidArgument(
                f"{shown_name(shown)} is a link to {shown_name(target)}, and that is not there"
            ) from None

    def _taken(self, entry: Entry, name: bytes) -> Entry:
        """What an input has, as this datum's work: everything in it carries the datum's id."""
        if entry.kind == Kind.DIR:
            builder = DirectoryBuilder(self._writer)
            for child in entries(self._nodes, entry.node):
                builder.add(self._taken(child, child.name))
            return directory(name, builder.finish(), mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime=entry.mtime)
        extra = msgspec.structs.replace(entry.more, origin=self._origin, link=0, names=0)
        return msgspec.structs.replace(entry, name=name, extra=extra)
