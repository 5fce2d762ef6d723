"""Repair: what is still there somewhere is put back where pointers lead; nothing is guessed, nothing is destroyed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import check, compact, content, drop, gc, keys, node_on
from tests.repo.parts import Path_, commit, make_branch
from vfsd.model.commit import BranchHead, decode
from vfsd.model.entry import Chunk, Kind
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo import writer as writer_module
from vfsd.repo.affected import affected
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.condemned import STATE, read_state
from vfsd.repo.fsck import Findings, fsck
from vfsd.repo.mending import Step
from vfsd.repo.rebuild import rebuild
from vfsd.repo.repair import Repair
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.rescue import UNKNOWN, Local
from vfsd.repo.tree import walk
from vfsd.store.blob import read_chunk
from vfsd.store.faulty import FaultyStore
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK, NODE, parse_directory

DICE = random.Random(1)
FILES: dict[Path_, bytes] = {
    (b"d%d" % (number % 5), b"f%d" % number): DICE.randbytes(3000) for number in range(120)
}  # fmt: skip


@pytest.fixture
def repository(store: MemoryStore, tmp_path: Path) -> Iterator[Repository]:
    with closing(node_on(store, tmp_path / "index")) as found:
        make_branch(found)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(writer_module, "EMBED", 2000)
            commit(found, FILES)
        commit(found, {(b"small",): b"1"})
        yield found


@pytest.fixture
def other(store: MemoryStore, repository: Repository, tmp_path: Path) -> Iterator[Repository]:
    """A node that knows nothing yet."""
    other = node_on(store, tmp_path / "other")
    with closing(other.index):
        yield other


def nothing(chunk: Chunk) -> None:
    return None


def repair(
    repository: Repository, local: Local = nothing, *, dry_run: bool = False, rewind: bool = False
) -> tuple[list[Step], Repair]:
    findings, steps = Findings(), list[Step]()
    fsck(repository, lambda problem: None, read_data=True, findings=findings)
    work = Repair(repository, findings, local, steps.append, dry_run=dry_run, rewind=rewind)
    work.run()
    return steps, work


def whole(store: MemoryStore, path: Path, expected: dict[Path_, bytes]) -> None:
    """A node without an index finds nothing wrong."""
    fresh = node_on(store, path / "fresh")
    with closing(fresh.index):
        check(fresh)
        assert content(fresh) == expected


def all_files() -> dict[Path_, bytes]:
    return {**FILES, (b"small",): b"1"}


def packs(store: MemoryStore, kind: int) -> list[str]:
    found = {key: parse_directory(key, store.get(key)[0]) for key in sorted(keys(store, "packs/"))}
    return [key for key, blobs in found.items() if blobs[0].kind == kind]


def flip(store: MemoryStore, key: str, *at: int) -> bytes:
    data = bytearray(store.get(key)[0])
    for one in at:
        data[one] ^= 1
    store.put(key, bytes(data))
    return bytes(data)


def remembered(repository: Repository) -> Local:
    """A cache that has every chunk."""
    root = repository.root(parse_location("r/main"))
    chunks = {
        chunk.id: read_chunk(repository.store, chunk)
        for _, entry in walk(repository.nodes, root) if entry.kind == Kind.FILE
        for _, chunk in iter_chunks(repository.nodes, content_of(entry))
    }  # fmt: skip
    return lambda chunk: chunks.get(chunk.id)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_node_whose_cache_has_the_chunks_puts_them_back(
    repository: Repository, store: MemoryStore, tmp_path: Path, damage: str
) -> None:
    local = remembered(repository)
    (key,) = packs(store, CHUNK)
    before = store.get(key)[0]
    match damage:
        case "flipped":
            flip(store, key, 100, 50_000)
        case "cut":
            store.put(key, before[: len(before) // 3])
        case "gone":
            store.delete(key)
    damaged = store.get(key)[0] if damage != "gone" else None
    steps, work = repair(repository, local)
    assert steps and all(step.done for step in steps) and work.lost == []
    whole(store, tmp_path, all_files())
    if damaged is not None:
        assert store.get(f"{work.aside.folder}/{key}")[0] == damaged, "what was replaced is kept"
    assert repair(repository)[0] == []
    fresh = node_on(store, tmp_path / "rebuilt")
    with closing(fresh.index):
        assert rebuild(fresh).problems == ()


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_tree_nodes_come_back_from_the_index_of_any_node_that_read_them(
    repository: Repository, store: MemoryStore, tmp_path: Path, damage: str
) -> None:
    (key,) = packs(store, NODE)
    if damage == "gone":
        store.delete(key)
    else:
        flip(store, key, 20, 900, 2000)
    steps, work = repair(repository)
    assert steps and work.lost == []
    whole(store, tmp_path, all_files())


@pytest.mark.parametrize("moved", [False, True])
def test_what_lies_below_a_lost_node_is_looked_for_and_not_read(
    repository: Repository, store: MemoryStore, tmp_path: Path, moved: bool
) -> None:
    if moved:
        for _ in range(2):
            compact(repository, below=1.1)
        content(repository)
    (lost,) = packs(store, NODE)
    (kept,) = packs(store, CHUNK)
    store.delete(lost)
    data = store.get(kept)[0]
    store.put(kept, data[:300_000])
    faulty = FaultyStore(store)
    node = node_on(faulty, tmp_path / "index")
    with closing(node.index):
        findings = Findings()
        fsck(node, lambda problem: None, findings=findings)
        faulty.requests.clear()
        work = Repair(node, findings, nothing, lambda step: None, dry_run=True)
        work.run()
    ranges = [request for request in faulty.requests if request.key == kept and request.kind != "stat"]
    assert len(ranges) <= 1, "to mend it, and not a chunk at a time"
    beyond = [blob for blob in parse_directory(kept, data) if blob.offset + blob.length > 300_000]
    assert {blob.id for blob in work.lost} == {blob.id for blob in beyond}


def test_a_look_changes_nothing_and_says_the_same(repository: Repository, store: MemoryStore) -> None:
    local = remembered(repository)
    (key,) = packs(store, CHUNK)
    flip(store, key, 100)
    before = {stat.key: stat.etag for stat in store.list()}
    steps, _ = repair(repository, local, dry_run=True)
    assert {stat.key: stat.etag for stat in store.list()} == before
    assert [(step.where, step.done) for step in steps] == [(key, True)]


def test_what_has_no_copy_left_is_said_by_paths_and_commits(
    repository: Repository, other: Repository, store: MemoryStore
) -> None:
    (key,) = packs(store, CHUNK)
    first = parse_directory(key, store.get(key)[0])[0]
    path = next(
        path for path, entry in walk(repository.nodes, repository.root(parse_location("r/main")))
        if entry.kind == Kind.FILE
        and any(chunk.id == first.id for _, chunk in iter_chunks(repository.nodes, content_of(entry)))
    )  # fmt: skip
    commit(repository, {path: b"new"})
    flip(store, key, first.offset + 5)
    steps, work = repair(other)
    assert [step.done for step in steps] == [False]
    assert [blob.id for blob in work.lost] == [first.id]
    (hit,) = affected(other, work.lost)
    assert (hit.path.encode(), hit.commits) == (b"/".join(path), 2)
    assert hit.oldest != hit.newest and hit.newest.startswith("r/main@")


def test_a_second_copy_in_the_store_repairs_the_first(
    repository: Repository, other: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    other.refs.create_repo("s", now_ns())
    other.refs.create_branch("s", "main", None, now_ns())
    commit(other, FILES, "s")  # an index that does not know the first copy
    first, second = packs(store, CHUNK)
    flip(store, first, 100, 9000)
    flip(store, second, 20_000)
    steps, work = repair(other)
    assert [step.done for step in steps] == [True, True] and work.lost == []
    whole(store, tmp_path, all_files())


def test_a_broken_directory_is_made_anew(repository: Repository, store: MemoryStore, other: Repository) -> None:
    for kind in (CHUNK, NODE):
        (key,) = packs(store, kind)
        data = store.get(key)[0]
        blobs = parse_directory(key, data)
        store.put(key, data[:-40])
        steps, _ = repair(repository)
        assert [step.what.split(";")[0] for step in steps] == ["its directory is made anew"]
        found = {blob.id: blob for blob in parse_directory(key, store.get(key)[0])}
        assert all(found.get(blob.id) == blob for blob in blobs)
    check(repository)


def test_a_node_that_knows_nothing_finds_compressed_blobs_by_their_frames(
    repository: Repository, other: Repository, store: MemoryStore
) -> None:
    (key,) = packs(store, NODE)
    data = store.get(key)[0]
    blobs = parse_directory(key, data)
    store.put(key, data[:-4])
    repair(other)
    found = {blob.id: blob for blob in parse_directory(key, store.get(key)[0])}
    assert sum(found.get(blob.id) == blob for blob in blobs) > 3, "those that are compressed"
    assert found.keys() - {UNKNOWN} <= {blob.id for blob in blobs}
    check(other)


@pytest.mark.parametrize("damage", ["gone", "header", "hints", "blobs"])
def test_a_commit_comes_back_from_a_node_that_knows_it(
    repository: Repository, store: MemoryStore, tmp_path: Path, damage: str
) -> None:
    head = repository.refs.head("r", "main").commit
    key = f"commits/{head}"
    data, local = store.get(key)[0], remembered(repository)
    match damage:
        case "gone":
            store.delete(key)
        case "header":
            flip(store, key, 30)
        case "hints":
            store.put(key, data[:-10])
        case "blobs":
            flip(store, key, int.from_bytes(data[8:12], "little") + 16 + 5)
    steps, _ = repair(repository, local)
    assert steps and all(step.done for step in steps)
    assert store.get(key)[0] == data
    whole(store, tmp_path, all_files())


def test_a_missing_global_record_is_written_again(repository: Repository, store: MemoryStore, tmp_path: Path) -> None:
    (first, second) = sorted(keys(store, "globals/"))
    before = store.get(first)[0]
    store.delete(first)
    steps, _ = repair(repository)
    assert [step.where for step in steps] == [first]
    assert store.get(first)[0] == before and store.get(second)
    whole(store, tmp_path, all_files())


def test_a_repo_without_a_record_gets_one(repository: Repository, store: MemoryStore) -> None:
    store.delete("repos/r")
    assert [step.where for step in repair(repository)[0]] == ["repos/r"]
    check(repository)


@pytest.mark.parametrize("knows", [True, False])
def test_a_branch_is_moved_back_only_when_that_is_asked_for(
    repository: Repository, other: Repository, store: MemoryStore, tmp_path: Path, knows: bool
) -> None:
    node = repository if knows else other
    good = repository.refs.head("r", "main").commit
    made = commit(repository, {(b"lost",): b"2"})
    assert made is not None
    store.delete(f"commits/{made.commit.id}")
    node.index.forget_commit(made.commit.id)
    ref = store.get("refs/r/main")[0]
    steps, _ = repair(node)
    assert [step.done for step in steps if step.where == "r/main"] == [False]
    assert any("--rewind" in step.what for step in steps) and store.get("refs/r/main")[0] == ref
    steps, work = repair(node, rewind=True)
    assert any(step.done and str(good)[:12] in step.what for step in steps)
    assert store.get(f"{work.aside.folder}/refs/r/main")[0] == ref
    assert decode(store.get("refs/r/main")[0], BranchHead, "").commit == good
    whole(store, tmp_path, all_files())


def test_a_map_that_cannot_be_read_is_made_anew(repository: Repository, store: MemoryStore, tmp_path: Path) -> None:
    gone = dict.fromkeys(list(FILES)[6:])
    first = repository.refs.head("r", "main").commit
    made = commit(repository, gone)
    assert made is not None and first is not None
    history = [one.id for one in repository.commits.log(first)]
    drop(repository, *map(CommitId, history))
    compact(repository)
    expected = content(repository)
    for key in keys(store, "moved/"):
        flip(store, key, 3, 9)
    steps, work = repair(repository)
    assert steps and work.lost == []
    whole(store, tmp_path, expected)


@pytest.mark.parametrize("damage", ["state", "list"])
def test_lists_of_gc_that_cannot_be_read_keep_nobody_from_writing(
    repository: Repository, other: Repository, store: MemoryStore, damage: str, tmp_path: Path
) -> None:
    repository.refs.create_branch("r", "try", None, now_ns())
    commit(repository, {(b"x", b"%d" % number): DICE.randbytes(3000) for number in range(120)}, branch="try")
    repository.refs.delete_branch("r", "try")
    gc(repository, grace=0)
    if damage == "state":
        store.put(STATE, b"{")
    else:
        for key in keys(store, "gc/lists/"):
            store.delete(key)
    steps, _ = repair(other)
    assert [step.where for step in steps if step.done] == [STATE]
    state = read_state(store)
    assert state is not None and state.lists == () and state.forgotten >= 1
    for number, node in enumerate((repository, other)):
        commit(node, {(b"more",): b"%d" % number})
        check(node)
    gc(other)


def test_an_index_forgets_what_lies_in_objects_that_are_gone(
    repository: Repository, other: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    made = commit(repository, dict.fromkeys(FILES))
    assert made is not None
    (key,) = packs(store, CHUNK)
    store.delete(key)
    history = [one.id for one in repository.commits.log(made.commit.id)][1:]
    drop(repository, *history)
    rebuild(other)
    assert any(step.where == "this node's index" for step in _forced(repository))
    commit(repository, FILES)
    whole(store, tmp_path, all_files())


def _forced(repository: Repository) -> list[Step]:
    steps: list[Step] = []
    Repair(repository, Findings(), nothing, steps.append, dry_run=False).run()
    return steps


def test_nothing_is_done_to_a_store_that_is_whole(repository: Repository, store: MemoryStore) -> None:
    before = {stat.key: stat.etag for stat in store.list()}
    steps, work = repair(repository)
    assert (steps, work.lost) == ([], [])
    assert {stat.key: stat.etag for stat in store.list()} == before
