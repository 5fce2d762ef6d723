"""The journal keeps what was acknowledged, in order, through the end of the process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from vfsd.index.journal import JournalFile

APPEND = """
import sys
from vfsd.index.journal import JournalFile
journal = JournalFile(sys.argv[1])
row = journal.branch("r", "main", "")
for number in range(1_000_000):
    print(journal.append(row.id, b"record %d" % number), flush=True)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    with closing(JournalFile(str(tmp_path / "journal.sqlite"))) as found:
        yield found


def test_a_branch_is_made_once(journal: JournalFile) -> None:
    row = journal.branch("r", "main", "base")
    assert (row.repo, row.branch, row.base, row.held) == ("r", "main", "base", None)
    assert journal.branch("r", "main", "another") == row
    other = journal.branch("r", "other", "")
    assert journal.branches() == [row, other]


def test_records_are_kept_by_branch_and_in_order(journal: JournalFile) -> None:
    one, two = journal.branch("r", "one", ""), journal.branch("r", "two", "")
    numbers = [journal.append(row.id, b"%d" % at) for at, row in enumerate([one, two, one, one])]
    assert numbers == sorted(set(numbers))
    assert journal.records(one.id) == [(numbers[0], b"0"), (numbers[2], b"2"), (numbers[3], b"3")]
    journal.committed(one.id, numbers[2], "commit")
    assert journal.records(one.id) == [(numbers[3], b"3")]
    assert journal.records(two.id) == [(numbers[1], b"1")]
    assert journal.branch("r", "one", "").base == "commit"
    assert journal.branch("r", "two", "").base == ""


def test_a_number_is_never_used_twice(journal: JournalFile) -> None:
    row = journal.branch("r", "main", "")
    last = journal.append(row.id, b"")
    journal.committed(row.id, last, "")
    assert journal.append(row.id, b"") > last


def test_records_are_added_and_removed_by_several_threads(journal: JournalFile) -> None:
    """A branch that is opened, in a thread, may have nothing in the journal but what is done."""
    one, two = journal.branch("r", "one", ""), journal.branch("r", "two", "")
    with ThreadPoolExecutor(1) as pool:
        for _ in range(30):
            done = journal.append(one.id, bytes(2 << 20))
            opened = pool.submit(journal.committed, two.id, 0, "")
            journal.committed(one.id, done, "commit")
            last = journal.append(one.id, b"acknowledged")
            opened.result()
            assert journal.records(one.id) == [(last, b"acknowledged")]
            journal.committed(one.id, last, "commit")


@pytest.mark.parametrize("message", ["", "a message", "größer"])
def test_an_open_transaction_is_remembered(journal: JournalFile, message: str) -> None:
    row = journal.branch("r", "main", "")
    journal.hold(row.id, message)
    with closing(JournalFile(journal.file.path)) as again:
        assert again.branch("r", "main", "").held == message
    journal.hold(row.id, None)
    assert journal.branch("r", "main", "").held is None


def test_a_branch_can_be_forgotten(journal: JournalFile) -> None:
    row, other = journal.branch("r", "main", ""), journal.branch("r", "other", "")
    for each in (row, other):
        journal.append(each.id, b"x")
    journal.forget(row.id)
    assert journal.branches() == [other]
    assert journal.records(row.id) == []
    assert len(journal.records(other.id)) == 1


def test_syncing_changes_nothing_that_is_seen(journal: JournalFile) -> None:
    journal.sync()
    row = journal.branch("r", "main", "base")
    journal.append(row.id, b"x")
    journal.sync()
    assert journal.branches() == [row]
    assert journal.file.connection.execute("PRAGMA synchronous").fetchone()[0] == 1


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = str(tmp_path / "journal.sqlite")
    process = subprocess.Popen([sys.executable, "-c", APPEND, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for _ in range(100):
            last = int(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    with closing(JournalFile(path)) as journal:
        row = journal.branch("r", "main", "")
        records = journal.records(row.id)
        assert records[-1][0] >= last
        assert [record for _, record in records] == [b"record %d" % number for number in range(len(records))]
