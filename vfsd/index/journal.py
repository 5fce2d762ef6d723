"""The journal file: changes that were acknowledged and are in no commit yet. Unlike the index it may not be deleted.

It is a file of its own for that reason (docs/decisions/0002-journal-file.md). One process writes it at a time; the
worktree's lock sees to that.
"""

from __future__ import annotations

import msgspec

from vfsd.index.connection import SqliteFile
from vfsd.index.schema import JOURNAL_VERSION


class BranchRow(msgspec.Struct, frozen=True):
    """A branch with a mutable head here. base: the commit that its records apply to, empty for none yet. held: the
    message of an open transaction, None when there is none."""

    id: int
    repo: str
    branch: str
    base: str
    held: str | None


class JournalFile:
    """The journal at `path`, made when it is not there."""

    def __init__(self, path: str) -> None:
        self.file = SqliteFile(path, "journal", JOURNAL_VERSION)

    def close(self) -> None:
        """Close every connection."""
        self.file.close()

    def branches(self) -> list[BranchRow]:
        """All branches that have, or had, changes here."""
        rows = self.file.rows("SELECT id, repo, branch, base, held FROM branches ORDER BY id")
        return [_branch(row) for row in rows]

    def branch(self, repo: str, branch: str, base: str) -> BranchRow:
        """The row of a branch, made with `base` when there is none."""
        with self.file.write() as db:
            db.execute("INSERT OR IGNORE INTO branches (repo, branch, base) VALUES (?, ?, ?)", (repo, branch, base))
            row = db.execute(
                "SELECT id, repo, branch, base, held FROM branches WHERE repo = ? AND branch = ?", (repo, branch)
            ).fetchone()
        return _branch(row)

    def append(self, branch: int, record: bytes) -> int:
        """Add a record; its number. It survives the end of this process, and with `sync` that of the machine."""
        with self.file.errors():
            cursor = self.file.connection.execute(
                "INSERT INTO journal (branch, record) VALUES (?, ?)", (branch, record)
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def records(self, branch: int) -> list[tuple[int, bytes]]:
        """(number, record) in order."""
        rows = self.file.rows(
            "SELECT seq, record FROM journal WHERE branch = ? ORDER BY seq", (branch,)
        )
        return list(rows)

    def committed(self, branch: int, upto: int, base: str) -> None:
        """Records up to number `upto` are in the commit `base`, which the later ones apply to."""
        with self.file.write() as db:
            db.execute("DELETE FROM journal WHERE branch = ? AND seq <= ?", (branch, upto))
            db.execute("UPDATE branches SET base = ? WHERE id = ?", (base, branch))

    def hold(self, branch: int, message: str | None) -> None:
        """Begin (a message, maybe empty) or end (None) a transaction."""
        with self.file.write() as db:
            db.execute("UPDATE branches SET held = ? WHERE id = ?", ("" if message is None else "t" + message, branch))

    def forget(self, branch: int) -> None:
        """Drop a branch and its records."""
        with self.file.write() as db:
            db.execute("DELETE FROM journal WHERE branch = ?", (branch,))
            db.execute("DELETE FROM branches WHERE id = ?", (branch,))

    def sync(self) -> None:
        """Make every record durable against a power cut."""
        with self.file.errors():
            db = self.file.connection
            db.execute("PRAGMA synchronous = FULL")
            try:
                # A commit under FULL syncs the write-ahead log, all earlier commits in it included.
                db.execute("UPDATE branches SET held = held WHERE id = (SELECT min(id) FROM branches)")
            finally:
                db.execute("PRAGMA synchronous = NORMAL")


def _branch(row: tuple[int, str, str, str, str]) -> BranchRow:
    number, repo, branch, base, held = row
    return BranchRow(number, repo, branch, base, held[1:] if held else None)
