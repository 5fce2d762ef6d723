"""Nodes on one store, each step of theirs at any moment of the others': writers, collections, compactions, refs that
are made and deleted, and deaths and lost answers among them. The model is what each commit holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.repo.collecting import age, blobs, check, content, gc, no_trees, node_on
from tests.repo.parts import Path_, make_branch, put
from tests.repo.test_gc_races import GRACE, Node, small_objects
from tests.repo.turns import Actor, race
from vfsd.model.commit import encode
from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import AlreadyExists, Conflict, NotFound, Unavailable, VfsdError
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo.compact import compact
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.tree import apply, change_set
from vfsd.repo.writer import BlobWriter
from vfsd.store.faulty import Fault
from vfsd.store.memory import MemoryStore

Files = dict[Path_, bytes]
Change = Callable[[Files], Files]  # what a commit makes of its parent's files
BRANCHES = ["main", "try"]
COPY = b"x"  # the directory that trees are copied to

_FILES = [(b"f",), (b"g",), (b"a", b"c"), (b"a", b"d"), (b"a", b"e"), (b"b", b"c"), (b"b", b"d")]
_CONTENTS = [b"x" * 90, b"y" * 400, b"z" * 1500, bytes(range(256)) * 6]

changes = st.dictionaries(
    st.sampled_from(_FILES), st.one_of(*(st.just(one) for one in _CONTENTS), st.none()), min_size=1, max_size=5
)
branches = st.sampled_from(BRANCHES)
picks = st.integers(0, 50)
faults = st.none() | st.tuples(st.integers(0, 30), st.sampled_from(list(Fault)))
steps = st.one_of(
    st.tuples(st.just("write"), branches, changes),
    st.tuples(st.just("write"), branches, changes),
    st.tuples(st.just("copy"), branches, picks),
    st.tuples(st.just("branch"), branches, picks),
    st.tuples(st.just("tag"), st.just(""), picks),
)
keeping = st.tuples(st.sampled_from(["gc", "compact", "both", "waiting"]), st.integers(1, 3))
schedules = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), max_size=24)


class Racing(RuleBasedStateMachine):
    """Two writers and two keepers, each with an index of its own."""

    @initialize()
    def begin(self) -> None:
        self.exits = ExitStack()
        self.exits.enter_context(small_objects())
        self.folder = Path(self.exits.enter_context(tempfile.TemporaryDirectory()))
        self.memory = MemoryStore()
        self.writers = [Node(self.memory, self.folder / name) for name in ("one", "two")]
        self.keepers = [Node(self.memory, self.folder / name) for name in ("keeper", "other")]
        make_branch(self.writers[0].repository)
        self.trees: dict[CommitId, Files] = {}
        self.parents: dict[CommitId, CommitId | None] = {}
        self.attempts: dict[str, Change] = {}  # by the messages of commits
        self.acknowledged: set[CommitId] = set()  # refs at these were promised
        self.refs: dict[str, CommitId | None] = {"refs/r/main": None}
        self.count = 0

    def teardown(self) -> None:
        if hasattr(self, "exits"):
            for node in (*self.writers, *self.keepers):
                node.repository.index.close()
            self.exits.close()

    # What is done

    @rule(
        first=st.none() | steps, second=steps, keeps=st.lists(keeping, min_size=1, max_size=2), schedule=schedules,
        faulty=st.lists(faults, min_size=4, max_size=4),
    )
    def race(
        self, first: tuple[str, str, object] | None, second: tuple[str, str, object], keeps: list[tuple[str, int]],
        schedule: list[tuple[int, int]], faulty: list[tuple[int, Fault] | None],
    ) -> None:
        nodes: list[Node] = []
        actors: list[Actor] = []
        for node, step in zip(self.writers, (first, second), strict=True):
            if step is not None:
                nodes.append(node)
                actors.append(Actor(step[0], node.faulty, self._step(node.repository, *step)))
        for node, (kind, times) in zip(self.keepers, keeps, strict=False):
            nodes.append(node)
            actors.append(Actor(kind, node.faulty, self._keep(node.repository, kind, times)))
        for actor, fault in zip(actors, faulty, strict=False):
            actor.fault = fault
        race(actors, schedule)
        for node, actor in zip(nodes, actors, strict=True):
            if actor.died:
                node.restart()
            elif actor.error is not None and not isinstance(actor.error, Unavailable | Conflict):
                raise actor.error
        self._look()

    @rule(branch=branches, files=changes, which=st.integers(0, 1))
    def write(self, branch: str, files: Files, which: int) -> None:
        if f"refs/r/{branch}" in self.refs:
            self._step(self.writers[which].repository, "write", branch, files)()
            self._look()

    @rule(branch=branches)
    def delete_branch(self, branch: str) -> None:
        if self.refs.pop(f"refs/r/{branch}", None) is not None:
            self.writers[0].repository.refs.delete_branch("r", branch)
            self._look()

    @rule()
    def delete_tags(self) -> None:
        refs = self.writers[0].repository.refs
        for name, _ in list(refs.tags("r")):
            refs.delete_tag("r", name)
        self._look()

    @precondition(lambda self: self.trees)
    @rule(pick=picks)
    def drop(self, pick: int) -> None:
        found = self._pick(pick)
        repository = self.writers[1].repository
        if found not in self.refs.values() and self._is_reachable(found):
            repository.drops.add([encode(repository.commits.get(found).header)], time=1, author="a", reason="")

    @rule()
    def let_time_pass(self) -> None:
        age(self.memory, GRACE * 1.5)

    @rule()
    def in_the_end_nothing_else_is_left(self) -> None:
        """Whatever happened before, collections and compactions go through, and give all room back."""
        keeper = self.keepers[0].repository
        for _ in range(3):
            age(self.memory, 10)
            gc(keeper)
            compact(keeper, no_trees, rewrite=True, author="k", below=1.0, grace_s=0.0)
        gc(keeper)
        needed = blobs(self.memory)
        age(self.memory, 10)
        again = gc(keeper)
        assert blobs(self.memory) == needed and again.condemned.objects == again.deleted.objects == 0
        reachable = {one for head in self.refs.values() for one in self._history(head)}
        there = {key.removeprefix("commits/") for key in needed if key.startswith("commits/")}
        assert there <= reachable

    # How it is done

    def _pick(self, pick: int) -> CommitId:
        return list(self.trees)[pick % len(self.trees)]

    def _step(self, repository: Repository, kind: str, branch: str, what: object) -> Callable[[], object]:
        match kind:
            case "write":
                files = what
                assert isinstance(files, dict)
                self.count += 1
                message = str(self.count)
                self.attempts[message] = lambda tree: {
                    path: data for path, data in (tree | files).items() if data is not None
                }
                return lambda: self._commit(repository, branch, message, lambda: put(files, repository))
        assert not isinstance(what, dict)
        pick = int(what or 0)  # type: ignore[call-overload]
        if kind == "copy":
            return self._copying(repository, branch, pick)
        return self._naming(repository, branch if kind == "branch" else "", pick)

    def _commit(
        self, repository: Repository, branch: str, message: str,
        change: Callable[[], Callable[[Entry, BlobWriter], Entry]],
    ) -> None:
        """As often as it takes."""
        for last in (False, False, True):
            with closing(repository.writer()) as writer:
                try:
                    made = repository.commit("r", branch, change(), writer=writer, message=message, author="")
                except (Unavailable, NotFound):
                    if last:
                        raise
                    try:
                        repository.refs.head("r", branch)
                    except NotFound:
                        return
                    continue
            if made is not None:
                self.acknowledged.add(made.commit.id)
            return

    def _copying(self, repository: Repository, branch: str, pick: int) -> Callable[[], object]:
        """A whole tree is taken over by its pointer, whatever becomes of the commit that it is from."""
        if not self.trees:
            return lambda: None
        source = self._pick(pick)
        whole = {path: data for path, data in self.trees[source].items() if path[0] != COPY}
        self.count += 1
        message = str(self.count)
        expected = {(COPY, *path): data for path, data in whole.items()}
        self.attempts[message] = lambda tree: {
            path: data for path, data in tree.items() if path[0] != COPY
        } | expected

        def act() -> None:
            try:
                found = repository.root(parse_location(f"r/main@{source}"))
                names = change_set([((COPY,), None)])
                with closing(repository.writer()) as writer:
                    bare = apply(repository.nodes, writer, found, names, prune=True)
                    writer.flush()

                    def change(root: Entry, sink: BlobWriter) -> Entry:
                        entry = Entry(COPY, Kind.DIR, bare.mode, 0, 0, 0, bare.size, bare.digest, (), bare.node)
                        return apply(repository.nodes, sink, root, change_set([((COPY,), entry)]), prune=True)

                    made = repository.commit("r", branch, change, writer=writer, message=message, author="")
            except VfsdError:
                return  # it may be gone, or going
            if made is not None:
                self.acknowledged.add(made.commit.id)

        return act if whole else lambda: None

    def _naming(self, repository: Repository, branch: str, pick: int) -> Callable[[], object]:
        """A ref at any commit that there ever was: if it can be made, it is whole."""
        self.count += 1
        name = f"v{self.count}"
        commit = self._pick(pick) if self.trees else None

        def act() -> None:
            try:
                if commit is None:
                    repository.refs.create_branch("r", branch or name, None, now_ns())
                elif branch:
                    repository.create_branch("r", branch, commit, now_ns())
                else:
                    repository.create_tag("r", name, commit, now_ns())
            except (AlreadyExists, NotFound):
                pass

        return act

    def _keep(self, repository: Repository, kind: str, times: int) -> Callable[[], object]:
        grace = GRACE if kind == "waiting" else 0.0

        def act() -> None:
            for _ in range(times):
                if kind != "compact":
                    gc(repository, grace=grace)
                if kind != "gc":
                    compact(repository, no_trees, rewrite=True, author="k", below=0.9, grace_s=grace)
                if kind == "waiting":
                    age(self.memory, GRACE * 1.5)

        return act

    # What there is then

    def _look(self) -> None:
        """Take in which commits were made and what names them, and see that all of it is whole."""
        self.refs = {}
        self.count += 1
        fresh = node_on(self.memory, self.folder / f"fresh{self.count}")
        with closing(fresh):
            for _, branch, _ in list(fresh.refs.branches("r")):
                self.refs[f"refs/r/{branch}"] = fresh.refs.head("r", branch).commit
            for name, tag in list(fresh.refs.tags("r")):
                self.refs[f"tags/r/{name}"] = tag.commit
            for head in self.refs.values():
                self._take_in(fresh, head)
            fresh.drops.refresh()
            check(fresh)
            for head in self.refs.values():
                for one in self._history(head):
                    assert fresh.commits.get(one).id == one
                    if one == head or fresh.drops.find(one) is None:
                        assert content(fresh, f"r/main@{one}") == self.trees[one]
            fresh.store.close = lambda: None  # type: ignore[method-assign]
        reachable = {one for head in self.refs.values() for one in self._history(head)}
        assert self.acknowledged <= reachable | self.forgotten(), "a commit that was acknowledged is in no history"
        self.acknowledged &= reachable

    def forgotten(self) -> set[CommitId]:
        """Commits that no branch leads to since one was deleted; races do not delete any."""
        return {one for one in self.acknowledged if one in self.trees}

    def _take_in(self, repository: Repository, head: CommitId | None) -> None:
        new: list[CommitId] = []
        while head is not None and head not in self.trees:
            new.append(head)
            parents = repository.commits.get(head).header.parents
            self.parents[head] = head = parents[0] if parents else None
        for one in reversed(new):
            parent = self.parents[one]
            change = self.attempts[repository.commits.get(one).header.message]
            self.trees[one] = change(self.trees[parent] if parent is not None else {})

    def _history(self, head: CommitId | None) -> Iterator[CommitId]:
        while head is not None:
            yield head
            head = self.parents[head]

    def _is_reachable(self, wanted: CommitId) -> bool:
        return any(wanted in self._history(head) for head in self.refs.values())

    @invariant()
    def all_is_whole(self) -> None:
        if hasattr(self, "exits"):
            self._look()
