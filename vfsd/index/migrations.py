"""Numbered steps from an empty or older file to the schema of today. Imported only when a file needs one."""

from __future__ import annotations

import sqlite_utils
from sqlite_utils.migrations import Migrations

from vfsd.index.schema import INDEX_1, INDEX_2, INDEX_3, INDEX_4, INDEX_5, INDEX_6, JOURNAL_1

index_migrations = Migrations("vfsd.index")
journal_migrations = Migrations("vfsd.journal")


@index_migrations(name="0001_first")
def _index_first(db: sqlite_utils.Database) -> None:
    for statement in INDEX_1:
        db.execute(statement)


@index_migrations(name="0002_condemned_and_dropped")
def _index_condemned_and_dropped(db: sqlite_utils.Database) -> None:
    for statement in INDEX_2:
        db.execute(statement)


@index_migrations(name="0003_kept_segments")
def _index_kept_segments(db: sqlite_utils.Database) -> None:
    for statement in INDEX_3:
        db.execute(statement)


@index_migrations(name="0004_gc_state")
def _index_gc_state(db: sqlite_utils.Database) -> None:
    for statement in INDEX_4:
        db.execute(statement)


@index_migrations(name="0005_put_back")
def _index_put_back(db: sqlite_utils.Database) -> None:
    for statement in INDEX_5:
        db.execute(statement)


@index_migrations(name="0006_skips")
def _index_skips(db: sqlite_utils.Database) -> None:
    for statement in INDEX_6:
        db.execute(statement)


@journal_migrations(name="0001_first")
def _journal_first(db: sqlite_utils.Database) -> None:
    for statement in JOURNAL_1:
        db.execute(statement)
