"""The SQLite files: made by numbered steps, by several processes at once; a newer vfsd's are not read."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from vfsd.index import schema
from vfsd.index.index import Index
from vfsd.index.journal import JournalFile
from vfsd.model.errors import Damaged


def test_processes_that_make_the_index_at_once_all_can_use_it(tmp_path: Path) -> None:
    path = tmp_path / "state/index.sqlite"
    program = (
        "import sys; from vfsd.index.index import Index\n"
        "index = Index(sys.argv[1]); index.add_nodes([(sys.argv[2].encode(), b'x')]); index.close()"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(path), str(number)]) for number in range(6)]
    assert [process.wait(300) for process in running] == [0] * 6
    index = Index(str(path))
    try:
        assert all(index.node(str(number).encode()) == b"x" for number in range(6))
    finally:
        index.close()


def test_a_file_of_a_newer_vfsd_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    Index(str(path)).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {schema.INDEX_VERSION + 1}")
    db.close()
    with pytest.raises(Damaged, match="newer vfsd"):
        Index(str(path))


def test_every_column_has_its_meaning_written_beside_it() -> None:
    steps = [getattr(schema, name) for name in vars(schema) if re.fullmatch(r"(INDEX|JOURNAL)_\d+", name)]
    assert len(steps) == schema.INDEX_VERSION + schema.JOURNAL_VERSION
    for statement in (statement for step in steps for statement in step):
        if "CREATE TABLE" not in statement:
            continue
        table, *columns = [line.strip() for line in statement.strip().splitlines()]
        assert "--" in table, table
        names = [line for line in columns if re.match(r"[a-z_0-9]+ +[A-Z]", line)]
        plain = re.compile(r"(repo|branch|container|offset|length)\b")  # they are what they are called
        bare = [line for line in names if "--" not in line and not plain.match(line)]
        assert not bare, f"{table}: {bare}"


def test_journal_records_come_back_in_order_and_go_with_their_commit(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.sqlite")
    journal = JournalFile(path)
    row = journal.branch("data", "main", "")
    numbers = [journal.append(row.id, bytes([number])) for number in range(5)]
    journal.sync()
    journal.close()
    journal = JournalFile(path)
    try:
        assert journal.records(row.id) == list(zip(numbers, [bytes([n]) for n in range(5)], strict=True))
        journal.committed(row.id, numbers[2], "c" * 64)
        assert [number for number, _ in journal.records(row.id)] == numbers[3:]
        assert journal.branch("data", "main", "").base == "c" * 64
        assert journal.append(row.id, b"next") > numbers[-1]
    finally:
        journal.close()
