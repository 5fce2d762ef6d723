"""Numbered steps from an empty or older file to the schema of today. Imported only when a file needs one."""

from __future__ import annotations

import sqlite_utils
from sqlite_utils.migrations import Migrations

from vfsd.index.schema import INDEX_1, JOURNAL_1

index_migrations = Migrations("vfsd.index")
journal_migrations = Migrations("vfsd.journal")


@index_migrations(name="0001_first")
def _index_first(db: sqlite_utils.Database) -> None:
    for statement in INDEX_1:
        db.execute(statement)


@journal_migrations(name="0001_first")
def _journal_first(db: sqlite_utils.Database) -> None:
    for statement in JOURNAL_1:
        db.execute(statement)
