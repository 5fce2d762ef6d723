"""Checking a store: nothing is found in one that is whole, and whatever is damaged is named with its path."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.repo.parts import commit, file_entry, make_branch, open_repository
from vfsd.index.survey import ChunkRow, PendingRow, Survey
from vfsd.model.commit import GlobalRecord, Provenance, Tag, encode
from vfsd.model.entry import Entry, Ref, directory
from vfsd.model.errors import Damaged, NoSpace, NotFound
from vfsd.model.ids import CommitId, GlobalId
from vfsd.model.location import parse_location
from vfsd.model.node import Leaf
from vfsd.repo import writer
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.fsck import FsckResult, fsck
from vfsd.repo.rebuild import rebuild
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.tree import find
from vfsd.repo.tree_check import Problem
from vfsd.repo.writer import BlobWriter
from vfsd.store.blob import container_key
from vfsd.store.counting import CountingStore
from vfsd.store.local import LocalStore

NOWHERE = CommitId("f" * 64)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """Packs of chunks and of nodes, then small commits, all on r/main."""
    with closing(open_repository(LocalStore(str(tmp_path / "store")), tmp_path / "index.db")) as opened:
        make_branch(opened)
        dice = random.Random(1)
        files = {(b"d%d" % (number % 7), b"f%d" % number): dice.randbytes(2000) for number in range(400)}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer, "EMBED", 1000)
            commit(opened, {**files, (b"long", b"file"): dice.randbytes(60_000)})
        for number in range(5):
            commit(opened, {(b"d1", b"new"): b"%d" % number})
        yield opened


def check(repository: Repository, *specs: str, read_data: bool = False) -> tuple[list[Problem], FsckResult]:
    found: list[Problem] = []
    result = fsck(repository, found.append, specs=[parse_location(spec) for spec in specs], read_data=read_data)
    assert result.problems == len(found)
    return found, result


def head(repository: Repository, branch: str = "r/main") -> CommitObject:
    made = repository.resolve(parse_location(branch))
    assert made is not None
    return made


def path_of(repository: Repository, key: str) -> Path:
    assert isinstance(repository.store, LocalStore)
    return Path(repository.store.url.removeprefix("file://")) / key


def chunk_pack(repository: Repository) -> Path:
    """The pack of chunks: the largest."""
    keys = list(repository.store.list("packs/"))
    return path_of(repository, max(keys, key=lambda stat: stat.size).key)


def node_pack(repository: Repository) -> Path:
    keys = list(repository.store.list("packs/"))
    return path_of(repository, min(keys, key=lambda stat: stat.size).key)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def commit_entry(repository: Repository, change: Callable[[Entry, BlobWriter], Entry], **more: object) -> CommitObject:
    with closing(repository.writer()) as writer:
        made = repository.commit("r", "main", change, writer=writer, message="", author="", **more)  # type: ignore[arg-type]
    assert made is not None
    return made.commit


# Whole stores


@pytest.mark.parametrize("read_data", [False, True])
def test_in_a_whole_store_nothing_is_found(repository: Repository, read_data: bool) -> None:
    repository.refs.create_tag("r", "v1", head(repository).id, now_ns())
    repository.refs.create_branch("r", "empty", None, now_ns())
    problems, result = check(repository, read_data=read_data)
    assert problems == []
    assert (result.refs, result.commits) == (3 + 1 + 6, 6)  # two branches, a tag, a repo, six global ids
    assert result.nodes > 10 and result.chunks > 400


def test_a_node_without_an_index_finds_nothing_either(repository: Repository, tmp_path: Path) -> None:
    with closing(open_repository(repository.store, tmp_path / "other.db")) as fresh:
        assert check(fresh, read_data=True)[0] == []


def test_an_empty_store_is_whole(tmp_path: Path) -> None:
    with closing(open_repository(LocalStore(str(tmp_path / "store")), tmp_path / "index.db")) as opened:
        assert check(opened, read_data=True) == ([], FsckResult(0, 0, 0, 0, 0, 0))


def test_a_spec_checks_that_part_alone(repository: Repository) -> None:
    whole = check(repository)[1]
    branch = check(repository, "r/main")[1]
    one = check(repository, "r/main@~5")[1]
    file = check(repository, "r/main/long/file", read_data=True)[1]
    assert (branch.commits, branch.nodes) == (whole.commits, whole.nodes)
    assert one.commits == 1 and 1 < one.nodes < whole.nodes
    assert file.commits == 0 and file.chunks > 50 and file.nodes >= 1
    assert check(repository, "r/main@~5", "r/main")[1].commits == 6
    with pytest.raises(NotFound, match="there is no nothing"):
        check(repository, "r/main/nothing")


def test_each_object_is_read_about_once_whatever_hangs_on_it(repository: Repository) -> None:
    counting = CountingStore(repository.store)
    repository.store = counting
    repository.refs._store = counting
    fsck(repository, pytest.fail, read_data=True)
    objects = sum(1 for prefix in ("refs/", "repos/", "globals/", "commits/", "packs/") for _ in counting.list(prefix))
    assert counting.traffic()["get"].requests <= objects
    assert counting.traffic()["get_range"].requests < 20
    assert "stat" not in counting.traffic()


def test_a_commit_that_is_made_meanwhile_does_no_harm(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = repository.store.list

    def and_then(prefix: str = "", *, after: str = "") -> Iterator[object]:
        yield from listing(prefix, after=after)
        if prefix == "packs/":
            dice = random.Random(2)
            commit(repository, {(b"later", b"%d" % number): dice.randbytes(3000) for number in range(200)})

    monkeypatch.setattr(repository.store, "list", and_then)
    assert check(repository, read_data=True)[0] == []


# Damaged bytes


def test_a_flipped_byte_of_a_file_is_named_by_its_path(repository: Repository) -> None:
    entry = file_at(repository, b"d3", b"f101")
    place = entry.chunks[0].place
    flip(path_of(repository, container_key(place.container)), place.offset + place.length // 2)
    assert check(repository)[0] == []
    (problem,) = check(repository, read_data=True)[0]
    assert problem.where == f"r/main@{head(repository).id[:12]}/d3/f101"
    assert f"is damaged at offset {place.offset}" in problem.what
    assert f"copy {container_key(place.container)} back" in problem.remedy


def file_at(repository: Repository, *path: bytes) -> Entry:
    return find(repository.nodes, head(repository).root, path)


def test_a_whole_copy_elsewhere_is_pointed_out(repository: Repository, tmp_path: Path) -> None:
    data = chunk_pack(repository).read_bytes()
    entry = file_at(repository, b"d3", b"f101")
    before = data[entry.chunks[0].place.offset + 1 :][: entry.chunks[0].size]
    flip(chunk_pack(repository), entry.chunks[0].place.offset + 5)
    with closing(open_repository(repository.store, tmp_path / "other.db")) as fresh:
        commit(fresh, {(b"copy",): before}, branch="main")
        problems = check(fresh, read_data=True)[0]
    assert [problem.where.rpartition("/")[2] for problem in problems] == ["f101"]
    assert "`vfsd fsck --repair` puts the copy in commits/" in problems[0].remedy


def test_a_pack_that_was_cut_short_is_noticed_by_its_size(repository: Repository) -> None:
    pack = chunk_pack(repository)
    size = pack.stat().st_size
    os.truncate(pack, size // 2)
    problems = check(repository)[0]
    assert len(problems) > 50
    assert all(f"has {size // 2} bytes, too few for" in one.what for one in problems if "@" in one.where)
    paths = [one.where for one in problems]
    assert len(set(paths)) == len(paths)
    lost = {path.split("/", 2)[2] for path in paths if "@" in path}
    assert lost < {f"d{number % 7}/f{number}" for number in range(400)} | {"long/file"}


def test_a_pack_that_lost_only_its_end_is_noticed_when_data_is_read(repository: Repository) -> None:
    pack = chunk_pack(repository)
    os.truncate(pack, pack.stat().st_size - 3)
    assert check(repository)[0] == []
    (problem,) = check(repository, read_data=True)[0]
    assert problem.where == f"packs/{pack.parent.name}/{pack.name}"
    assert "does not end like a pack" in problem.what


@pytest.mark.parametrize("read_data", [False, True])
def test_a_missing_pack_is_named_with_every_file_that_needs_it(repository: Repository, read_data: bool) -> None:
    pack = chunk_pack(repository)
    pack.unlink()
    problems = check(repository, read_data=read_data)[0]
    assert len(problems) == 401
    assert all(f"packs/{pack.parent.name}/{pack.name} is gone" in problem.what for problem in problems)


def test_a_missing_tree_node_is_named_by_its_directory(repository: Repository) -> None:
    root = directory_ref(repository, b"d2")
    flip(path_of(repository, container_key(root.place.container)), root.place.offset)
    problems = check(repository)[0]
    assert [problem.where for problem in problems] == [f"r/main@{head(repository).id[:12]}/d2"]
    assert "all below cannot be read" in problems[0].what


def directory_ref(repository: Repository, *path: bytes) -> Ref:
    node = file_at(repository, *path).node
    assert node is not None
    return node


def test_all_that_a_missing_pack_of_nodes_held_is_named_by_directory(repository: Repository) -> None:
    node_pack(repository).unlink()
    problems = check(repository)[0]
    label = f"r/main@{head(repository).id[:12]}"
    assert {f"{label}/d2", f"{label}/d3", f"{label}/long"} <= {problem.where for problem in problems}
    assert all("is gone" in problem.what for problem in problems)


def test_a_copy_that_only_directories_know_is_found(repository: Repository, tmp_path: Path) -> None:
    pack = chunk_pack(repository)
    twin = pack.with_name(pack.name[:2] + "0" * 30)
    pack.rename(twin)
    repository.index.clear()
    problems = check(repository)[0]
    assert len(problems) > 400
    assert all(f"the copy in packs/{twin.parent.name}/{twin.name}" in problem.remedy for problem in problems)
    rebuild(repository)
    assert len(check(repository)[0]) == len(problems), "a node without this index would not find them"


# Refs and commits


@pytest.mark.parametrize("garbage", [b"", b"rot", b"\xff\xfe", b'{"commit":7}'])
def test_garbage_in_a_ref_is_named_by_its_key(repository: Repository, garbage: bytes) -> None:
    repository.store.put("refs/r/main", garbage)
    problems = check(repository)[0]
    assert [problem.where for problem in problems] == ["refs/r/main"]
    assert "cannot be read" in problems[0].what and "copy refs/r/main back" in problems[0].remedy
    assert [one.where for one in check(repository, "r/main")[0]] == ["r/main"]


def test_a_ref_that_no_ref_can_be_is_named(repository: Repository) -> None:
    data = repository.store.get("refs/r/main")[0]
    for key in ("refs/r/a/b", "refs/r/%2fetc", "tags/alone"):
        repository.store.put(key, encode(Tag(commit=head(repository).id, created=0)) if "tags" in key else data)
    repository.store.put("globals/short/r/main", encode(GlobalRecord(commit=head(repository).id, time=0)))
    assert {problem.where for problem in check(repository)[0]} == {
        "refs/r/a/b", "refs/r/%2fetc", "tags/alone", "globals/short/r/main"
    }  # fmt: skip


def test_a_tag_or_branch_at_a_commit_that_is_not_there_is_named(repository: Repository) -> None:
    repository.refs.create_tag("r", "v1", NOWHERE, now_ns())
    (problem,) = check(repository)[0]
    assert (problem.where, problem.what) == ("tags/r/v1", f"commits/{NOWHERE} is gone, which it leads to")


def test_a_branch_of_a_repo_that_is_not_there_is_named(repository: Repository) -> None:
    repository.store.delete("repos/r")
    (problem,) = check(repository)[0]
    assert problem.where == "refs/r/main" and "`vfsd fsck --repair` makes a new one" in problem.remedy


def test_a_missing_commit_is_named_by_the_one_after_it(repository: Repository) -> None:
    lost = head(repository, "r/main@~2").id
    repository.store.delete(f"commits/{lost}")
    problems = check(repository)[0]
    gone = [problem for problem in problems if problem.what == f"commits/{lost} is gone, which it leads to"]
    assert len(gone) == 1 and gone[0].where.startswith("r/main@")
    assert any(lost in one.what for one in check(repository, "r/main@~1")[0])


@pytest.mark.parametrize("at", [0, 20, 200])
def test_a_damaged_commit_is_named_by_its_key_and_by_who_needs_it(repository: Repository, at: int) -> None:
    damaged = head(repository, "r/main@~2").id
    flip(path_of(repository, f"commits/{damaged}"), at)
    problems = [problem for problem in check(repository)[0] if problem.where == f"commits/{damaged}"]
    assert len(problems) == 1 and "needed by r/main@" in problems[0].what


def test_provenance_to_nowhere_is_named(repository: Repository) -> None:
    edge = Provenance(repo="raw", branch="main", commit=NOWHERE)
    made = commit_entry(repository, lambda root, _: root, provenance=[edge], allow_same=True)
    (problem,) = check(repository)[0]
    assert problem.where == f"r/main@{made.id[:12]}"
    assert problem.what == f"it was made from raw/main@{NOWHERE}, which is gone"


def test_a_global_id_of_a_commit_that_came_to_nothing_is_no_problem(repository: Repository) -> None:
    repository.refs.record_global(GlobalId("1" * 32), "r", "main", NOWHERE, now_ns())
    assert check(repository)[0] == []


def test_what_was_written_wrong_is_named_by_its_path(repository: Repository) -> None:
    def change(root: Entry, writer: BlobWriter) -> Entry:
        wrong = Leaf([file_entry(b"b"), msgspec.structs.replace(file_entry(b"a"), size=7)])
        inner = directory(b"inner", writer.add_node(wrong))
        return directory(b"", writer.add_node(Leaf([inner])))

    label = f"r/main@{commit_entry(repository, change).id[:12]}"
    problems = check(repository)[0]
    assert {(one.where, one.what) for one in problems} == {
        (f"{label}/inner/a", "the name stands behind a later one, or twice"),
        (f"{label}/inner/a", "its size is said to be 7 bytes, its contents have 0"),
    }


def test_objects_of_others_are_read_by_their_readers(repository: Repository) -> None:
    def reader(key: str, data: bytes) -> list[tuple[str, object]]:
        if data == b"rot":
            raise Damaged(f"{key} cannot be read")
        return [(f"{key} (tree)", msgspec.structs.replace(head(repository).root.node, count=1))]  # type: ignore[type-var]

    repository.store.put("things/good", b"good")
    repository.store.put("things/rotten", b"rot")
    found: list[Problem] = []
    fsck(repository, found.append, others={"things/": reader})  # type: ignore[dict-item]
    assert {problem.where for problem in found} == {"things/rotten", "things/good (tree)"}


# What was met


def test_nodes_in_line_come_container_by_container_the_newest_first() -> None:
    with Survey() as survey:
        old, new = b"o" * 16, b"n" * 32
        survey.add_containers([(old, 100, 1.5), (new, 100, 2.5)])
        step = survey.add_step(survey.add_step(0, b"root"), b"")
        rows = [PendingRow(container, offset, 10, step, b"x") for container in (old, new) for offset in (0, 50)]
        for row in (*rows, PendingRow(b"?" * 16, 0, 1, step, b"x")):
            survey.add_pending(row)
        assert survey.next_containers(9) == [new, old]
        assert survey.pending_end(new) == 60
        assert survey.take_pending(new, 5, 100) == [rows[3]]
        assert survey.take_pending(new, 0, 100) == [rows[2]]
        assert survey.next_containers(9) == [old]
        assert survey.path(step) == [b"root"]


def test_chunks_come_as_they_lie_and_keys_once() -> None:
    with Survey() as survey:
        rows = [ChunkRow(b"%d" % (number % 2), 100 - number, b"c", 1, 1, 1, b"n") for number in range(10)]
        survey.add_chunks([*rows, *rows])
        assert [(row.container, row.offset) for row in survey.chunks()] == sorted(
            (row.container, row.offset) for row in rows
        )
        assert [survey.is_first(b"k" * 16) for _ in range(3)] == [True, False, False]


def test_a_full_temporary_directory_is_named() -> None:
    with pytest.raises(NoSpace, match="let TMPDIR name one with more room"), Survey() as survey:
        survey._db.execute("PRAGMA max_page_count = 20")
        for number in range(100_000):
            survey.add_step(number, b"name")
