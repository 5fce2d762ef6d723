"""A local directory beside a branch: what differs, what it costs to find out, and that both are equal afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.repo.parts import commit, make_branch, open_repository, read_files
from tests.repo.test_ingest import export, look
from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import NotFound, ReadOnly, Refused
from vfsd.model.location import Location
from vfsd.repo import mirror as mirror_module
from vfsd.repo.compare import Look
from vfsd.repo.ingest import Ingest
from vfsd.repo.mirror import Mirror, Round
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.tree import find, walk
from vfsd.store.faulty import WRITES, FaultyStore, Request
from vfsd.store.memory import MemoryStore

MAIN = Location("r", "main")


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore(MemoryStore())


@pytest.fixture
def repository(store: FaultyStore, tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(store, tmp_path / "index")) as found:
        make_branch(found)
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def mirror(repository: Repository, folder: Path, *, delete: bool = False, path: tuple[bytes, ...] = ()) -> Mirror:
    return Mirror(repository, os.fsencode(folder), Location("r", "main", None, path), delete=delete, author="a")


def once(repository: Repository, folder: Path, *, delete: bool = False, path: tuple[bytes, ...] = ()) -> Round:
    with closing(mirror(repository, folder, delete=delete, path=path)) as one:
        return one.once()


def names(repository: Repository) -> set[bytes]:
    return {b"/".join(path) for path, _ in walk(repository.nodes, repository.root(MAIN))}


def content(repository: Repository, *path: bytes) -> bytes:
    return read_files(repository, repository.root(MAIN))[path]


def fill(folder: Path, files: int) -> None:
    for number in range(files):
        (folder / f"{number:05}").write_text(str(number))


# What is compared


def test_the_first_comparison_brings_everything_in_one_commit(repository: Repository, folder: Path) -> None:
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "file").write_text("x")
    (folder / "empty").mkdir()
    (folder / "link").symlink_to("deep")
    done = once(repository, folder)
    assert done.committed is not None and not done.obstacles
    assert done.committed.commit.header.message == "deep/er/file, empty, link"
    assert names(repository) == {b"deep", b"deep/er", b"deep/er/file", b"empty", b"link"}


def test_what_is_unchanged_is_neither_read_nor_stored_again(
    repository: Repository, store: FaultyStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, 50)
    once(repository, folder)
    asked = len(store.requests)
    monkeypatch.setattr(Ingest, "one", lambda *_: pytest.fail("an unchanged file was read"))
    assert once(repository, folder, delete=True).committed is None
    assert [request for request in store.requests[asked:] if request.kind in WRITES] == []


def test_a_new_mode_is_taken_over_without_reading_the_file(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "script").write_text("#!/bin/sh")
    once(repository, folder)
    (folder / "script").chmod(0o755)
    monkeypatch.setattr(Ingest, "one", lambda *_: pytest.fail("the file was read"))
    once(repository, folder)
    assert find(repository.nodes, repository.root(MAIN), (b"script",)).mode == 0o755


def test_a_change_of_the_same_size_is_seen_by_its_time(repository: Repository, folder: Path) -> None:
    (folder / "a").write_text("one")
    once(repository, folder)
    (folder / "a").write_text("two")
    once(repository, folder)
    assert content(repository, b"a") == b"two"


def test_only_the_paths_that_are_named_are_looked_at(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    fill(folder / "sub", 1000)
    once(repository, folder)
    (folder / "sub" / "00500").write_text("changed")
    looked: list[object] = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(path) or lstat(path))
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail(f"{path} was listed"))
    where = Look()
    where.add((b"sub", b"00500"))
    with closing(mirror(repository, folder)) as one:
        one.round(where)
    assert content(repository, b"sub", b"00500") == b"changed"
    assert [os.path.basename(path) for path in looked] == [b"sub", b"00500"]  # type: ignore[type-var]


def test_a_large_directory_comes_in_several_commits(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "BATCH", 10)
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
        fill(folder / name, 12)
    looked: list[bytes] = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(path) or lstat(path))
    last = once(repository, folder)
    assert last.committed is not None
    files = [path for path in looked if os.path.basename(path).isdigit()]
    assert sorted(files) == sorted({*files}), "none is looked at for each commit again"
    assert len(last.committed.commit.ancestors) == 3
    assert len(read_files(repository, repository.root(MAIN))) == 36


def test_what_changes_between_commits_of_a_large_directory_is_not_missed(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "BATCH", 10)
    for name in ("a", "b"):
        (folder / name).mkdir()
        fill(folder / name, 12)
    with closing(mirror(repository, folder)) as one:
        look = one.round(Look(whole=True)).rest
        (folder / "a" / "00003").write_text("changed")
        look.add((b"a", b"00003"))
        while look:
            look = one.round(look).rest
    assert content(repository, b"a", b"00003") == b"changed"
    assert len(read_files(repository, repository.root(MAIN))) == 24


def test_a_round_beyond_its_deadline_commits_what_it_has(repository: Repository, folder: Path) -> None:
    fill(folder, 5)
    with closing(mirror(repository, folder)) as one:
        one.deadline = time.monotonic()
        assert one.round(Look(whole=True)).rest


def test_a_write_under_one_name_of_a_file_is_found_under_the_others(repository: Repository, folder: Path) -> None:
    (folder / "a").write_text("one")
    os.link(folder / "a", folder / "b")
    once(repository, folder)
    (folder / "a").write_text("two")
    where = Look()
    where.add((b"a",))
    with closing(mirror(repository, folder)) as one:
        while where:
            where = one.round(where).rest
    assert content(repository, b"b") == b"two"


# Deletion and replacement


def test_what_is_removed_stays_unless_deletions_are_followed(repository: Repository, folder: Path) -> None:
    fill(folder, 3)
    once(repository, folder)
    (folder / "00001").unlink()
    assert once(repository, folder).committed is None
    done = once(repository, folder, delete=True)
    assert done.committed is not None and done.committed.commit.header.message == "- 00001"
    assert names(repository) == {b"00000", b"00002"}


def test_what_others_put_there_stays_unless_deletions_are_followed(repository: Repository, folder: Path) -> None:
    fill(folder, 1)
    commit(repository, {(b"theirs",): b"x", (b"00000",): b"theirs too"})
    once(repository, folder)
    assert names(repository) == {b"00000", b"theirs"}
    assert content(repository, b"00000") == b"0"
    once(repository, folder, delete=True)
    assert names(repository) == {b"00000"}


def test_removals_that_are_not_followed_are_no_commit(repository: Repository, folder: Path) -> None:
    (folder / "sub").mkdir()
    fill(folder / "sub", 2)
    once(repository, folder)
    (folder / "sub" / "00000").unlink()
    assert once(repository, folder).committed is None


def test_a_file_in_place_of_a_directory_and_the_other_way_round(repository: Repository, folder: Path) -> None:
    (folder / "a").mkdir()
    (folder / "a" / "x").touch()
    (folder / "b").touch()
    once(repository, folder)
    shutil.rmtree(folder / "a")
    (folder / "a").write_text("file")
    (folder / "b").unlink()
    (folder / "b").mkdir()
    (folder / "b" / "y").touch()
    once(repository, folder)
    assert names(repository) == {b"a", b"b", b"b/y"}
    assert content(repository, b"a") == b"file"


# The destination


def test_a_destination_in_the_branch_is_made_and_its_surroundings_stay(repository: Repository, folder: Path) -> None:
    commit(repository, {(b"x",): b"1", (b"in", b"y"): b"2"})
    fill(folder, 1)
    once(repository, folder, delete=True, path=(b"in", b"here"))
    assert names(repository) == {b"x", b"in", b"in/y", b"in/here", b"in/here/00000"}


def test_a_file_in_the_destinations_place_is_refused(repository: Repository, folder: Path) -> None:
    commit(repository, {(b"x",): b"1"})
    with pytest.raises(Refused, match="r/main/x is a file"):
        once(repository, folder, path=(b"x",))


def test_the_output_of_a_pipeline_is_refused(repository: Repository, folder: Path) -> None:
    repository.refs.create_branch("r", "out", None, now_ns(), pipeline="p")
    one = Mirror(repository, os.fsencode(folder), Location("r", "out"), delete=False, author="a")
    with closing(one), pytest.raises(ReadOnly, match="pipeline p"):
        one.once()


def test_a_directory_that_goes_meanwhile_removes_nothing(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(folder, 3)
    listdir = os.listdir

    def emptied(path: bytes) -> list[bytes]:
        found = listdir(path)
        shutil.rmtree(folder)
        return found

    with closing(mirror(repository, folder, delete=True)) as one:
        one.once()
        monkeypatch.setattr(os, "listdir", emptied)
        with pytest.raises(NotFound, match="folder is gone"):
            one.once()
        monkeypatch.undo()
        folder.mkdir()
        with pytest.raises(NotFound, match="folder is gone"):
            one.once()
    assert len(names(repository)) == 3


def test_another_writer_of_the_branch_keeps_what_it_wrote(
    repository: Repository, store: FaultyStore, folder: Path, tmp_path: Path
) -> None:
    fill(folder, 2)
    other = open_repository(store.inner, tmp_path / "other")
    interfere: list[Callable[[], object]] = [lambda: commit(other, {(b"theirs",): b"x"})]

    def plan(request: Request) -> None:
        if request.kind == "put_if_match" and interfere:
            interfere.pop()()

    store.plan = plan
    once(repository, folder)
    other.index.close()
    assert names(repository) == {b"00000", b"00001", b"theirs"}


# Any sequence of operations

FILES = st.sampled_from([b"a", b"b", b"c\xff", "ü".encode(), b"d/a", b"d/b", b"d/e/a", b"f/a"])
STEPS = st.one_of(
    st.tuples(st.just("write"), FILES, st.binary(max_size=2000)),
    st.tuples(st.just("append"), FILES, st.binary(min_size=1, max_size=50)),
    st.tuples(st.just("replace"), FILES, st.binary(max_size=50)),
    st.tuples(st.just("remove"), FILES | st.sampled_from([b"d", b"d/e", b"f"]), st.none()),
    st.tuples(st.just("move"), FILES | st.sampled_from([b"d", b"f"]), FILES | st.sampled_from([b"g", b"f/d"])),
    st.tuples(st.just("chmod"), FILES | st.sampled_from([b"d", b"f"]), st.sampled_from([0o600, 0o755, 0o4711])),
    st.tuples(st.just("touch"), FILES | st.sampled_from([b"d", b"f"]), st.integers(0, 2**61)),
    st.tuples(st.just("link"), FILES, FILES),
    st.tuples(st.just("symlink"), FILES, st.binary(min_size=1, max_size=9).filter(lambda t: b"\0" not in t)),
    st.tuples(st.just("mkdir"), FILES | st.just(b"d/e/h"), st.none()),
)  # fmt: skip


def act(top: bytes, step: tuple[str, bytes, object]) -> list[tuple[bytes, bool]]:
    """Do one thing; the paths that the kernel would name, with whether something new is there."""
    what, name, value = step
    path = os.path.join(top, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    above = [(os.path.dirname(name), True)] if b"/" in name else []
    match what:
        case "write" | "append":
            with open(path, "wb" if what == "write" else "ab") as file:
                file.write(value)  # type: ignore[arg-type]
        case "replace":
            with open(path + b".part", "wb") as file:
                file.write(value)  # type: ignore[arg-type]
            os.replace(path + b".part", path)
        case "remove":
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        case "move":
            os.rename(path, os.path.join(top, value))  # type: ignore[arg-type]
            return [*above, (name, False), (value, True)]  # type: ignore[list-item]
        case "chmod":
            os.chmod(path, value)  # type: ignore[arg-type]
        case "touch":
            os.utime(path, ns=(value, value))  # type: ignore[arg-type]
        case "link":
            os.link(path, os.path.join(top, value))  # type: ignore[arg-type]
            return [*above, (value, True)]  # type: ignore[list-item]
        case "symlink":
            os.symlink(value, path)  # type: ignore[arg-type]
        case "mkdir":
            os.mkdir(path)
    return [*above, (name, True)]


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.lists(STEPS, max_size=12), st.booleans()), max_size=4))
def test_after_any_operations_the_branch_is_as_the_directory(rounds: list[tuple[list[object], bool]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder, base = Path(place, "folder"), Path(place)
        folder.mkdir()
        with (
            closing(open_repository(MemoryStore(), base / "index")) as repository,
            closing(mirror(repository, folder, delete=True)) as one,
        ):
            make_branch(repository)
            for number, (steps, whole) in enumerate(rounds):
                where = Look()
                for step in steps:
                    noticed = []
                    try:
                        noticed = act(os.fsencode(folder), step)  # type: ignore[arg-type]
                    except OSError:
                        where.set_whole()  # it may have been done in part
                    for path, is_new in noticed:
                        where.add(tuple(path.split(b"/")), whole=is_new)
                where = Look(whole=True) if whole else where
                while where:
                    done = one.round(where)
                    assert not done.obstacles
                    where = done.rest
                back = base / f"back{number}"
                export(repository, repository.root(MAIN), back)
                assert look(back) == look(folder)


def test_files_without_a_reader_are_left_out_and_named(repository: Repository, folder: Path) -> None:
    fill(folder, 2)
    with (folder / "00001").open("ab"):
        done = once(repository, folder)
        assert done.obstacles == {(b"00001",): "it is being written"}
        assert names(repository) == {b"00000"}
    assert once(repository, folder).obstacles == {}
    entry: Entry = find(repository.nodes, repository.root(MAIN), (b"00001",))
    assert entry.kind == Kind.FILE
