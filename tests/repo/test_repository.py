"""Commits: atomic, ordered, never lost, and what stores that fail at any moment make of them."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.repo.parts import SMALL_CHUNKS, commit, make_branch, open_repository, put, read_files
from vfsd.index.index import Index
from vfsd.model.commit import StoreFormat, encode
from vfsd.model.entry import Place
from vfsd.model.errors import AlreadyExists, Conflict, Damaged, NotFound, Unavailable, VfsdError
from vfsd.model.ids import CommitId, PackId, hash_bytes
from vfsd.model.location import parse_location
from vfsd.model.node import Leaf, decode_node
from vfsd.repo import writer as writer_module
from vfsd.repo.repository import FORMAT_KEY, Repository, init_store, read_format
from vfsd.store.blob import decode_blob, read_stored
from vfsd.store.faulty import WRITES, Crashed, Fault, FaultyStore, Request, no_faults, script, seeded
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK, NODE, read_directory
from vfsd.store.wrapped import WrappedStore

Files = dict[tuple[bytes, ...], bytes]
T = TypeVar("T")


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(FaultyStore(MemoryStore()), tmp_path / "index")) as found:
        make_branch(found)
        yield found


def content(repository: Repository, where: str = "r/main") -> Files:
    return read_files(repository, repository.root(parse_location(where)))


# Stores


def test_a_store_is_made_once_and_says_what_it_is() -> None:
    store = MemoryStore()
    made = init_store(store)
    assert read_format(store) == made
    assert made.shared
    assert (made.chunk_min, made.chunk_avg, made.chunk_max) == (5632, 22528, 90112)
    with pytest.raises(AlreadyExists):
        init_store(store)
    assert [stat.key for stat in store.list()] == [FORMAT_KEY], "trying its conditions left nothing behind"


def test_what_is_no_store_or_a_later_one_is_refused() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound, match="vfsd init"):
        read_format(store)
    store.put(FORMAT_KEY, encode(StoreFormat(vfsd=2, id="0", created=1)))
    with pytest.raises(Damaged, match="update vfsd"):
        read_format(store)


# Commits


def test_a_commit_has_what_was_written_and_its_parent_what_was_there(repository: Repository) -> None:
    first = commit(repository, {(b"a",): b"1", (b"d", b"b"): b"2"})
    second = commit(repository, {(b"a",): None, (b"c",): b"3"})
    assert first is not None and second is not None
    assert second.commit.header.parents == (first.commit.id,)
    assert second.commit.header.time > first.commit.header.time
    assert content(repository, f"r/main@{first.commit.id}") == {(b"a",): b"1", (b"d", b"b"): b"2"}
    assert content(repository) == {(b"d", b"b"): b"2", (b"c",): b"3"}
    assert repository.refs.head("r", "main") == second.head
    records = repository.refs.global_records(second.commit.header.global_id)
    assert {where: record.commit for where, record in records.items()} == {("r", "main"): second.commit.id}


def test_changing_nothing_makes_no_commit(repository: Repository) -> None:
    first = commit(repository, {(b"a",): b"1"})
    assert first is not None
    assert commit(repository, {(b"a",): b"1"}) is None
    assert commit(repository, {(b"no",): None}) is None
    assert repository.refs.head("r", "main") == first.head


def test_a_commit_on_a_branch_that_is_not_there_is_refused(repository: Repository) -> None:
    with pytest.raises(NotFound, match="no branch other"):
        commit(repository, {(b"a",): b"1"}, branch="other")


def test_a_small_commit_writes_three_small_objects(repository: Repository) -> None:
    store = repository.store
    assert isinstance(store, FaultyStore)
    commit(repository, {(b"d", b"%d" % number): b"" for number in range(2_000)})
    head = repository.refs.head("r", "main")
    before = {stat.key for stat in store.list()}
    store.requests.clear()
    commit(repository, {(b"d", b"77"): b"changed"})
    writes = [request for request in store.requests if request.kind in WRITES]
    assert sorted(request.key.split("/")[0] for request in writes) == ["commits", "globals", "refs"]
    assert sum(stat.size for stat in store.list() if stat.key not in before) < 40_000
    assert repository.refs.head("r", "main") != head


def test_history_names_64_ancestors(repository: Repository) -> None:
    made: list[CommitId] = []
    for number in range(70):
        one = commit(repository, {(b"a",): b"%d" % number})
        assert one is not None
        assert one.commit.ancestors == list(reversed(made))[:64]
        made.append(one.commit.id)


def test_a_lost_race_is_run_again_on_the_new_head(repository: Repository, tmp_path: Path) -> None:
    other = open_repository(repository.store, tmp_path / "other")
    stale = repository.refs.head("r", "main")
    commit(other, {(b"theirs",): b"1"})
    seen = []
    change = put({(b"mine",): b"1"}, repository)

    def watched(root, writer):  # type: ignore[no-untyped-def]
        seen.append(root)
        return change(root, writer)

    with closing(repository.writer()) as writer:
        made = repository.commit("r", "main", watched, writer=writer, message="", author="", head=stale)
    assert made is not None
    assert len(seen) == 2
    assert content(repository) == {(b"mine",): b"1", (b"theirs",): b"1"}
    other.index.close()


class Hasty(WrappedStore):
    """A store whose answer to a write of a ref is lost, while another writer goes on from it, and sent again."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.meanwhile: Callable[[], object] | None = None

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        result = act()
        if kind == "put_if_match" and key.startswith("refs/") and self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
            return act()
        return result


def test_a_commit_that_landed_unheard_is_not_made_twice(tmp_path: Path) -> None:
    """Made again it would bring back what the other writer has removed since."""
    memory = MemoryStore()
    store = Hasty(memory)
    with (
        closing(open_repository(memory, tmp_path / "other")) as other,
        closing(open_repository(store, tmp_path / "index")) as repository,
    ):
        make_branch(repository)
        store.meanwhile = lambda: commit(other, {(b"mine",): None, (b"theirs",): b"1"})
        made = commit(repository, {(b"mine",): b"1"})
        assert made is not None
        assert content(repository) == {(b"theirs",): b"1"}
        assert made.head == repository.refs.head("r", "main")
        log = [one.id for one in repository.commits.log(made.head.commit or CommitId(""))]
        assert log[1:] == [made.commit.id]


@pytest.mark.parametrize("embed", [1 << 18, 0])
@pytest.mark.parametrize("fault", [Fault.FAIL, Fault.LOSE])
def test_after_any_failed_request_the_same_commit_can_be_made_and_read_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, embed: int
) -> None:
    """What a failed try leaves in this node's memory and index does not get into later commits."""
    monkeypatch.setattr(writer_module, "EMBED", embed)
    files = {(b"d%d" % number, b"f"): b"%d" % number for number in range(4)}
    for at in range(100):
        store = FaultyStore(MemoryStore())
        with closing(open_repository(store, tmp_path / f"index-{at}")) as repository:
            make_branch(repository)
            commit(repository, {(b"first",): b"1"})
            store.requests.clear()
            store.plan = script({at: fault})
            try:
                commit(repository, files)
            except Unavailable:
                pass
            else:
                if len(store.requests) <= at:
                    assert at >= 4
                    return
            store.plan = no_faults
            commit(repository, files)
            commit(repository, {(b"d1", b"g"): b"new"})
            with closing(open_repository(store.inner, tmp_path / f"fresh-{at}")) as fresh:
                assert content(fresh) == {(b"first",): b"1", **files, (b"d1", b"g"): b"new"}


def test_a_node_is_never_stored_before_what_it_points_to(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a failure in between leaves a node that looks whole, and a later commit takes it for stored."""
    monkeypatch.setattr(writer_module, "EMBED", 0)
    monkeypatch.setattr(writer_module, "PACK_SIZE", {CHUNK: 1 << 20, NODE: 300})
    store = repository.store
    assert isinstance(store, FaultyStore)
    stored: set[bytes] = set()

    def look(request: Request) -> None:
        for stat in store.inner.list("packs/"):
            pack = PackId(bytes.fromhex(stat.key.rpartition("/")[2]))
            stored.update(blob.id for blob in read_directory(store.inner, pack, stat.size))
        for blob in set(stored):
            place = repository.index.place(blob)
            if place is None:
                continue
            frame = read_stored(store.inner, Place(place.container, place.offset, place.length))
            plain = decode_blob(frame, 1 << 20)
            if hash_bytes(plain) != blob:
                node = decode_node(plain)
                assert isinstance(node, Leaf)
                for entry in node.items:
                    assert {chunk.id for chunk in entry.chunks} <= stored
                    assert entry.node is None or entry.node.id in stored

    store.plan = look
    commit(repository, {(b"d%d" % number, b"f%d" % n): b"%d" % number for number in range(5) for n in range(3)})
    look(Request(0, "", ""))
    assert len(stored) >= 10


# A store that fails at any moment


class Node:
    """One node: an index of its own over the shared objects, behind a store that may fail."""

    def __init__(self, memory: MemoryStore, folder: Path, number: int) -> None:
        self.number = number
        self.store = FaultyStore(memory)
        self.repository = Repository(self.store, Index(str(folder / f"index-{number}")), SMALL_CHUNKS)


names = st.sampled_from([b"a", b"b", b"c", b"d"])
faults = st.sampled_from([Fault.FAIL, Fault.LOSE, Fault.REPEAT, Fault.CRASH, Fault.CRASH_AFTER])


class FailingStores(RuleBasedStateMachine):
    """Two nodes commit to one branch. Each write adds a file that nobody else writes, and changes one of a few that
    all write; the last acknowledged one of those is what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStore()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(writer_module, "EMBED", 600)
        self.patch.setattr(writer_module, "PACK_SIZE", {CHUNK: 500, NODE: 500})
        self.started = 0
        self.written = 0
        self.certain: Files = {}  # acknowledged
        self.possible: Files = {}  # whose commits ended in an error: there or not
        self.acknowledged: list[CommitId] = []

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.memory.put(FORMAT_KEY, encode(SMALL_CHUNKS))
        self.nodes = [self.start(), self.start()]
        make_branch(self.nodes[0].repository)

    def start(self, number: int = 0) -> Node:
        """With the index of the node that had this number before it died, else with an empty one."""
        self.started += 1
        return Node(self.memory, Path(self.folder.name), number or self.started)

    def teardown(self) -> None:
        for node in self.nodes:
            node.repository.index.close()
        self.folder.cleanup()
        self.patch.undo()

    @rule(
        who=st.integers(0, 1), name=names, size=st.sampled_from([0, 10, 1500]),
        plan=st.none() | st.tuples(st.integers(0, 12), faults), tries=st.integers(1, 3),
    )  # fmt: skip
    def write(self, who: int, name: bytes, size: int, plan: tuple[int, Fault] | None, tries: int) -> None:
        node = self.nodes[who]
        self.written += 1
        data = random.Random(self.written).randbytes(size)
        files = {(b"dir", name, b"%d" % self.written): data, (b"shared", name): b"%d" % self.written}
        node.store.requests.clear()
        if plan is not None:
            at, fault = plan
            node.store.plan = lambda request: fault if request.number == at else None
        for _ in range(tries):
            try:
                made = commit(node.repository, files)
            except Crashed:
                node.repository.index.close()
                self.nodes[who] = self.start(node.number)
                break
            except VfsdError:
                continue
            finally:
                self.possible.update({path: data for path, data in files.items() if path[0] == b"dir"})
            if made is not None:
                assert made.commit.id not in self.acknowledged, "acknowledged twice"
                self.acknowledged.append(made.commit.id)
            self.certain.update(files)
            break
        self.nodes[who].store.plan = lambda request: None
        if (b"shared", name) not in self.certain or self.certain[b"shared", name] != files[b"shared", name]:
            self.certain.pop((b"shared", name), None)  # not known which of them it is

    @invariant()
    def everything_acknowledged_is_there_for_a_node_that_starts_anew(self) -> None:
        fresh = self.start()
        with closing(fresh.repository.index):
            head = fresh.repository.refs.head("r", "main").commit
            found = content(fresh.repository)
            for path, data in self.certain.items():
                assert found[path] == data
            for path, data in found.items():
                if path[0] == b"dir":
                    assert self.possible[path] == data
            log = [] if head is None else list(fresh.repository.commits.log(head))
            ids = [one.id for one in log]
            assert len(ids) == len(set(ids))
            assert set(self.acknowledged) <= set(ids)
            own = [path for path in found if path[0] == b"dir"]
            assert len(log) >= len({path[2] for path in own}) > 0 or not log

    @precondition(lambda self: self.acknowledged)
    @rule(pick=st.integers(0, 1 << 16))
    def every_acknowledged_commit_stays_readable(self, pick: int) -> None:
        one = self.acknowledged[pick % len(self.acknowledged)]
        fresh = self.start()
        with closing(fresh.repository.index):
            content(fresh.repository, f"r/main@{one}")


TestFailingStores = FailingStores.TestCase
TestFailingStores.settings = settings(max_examples=25, stateful_step_count=15)


@pytest.mark.parametrize("seed", range(6))
def test_writers_on_a_store_that_fails_all_the_time_lose_nothing(tmp_path: Path, seed: int) -> None:
    memory = MemoryStore()
    with closing(open_repository(memory, tmp_path / "first")) as repository:
        make_branch(repository)
        store = FaultyStore(memory, seeded(seed, 0.3, [Fault.FAIL, Fault.LOSE, Fault.REPEAT]))
        failing = Repository(store, Index(str(tmp_path / "failing")), repository.format)
        expected: Files = {}
        failed = 0
        for number in range(30):
            files = {(b"%d" % (number % 7), b"%d" % number): b"x" * number}
            while True:
                try:
                    commit(failing, files)
                    break
                except (Unavailable, Conflict):
                    failed += 1
            expected.update(files)
        failing.index.close()
        assert failed > 5
        assert content(repository) == expected
