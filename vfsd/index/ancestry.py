"""The commits of a store with their parents, in a temporary file: a history may be longer than memory is large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from vfsd.index.temporary import TemporaryFile
from vfsd.model.ids import CommitId

MEMORY_KIB = 16 << 10  # of the file's pages that are kept in memory

_SCHEMA = (
    """
    CREATE TABLE commits (      -- those that can be read
        id BLOB PRIMARY KEY         -- commit id, 32 bytes
    ) WITHOUT ROWID""",
    """
    CREATE TABLE parents (      -- of which commit another is made
        parent BLOB NOT NULL,       -- commit ids
        child  BLOB NOT NULL,
        PRIMARY KEY (parent, child)
    ) WITHOUT ROWID""",
    """
    CREATE TABLE incomplete (   -- those with an ancestor that cannot be read
        id BLOB PRIMARY KEY
    ) WITHOUT ROWID""",
)


class Ancestry(TemporaryFile):
    """A context: the file is gone at its end."""

    def __init__(self) -> None:
        super().__init__(_SCHEMA, MEMORY_KIB)

    def __contains__(self, commit: CommitId) -> bool:
        return self._db.execute("SELECT 1 FROM commits WHERE id = ?", (bytes.fromhex(commit),)).fetchone() is not None

    def add(self, commit: CommitId, parents: Iterable[CommitId]) -> None:
        """Take in a commit."""
        child = bytes.fromhex(commit)
        self._db.execute("INSERT OR IGNORE INTO commits (id) VALUES (?)", (child,))
        self._db.executemany(
            "INSERT OR IGNORE INTO parents (parent, child) VALUES (?, ?)",
            ((bytes.fromhex(parent), child) for parent in parents),
        )

    def missing(self) -> Iterator[tuple[CommitId, CommitId]]:
        """(commit, parent of it that is not there), in order of the commits. Nothing may be added meanwhile."""
        for child, parent in self._db.execute(
            "SELECT child, parent FROM parents WHERE parent NOT IN (SELECT id FROM commits) ORDER BY child, parent"
        ):
            yield CommitId(child.hex()), CommitId(parent.hex())

    def complete(self) -> Iterator[CommitId]:
        """The commits all of whose ancestors are there. Once all are taken in."""
        self._db.execute(
            "WITH RECURSIVE lacking (id) AS ("
            " SELECT child FROM parents WHERE parent NOT IN (SELECT id FROM commits)"
            " UNION SELECT child FROM parents JOIN lacking ON parent = lacking.id)"
            " INSERT OR IGNORE INTO incomplete SELECT id FROM lacking"
        )
        for (commit,) in self._db.execute("SELECT id FROM commits WHERE id NOT IN (SELECT id FROM incomplete)"):
            yield CommitId(commit.hex())
