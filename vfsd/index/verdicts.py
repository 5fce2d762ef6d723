"""What this node knows of blobs that were condemned and of commits that were dropped; the store has all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from sqlite3 import Connection

import msgspec

from vfsd.index.connection import SqliteFile
from vfsd.model.ids import CommitId

BATCH = 500  # rows a transaction, so that nobody waits long for the write lock
WHOLE = 0  # the offset that stands for a whole container: blobs begin behind it

_CONDEMNED = (
    "FROM condemned AS c WHERE c.container = ?1 AND c.offset IN (0, ?2) AND NOT EXISTS"
    " (SELECT 1 FROM pardons AS p WHERE p.container = ?1 AND p.offset = ?2 AND p.number = c.number)"
)


class DropRow(msgspec.Struct, frozen=True):
    """A commit that was dropped: when (ns), by whom, why. head: its object without blobs and hints."""

    id: CommitId
    time: int
    author: str
    reason: str
    head: bytes


class Verdicts:
    """Lists of condemned blobs, by their numbers; see repo/condemned.py."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def known(self) -> dict[int, tuple[str, int]]:
        """number → (its parts, how many pardons were taken in) of the lists that are here, and of the last one there
        was, without parts if it is not here."""
        with self._file.errors():
            rows = self._file.rows("SELECT number, parts, pardoned FROM verdicts")
            return {number: (parts, pardoned) for number, parts, pardoned in rows}

    def take(
        self, number: int, parts: str, rows: Iterable[tuple[bytes, int]], pardons: Sequence[tuple[bytes, int]]
    ) -> None:
        """Take in a list, (container, offset) a blob, in place of what was known of it. One transaction: nobody may see
        half of it."""
        with self._file.write() as db:
            self._remove(db, number)
            db.executemany(
                "INSERT OR IGNORE INTO condemned (container, offset, number) VALUES (?, ?, ?)",
                ((container, offset, number) for container, offset in rows),
            )
            self._add(db, number, parts, pardons)

    def pardon(self, number: int, parts: str, pardons: Sequence[tuple[bytes, int]]) -> None:
        """Take in all pardons of a list that is here."""
        with self._file.write() as db:
            self._add(db, number, parts, pardons)

    def withdraw(self, number: int) -> None:
        """Forget a list that was not carried out."""
        with self._file.write() as db:
            self._remove(db, number)
            db.execute(
                "INSERT INTO verdicts (number, parts, pardoned) SELECT ?1, '', 0"
                " WHERE NOT EXISTS (SELECT 1 FROM verdicts WHERE number > ?1)",
                (number,),
            )
            db.execute("DELETE FROM verdicts WHERE number < ? AND parts = ''", (number,))

    def forget(self, number: int) -> None:
        """Forget a list that was carried out, and that there were any blobs where it says."""
        with self._file.write() as db:
            db.execute(
                "DELETE FROM places WHERE EXISTS (SELECT 1 FROM condemned AS c WHERE c.number = ?"
                " AND c.container = places.container AND c.offset IN (0, places.offset))",
                (number,),
            )
        self.withdraw(number)

    @staticmethod
    def _remove(db: Connection, number: int) -> None:
        for table in ("verdicts", "condemned", "pardons"):
            db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))

    @staticmethod
    def _add(db: Connection, number: int, parts: str, pardons: Sequence[tuple[bytes, int]]) -> None:
        db.executemany(
            "INSERT OR IGNORE INTO pardons (container, offset, number) VALUES (?, ?, ?)",
            [(*pardon, number) for pardon in pardons],
        )
        db.execute(
            "INSERT OR REPLACE INTO verdicts (number, parts, pardoned) VALUES (?, ?, ?)", (number, parts, len(pardons))
        )

    def any(self) -> bool:
        """Whether any blob is condemned."""
        return self._file.one("SELECT 1 FROM condemned LIMIT 1") is not None

    def among(self, containers: Iterable[bytes]) -> set[bytes]:
        """Those of `containers` of which something is condemned."""
        return {
            container
            for container in containers
            if self._file.one("SELECT 1 FROM condemned WHERE container = ? LIMIT 1", (container,)) is not None
        }

    def numbers(self, container: bytes, offset: int) -> list[int]:
        """The lists that condemn a blob; none when it may be pointed to."""
        return [row[0] for row in self._file.rows(f"SELECT c.number {_CONDEMNED}", (container, offset))]

    def listed(self, container: bytes) -> list[tuple[int, int]]:
        """(offset, number) of all that is said of a container, pardoned or not."""
        return list(self._file.rows("SELECT offset, number FROM condemned WHERE container = ?", (container,)))


class Drops:
    """Commits that were dropped; see repo/drops.py."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def add(self, rows: Sequence[DropRow]) -> None:
        """Remember dropped commits; of one that was dropped twice, the first time."""
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            with self._file.write() as db:
                db.executemany(
                    "INSERT INTO drops (id, time, author, reason, head) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id)"
                    " DO UPDATE SET time = excluded.time, author = excluded.author, reason = excluded.reason"
                    " WHERE excluded.time < drops.time",
                    [(row.id, row.time, row.author, row.reason, row.head) for row in part],
                )

    def find(self, commit: CommitId) -> DropRow | None:
        """What is known of a commit that was dropped; None for another."""
        row = self._file.one("SELECT id, time, author, reason, head FROM drops WHERE id = ?", (commit,))
        return None if row is None else DropRow(*row)

    def with_prefix(self, prefix: str, limit: int) -> list[CommitId]:
        """Up to `limit` dropped commits whose ids begin with `prefix`."""
        rows = self._file.rows(
            "SELECT id FROM drops WHERE id >= ? AND id < ? ORDER BY id LIMIT ?", (prefix, prefix + "g", limit)
        )
        return [CommitId(row[0]) for row in rows]

    def all(self) -> Iterator[DropRow]:
        """All that were dropped, in order of their ids."""
        for row in self._file.rows("SELECT id, time, author, reason, head FROM drops ORDER BY id"):
            yield DropRow(*row)
