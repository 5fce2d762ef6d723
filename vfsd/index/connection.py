"""Connections to one SQLite file: one a thread, for as long as that runs; WAL; errors in vfsd's words."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vfsd.model.errors import AccessDenied, Damaged, NoSpace, Unavailable, VfsdError

_SHARED = 64 << 10  # bytes of memory that connections share, and more
BUSY_MS = 30_000  # how long a statement waits for another process's write


class _Own:
    """A thread's connection, closed when the thread ends: pools come and go, in a daemon that runs for weeks. Apart
    from the connection, which refers to itself by its cache of statements and would stay until it is collected."""

    __slots__ = ("__weakref__", "connection")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class SqliteFile:
    """A SQLite file that several threads and processes use at once.

    `migrations` names the set in index.migrations; `version` is the user_version of a current file.
    """

    def __init__(self, path: str, migrations: str, version: int) -> None:
        self.path = path
        self._local = threading.local()
        self._all: weakref.WeakSet[_Own] = weakref.WeakSet()
        self._lock = threading.Lock()
        with self.errors():
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            found = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if found < version:
            self._migrate(migrations)
        elif found > version:
            raise Damaged(f"{path} was written by a newer vfsd (schema {found}, this one knows {version}): update")

    def _migrate(self, name: str) -> None:
        # Imported when needed: only a new or older file needs it, and it costs every command's start.
        import sqlite_utils  # noqa: PLC0415

        from vfsd.index import migrations  # noqa: PLC0415

        # One process at a time: the lock file is never removed, and the kernel lets go of a dead holder's lock.
        with self.errors(), open(f"{self.path}-migrating", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            db = sqlite_utils.Database(sqlite3.connect(self.path, timeout=BUSY_MS / 1000))
            try:
                getattr(migrations, f"{name}_migrations").apply(db)
            finally:
                db.close()

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection, in autocommit mode."""
        return self._own().connection

    def _own(self) -> _Own:
        found: _Own | None = getattr(self._local, "own", None)
        if found is None:
            connection = sqlite3.connect(
                self.path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            found = _Own(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -8192")
            self._local.own = found
            with self._lock:
                self._all.add(found)
        return found

    def one(self, statement: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        try:
            found: tuple[Any, ...] | None = self.connection.execute(statement, values).fetchone()
        except sqlite3.DatabaseError as error:
            raise translate(self.path, error) from error
        return found

    def rows(self, statement: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, streamed."""
        with self.errors():
            own = self._own()  # held, should another thread go on with it
            yield from own.connection.execute(statement, values)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end of the block, rolled back when it raises."""
        with self.errors():
            connection = self.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's and the system's errors into VfsdErrors that name the file."""
        try:
            yield
        except VfsdError:
            raise
        except sqlite3.DatabaseError as error:
            raise translate(self.path, error) from error
        except OSError as error:
            raise AccessDenied(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Close every thread's connection. The file may not be used afterwards."""
        with self._lock:
            for own in list(self._all):
                own.connection.close()
            self._all.clear()


def translate(path: str, error: sqlite3.DatabaseError) -> VfsdError:
    """SQLite's error in vfsd's words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
        return NoSpace(f"{path}: the disk is full")
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return Damaged(f"{path}: {error}: run `vfsd index rebuild`")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return AccessDenied(f"{path}: {error}")
    return Unavailable(f"{path}: {error}")


def _is_full(path: str) -> bool:
    """Whether the disk has no room for what SQLite maps into memory, of which it says no more than that it failed."""
    try:
        disk = os.statvfs(os.path.dirname(path))
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _SHARED
