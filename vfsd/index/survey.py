"""What a check of the whole store has met, on disk, so that memory stays bounded whatever the store holds.

A nameless SQLite file in the system's temporary directory (SQLITE_TMPDIR, TMPDIR, /var/tmp), which goes when the
process does and so never needs a migration. About 70 bytes a tree node, 100 bytes a chunk whose bytes are to be read,
and 100 bytes a blob once the directories of packs had to be looked at. For one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import msgspec

from vfsd.index.index import PlaceRow
from vfsd.model.errors import NoSpace, Unavailable

MEMORY_KIB = 64 << 10  # SQLite's page cache; what is more goes to disk
REMEMBERED = 100_000  # sizes of containers, and keys, that are answered without SQL

_SCHEMA = (
    """
    CREATE TABLE containers (   -- objects that hold blobs, as listed
        id   BLOB PRIMARY KEY,      -- PackId (16 bytes) or commit id (32 bytes)
        size INTEGER NOT NULL,      -- bytes
        age  REAL NOT NULL          -- minus the time of its last change in seconds since 1970: the newest sorts first
    ) WITHOUT ROWID""",
    """
    CREATE TABLE met (          -- whatever is looked at once
        key BLOB PRIMARY KEY        -- the first 16 bytes of a BLAKE3 hash of what it is
    ) WITHOUT ROWID""",
    """
    CREATE TABLE steps (        -- where tree nodes were met first
        id     INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,    -- steps.id one step up; 0 above a root
        name   BLOB NOT NULL        -- what this step adds to the path; empty for a further node of the same thing
    )""",
    """
    CREATE TABLE pending (      -- tree nodes to be read
        age       REAL NOT NULL,        -- of the container
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,
        length    INTEGER NOT NULL,
        step      INTEGER NOT NULL,     -- steps.id
        expected  BLOB NOT NULL,        -- msgpack, of whoever put it here
        PRIMARY KEY (age, container, offset, step)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE chunks (       -- chunks to be read
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,
        id        BLOB NOT NULL,        -- ChunkId, 32 bytes
        length    INTEGER NOT NULL,
        size      INTEGER NOT NULL,     -- plain bytes
        step      INTEGER NOT NULL,     -- steps.id of the node that points to it
        name      BLOB NOT NULL,        -- of the entry in that node; empty in a node of a chunk list
        PRIMARY KEY (container, offset, id, length, size)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE blobs (        -- what the directories of packs and commits say, once that was asked for
        id        BLOB NOT NULL,
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,
        length    INTEGER NOT NULL,
        PRIMARY KEY (id, container, offset)
    ) WITHOUT ROWID""",
)


class PendingRow(msgspec.Struct, frozen=True, gc=False):
    """A tree node to be read: see the table."""

    container: bytes
    offset: int
    length: int
    step: int
    expected: bytes


class ChunkRow(msgspec.Struct, frozen=True, gc=False):
    """A chunk to be read: see the table."""

    container: bytes
    offset: int
    id: bytes
    length: int
    size: int
    step: int
    name: bytes


class Survey:
    """A context: what was met is forgotten at its end. NoSpace and Unavailable leave it when the disk fails."""

    def __init__(self) -> None:
        self._sizes: dict[bytes, int] = {}
        self._recent: set[bytes] = set()

    def __enter__(self) -> Self:
        self._db = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{MEMORY_KIB}"):
            self._db.execute(f"PRAGMA {pragma}")
        for table in _SCHEMA:
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

    def is_first(self, key: bytes) -> bool:
        """Whether `key` (16 bytes) was not asked about before."""
        if key in self._recent:
            return False
        if len(self._recent) >= REMEMBERED:
            self._recent.clear()
        self._recent.add(key)
        return self._db.execute("INSERT OR IGNORE INTO met (key) VALUES (?)", (key,)).rowcount == 1

    # Containers

    def add_containers(self, rows: Iterable[tuple[bytes, int, float]]) -> int:
        """Take in (id, size in bytes, time of the last change in s); how many they are."""
        return self._db.executemany(
            "INSERT OR REPLACE INTO containers (id, size, age) VALUES (?, ?, ?)",
            ((id_, size, -modified) for id_, size, modified in rows),
        ).rowcount

    def container_size(self, container: bytes) -> int | None:
        """Bytes of a container, None for one that is not there."""
        size = self._sizes.get(container)
        if size is None:
            row = self._db.execute("SELECT size FROM containers WHERE id = ?", (container,)).fetchone()
            if row is None:
                return None
            if len(self._sizes) >= REMEMBERED:
                self._sizes.clear()
            size = self._sizes[container] = row[0]
        return size

    def containers(self) -> Iterator[tuple[bytes, int]]:
        """(id, size) of all, packs and commits mixed, in order of ids."""
        yield from self._db.execute("SELECT id, size FROM containers ORDER BY id")

    # Tree nodes

    def add_step(self, parent: int, name: bytes) -> int:
        """One step down from `parent` (0: a root, `name` is what it is called); its id."""
        step = self._db.execute("INSERT INTO steps (parent, name) VALUES (?, ?)", (parent, name)).lastrowid
        assert step is not None
        return step

    def path(self, step: int) -> list[bytes]:
        """The names from a root down to a step, empty ones left out."""
        names: list[bytes] = []
        while step:
            step, name = self._db.execute("SELECT parent, name FROM steps WHERE id = ?", (step,)).fetchone()
            if name:
                names.append(name)
        return names[::-1]

    def add_pending(self, row: PendingRow) -> None:
        """Put a node in line; its container is there."""
        self._db.execute(
            "INSERT OR IGNORE INTO pending (age, container, offset, length, step, expected)"
            " SELECT age, ?1, ?2, ?3, ?4, ?5 FROM containers WHERE id = ?1",
            (row.container, row.offset, row.length, row.step, row.expected),
        )

    def next_containers(self, count: int) -> list[bytes]:
        """Up to `count` containers with nodes in line, the newest first. Nodes point to older ones: in this order each
        is met once."""
        rows = self._db.execute("SELECT DISTINCT age, container FROM pending ORDER BY age, container LIMIT ?", (count,))
        return [container for _, container in rows]

    def pending_end(self, container: bytes) -> int:
        """Where the last node in line in a container ends; 0 when there is none."""
        row = self._db.execute(
            "SELECT max(offset + length) FROM pending WHERE age = (SELECT age FROM containers WHERE id = ?1)"
            " AND container = ?1",
            (container,),
        ).fetchone()
        return row[0] or 0

    def take_pending(self, container: bytes, start: int, end: int) -> list[PendingRow]:
        """Take the nodes in line that lie between two offsets of a container."""
        where = (
            "FROM pending WHERE age = (SELECT age FROM containers WHERE id = ?1) AND container = ?1"
            " AND offset >= ?2 AND offset + length <= ?3"
        )
        # Not RETURNING: SQLite 3.40 gives back columns of the wrong type from tables without rowid.
        rows = self._db.execute(
            f"SELECT container, offset, length, step, expected {where}", (container, start, end)
        ).fetchall()
        if rows:
            self._db.execute(f"DELETE {where}", (container, start, end))
        return [PendingRow(*row) for row in rows]

    # Chunks

    def add_chunks(self, rows: Iterable[ChunkRow]) -> None:
        """Put chunks in line, each once."""
        self._db.executemany(
            "INSERT OR IGNORE INTO chunks (container, offset, id, length, size, step, name)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            ((row.container, row.offset, row.id, row.length, row.size, row.step, row.name) for row in rows),
        )

    def chunks(self) -> Iterator[ChunkRow]:
        """The chunks in line, container by container, as they lie. Nothing may be added meanwhile."""
        for row in self._db.execute(
            "SELECT container, offset, id, length, size, step, name FROM chunks ORDER BY container, offset"
        ):
            yield ChunkRow(*row)

    # Blobs

    def add_blobs(self, rows: Iterable[PlaceRow]) -> None:
        """Take in what a directory says."""
        self._db.executemany(
            "INSERT OR IGNORE INTO blobs (id, container, offset, length) VALUES (?, ?, ?, ?)",
            ((row.id, row.container, row.offset, row.length) for row in rows),
        )

    def blobs(self, blob_id: bytes) -> list[PlaceRow]:
        """Everywhere that a blob is said to lie."""
        rows = self._db.execute("SELECT id, container, offset, length FROM blobs WHERE id = ?", (blob_id,))
        return [PlaceRow(*row) for row in rows]
