"""Compaction: packs of which little is needed give their room back, and every old pointer leads where it did."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.collecting import HOUR, age, blobs, check, compact, content, drop, gc, keys, much, node_on
from tests.repo.parts import commit, make_branch
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.index.index import Index
from vfsd.model.entry import Chunk
from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo import writer as writer_module
from vfsd.repo.chunklist import content_of
from vfsd.repo.content import read_content
from vfsd.repo.rebuild import rebuild
from vfsd.repo.repository import Repository
from vfsd.repo.tree import walk
from vfsd.store.blob import read_chunk
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Crashed, Fault, FaultyStore
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore
from vfsd.store.pack import CHUNK, NODE


def size(store: MemoryStore) -> int:
    return sum(stat.size for stat in store.list("packs/"))


def sparse(repository: Repository) -> CommitId:
    """A branch whose packs hold five files of a hundred: the rest was removed, and dropped. The commit to keep."""
    first = commit(repository, much(1))
    assert first is not None
    gone = [path for path in much(1) if int(path[1][1:]) % 20]
    second = commit(repository, dict.fromkeys(gone))
    assert second is not None
    drop(repository, first.commit.id)
    return second.commit.id


def left() -> dict[tuple[bytes, ...], bytes]:
    return {path: data for path, data in much(1).items() if int(path[1][1:]) % 20 == 0}


def test_what_little_is_needed_of_a_pack_is_rewritten_and_read_by_its_old_pointers(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    kept = sparse(repository)
    before = size(store)
    look = compact(repository, rewrite=False)
    assert look.sparse.packs >= 1 and look.live < 0.1 * before
    assert size(store) == before
    result = compact(repository)
    assert result.rewritten.packs >= 1 and result.freed > 0.8 * before
    assert size(store) < 0.2 * before
    assert keys(store, "moved/")
    for path in ("new", "rebuilt"):
        other = node_on(store, tmp_path / path)
        with closing(other.index):
            if path == "rebuilt":
                assert rebuild(other).problems == ()
            check(other)
            assert content(other, f"r/main@{kept}") == left()
    check(repository)


def test_a_store_without_sparse_packs_is_left_alone(repository: Repository, store: MemoryStore) -> None:
    commit(repository, much(1))
    before = {stat.key: stat.etag for stat in store.list()}
    result = compact(repository)
    assert result.sparse.objects == result.rewritten.objects == 0
    assert {stat.key: stat.etag for stat in store.list()} == before


def test_rewriting_waits_for_the_grace_period(repository: Repository, store: MemoryStore) -> None:
    sparse(repository)
    before = size(store)
    assert compact(repository, grace=HOUR).sparse.objects == 0, "too young"
    age(store, 2 * HOUR)
    assert compact(repository, grace=HOUR).sparse.packs >= 1
    result = compact(repository, grace=HOUR)
    assert result.sparse.objects == result.rewritten.objects == 0 and result.waiting.packs >= 1
    assert 0 < (result.next or 0) <= HOUR and size(store) == before
    age(store, 2 * HOUR)
    assert compact(repository, rewrite=False, grace=HOUR).freed > 0.8 * before
    assert compact(repository, grace=HOUR).rewritten.packs >= 1
    check(repository)
    assert content(repository) == left()


def test_the_cache_reads_what_was_moved(repository: Repository, store: MemoryStore, tmp_path: Path) -> None:
    sparse(repository)
    compact(repository)

    class Far(MemoryStore):
        """The same objects, far away."""

        def __init__(self) -> None:
            super().__init__()
            self._objects = store._objects

        @property
        def is_local(self) -> bool:
            return False

    other = node_on(Far(), tmp_path / "other")
    cache = ChunkCache(other.store, other.index, str(tmp_path / "cache"), memory_limit=1 << 20, disk_limit=1 << 24)
    with closing(other.index), closing(cache):
        root = other.root(parse_location("r/main"))
        found = {
            path: read_content(other.nodes, cache.get_many, content_of(entry), 0, entry.size)
            for path, entry in walk(other.nodes, root) if not entry.node
        }  # fmt: skip
        assert found == left()


def test_a_moved_pack_costs_a_fresh_node_two_more_requests(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    kept = sparse(repository)
    chunks = [entry.chunks[0] for _, entry in walk(repository.nodes, repository.commits.get(kept).root) if entry.chunks]
    compact(repository)
    counting = CountingStore(store)
    moved = MovedStore(counting)
    requests = []
    for chunk in chunks[:3]:
        counting.reset()
        assert read_chunk(moved, chunk)
        requests.append(counting.total().requests)
    assert requests == [3, 1, 1]


def test_the_objects_of_dropped_commits_go_when_others_share_their_blobs(
    repository: Repository, store: MemoryStore
) -> None:
    made = []
    for number in range(4):
        one = commit(repository, {(b"f%d" % number,): b"%d" % number * 5000})
        assert one is not None
        made.append(one.commit.id)
    drop(repository, *made[:3])
    gc(repository)
    assert len(keys(store, "commits/")) == 4
    result = compact(repository)
    assert result.rewritten.commits == 3
    assert keys(store, "commits/") == {f"commits/{made[3]}"}
    check(repository)
    assert len(content(repository)) == 4
    assert [one.id for one in repository.commits.log(made[3])] == made[::-1]


def test_packs_may_be_moved_again_and_their_maps_lead_on_at_once(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    kept = sparse(repository)
    compact(repository)
    files = left()
    for _ in range(3):
        path = next(iter(files))
        made = commit(repository, {path: None, (b"d", b"new"): random.Random(len(files)).randbytes(20_000)})
        assert made is not None
        del files[path]
        drop(repository, kept)
        kept = made.commit.id
        gc(repository)
        compact(repository, below=1.1)
        check(repository)
    other = node_on(store, tmp_path / "other")
    with closing(other.index):
        check(other)
        found = content(other)
        assert {path: found[path] for path in files} == files
    counting = CountingStore(store)
    chunk = next(e.chunks[0] for p, e in walk(repository.nodes, repository.commits.get(kept).root) if p in files)
    assert read_chunk(MovedStore(counting), chunk)
    assert counting.total().requests == 3, "not one more for each move"


def test_a_map_goes_when_nothing_leads_to_it(repository: Repository, store: MemoryStore) -> None:
    sparse(repository)
    compact(repository)
    assert keys(store, "moved/")
    repository.refs.delete_branch("r", "main")
    result = gc(repository)
    assert result.deleted.maps == result.condemned.maps > 0
    gc(repository)
    assert blobs(store) == set()


def test_a_commit_that_needs_what_is_to_be_rewritten_away_keeps_it(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    """Another node copies a whole tree by its pointer; the commit that it is from was dropped meanwhile."""
    first = commit(repository, much(1))
    assert first is not None
    old = repository.commits.get(first.commit.id).root
    gone = [path for path in much(1) if int(path[1][1:]) % 20]
    commit(repository, dict.fromkeys(gone))
    drop(repository, first.commit.id)
    age(store, 2 * HOUR)
    compact(repository, grace=HOUR)
    other = node_on(store, tmp_path / "other")
    with closing(other.index), closing(other.writer()) as writer:
        made = other.commit("r", "main", lambda root, _: old, writer=writer, message="", author="")
        assert made is not None
        age(store, 2 * HOUR)
        compact(repository, grace=HOUR)
        gc(repository)
        check(other)
        assert content(other) == much(1)


def test_damage_is_not_carried_on(repository: Repository, store: MemoryStore) -> None:
    sparse(repository)
    chunk = _chunk(repository)
    key = next(key for key in keys(store, "packs/") if chunk.place.container.hex() in key)
    data = bytearray(store.get(key)[0])
    data[chunk.place.offset + chunk.place.length - 1] ^= 1
    store.put(key, bytes(data))
    age(store, 10)
    result = compact(repository)
    assert [problem for problem in result.problems if key in problem]
    assert key in keys(store, "packs/") and not keys(store, "moved/") & {f"moved/{chunk.place.container.hex()}"}
    with pytest.raises(Damaged):
        check(repository)


def _chunk(repository: Repository) -> Chunk:
    root = repository.root(parse_location("r/main"))
    return next(entry.chunks[0] for _, entry in walk(repository.nodes, root) if entry.chunks)


@pytest.mark.parametrize("after", [False, True])
def test_a_run_may_die_at_any_request(tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "PACK_SIZE", {CHUNK: 100_000, NODE: 100_000})
    fault = Fault.CRASH_AFTER if after else Fault.CRASH
    number, done = 0, False
    while not done:
        store = MemoryStore()
        repository = node_on(store, tmp_path / f"index{number}{after}")
        make_branch(repository)
        sparse(repository)
        faulty = FaultyStore(store)
        dying = Repository(MovedStore(faulty), Index(str(tmp_path / f"dying{number}{after}")), repository.format)
        first = len(faulty.requests)
        faulty.plan = lambda request, at=first + number: fault if request.number == at else None  # type: ignore[misc]
        try:
            compact(dying)
            done = True
        except Crashed:
            pass
        dying.index.close()
        check(repository)
        assert content(repository) == left()
        compact(repository)
        assert size(store) < 200_000
        gc(repository)
        check(repository)
        repository.index.close()
        number += 7
    assert number > 30
