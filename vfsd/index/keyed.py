"""Bytes by key and side in a temporary SQLite file: sorting and grouping of more than fits in memory.

The file has no name, lies where SQLite keeps temporary files and is gone with the object. One thread at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from vfsd.index.connection import translate

_SCHEMA = """
CREATE TABLE kept (
    key   BLOB NOT NULL,    -- what belongs together
    side  INTEGER NOT NULL, -- a number that the caller gives a meaning
    data  BLOB NOT NULL     -- the caller's
)
"""
_CACHE_KIB = 16 * 1024  # pages kept in memory


class KeyedFile:
    """Rows of (key, side, data). First all are added, then they are read. NoSpace when the disk is full."""

    def __init__(self) -> None:
        with _errors():
            self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            self._db.execute(_SCHEMA)
        self._indexed = False

    def add(self, rows: Iterable[tuple[bytes, int, bytes]]) -> None:
        """Add rows of key, side, data."""
        with _errors():
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO kept VALUES (?, ?, ?)", rows)
            self._db.execute("COMMIT")

    def keys(self) -> Iterator[bytes]:
        """The keys, each once, in order."""
        return (key for (key,) in self._read("SELECT DISTINCT key FROM kept ORDER BY key"))

    def sides(self, key: bytes) -> set[int]:
        """On which sides something has this key."""
        return {side for (side,) in self._read("SELECT DISTINCT side FROM kept WHERE key = ?", key)}

    def of(self, key: bytes, side: int) -> Iterator[bytes]:
        """What was added under a key on one side, in the order in which it was added."""
        rows = self._read("SELECT data FROM kept WHERE key = ? AND side = ? ORDER BY rowid", key, side)
        return (data for (data,) in rows)

    def _read(self, statement: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with _errors():
            if not self._indexed:
                self._db.execute("CREATE INDEX by_key ON kept (key, side)")
                self._indexed = True
            yield from self._db.execute(statement, values)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise translate("a temporary file for sorting", error) from error
