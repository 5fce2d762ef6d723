"""The log of the journal: what it gives back after any life, torn ends, and when its files go."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.index import journal_log
from vfsd.index.journal import JournalFile
from vfsd.index.journal_log import JournalLog
from vfsd.model.errors import NoSpace

records = st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=200)), min_size=1, max_size=30)


def opened(folder: Path) -> JournalLog:
    return JournalLog(str(folder), lambda _branch, _number: False)


def all_of(log: JournalLog) -> list[tuple[int, int, bytes]]:
    return sorted((number, branch, data) for branch in (1, 2, 3) for number, data in log.records(branch))


@given(records=records, more=records, lost=st.integers(1, 60))
def test_a_torn_end_takes_only_what_it_tore(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, bytes]], more: list[tuple[int, bytes]], lost: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    with closing(opened(folder)) as log:
        written = [(log.append(branch, data), branch, data) for branch, data in records]
        assert all_of(log) == written
    (path,) = folder.iterdir()
    os.truncate(path, max(0, path.stat().st_size - lost))
    with closing(opened(folder)) as log:
        kept = all_of(log)
        assert kept == written[: len(kept)]
        gone = sum(len(data) + 24 for _, _, data in written[len(kept) :])
        assert gone - 24 - 200 <= lost or not kept, "no whole record went"
        written = kept + [(log.append(branch, data), branch, data) for branch, data in more]
    with closing(opened(folder)) as log:
        assert all_of(log) == written


@given(records=records, place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_takes_only_the_record_that_it_is_in(
    tmp_path_factory: pytest.TempPathFactory, records: list[tuple[int, bytes]], place: float, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    with closing(opened(folder)) as log:
        written = [(log.append(branch, data), branch, data) for branch, data in records]
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at] ^= 1 << bit
    path.write_bytes(data)
    kept, end = [], 0
    for one in written:
        begin, end = end, end + 24 + len(one[2])
        if not begin <= at < end:
            kept.append(one)
    with closing(opened(folder)) as log:
        assert all_of(log) == kept


def test_what_is_lost_of_a_damaged_file_is_said_and_no_number_comes_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(tmp_path)) as log:
        for number in range(6):
            log.append(1, b"%d" % number * 100)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[124 + 50 : 2 * 124 + 50] = bytes(124)
    path.write_bytes(data)
    with closing(opened(tmp_path)) as log:
        assert [number for number, _ in log.records(1)] == [1, 4, 5, 6]
        assert log.append(2, b"next") == 7
    assert f"{path}: damaged from byte 124 to 372: 2 changes are lost" in caplog.text


def test_files_go_once_all_that_is_in_them_is_in_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_log, "FULL", 1000)
    monkeypatch.setattr(journal_log, "SMALL", 100)
    folder = tmp_path / "journal"
    with closing(JournalFile(str(tmp_path / "journal.sqlite"))) as journal:
        one, two = journal.branch("r", "one", "").id, journal.branch("r", "two", "").id
        first = journal.append(two, b"stays")
        for _ in range(100):
            last = journal.append(one, bytes(100))
        before = len(list(folder.iterdir()))
        assert before > 10
        journal.committed(one, last, "commit")
        assert len(list(folder.iterdir())) == 1
        assert journal.records(two) == [(first, b"stays")]
        journal.forget(two)
        assert list(folder.iterdir()) == []
        assert journal.append(one, b"next") > last
    with closing(JournalFile(str(tmp_path / "journal.sqlite"))) as journal:
        assert [data for _, data in journal.records(one)] == [b"next"]


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(opened(tmp_path)) as log:
        log.append(1, b"one")
        write = os.write

        def torn(fd: int, data: bytes) -> int:
            return write(fd, data[:10])

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", torn)
            with pytest.raises(NoSpace):
                log.append(1, b"two")
        number = log.append(1, b"three")
        assert log.records(1) == [(1, b"one"), (number, b"three")]


def test_what_follows_a_record_that_an_error_tore_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(opened(tmp_path)) as log:
        log.append(1, b"one")
        write = os.write

        def fails(fd: int, data: bytes) -> int:
            write(fd, data[:10])
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "write", fails)
            with pytest.raises(OSError):
                log.append(1, b"two")
        number = log.append(1, b"three")
    with closing(opened(tmp_path)) as log:
        assert log.records(1) == [(1, b"one"), (number, b"three")]


def test_names_that_a_killed_process_gave_are_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(opened(tmp_path)) as log:
        log.append(1, b"one")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    with closing(opened(tmp_path)) as log:
        log.sync()
        log.sync()
    assert synced == [str(tmp_path)]


def test_it_can_be_read_and_synced_while_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_log, "FULL", 5000)
    with closing(opened(tmp_path)) as log:
        log.append(1, b"first")
        stop, found = threading.Event(), []

        def read() -> None:
            while not (found and stop.is_set()):
                log.sync()
                data = [data for _, data in log.records(1)]
                assert data == [b"first", *(b"%d" % number for number in range(len(data) - 1))]
                found.append(len(data))

        reader = threading.Thread(target=read)
        reader.start()
        for number in range(2000):
            log.append(1, b"%d" % number)
        stop.set()
        reader.join()
        assert len(log.records(1)) == 2001
        assert found
