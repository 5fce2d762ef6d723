"""The journal: changes that were acknowledged and are in no commit yet. Unlike the index it may not be deleted.

It is apart from the index for that reason (docs/decisions/0002-journal-file.md). Branches, and up to where the records
of each are in a commit, are rows of a SQLite file; the records themselves stand in a log beside it
(index.journal_log). One process writes the journal at a time; the worktree's lock sees to that.
"""

from __future__ import annotations

import os

import msgspec

from vfsd.index.connection import SqliteFile
from vfsd.index.journal_log import JournalLog
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
    """The journal whose rows are in the file `path`, made when it is not there, and whose log is in the folder of the
    same name without the suffix."""

    def __init__(self, path: str) -> None:
        self.file = SqliteFile(path, "journal", JOURNAL_VERSION)
        self._done: dict[int, int] = dict(self.file.rows("SELECT id, done FROM branches"))
        self._log = JournalLog(os.path.splitext(path)[0], self._is_done)
        self._log.last = max(self._log.last, *self._done.values(), 0)

    def close(self) -> None:
        """Close everything."""
        self._log.close()
        self.file.close()

    def _is_done(self, branch: int, number: int) -> bool:
        done = self._done.get(branch)
        return done is None or number <= done

    def branches(self) -> list[BranchRow]:
        """All branches that have, or had, changes here."""
        rows = self.file.rows("SELECT id, repo, branch, base, held FROM branches ORDER BY id")
        return [_branch(row) for row in rows]

    def branch(self, repo: str, branch: str, base: str) -> BranchRow:
        """The row of a branch, made with `base` when there is none."""
        with self.file.write() as db:
            made = db.execute(
                "INSERT OR IGNORE INTO branches (repo, branch, base, done) VALUES (?, ?, ?, ?)",
                (repo, branch, base, self._log.last),
            ).rowcount
            row = db.execute(
                "SELECT id, repo, branch, base, held, done FROM branches WHERE repo = ? AND branch = ?", (repo, branch)
            ).fetchone()
        self._done[row[0]] = row[5]
        if made:
            self._sync_rows()  # records name it by its number
        return _branch(row[:5])

    def left(self) -> list[BranchRow]:
        """Those that have records, or an open transaction."""
        return [row for row in self.branches() if row.held is not None or self._log.has_records(row.id)]

    def append(self, branch: int, record: bytes) -> int:
        """Add a record; its number, higher than any before. It survives the end of this process, and with `sync` that
        of the machine. NoSpace."""
        return self._log.append(branch, record)

    def has_records(self, branch: int) -> bool:
        """Whether a branch has any."""
        return self._log.has_records(branch)

    def records(self, branch: int) -> list[tuple[int, bytes]]:
        """(number, record) in order."""
        return self._log.records(branch)

    def committed(self, branch: int, upto: int, base: str) -> None:
        """Records up to number `upto` are in the commit `base`, which the later ones apply to."""
        done = max(upto, self._done.get(branch, 0))
        with self.file.write() as db:
            db.execute("UPDATE branches SET base = ?, done = ? WHERE id = ?", (base, done, branch))
        self._done[branch] = done
        self._tidy()

    def hold(self, branch: int, message: str | None) -> None:
        """Begin (a message, maybe empty) or end (None) a transaction."""
        with self.file.write() as db:
            db.execute("UPDATE branches SET held = ? WHERE id = ?", ("" if message is None else "t" + message, branch))

    def forget(self, branch: int) -> None:
        """Drop a branch and its records."""
        with self.file.write() as db:
            db.execute("DELETE FROM branches WHERE id = ?", (branch,))
        self._done.pop(branch, None)
        self._tidy()

    def sync(self) -> None:
        """Make every record durable against a power cut. In any thread."""
        self._log.sync()

    def _tidy(self) -> None:
        removable = self._log.removable()
        if removable:
            self._sync_rows()  # else a power cut could bring back a row whose records are gone
            self._log.remove(removable)

    def _sync_rows(self) -> None:
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
