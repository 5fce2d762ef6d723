"""Trees stay together while small commits scatter them: few requests, one after another, lead a fresh node anywhere."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest

from tests.repo.collecting import blobs, check, content, gc, node_on
from tests.repo.parts import Path_, boundary_bits, commit, make_branch
from vfsd.index.index import Index
from vfsd.model.entry import Chunk, Kind
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo import gather, writer
from vfsd.repo.chunklist import content_of
from vfsd.repo.content import read_content
from vfsd.repo.repository import Repository
from vfsd.repo.tree import find, walk
from vfsd.store.api import ObjectStore
from vfsd.store.blob import read_chunk
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import Crashed, Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore

T = TypeVar("T")
MOST = 6  # requests one after another, from a branch's name to a file's first byte


class Far(CountingStore):
    """A store that is far away. rounds: requests that came one after another; those of a window are made at once."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.rounds = 0
        self._in_window = False
        self._counting = threading.Lock()

    @property
    def is_local(self) -> bool:
        return False

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        with self._counting:
            in_window = threading.current_thread().name.startswith("vfsd-window")
            self.rounds += not (in_window and self._in_window)
            self._in_window = in_window
        return super()._around(kind, key, sent, act)


def first_byte(store: ObjectStore, index: Path, commit_id: CommitId | None, path: Path_) -> tuple[bytes, int]:
    """What a node that knows nothing reads of a file, and by how many requests one behind another. Of the branch's
    head, or of a commit whose id is known."""
    far = Far(store)
    fresh = node_on(far, index)
    with closing(fresh.index):
        far.rounds = 0
        root = fresh.root(parse_location("r/main")) if commit_id is None else fresh.commits.get(commit_id).root
        entry = find(fresh.nodes, root, path)

        def source(chunks: Sequence[Chunk], *, small: bool) -> list[bytes]:
            return [read_chunk(fresh.store, chunk) for chunk in chunks]

        return read_content(fresh.nodes, source, content_of(entry), 0, 1), far.rounds


@pytest.fixture
def repository(store: MemoryStore, tmp_path: Path) -> Iterator[Repository]:
    with boundary_bits(3), closing(node_on(store, tmp_path / "index")) as found:
        make_branch(found)
        yield found


def deep_paths(fan: int) -> list[Path_]:
    """Files in directories six deep."""
    return [(*(b"%d" % step for step in way), b"f") for way in itertools.product(range(fan), repeat=6)]


def probes(repository: Repository, paths: list[Path_], count: int) -> Iterator[tuple[CommitId | None, Path_]]:
    """(commit, file): of the head, and of commits all over the history."""
    dice = random.Random(count)
    head = repository.refs.head("r", "main").commit
    assert head is not None
    history = [found.id for found in repository.commits.log(head)]
    for number in range(count):
        yield None if number % 2 else dice.choice(history), dice.choice(paths)


@pytest.mark.parametrize(("cluster_bits", "embed"), [(5, 1000), (10, 256 << 10)])
def test_six_requests_lead_to_any_file_of_any_of_400_commits(
    repository: Repository, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster_bits: int,
    embed: int,
) -> None:
    monkeypatch.setattr(gather, "CLUSTER_BITS", cluster_bits)
    monkeypatch.setattr(writer, "EMBED", embed)
    paths = deep_paths(3)
    commit(repository, dict.fromkeys(paths, b"0"))
    dice = random.Random(1)
    for number in range(400):
        commit(repository, {dice.choice(paths): b"%d" % (number % 10)})
    found = [
        first_byte(store, tmp_path / str(number), *probe)
        for number, probe in enumerate(probes(repository, paths, 60))
    ]
    assert max(rounds for _, rounds in found) <= MOST
    check(repository)


def test_what_is_gathered_is_the_same_tree(repository: Repository, tmp_path: Path) -> None:
    paths, held = deep_paths(2), dict[Path_, bytes]()
    dice = random.Random(2)
    for number in range(60):
        changes = {dice.choice(paths): b"%d" % number for _ in range(3)}
        commit(repository, changes)
        held |= changes
    assert content(repository) == held
    with closing(node_on(MemoryStore(), tmp_path / "at once")) as other:
        make_branch(other)
        made = commit(other, held)
        assert made is not None
        assert made.commit.header.tree == repository.resolve(parse_location("r/main")).header.tree  # type: ignore[union-attr]


def test_the_objects_that_a_commit_s_tree_lies_in_stay_few(repository: Repository) -> None:
    """Also of a node that has just begun, and when two write in turn."""
    for number in range(100):
        made = commit(repository, {(b"d%d" % (number % 7), b"f%d" % number): b"x"})
        assert made is not None
        assert len(made.commit.hints.window) <= gather.WINDOW + 1
        if number % 10 == 0:
            repository.nodes.clear()


def test_two_nodes_in_turn_keep_the_tree_together(repository: Repository, store: MemoryStore, tmp_path: Path) -> None:
    paths = deep_paths(2)
    other = node_on(store, tmp_path / "other")
    with closing(other.index):
        commit(other, dict.fromkeys(paths, b"0"))
        for number, path in enumerate(paths * 2):
            commit((repository, other)[number % 2], {path: b"%d" % (number % 10)})
        assert content(repository) == content(other)
    for number, probe in enumerate(probes(repository, paths, 20)):
        assert first_byte(store, tmp_path / str(number), *probe)[1] <= MOST
    check(repository)


def test_a_tree_that_is_taken_over_from_elsewhere_is_brought_along(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    """`vfsd cp` points to the nodes of another branch, which may lie in the objects of any commit."""
    paths = deep_paths(2)
    for path in paths:
        commit(repository, {path: b"x"})
    repository.refs.create_branch("r", "other", None, 0)
    whole = repository.root(parse_location("r/main"))
    with closing(repository.writer()) as new:
        made = repository.commit("r", "other", lambda _, sink: whole, writer=new, message="", author="a")
    assert made is not None
    for number, path in enumerate(random.Random(3).sample(paths, 10)):
        assert first_byte(store, tmp_path / str(number), made.commit.id, path)[1] <= MOST
    check(repository)


def test_a_fresh_node_lists_a_tree_by_few_requests(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    paths = deep_paths(3)
    commit(repository, dict.fromkeys(paths, b"0"))
    dice = random.Random(4)
    for number in range(200):
        commit(repository, {dice.choice(paths): b"%d" % number})
    far = Far(store)
    fresh = node_on(far, tmp_path / "fresh")
    with closing(fresh.index):
        root = fresh.root(parse_location("r/main"))
        far.reset()
        assert sum(entry.kind == Kind.FILE for _, entry in walk(fresh.nodes, root)) == len(paths)
        assert far.total().requests <= gather.WINDOW + 10


def test_a_commit_that_fails_part_way_leaves_a_node_that_goes_on(repository: Repository, store: MemoryStore) -> None:
    """What was copied for it lies nowhere."""
    for number in range(gather.WINDOW + 1):
        commit(repository, {(b"d%d" % number, b"f"): b"x"})
    before = content(repository)
    with pytest.raises(ZeroDivisionError), closing(repository.writer()) as new:

        def change(root, sink):  # type: ignore[no-untyped-def]
            return root

        repository.commit(
            "r", "main", change, writer=new, message="", author="a", allow_same=True, before_move=lambda _: 1 // 0
        )
    for number in range(2 * gather.WINDOW):
        commit(repository, {(b"d%d" % number, b"g"): b"y"})
    assert content(repository) == before | {(b"d%d" % number, b"g"): b"y" for number in range(2 * gather.WINDOW)}
    check(repository)


@pytest.mark.parametrize("after", [False, True])
def test_a_death_at_any_request_of_a_commit_that_gathers_does_no_harm(
    repository: Repository, store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr(writer, "EMBED", 1000)
    for number in range(gather.WINDOW):
        commit(repository, {(b"d%d" % number, b"f"): b"x"})
    fault, number, died, done = Fault.CRASH_AFTER if after else Fault.CRASH, 0, 0, False
    while not done:
        files = content(repository)
        faulty = FaultyStore(store)
        dying = Repository(MovedStore(faulty), Index(str(tmp_path / f"dying{number}")), repository.format)
        first = len(faulty.requests)

        def plan(request: Request, at: int = first + number) -> Fault | None:
            return fault if request.number == at else None

        faulty.plan = plan
        try:
            commit(dying, {(b"new",): b"%d" % number})
            done = len(faulty.requests) <= first + number
        except Crashed:
            died += 1
            check(repository)
            assert content(repository) in (files, files | {(b"new",): b"%d" % number})
        dying.index.close()
        number += 1
    assert died > 5
    gc(repository)
    check(repository)
    assert content(repository)[b"new",] == b"%d" % (number - 1)


def test_what_was_copied_goes_with_its_branch(repository: Repository, store: MemoryStore) -> None:
    for number in range(3 * gather.WINDOW):
        commit(repository, {(b"d%d" % number, b"f"): b"x"})
    repository.refs.delete_branch("r", "main")
    gc(repository)
    assert blobs(store) == set()
