"""Local directories into trees and back."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.parts import Blobs, open_repository
from vfsd.model.entry import Entry, Kind, same
from vfsd.model.errors import AccessDenied, NotFound
from vfsd.repo.chunker import Chunker
from vfsd.repo.ingest import Export, Ingest, local_errors
from vfsd.repo.repository import Repository
from vfsd.repo.tree import walk
from vfsd.store.blob import read_chunk
from vfsd.store.memory import MemoryStore

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(MemoryStore(), tmp_path / "index")) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each kind of file that needs no privileges."""
    root = tmp_path / "folder"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o700)
    (root / "text").write_text("hello")
    (root / "large").write_bytes(os.urandom(50_000))
    (root / "deep" / "er" / "none").touch()
    Path(os.fsdecode(bytes(root) + b"/bytes-\xff")).write_bytes(b"\0")
    (root / "größe").write_text("ß")
    (root / "script").write_text("#!/bin/sh")
    (root / "script").chmod(0o4755)
    (root / "link").symlink_to("no/such/target")
    os.mkfifo(root / "fifo")
    os.utime(root / "text", ns=(1, 1_234_567_890_123_456_789))
    os.utime(root / "deep", ns=(1, 42))
    return root


def look(root: Path) -> dict[bytes, tuple[object, ...]]:
    """relative path → what matters of a file."""
    found = {}
    top = os.fsencode(root)
    for folder, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            key = os.path.relpath(path, top)
            found[key] = (status.st_mode, status.st_mtime_ns, status.st_uid, status.st_gid, content)
    return found


def ingest(repository: Repository, path: Path, origin: bytes = b"") -> Entry:
    with closing(repository.writer()) as writer:
        entry = Ingest(repository.chunker, writer, repository.nodes, origin=origin).path(os.fsencode(path), b"name")
        writer.flush()
    return entry


def export(repository: Repository, entry: Entry, path: Path) -> None:
    Export(repository.nodes, lambda chunk: read_chunk(repository.store, chunk)).path(entry, os.fsencode(path))


def test_a_directory_comes_back_as_it_was(repository: Repository, folder: Path, tmp_path: Path) -> None:
    entry = ingest(repository, folder)
    export(repository, entry, tmp_path / "back")
    assert look(tmp_path / "back") == look(folder)


def test_putting_twice_gives_equal_entries(repository: Repository, folder: Path) -> None:
    assert same(ingest(repository, folder), ingest(repository, folder))


def test_entries_say_what_stat_says(repository: Repository, folder: Path) -> None:
    entry = ingest(repository, folder)
    tree = {b"/".join(path): found for path, found in walk(repository.nodes, entry)}
    for path, found in tree.items():
        status = os.lstat(os.fsencode(folder) + b"/" + path)
        assert (found.st_mode, found.mtime, found.uid, found.gid) == (
            status.st_mode, status.st_mtime_ns, status.st_uid, status.st_gid,
        )  # fmt: skip
        if found.kind != Kind.DIR:
            assert found.size == status.st_size
    assert tree[b"link"].more.target == b"no/such/target"
    assert tree[b"fifo"].extra is None, "one form for one thing, see docs/format.md"
    assert tree[b"text"].extra is None
    assert entry.size == sum(found.size for found in tree.values() if found.kind != Kind.DIR)


def test_files_of_a_datum_carry_its_id(repository: Repository, folder: Path) -> None:
    entry = ingest(repository, folder, origin=b"d" * 32)
    for path, found in walk(repository.nodes, entry):
        assert (found.more.origin == b"d" * 32) == (found.kind != Kind.DIR), path


def test_sockets_and_devices_are_kept(repository: Repository, tmp_path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    os.chdir(tmp_path)
    server.bind("socket")
    server.close()
    assert ingest(repository, tmp_path / "socket").kind == Kind.SOCKET
    entry = ingest(repository, Path("/dev/null"))
    assert (entry.kind, entry.more.rdev) == (Kind.CHAR, os.lstat("/dev/null").st_rdev)


def test_progress_counts_files_and_bytes(folder: Path) -> None:
    blobs, seen = Blobs(), [0, 0]

    def progress(files: int, size: int) -> None:
        seen[0] += files
        seen[1] += size

    from tests.repo.parts import SMALL_CHUNKS

    Ingest(Chunker(SMALL_CHUNKS), blobs, blobs, progress=progress).path(os.fsencode(folder), b"x")
    files = [found for found in look(folder).values() if not stat.S_ISDIR(found[0])]  # type: ignore[arg-type]
    content = sum(len(found[4]) for found in files if stat.S_ISREG(found[0]))  # type: ignore[arg-type]
    assert seen == [len(files), content]


def test_a_file_that_is_there_is_replaced_and_nothing_is_left_beside_it(
    repository: Repository, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    export(repository, ingest(repository, folder / "text"), target)
    assert target.read_text() == "hello"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_that_cannot_be_read_to_its_end_does_not_appear(
    repository: Repository, folder: Path, tmp_path: Path
) -> None:
    entry = ingest(repository, folder / "large")
    for stat_ in list(repository.store.list("packs/")):
        repository.store.delete(stat_.key)
    with pytest.raises(Exception, match="is gone"):
        export(repository, entry, tmp_path / "back")
    assert sorted(path.name for path in tmp_path.iterdir() if "back" in path.name) == []


def test_the_systems_errors_name_the_path(repository: Repository, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing-here"):
        ingest(repository, tmp_path / "nothing-here")
    with pytest.raises(AccessDenied, match="some-file"), local_errors(b"some-file"):
        raise PermissionError(13, "no")
