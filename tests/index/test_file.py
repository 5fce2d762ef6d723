"""One SQLite file, several processes and threads, and the errors it can have."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vfsd.index.index import Index, PlaceRow, set_aside
from vfsd.index.journal import JournalFile
from vfsd.model.errors import AccessDenied, Damaged, NoSpace

OPEN = """
import sys
from vfsd.index.index import Index, PlaceRow
sys.stdin.readline()
index = Index(sys.argv[1])
for number in range(50):
    index.add_places([PlaceRow(f"{sys.argv[2]}-{number}".encode(), b"c", number, 1)])
index.close()
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "index.sqlite"))) as found:
        yield found


def test_processes_that_open_a_new_file_at_once_all_write_to_it(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "index.sqlite")
    running = [
        subprocess.Popen([sys.executable, "-c", OPEN, path, str(number)], stdin=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    try:
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in running:
            process.communicate(timeout=60)
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert [process.returncode for process in running] == [0] * 4
    with closing(Index(path)) as index:
        for number in range(4):
            for at in range(50):
                assert index.place(f"{number}-{at}".encode()) is not None


def test_threads_have_connections_of_their_own(index: Index) -> None:
    def work(name: int) -> None:
        for number in range(30):
            index.add_places([PlaceRow(b"%d-%d" % (name, number), b"c", number, 1)])
            assert index.place(b"%d-%d" % (name, number)) is not None

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(index.place(b"%d-%d" % (name, number)) for name in range(4) for number in range(30))


def test_one_process_sees_what_another_wrote(index: Index) -> None:
    before = index.data_version()
    with closing(Index(index.file.path)) as other:
        other.add_places([PlaceRow(b"id", b"c", 1, 2)])
    assert index.place(b"id") == PlaceRow(b"id", b"c", 1, 2)
    assert index.data_version() != before


def test_a_transaction_that_raises_leaves_nothing(index: Index) -> None:
    with pytest.raises(ZeroDivisionError), index.file.write() as db:
        db.execute("INSERT INTO refs (key, etag, data) VALUES ('k', 'e', x'00')")
        raise ZeroDivisionError
    assert index.refs("") == {}
    index.update_refs([("k", "e", b"1")], [])
    assert index.refs("k") == {"k": ("e", b"1")}


def test_what_is_no_database_is_damaged_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(Damaged, match=r"index\.sqlite.*vfsd index rebuild"):
        Index(str(path))
    moved = set_aside(str(path))
    assert moved is not None
    assert Path(moved).read_bytes().startswith(b"this is no database")
    Index(str(path)).close()
    assert set_aside(str(tmp_path / "none")) is None


def test_a_full_disk_is_said_as_such(index: Index) -> None:
    index.file.connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(NoSpace, match="the disk is full"):
        index.add_places([PlaceRow(b"%d" % number, bytes(1000), 0, 0) for number in range(1000)])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_access_denied(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(AccessDenied):
        Index(str(tmp_path / "sub" / "index.sqlite"))
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("kind", [Index, JournalFile])
def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path, kind: type[Index]) -> None:
    path = str(tmp_path / "file.sqlite")
    kind(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(Damaged, match="newer vfsd"):
        kind(path)
