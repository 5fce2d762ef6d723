"""What this node knows of blobs that were condemned and of commits that were dropped; the store has all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from sqlite3 import Connection

import msgspec

from vfsd.index.connection import SqliteFile
from vfsd.model.ids import CommitId

BATCH = 500  # rows a transaction, so that nobody waits long for the write lock
WHOLE = 0  # the offset that stands for a whole container: blobs begin behind it
Blob = tuple[bytes, int]  # container, offset

_STANDING = "SELECT version, number, nonce, put_back FROM gc_state"
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


class ListRow(msgspec.Struct, frozen=True):
    """A list as it is to be taken in. blobs: None when those that are here are right. pardoned: likewise."""

    number: int
    parts: str
    pardons: str
    blobs: Iterable[Blob] | None
    pardoned: Iterable[Blob] | None


class Standing(msgspec.Struct, frozen=True):
    """How far the state of lists was followed: its version, 0 where none was, and nonce, empty where it is not known;
    the number of its last list. put_back: how often an older copy was found in the store's place."""

    version: int = 0
    number: int = 0
    nonce: str = ""
    put_back: int = 0


class Verdicts:
    """Lists of condemned blobs, by their numbers; see repo/condemned.py."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def standing(self) -> Standing:
        """How far this is."""
        row = self._file.one(_STANDING)
        return Standing() if row is None else Standing(*row)

    def known(self) -> dict[int, tuple[str, str]]:
        """number → (its parts, its pardons) of the lists that are here."""
        with self._file.errors():
            rows = self._file.rows("SELECT number, parts, pardons FROM verdicts")
            return {number: (parts, pardons) for number, parts, pardons in rows}

    def follow(
        self, before: Standing, version: int, nonce: str, *, number: int, forgotten: int, lists: Sequence[ListRow],
    ) -> tuple[bool, bool]:
        """Go on to a later version of the state, whose last list is `number`, in one transaction: nobody may see half
        of it. (whether it was done: it is not when others have gone on from `before`, whether all was forgotten that
        may be gone by now)."""
        there = {one.number for one in lists}
        for other in self.known().keys() - there:
            if other <= forgotten:
                self._forget_places(other)
        with self._file.write() as db:
            if _standing(db) != before:
                return False, False
            stale = before.number < forgotten
            if stale:  # this node was away: anything that it knows of may have been deleted
                _forget(db)
            for other in self.known().keys() - there:
                if other <= forgotten:
                    self._forget_commits(db, other)
                self._remove(db, other)
            for one in lists:
                self._take(db, one)
            _stand(db, Standing(version, number, nonce, before.put_back))
        return True, stale

    def forget_all(self, before: Standing) -> None:
        """An older copy was put in the store's place: forget what it may not have, unless others have gone on from
        `before`."""
        with self._file.write() as db:
            if _standing(db) == before:
                _forget(db)
                for table in ("verdicts", "condemned", "pardons", "drops"):
                    db.execute(f"DELETE FROM {table}")
                _stand(db, Standing(put_back=before.put_back + 1))

    def _forget_places(self, number: int) -> None:
        """Forget what lay where a list says that was carried out: nobody will say any more that it is gone. While the
        list is here nobody shares it, so this takes its time: all places are looked at."""
        gone = (
            "EXISTS (SELECT 1 FROM condemned AS c WHERE c.number = ? AND c.container = places.container"
            " AND c.offset IN (0, places.offset))"
        )
        last = b""
        while True:
            ids = list(self._file.rows(
                f"SELECT id FROM places WHERE id > ? AND {gone} ORDER BY id LIMIT ?", (last, number, BATCH)
            ))  # fmt: skip
            if not ids:
                return
            with self._file.write() as db:
                db.executemany(f"DELETE FROM places WHERE id = ? AND {gone}", ((blob, number) for (blob,) in ids))
            last = ids[-1][0]

    @staticmethod
    def _forget_commits(db: Connection, number: int) -> None:
        """The same of commits."""
        gone = "SELECT lower(hex(container)) FROM condemned WHERE number = ? AND offset <= 1 AND length(container) = 32"
        db.execute(f"DELETE FROM commits WHERE id IN ({gone})", (number,))

    @staticmethod
    def _remove(db: Connection, number: int) -> None:
        for table in ("verdicts", "condemned", "pardons"):
            db.execute(f"DELETE FROM {table} WHERE number = ?", (number,))

    @staticmethod
    def _take(db: Connection, one: ListRow) -> None:
        if one.blobs is not None:
            db.execute("DELETE FROM condemned WHERE number = ?", (one.number,))
        for table, blobs in (("condemned", one.blobs), ("pardons", one.pardoned)):
            db.executemany(
                f"INSERT OR IGNORE INTO {table} (container, offset, number) VALUES (?, ?, ?)",
                ((*blob, one.number) for blob in blobs or ()),
            )
        db.execute(
            "INSERT OR REPLACE INTO verdicts (number, parts, pardons) VALUES (?, ?, ?)",
            (one.number, one.parts, one.pardons),
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


def _standing(db: Connection) -> Standing:
    row = db.execute(_STANDING).fetchone()
    return Standing() if row is None else Standing(*row)


def _stand(db: Connection, standing: Standing) -> None:
    db.execute("DELETE FROM gc_state")
    row = msgspec.structs.astuple(standing)
    db.execute("INSERT INTO gc_state (version, number, nonce, put_back) VALUES (?, ?, ?, ?)", row)


def _forget(db: Connection) -> None:
    """What lies where, and what was read of commits."""
    for table in ("places", "nodes", "commits", "provenance", "job_datums", "skips"):
        db.execute(f"DELETE FROM {table}")


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

    def remove(self, commits: Iterable[CommitId]) -> None:
        """Forget dropped commits whose headers nobody keeps any more."""
        with self._file.write() as db:
            db.executemany("DELETE FROM drops WHERE id = ?", ((commit,) for commit in commits))

    def find(self, commit: CommitId) -> DropRow | None:
        """What is known of a commit that was dropped; None for another."""
        row = self._file.one("SELECT id, time, author, reason, head FROM drops WHERE id = ?", (commit,))
        return None if row is None else DropRow(*row)

    def older(self, commit: CommitId) -> str | None:
        """The newest ancestor that was not dropped when that was looked at, empty for none; None where nobody did, or
        where it is the parent."""
        row = self._file.one("SELECT older FROM skips WHERE id = ?", (commit,))
        return None if row is None else row[0]

    def add_older(self, found: Iterable[tuple[CommitId, str]]) -> None:
        """Remember (commit, that ancestor)."""
        with self._file.write() as db:
            db.executemany("INSERT OR REPLACE INTO skips (id, older) VALUES (?, ?)", found)

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
