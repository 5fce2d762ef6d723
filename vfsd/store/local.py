"""Objects as files under a directory, safe against concurrent processes, crashes and power cuts.

An object is written to `tmp/`, synced, then moved to its name, and the folder synced. Conditional replacement excludes
other processes by flock(2) on files under `locks/`, which the kernel releases when a process dies. Folders are never
removed, so that one known to be durable stays so. Needs a filesystem with hard links and flock.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat as st
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from blake3 import blake3

from vfsd.model.errors import AccessDenied, Conflict, InvalidArgument, NoSpace, NotFound, Unavailable, VfsdError
from vfsd.store.api import Buffer, ETag, Stat
from vfsd.store.buffers import BUFFERS
from vfsd.store.keys import RESERVED, check_key, check_prefix, is_component, is_immutable
from vfsd.store.open_files import OpenFile, OpenFiles

STRIPES = 64  # lock files: writers of different keys rarely meet
STALE = 86400.0  # seconds after which a temporary file is taken for a dead writer's
OPEN_FILES = 64  # immutable objects kept open for get_range
DURABLE_FOLDERS = 10_000  # how many folders are remembered as synced

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FULL = {errno.ENOSPC, errno.EDQUOT}


class LocalStore:
    """An ObjectStore in the directory `path`, which the first write makes when it is not there.

    ETags: objects that are replaced are small, theirs is a hash of the content. It must not come from stat(2): the
    kernel reuses an inode's number at once and stamps times in steps of some milliseconds, in which several
    replacements fit, so two versions could look alike. Objects under `packs/` and `commits/` are large or many and
    written once: theirs is size and mtime, so that a listing reads no content.
    """

    def __init__(self, path: str) -> None:
        self._root = os.path.abspath(path)
        if os.path.exists(self._root) and not os.path.isdir(self._root):
            raise InvalidArgument(f"{self._root} is not a directory, so no store can be in it")
        self._tmp = os.path.join(self._root, "tmp")
        self._locks = os.path.join(self._root, "locks")
        self._made = os.path.isdir(self._tmp)
        self._durable: set[str] = set()
        self._open_files = OpenFiles(OPEN_FILES)
        if self._made:
            self._clean_tmp()

    @property
    def url(self) -> str:
        return f"file://{self._root}"

    @property
    def is_local(self) -> bool:
        return True

    # reading

    def get(self, key: str) -> tuple[bytes, ETag]:
        try:
            with open(self._path(key), "rb", buffering=0) as file:
                data = file.readall()
                return data, _etag(key, data, os.fstat(file.fileno()))
        except OSError as error:
            raise self._failure(error, key) from None

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        try:
            file = self._open(key)  # open for as long as this refers to it
            return os.pread(file.fd, length, offset)
        except OSError as error:
            raise self._failure(error, key) from None

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        try:
            file = self._open(key)
            view = BUFFERS.take(length)
            return view[: os.preadv(file.fd, [view], offset)]
        except OSError as error:
            raise self._failure(error, key) from None

    def _open(self, key: str) -> OpenFile:
        if not is_immutable(key):
            return OpenFile(self._path(key))
        file = self._open_files.get(key)
        if file is not None and not file.is_gone():
            return file
        self._open_files.discard(key)  # another process has deleted it, or mended it
        return self._open_files.add(key, OpenFile(self._path(key)))

    def stat(self, key: str) -> Stat:
        try:
            return self._stat(key)
        except OSError as error:
            raise self._failure(error, key) from None

    def _stat(self, key: str) -> Stat:
        path = self._path(key)
        if is_immutable(key):
            status = os.stat(path)
            if not st.S_ISREG(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            return Stat(key, status.st_size, _etag(key, b"", status), status.st_mtime)
        with open(path, "rb", buffering=0) as file:
            data = file.readall()
            status = os.fstat(file.fileno())
        return Stat(key, len(data), _etag(key, data, status), status.st_mtime)

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        check_prefix(prefix)
        for key in self._keys(prefix.rpartition("/")[0], prefix, after):
            try:
                yield self._stat(key)
            except FileNotFoundError:
                continue  # deleted since the folder was read
            except OSError as error:
                raise self._failure(error, key) from None

    def list_folders(self, prefix: str) -> Iterator[str]:
        check_prefix(prefix)
        for name in self._names(prefix.removesuffix("/")):
            folder = name.removesuffix("/")
            if folder != name and next(self._keys(prefix + folder, "", ""), None) is not None:
                yield folder

    def _keys(self, folder: str, prefix: str, after: str) -> Iterator[str]:
        """Keys below `folder` in byte order; one folder's names are in memory at a time."""
        for name in self._names(folder):
            key = f"{folder}/{name}" if folder else name
            if not name.endswith("/"):
                if key > after and key.startswith(prefix):
                    yield key
            elif (key.startswith(prefix) or prefix.startswith(key)) and (key > after or after.startswith(key)):
                yield from self._keys(key[:-1], prefix, after)

    def _names(self, folder: str) -> Sequence[str]:
        """The names in `folder`, folders with a `/` behind: so `a-b` comes before `a/`, as `a-b` does before `a/x`.
        Names that cannot stand in a key are none of ours."""
        try:
            with os.scandir(os.path.join(self._root, folder)) as entries:
                names = [
                    entry.name + "/" if entry.is_dir() else entry.name for entry in entries if is_component(entry.name)
                ]
        except OSError as error:
            if error.errno in _ABSENT and not self._is_gone():
                return []
            raise self._failure(error, folder) from None
        if not folder:
            names = [name for name in names if name.removesuffix("/") not in RESERVED]
        return sorted(names)

    # writing

    def put(self, key: str, data: Buffer) -> ETag:
        with self._written(key, data) as (temporary, etag), self._locked(key):
            self._move(temporary, self._path(key))
        self._sync(key)
        return etag

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        with self._written(key, data) as (temporary, written):
            etag = written
            while not self._link(temporary, self._path(key)):
                try:
                    held, etag = self.get(key)
                except NotFound:
                    continue  # deleted just now
                if held != data:
                    raise Conflict(f"{key} is there already, with other bytes")
                break
        self._sync(key)
        return etag

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        with self._written(key, data) as (temporary, written), self._locked(key):
            try:
                held, found = self.get(key)
            except NotFound:
                raise Conflict(f"{key} was deleted meanwhile") from None
            if held != data:
                if found != etag:
                    raise Conflict(f"{key} was changed meanwhile")
                self._move(temporary, self._path(key))
        self._sync(key)
        return found if held == data else written

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._open_files.discard(key)
        if not os.path.lexists(path):
            if self._is_gone():
                raise self._gone()
            return
        with self._locked(key):
            try:
                os.unlink(path)
            except FileNotFoundError:
                return
            except OSError as error:
                raise self._failure(error, key) from None
        self._sync(key)

    def abort_uploads(self, prefix: str, older_s: float, *, dry_run: bool = False) -> int:
        check_prefix(prefix)
        return 0  # what dead writers leave is removed when the store is opened

    def close(self) -> None:
        self._open_files.clear()

    @contextmanager
    def _written(self, key: str, data: Buffer) -> Iterator[tuple[str, ETag]]:
        """A synced temporary file with `data`, removed at the end, and the ETag that it will have as `key`."""
        check_key(key)
        temporary = os.path.join(self._tmp, f"{os.getpid()}-{secrets.token_hex(8)}")
        try:
            try:
                fd = self._create(temporary)
                try:
                    rest = memoryview(data).cast("B")
                    while rest:
                        rest = rest[os.write(fd, rest) :]
                    os.fsync(fd)
                    etag = _etag(key, data, os.fstat(fd))
                finally:
                    os.close(fd)
            except OSError as error:
                raise self._failure(error, key, writing=True) from None
            yield temporary, etag
        finally:
            try:
                os.unlink(temporary)
            except OSError:
                pass  # moved to its name, or never made; what is left is cleaned when the store is opened

    def _create(self, temporary: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(temporary, flags, 0o666)
        except FileNotFoundError:
            self._make_layout()
            return os.open(temporary, flags, 0o666)

    def _make_layout(self) -> None:
        """Make the store's directory and the two folders that hold no objects."""
        if self._is_gone():
            raise self._gone()
        missing = []
        folder = self._root
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for path in [*reversed(missing), self._locks, self._tmp]:
            _make_folder(path)
        for path in missing:
            sync_folder(os.path.dirname(path))
        self._made = True

    def _move(self, temporary: str, path: str) -> None:
        try:
            try:
                os.rename(temporary, path)
            except FileNotFoundError:
                self._make_folders(os.path.dirname(path))
                os.rename(temporary, path)
        except OSError as error:
            raise self._failure(error, path, writing=True) from None

    def _link(self, temporary: str, path: str) -> bool:
        """Give the file its name; whether that was free."""
        try:
            try:
                os.link(temporary, path)
            except FileNotFoundError:
                self._make_folders(os.path.dirname(path))
                os.link(temporary, path)
        except FileExistsError:
            if os.path.isdir(path):
                raise Unavailable(f"{path} is a folder, so no object can be there") from None
            return False
        except OSError as error:
            raise self._failure(error, path, writing=True) from None
        return True

    def _make_folders(self, folder: str) -> None:
        if folder != self._root and not os.path.isdir(folder):
            self._make_folders(os.path.dirname(folder))
            _make_folder(folder)

    def _sync(self, key: str) -> None:
        """Make the entry of `key` durable, and those of its folders unless that is known: another process may have
        made a folder and not synced it yet. Deepest first: on ext4 the first sync then does the work of all."""
        folder = os.path.dirname(self._path(key))
        try:
            sync_folder(folder)
            while folder != self._root and folder not in self._durable:
                if len(self._durable) >= DURABLE_FOLDERS:
                    self._durable.clear()
                parent = os.path.dirname(folder)
                sync_folder(parent)
                self._durable.add(folder)
                folder = parent
        except OSError as error:
            raise self._failure(error, key, writing=True) from None

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        """No other thread or process replaces or deletes `key`. A descriptor of its own for each call: flock excludes
        by open file, so this holds between threads as well."""
        path = os.path.join(self._locks, f"{zlib.crc32(key.encode()) % STRIPES:02x}")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            self._make_layout()
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise self._failure(error, path, writing=True) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # the rest

    def _path(self, key: str) -> str:
        return f"{self._root}/{check_key(key)}"

    def _is_gone(self) -> bool:
        """Whether the store was here and is not any more. Then nothing in it may pass for deleted."""
        return self._made and not os.path.isdir(self._tmp)

    def _gone(self) -> Unavailable:
        return Unavailable(f"the store in {self._root} is gone: is its disk still mounted?")

    def _failure(self, error: OSError, what: str, *, writing: bool = False) -> VfsdError:
        path = os.path.join(self._root, what)
        if error.errno in _FULL:
            return NoSpace(f"{path}: no space left in the store's filesystem, or the quota is used up: make room there")
        if error.errno in _DENIED:
            return AccessDenied(f"{path}: {error.strerror}: give this user access to the store's directory")
        if self._is_gone():
            return self._gone()
        if error.errno in _ABSENT and not writing:
            return NotFound(f"{self.url} holds no object {what}")
        return Unavailable(f"{path}: {error.strerror}")

    def _clean_tmp(self) -> None:
        try:
            with os.scandir(self._tmp) as entries:
                for entry in entries:
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE:
                        os.unlink(entry.path)
        except OSError:
            pass  # another process cleans at the same time, or this one may only read: nothing depends on it


def _etag(key: str, data: Buffer, status: os.stat_result) -> ETag:
    if is_immutable(key):
        return ETag(f"{status.st_size:x}-{status.st_mtime_ns:x}")
    return ETag(blake3(data).hexdigest(16))


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path)
    except FileExistsError:
        pass  # another process was faster


def sync_folder(path: str | bytes) -> None:
    """Make the names in a folder durable against a power cut. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
