"""One SQLite file, several users of it, and the errors it can have."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vfsd.index.index import Index, PlaceRow, set_aside
from vfsd.model.errors import AccessDenied, Damaged, NoSpace


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "index.sqlite"))) as found:
        yield found


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


def test_a_thread_that_ends_leaves_no_file_open(index: Index) -> None:
    def run() -> None:
        thread = threading.Thread(target=index.has_places)
        thread.start()
        thread.join()

    run()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run()
    assert len(os.listdir("/proc/self/fd")) <= before


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


def test_a_folder_that_cannot_be_made_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AccessDenied, match=r"file/index\.sqlite"):
        Index(str(tmp_path / "file" / "index.sqlite"))
