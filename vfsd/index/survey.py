"""What a walk over a whole store has met, on disk, so that memory stays bounded whatever the store holds.

A nameless SQLite file in the system's temporary directory (SQLITE_TMPDIR, TMPDIR, /var/tmp), which goes when the
process does and so never needs a migration. About 70 bytes a tree node, 100 bytes a chunk whose bytes are to be read,
and 100 bytes a blob once the directories of packs had to be looked at. For one thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from vfsd.index.index import PlaceRow
from vfsd.index.temporary import TemporaryFile

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
    """
    CREATE TABLE moved (        -- containers that were rewritten, as their maps are listed
        id   BLOB PRIMARY KEY,
        size INTEGER NOT NULL,      -- bytes of the map
        age  REAL NOT NULL          -- as in containers
    ) WITHOUT ROWID""",
    """
    CREATE TABLE leads (        -- lines of maps, of those that somebody asked for
        container BLOB NOT NULL,        -- that was rewritten
        offset    INTEGER NOT NULL,     -- where the blob lay in it
        length    INTEGER NOT NULL,
        kind      INTEGER NOT NULL,     -- of the blob, as in packs
        there     BLOB NOT NULL,        -- container that it lies in now, or lay in before that was rewritten too
        now       INTEGER NOT NULL,     -- where in it
        PRIMARY KEY (container, offset)
    ) WITHOUT ROWID""",
    "CREATE INDEX leads_back ON leads (there, now)",
    """
    CREATE TABLE doomed (       -- what a list condemns
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,     -- 0: all of it
        PRIMARY KEY (container, offset)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE marks (        -- containers that are needed
        container BLOB PRIMARY KEY
    ) WITHOUT ROWID""",
    """
    CREATE TABLE nodes (        -- tree nodes that are needed, or lie in an object that is
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,
        needed    INTEGER NOT NULL,     -- 1: something leads to it
        PRIMARY KEY (container, offset)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE edges (        -- commits that others were made from
        id TEXT PRIMARY KEY         -- commit id, 64 hex digits
    ) WITHOUT ROWID""",
    """
    CREATE TABLE live (         -- chunks and nodes that are needed, where their bytes are counted
        container BLOB NOT NULL,
        offset    INTEGER NOT NULL,
        length    INTEGER NOT NULL,
        PRIMARY KEY (container, offset)
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


class ContainerRow(msgspec.Struct, frozen=True, gc=False):
    """A container: its id, bytes, time of its last change (s since 1970), and whether it is there as a map only."""

    id: bytes
    size: int
    modified: float
    moved: bool = False


class LeadRow(msgspec.Struct, frozen=True, gc=False):
    """A line of a map: see the table."""

    container: bytes
    offset: int
    length: int
    kind: int
    there: bytes
    now: int


class Survey(TemporaryFile):
    """A context: what was met is forgotten at its end."""

    def __init__(self) -> None:
        super().__init__(_SCHEMA, MEMORY_KIB)
        self._sizes: dict[bytes, int] = {}
        self._recent: set[bytes] = set()

    def is_first(self, key: bytes) -> bool:
        """Whether `key` (16 bytes) was not asked about before."""
        if key in self._recent:
            return False
        if len(self._recent) >= REMEMBERED:
            self._recent.clear()
        self._recent.add(key)
        return self._db.execute("INSERT OR IGNORE INTO met (key) VALUES (?)", (key,)).rowcount == 1

    def has(self, key: bytes) -> bool:
        """Whether `key` (16 bytes) was asked about before; leaves it as it is."""
        return key in self._recent or self._db.execute("SELECT 1 FROM met WHERE key = ?", (key,)).fetchone() is not None

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

    def add_moved(self, rows: Iterable[tuple[bytes, int, float]]) -> int:
        """Take in (id, size of the map in bytes, its time); how many they are."""
        return self._db.executemany(
            "INSERT OR REPLACE INTO moved (id, size, age) VALUES (?, ?, ?)",
            ((id_, size, -modified) for id_, size, modified in rows),
        ).rowcount

    def is_moved(self, container: bytes) -> bool:
        """Whether a container has a map."""
        return self._db.execute("SELECT 1 FROM moved WHERE id = ?", (container,)).fetchone() is not None

    def twice(self) -> set[bytes]:
        """The containers that have a map and are there all the same: their rewriting goes on, or died."""
        return {row[0] for row in self._db.execute("SELECT id FROM moved JOIN containers USING (id)")}

    def moved(self) -> list[bytes]:
        """All containers that have a map."""
        return [row[0] for row in self._db.execute("SELECT id FROM moved ORDER BY id")]

    def add_leads(self, rows: Iterable[LeadRow]) -> None:
        """Take in the lines of a map."""
        self._db.executemany(
            "INSERT OR REPLACE INTO leads (container, offset, length, kind, there, now) VALUES (?, ?, ?, ?, ?, ?)",
            ((row.container, row.offset, row.length, row.kind, row.there, row.now) for row in rows),
        )

    def lead(self, container: bytes, offset: int) -> LeadRow | None:
        """Where the blob lies that lay at `offset`, by the map of its container."""
        row = self._db.execute(
            "SELECT container, offset, length, kind, there, now FROM leads WHERE container = ? AND offset = ?",
            (container, offset),
        ).fetchone()
        return None if row is None else LeadRow(*row)

    def leads(self, container: bytes) -> list[LeadRow]:
        """All lines of a container's map, by offset."""
        rows = self._db.execute(
            "SELECT container, offset, length, kind, there, now FROM leads WHERE container = ? ORDER BY offset",
            (container,),
        )
        return [LeadRow(*row) for row in rows]

    def leading_into(self, gone: set[bytes]) -> list[bytes]:
        """The containers whose maps, of those that were asked for, lead into one of `gone`."""
        rows = self._db.execute("SELECT DISTINCT container, there FROM leads")
        return sorted({container for container, there in rows if there in gone})

    def clear_doomed(self) -> None:
        """Forget what a list condemns."""
        self._db.execute("DELETE FROM doomed")

    def add_doomed(self, container: bytes, offsets: Iterable[int]) -> None:
        """What a list condemns in a container, 0 for all of it."""
        self._db.executemany(
            "INSERT OR IGNORE INTO doomed (container, offset) VALUES (?, ?)",
            ((container, offset) for offset in offsets),
        )

    def doomed_elsewhere(self) -> Iterator[tuple[bytes, int]]:
        """(container, offset) of what leads to something doomed by maps, of those that were asked for, and is not
        doomed itself; in order."""
        yield from self._db.execute(
            "WITH RECURSIVE names (container, offset) AS ("
            " SELECT l.container, l.offset FROM doomed AS d JOIN leads AS l ON l.there = d.container WHERE d.offset = 0"
            " UNION SELECT l.container, l.offset FROM doomed AS d JOIN leads AS l"
            "  ON l.there = d.container AND l.now = d.offset"
            " UNION SELECT l.container, l.offset FROM names AS n JOIN leads AS l"
            "  ON l.there = n.container AND l.now = n.offset)"
            " SELECT container, offset FROM names AS n WHERE NOT EXISTS ("
            "  SELECT 1 FROM doomed AS d WHERE d.container = n.container AND d.offset IN (0, n.offset))"
            " ORDER BY container, offset"
        )

    def container(self, container: bytes) -> ContainerRow | None:
        """A container, or its map where that is all that is left; None when neither is there."""
        for moved, table in ((False, "containers"), (True, "moved")):
            row = self._db.execute(f"SELECT size, age FROM {table} WHERE id = ?", (container,)).fetchone()
            if row is not None:
                return ContainerRow(container, row[0], -row[1], moved)
        return None

    # What is needed

    def mark(self, container: bytes) -> None:
        """A container, or a map, is needed."""
        self._db.execute("INSERT OR IGNORE INTO marks (container) VALUES (?)", (container,))

    def is_marked(self, container: bytes) -> bool:
        """Whether it is needed."""
        return self._db.execute("SELECT 1 FROM marks WHERE container = ?", (container,)).fetchone() is not None

    def marked(self) -> Iterator[ContainerRow]:
        """All that are needed and there, in order of ids. Nothing may be marked meanwhile."""
        yield from self._containers("m.container IS NOT NULL")

    def unmarked(self) -> Iterator[ContainerRow]:
        """All that are there and not needed, in order of ids. Nothing may be marked meanwhile."""
        yield from self._containers("m.container IS NULL")

    def _containers(self, where: str) -> Iterator[ContainerRow]:
        for moved, table in ((False, "containers"), (True, "moved")):
            other = " AND c.id NOT IN (SELECT id FROM containers)" if moved else ""
            for id_, size, age in self._db.execute(
                f"SELECT c.id, c.size, c.age FROM {table} AS c LEFT JOIN marks AS m ON m.container = c.id"
                f" WHERE {where}{other} ORDER BY c.id"
            ):
                yield ContainerRow(id_, size, -age, moved)

    def need_node(self, container: bytes, offset: int) -> bool:
        """Something leads to a tree node; whether that is new."""
        row = self._db.execute(
            "SELECT needed FROM nodes WHERE container = ? AND offset = ?", (container, offset)
        ).fetchone()
        if row is not None and row[0]:
            return False
        self._db.execute(
            "INSERT OR REPLACE INTO nodes (container, offset, needed) VALUES (?, ?, 1)", (container, offset)
        )
        return True

    def is_needed(self, container: bytes, offset: int) -> bool:
        """Whether something leads to a tree node."""
        row = self._db.execute(
            "SELECT needed FROM nodes WHERE container = ? AND offset = ?", (container, offset)
        ).fetchone()
        return row is not None and bool(row[0])

    def add_nodes(self, container: bytes, offsets: Iterable[int]) -> None:
        """Tree nodes that lie in a container."""
        self._db.executemany(
            "INSERT OR IGNORE INTO nodes (container, offset, needed) VALUES (?, ?, 0)",
            ((container, offset) for offset in offsets),
        )

    def node_containers(self) -> Iterator[bytes]:
        """The containers that needed tree nodes lie in. Nothing may be added meanwhile."""
        for row in self._db.execute("SELECT DISTINCT container FROM nodes WHERE needed = 1"):
            yield row[0]

    def unneeded_nodes(self) -> Iterator[tuple[bytes, int]]:
        """(container, offset) of the tree nodes in containers that are needed, to which nothing leads, in order."""
        yield from self._db.execute(
            "SELECT n.container, n.offset FROM nodes AS n JOIN marks AS m USING (container) WHERE NOT n.needed"
            " ORDER BY n.container, n.offset"
        )

    def add_edges(self, commits: Iterable[str]) -> None:
        """Commits that others were made from."""
        self._db.executemany("INSERT OR IGNORE INTO edges (id) VALUES (?)", ((commit,) for commit in commits))

    def edges(self) -> Iterator[str]:
        """All of them. Nothing may be added meanwhile."""
        for row in self._db.execute("SELECT id FROM edges"):
            yield row[0]

    def add_live(self, rows: Iterable[tuple[bytes, int, int]]) -> None:
        """(container, offset, length) of blobs that are needed, each counted once."""
        self._db.executemany("INSERT OR IGNORE INTO live (container, offset, length) VALUES (?, ?, ?)", rows)

    def live_bytes(self) -> Iterator[tuple[bytes, int]]:
        """(container, bytes in it that are needed) of all containers with any. Nothing may be added meanwhile."""
        yield from self._db.execute("SELECT container, sum(length) FROM live GROUP BY container")

    def live_blobs(self, container: bytes) -> set[int]:
        """Offsets of the blobs in a container that are needed."""
        return {row[0] for row in self._db.execute("SELECT offset FROM live WHERE container = ?", (container,))}

    def live_size(self, container: bytes) -> int:
        """Bytes in a container that are needed."""
        row = self._db.execute("SELECT sum(length) FROM live WHERE container = ?", (container,)).fetchone()
        return row[0] or 0

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
