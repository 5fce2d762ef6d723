"""Files that others write: processes that have them open, and changes while they are read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.repo.parts import SMALL_CHUNKS, Blobs
from vfsd.model.entry import Entry, Place
from vfsd.model.ids import ChunkId
from vfsd.repo.chunker import Chunker
from vfsd.repo.closed import BEING_WRITTEN, BeingWritten, obstacle
from vfsd.repo.ingest import Ingest


@contextmanager
def held_open(path: Path, how: str) -> Iterator[None]:
    """A process of its own that has a file open; how: as the shell redirects."""
    process = subprocess.Popen(
        ["sh", "-c", f'exec 3{how}"$0"; echo open; read line', str(path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield
    finally:
        process.communicate(b"\n")


def ingest(path: Path, blobs: Blobs | None = None) -> Entry:
    blobs = blobs or Blobs()
    name = os.fsencode(path.name)
    return Ingest(Chunker(SMALL_CHUNKS), blobs, blobs, only_closed=True).one(os.fsencode(path), name, os.lstat(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(5000))
    return path


def test_a_file_that_somebody_has_open_for_writing_is_not_read(file: Path) -> None:
    with held_open(file, ">>"):
        assert obstacle(os.fsencode(file)) == BEING_WRITTEN
        with pytest.raises(BeingWritten):
            ingest(file)
    assert obstacle(os.fsencode(file)) == ""
    assert ingest(file).size == 5000


def test_a_file_that_somebody_reads_is_read(file: Path) -> None:
    with held_open(file, "<"):
        assert obstacle(os.fsencode(file)) == ""
        assert ingest(file).size == 5000


def test_a_writer_that_comes_later_does_not_wait_for_us(file: Path) -> None:
    ingest(file)
    obstacle(os.fsencode(file))
    fd = os.open(file, os.O_WRONLY | os.O_NONBLOCK)  # fails while there is a lease
    os.close(fd)


class Meddling(Blobs):
    """Changes a file when the first chunk of it is stored."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def add_chunks(self, chunks: Sequence[tuple[ChunkId, bytes | memoryview]]) -> list[Place]:
        if not self.chunks:
            status = os.stat(self.path)
            with self.path.open("r+b") as file:
                file.seek(4000)
                file.write(b"new")
            os.utime(self.path, ns=(status.st_atime_ns, status.st_mtime_ns))  # ctime cannot be set back
        return super().add_chunks(chunks)


def test_a_file_that_changes_while_it_is_read_gives_no_version(file: Path) -> None:
    with pytest.raises(BeingWritten):
        ingest(file, Meddling(file))
    assert ingest(file).size == 5000


class Joining(Blobs):
    """Opens a file for writing when the first chunk of it is stored, and writes nothing yet."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.writer = -1

    def add_chunks(self, chunks: Sequence[tuple[ChunkId, bytes | memoryview]]) -> list[Place]:
        if self.writer < 0:
            self.writer = os.open(self.path, os.O_WRONLY)
        return super().add_chunks(chunks)


def test_a_file_that_is_opened_for_writing_while_it_is_read_gives_no_version(file: Path) -> None:
    blobs = Joining(file)
    with pytest.raises(BeingWritten):
        ingest(file, blobs)
    os.close(blobs.writer)


def test_what_is_not_there_or_no_file_is_no_obstacle(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for name in ("fifo", "link", "nothing", "nothing/below", "."):
        assert obstacle(os.fsencode(tmp_path / name)) == "", name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named_so(file: Path) -> None:
    file.chmod(0)
    assert obstacle(os.fsencode(file)) == "Permission denied"
