"""SQLite files that are gone at the end, for what may not fit into memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from vfsd.model.errors import NoSpace, Unavailable


class TemporaryFile:
    """A context. memory_kib: of the file's pages that are kept in memory. NoSpace and Unavailable leave it when the
    disk fails."""

    def __init__(self, tables: Iterable[str], memory_kib: int) -> None:
        self._tables = tuple(tables)
        self._memory_kib = memory_kib

    def __enter__(self) -> Self:
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{self._memory_kib}"):
            self._db.execute(f"PRAGMA {pragma}")
        for table in self._tables:
            self._db.execute(table)
        self._db.execute("BEGIN")  # one transaction, never ended: nobody else reads the file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            full = getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
            kind_of_error = NoSpace if full else Unavailable
            raise kind_of_error(
                f"the temporary directory cannot hold what was met so far ({error}): let TMPDIR name one with more room"
            ) from error
