"""Two writers and a garbage collector on one store, each of which may be interrupted anywhere by what the others do, or
die: nothing that a branch leads to is ever lost, and in the end nothing else is left.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.repo.collecting import age, blobs, check, content, gc, keys, node_on
from tests.repo.parts import Path_, boundary_bits, commit, make_branch, open_repository
from vfsd.model.commit import encode
from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import Conflict, NotFound, VfsdError
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo import guard as guard_module
from vfsd.repo import writer as writer_module
from vfsd.repo.repository import Committed, now_ns
from vfsd.repo.tree import apply, change_set, find
from vfsd.repo.writer import BlobWriter
from vfsd.store.faulty import Crashed, Fault, FaultyStore, Request, no_faults
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK, NODE

Files = dict[Path_, bytes]
BRANCHES = ["main", "try"]
GRACE = 1000.0

names = st.sampled_from([b"a", b"b", b"c", b"d"])
paths = st.one_of(st.tuples(names), st.tuples(names, names))
contents = st.sampled_from([b"", b"x" * 90, b"y" * 400, b"z" * 1500, bytes(range(256)) * 6])
changes = st.dictionaries(paths, st.one_of(contents, contents, contents, st.none()), min_size=1, max_size=5)
branches = st.sampled_from(BRANCHES)
nodes = st.integers(0, 1)
requests = st.integers(0, 24)


@contextmanager
def small_objects() -> Iterator[None]:
    """Trees of many nodes, packs of few blobs, and lists that every writer asks about."""
    with pytest.MonkeyPatch.context() as patch, boundary_bits(1):
        patch.setattr(writer_module, "EMBED", 700)
        patch.setattr(writer_module, "PACK_SIZE", {CHUNK: 1200, NODE: 1200})
        patch.setattr(guard_module, "FRESH_S", 0.0)
        yield


class Node:
    """One node: an index of its own, and a store that does what a plan says."""

    def __init__(self, memory: MemoryStore, path: Path) -> None:
        self.memory = memory
        self.path = path
        self.faulty = FaultyStore(memory)
        self.repository = node_on(self.faulty, path)

    def restart(self) -> None:
        """A new process on the same index."""
        self.repository.index.close()
        self.faulty = FaultyStore(self.memory)
        self.repository = node_on(self.faulty, self.path)


class Collecting(RuleBasedStateMachine):
    """The model: what each branch holds, and which commits there were."""

    @initialize()
    def begin(self) -> None:
        self.exits = ExitStack()
        self.exits.enter_context(small_objects())
        self.folder = Path(self.exits.enter_context(tempfile.TemporaryDirectory()))
        self.memory = MemoryStore()
        self.nodes = [Node(self.memory, self.folder / name) for name in ("one", "two")]
        self.keeper = Node(self.memory, self.folder / "keeper")
        self.fresh = 0
        make_branch(self.nodes[0].repository)
        self.branches: dict[str, CommitId | None] = {"main": None}
        self.trees: dict[CommitId, Files] = {}
        self.parents: dict[CommitId, CommitId | None] = {}
        self.dropped: set[CommitId] = set()

    def teardown(self) -> None:
        if hasattr(self, "exits"):
            for node in (*self.nodes, self.keeper):
                node.repository.index.close()
            self.exits.close()

    # What is done

    @rule(which=nodes, branch=branches, files=changes)
    def write(self, which: int, branch: str, files: Files) -> None:
        if branch in self.branches:
            self._write(self.nodes[which], branch, files)

    @rule(which=nodes, branch=branches, files=changes, at=requests, other=branches, others=changes)
    def write_while_another_writes(
        self, which: int, branch: str, files: Files, at: int, other: str, others: Files
    ) -> None:
        """The other node commits in the middle of this node's commit."""
        if branch in self.branches and other in self.branches:
            self._in_the_middle(self.nodes[which], at, lambda: self._write(self.nodes[1 - which], other, others))
            self._write(self.nodes[which], branch, files)

    @rule(which=nodes, branch=branches, files=changes, at=requests, times=st.integers(1, 3), wait=st.booleans())
    def write_while_garbage_is_collected(
        self, which: int, branch: str, files: Files, at: int, times: int, wait: bool
    ) -> None:
        if branch not in self.branches:
            return

        def collect() -> None:
            for _ in range(times):
                gc(self.keeper.repository, grace=GRACE if wait else 0.0)
                age(self.memory, GRACE * 1.5)

        self._in_the_middle(self.nodes[which], at, collect)
        self._write(self.nodes[which], branch, files)

    @rule(which=nodes, branch=branches, files=changes, at=requests, after=st.booleans())
    def write_and_die(self, which: int, branch: str, files: Files, at: int, after: bool) -> None:
        node = self.nodes[which]
        if branch in self.branches:
            fault = Fault.CRASH_AFTER if after else Fault.CRASH
            self._plan(node, lambda request: fault if request.number == at else None)
            try:
                self._write(node, branch, files)
            except Crashed:
                node.restart()
                self._look_again(branch, files)

    @precondition(lambda self: self.trees)
    @rule(which=nodes, branch=branches, pick=st.integers(0, 50), at=requests, name=names)
    def copy_while_garbage_is_collected(self, which: int, branch: str, pick: int, at: int, name: bytes) -> None:
        """A whole tree is taken over by its pointer, whatever becomes of the commit that it is from."""
        source = list(self.trees)[pick % len(self.trees)]
        node = self.nodes[which]
        if branch not in self.branches or source in self.dropped:
            return
        try:
            found = node.repository.root(parse_location(f"r/main@{source}"))
        except (NotFound, VfsdError):
            assert not self._is_reachable(source)
            return
        self._in_the_middle(node, at, lambda: gc(self.keeper.repository))

        def change(root: Entry, writer: BlobWriter) -> Entry:
            entry = Entry(
                name, Kind.DIR, found.mode, 0, 0, 0, found.size, found.digest, (), found.node
            )
            return apply(node.repository.nodes, writer, root, change_set([((name,), entry)]))

        expected = {(name, *path): data for path, data in self.trees[source].items()}
        with closing(node.repository.writer()) as writer:
            try:
                made = node.repository.commit("r", branch, change, writer=writer, message="", author="")
            except VfsdError:
                assert not self._is_reachable(source)
                return
        if made is not None:
            kept = {path: data for path, data in self._parent_tree(made).items() if path[0] != name}
            self._made(branch, made, kept | expected)

    @rule(branch=branches)
    def delete_branch(self, branch: str) -> None:
        if branch in self.branches:
            self.nodes[0].repository.refs.delete_branch("r", branch)
            del self.branches[branch]

    @rule(branch=branches, pick=st.integers(0, 50), at=requests)
    def make_branch_while_garbage_is_collected(self, branch: str, pick: int, at: int) -> None:
        """At any commit that there ever was: if it can be made, it is whole."""
        if branch in self.branches:
            return
        node = self.nodes[0]
        if not self.trees:
            node.repository.refs.create_branch("r", branch, None, now_ns())
            self.branches[branch] = None
            return
        at_commit = list(self.trees)[pick % len(self.trees)]
        self._in_the_middle(node, at, lambda: gc(self.keeper.repository))
        try:
            node.repository.create_branch("r", branch, at_commit, now_ns())
        except NotFound:
            assert not self._is_reachable(at_commit) or at_commit in self.dropped
        else:
            self.branches[branch] = at_commit

    @precondition(lambda self: self.trees)
    @rule(pick=st.integers(0, 50))
    def drop(self, pick: int) -> None:
        found = list(self.trees)[pick % len(self.trees)]
        if found in self.branches.values() or found in self.dropped or not self._is_reachable(found):
            return
        repository = self.nodes[1].repository
        repository.drops.add([encode(repository.commits.get(found).header)], time=1, author="a", reason="")
        self.dropped.add(found)

    @rule(wait=st.booleans())
    def collect(self, wait: bool) -> None:
        gc(self.keeper.repository, grace=GRACE if wait else 0.0)

    @rule()
    def let_time_pass(self) -> None:
        age(self.memory, GRACE * 1.5)

    @rule(at=st.integers(0, 80), after=st.booleans())
    def collect_and_die(self, at: int, after: bool) -> None:
        fault = Fault.CRASH_AFTER if after else Fault.CRASH
        self._plan(self.keeper, lambda request: fault if request.number == at else None)
        try:
            gc(self.keeper.repository)
        except Crashed:
            self.keeper.restart()
        self._plan(self.keeper, no_faults)

    @rule(at=st.integers(0, 80), which=nodes, branch=branches, files=changes)
    def collect_while_another_writes(self, at: int, which: int, branch: str, files: Files) -> None:
        if branch in self.branches:
            self._in_the_middle(self.keeper, at, lambda: self._write(self.nodes[which], branch, files))
            gc(self.keeper.repository)
            self._plan(self.keeper, no_faults)

    # How it is done

    def _plan(self, node: Node, plan: Callable[[Request], Fault | None]) -> None:
        node.faulty.requests.clear()
        node.faulty.plan = plan

    def _in_the_middle(self, node: Node, at: int, act: Callable[[], object]) -> None:
        """Do something before this node's request number `at` from now, once."""
        done = False

        def plan(request: Request) -> Fault | None:
            nonlocal done
            if request.number >= at and not done:
                done = True
                act()
            return None

        self._plan(node, plan)

    def _write(self, node: Node, branch: str, files: Files) -> None:
        """Commit, as often as it takes: what was deleted under way is stored again."""
        for _ in range(3):
            try:
                made = commit(node.repository, files, branch=branch)
                break
            except VfsdError as error:
                assert "try again" in str(error), error
        else:
            raise AssertionError("a commit fails again and again")
        self._plan(node, no_faults)
        if made is not None:
            self._made(branch, made, self._changed(self._parent_tree(made), files))

    def _changed(self, tree: Files, files: Files) -> Files:
        with tempfile.TemporaryDirectory() as folder, closing(
            open_repository(MemoryStore(), Path(folder) / "index")
        ) as model:
            make_branch(model)
            for change in (tree, files):
                commit(model, change)
            return content(model) if model.refs.head("r", "main").commit else {}

    def _parent_tree(self, made: Committed) -> Files:
        parents = made.commit.header.parents
        return self.trees[parents[0]] if parents else {}

    def _made(self, branch: str, made: Committed, tree: Files) -> None:
        one = made.commit
        self.trees[one.id] = tree
        self.parents[one.id] = one.header.parents[0] if one.header.parents else None
        self.branches[branch] = one.id

    def _look_again(self, branch: str, files: Files) -> None:
        """After a death: the commit was made, or not."""
        repository = self.keeper.repository
        head = repository.refs.head("r", branch).commit
        if head != self.branches[branch]:
            assert head is not None
            made = repository.commits.get(head)
            parent = made.header.parents[0] if made.header.parents else None
            assert parent == self.branches[branch]
            self.trees[head] = self._changed(self.trees[parent] if parent else {}, files)
            self.parents[head] = parent
            self.branches[branch] = head

    def _history(self, head: CommitId | None) -> Iterator[CommitId]:
        while head is not None:
            yield head
            head = self.parents[head]

    def _is_reachable(self, wanted: CommitId) -> bool:
        return any(wanted in self._history(head) for head in self.branches.values())

    # What holds

    @invariant()
    def all_that_branches_lead_to_is_whole(self) -> None:
        if not hasattr(self, "exits"):
            return
        self.fresh += 1
        fresh = node_on(self.memory, self.folder / f"fresh{self.fresh}")
        with closing(fresh.index):
            check(fresh)
            for branch, head in self.branches.items():
                assert fresh.refs.head("r", branch).commit == head
                for one in self._history(head):
                    if one not in self.dropped:
                        assert content(fresh, f"r/main@{one}") == self.trees[one]
                    assert fresh.commits.get(one).id == one

    @precondition(lambda self: hasattr(self, "exits"))
    @rule()
    def in_the_end_nothing_else_is_left(self) -> None:
        age(self.memory, 1)
        for _ in range(2):
            gc(self.keeper.repository)
        needed = blobs(self.memory)
        gc(self.keeper.repository)
        assert blobs(self.memory) == needed
        commits = {key.removeprefix("commits/") for key in keys(self.memory, "commits/")}
        for one in self.trees:
            if self._is_reachable(one) and one not in self.dropped:
                assert one in commits


# One meeting, at each moment that there is


class Meeting:
    """A store in which something is garbage that a writer knows and needs again; `write` makes a commit with it."""

    def __init__(self, folder: Path, number: int) -> None:
        self.memory = MemoryStore()
        self.writer = Node(self.memory, folder / f"writer{number}")
        self.keeper = Node(self.memory, folder / f"keeper{number}")
        self.folder = folder
        make_branch(self.writer.repository)
        self.expected: Files = {}

    def write(self) -> None:
        raise NotImplementedError

    def try_to_write(self) -> bool:
        """Whether it could be done; if not, because it is too late."""
        try:
            self.write()
        except VfsdError as error:
            assert "try again" in str(error)
            return False
        return True

    def end(self, *, written: bool) -> None:
        """What was acknowledged is there, now and after more runs."""
        for _ in range(3):
            fresh = node_on(self.memory, self.folder / "fresh")
            with closing(fresh.index):
                check(fresh)
                found = content(fresh)
                assert not written or {path: found[path] for path in self.expected} == self.expected
            (self.folder / "fresh").unlink()
            gc(self.keeper.repository)
        for node in (self.writer, self.keeper):
            node.repository.index.close()


class SharedChunks(Meeting):
    """The chunks of a branch that was deleted, which the writer's index knows."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, number)
        repository = self.writer.repository
        commit(repository, {(b"a",): b"1"})
        repository.refs.create_branch("r", "try", None, now_ns())
        self.expected = {(b"d", b"%d" % each): bytes([each]) * 300 for each in range(8)}
        commit(repository, self.expected, branch="try")
        repository.refs.delete_branch("r", "try")

    def write(self) -> None:
        commit(self.writer.repository, self.expected)


class SharedTree(Meeting):
    """A directory as it was in a commit that was dropped. Its node lies beside others that are needed."""

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(folder, number)
        repository = self.writer.repository
        old = {(name, b"%d" % each): name * 200 + bytes([each]) * 300 for name in (b"d", b"e") for each in range(6)}
        first = commit(repository, old)
        assert first is not None
        self.entry = find(repository.nodes, first.commit.root, (b"d",))
        self.expected = {path: data for path, data in old.items() if path[0] == b"d"}
        commit(repository, {(b"d", b"%d" % each): bytes([each, 1]) * 300 for each in range(6)})
        repository.drops.add([encode(first.commit.header)], time=1, author="a", reason="")

    def write(self) -> None:
        repository = self.writer.repository
        change = change_set([((b"d",), self.entry)])
        with closing(repository.writer()) as writer:
            repository.commit(
                "r", "main", lambda root, sink: apply(repository.nodes, sink, root, change), writer=writer, message="",
                author="",
            )  # fmt: skip


MEETINGS = pytest.mark.parametrize("kind", [SharedChunks, SharedTree])


@MEETINGS
def test_whenever_in_a_collection_a_commit_is_made_it_stays_whole(kind: type[Meeting], tmp_path: Path) -> None:
    with small_objects():
        at, done, outcomes = 0, False, []
        while not done:
            meeting = kind(tmp_path, at)
            node, written = meeting.keeper, []

            def plan(request: Request, meeting: Meeting = meeting, at: int = at, written: list[bool] = written) -> None:
                if request.number == at:
                    written.append(meeting.try_to_write())

            node.faulty.requests.clear()
            node.faulty.plan = plan
            gc(node.repository)
            node.faulty.plan = no_faults
            done = not written
            meeting.end(written=written == [True])
            outcomes += written
            at += 1
        assert at > 40 and outcomes[0] and (kind is SharedChunks or not outcomes[-1])


@MEETINGS
def test_whenever_in_a_commit_garbage_is_collected_it_stays_whole(kind: type[Meeting], tmp_path: Path) -> None:
    with small_objects():
        at, done, outcomes = 0, False, []
        while not done:
            meeting = kind(tmp_path, at)
            node, met = meeting.writer, []

            def plan(request: Request, meeting: Meeting = meeting, at: int = at, met: list[int] = met) -> None:
                if request.number >= at and not met:
                    met.append(at)
                    gc(meeting.keeper.repository)

            node.faulty.requests.clear()
            node.faulty.plan = plan
            written = meeting.try_to_write()
            node.faulty.plan = no_faults
            done = not met
            meeting.end(written=written)
            outcomes.append(written)
            at += 1
        assert at > 6 and outcomes[-1]


@MEETINGS
def test_what_waits_for_its_deletion_can_still_be_needed(kind: type[Meeting], tmp_path: Path) -> None:
    with small_objects():
        meeting = kind(tmp_path, 0)
        age(meeting.memory, 2 * GRACE)
        assert gc(meeting.keeper.repository, grace=GRACE).condemned.objects > 0
        assert meeting.try_to_write()
        age(meeting.memory, 2 * GRACE)
        gc(meeting.keeper.repository, grace=GRACE)
        meeting.end(written=True)


def test_whenever_in_a_collection_another_one_deletes_what_was_given_up_since_it_says_so_or_goes_on(
    tmp_path: Path,
) -> None:
    """Before each of its reads."""
    with small_objects():
        at, done = 0, False
        while not done:
            memory = MemoryStore()
            writer, other, keeper = (Node(memory, tmp_path / f"{name}{at}") for name in ("writer", "other", "keeper"))
            make_branch(writer.repository)
            commit(writer.repository, {(b"a",): b"1" * 500})
            writer.repository.refs.create_branch("r", "try", None, now_ns())
            for number in range(3):
                commit(writer.repository, {(b"d", b"%d" % number): bytes([number]) * 900}, branch="try")
            reads, met = itertools.count(), []

            def plan(
                request: Request, reads: Iterator[int] = reads, at: int = at, met: list[int] = met,
                writer: Node = writer, other: Node = other, memory: MemoryStore = memory,
            ) -> None:
                if request.kind in {"get", "get_range"} and next(reads) == at:
                    met.append(at)
                    writer.repository.refs.delete_branch("r", "try")
                    age(memory, 1)
                    gc(other.repository)

            keeper.faulty.plan = plan
            try:
                gc(keeper.repository)
            except Conflict as error:
                assert "run this again" in str(error) or "another run" in str(error)
            keeper.faulty.plan = no_faults
            done = not met
            check(writer.repository)
            assert content(writer.repository) == {(b"a",): b"1" * 500}
            for node in (writer, other, keeper):
                node.repository.index.close()
            at += 1
        assert at > 8


TestCollecting = Collecting.TestCase
TestCollecting.settings = settings(max_examples=25, stateful_step_count=12)
