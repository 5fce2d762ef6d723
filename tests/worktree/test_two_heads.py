"""Two heads of one branch, each a node's: whatever either does, and whenever it commits, both end as the branch is."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path as FilePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.parts import file_entry, open_repository
from tests.worktree.parts import Bench, Path, Seen
from vfsd.model.entry import Kind
from vfsd.model.errors import NotFound, Refused
from vfsd.repo.tree import apply, change_set
from vfsd.worktree.adopt import Stale
from vfsd.worktree.freeze import Frozen
from vfsd.worktree.node import WorkNode
from vfsd.worktree.xattrs import set_xattr


class OtherBench(Bench):
    """A second head of a bench's branch, with an index and a journal of its own."""

    def __init__(self, first: Bench) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = first.store
        self.repository = open_repository(self.store, FilePath(self.folder.name) / "index")
        self.head = self.repository.refs.head("r", "main")
        self.open()


@dataclass
class Node:
    """A head, and what of it is under way: a freeze that is not committed yet, files that are open for writing."""

    bench: Bench
    frozen: Frozen | None = None
    open: list[WorkNode] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.open = []

    def parent(self, path: Path) -> WorkNode:
        node = self.bench.tree.root
        for name in path[:-1]:
            found = self.bench.tree.lookup(node, name)
            if found is None:
                raise NotFound("no such directory")
            node = found
        return node

    def write(self, path: Path, data: bytes) -> None:
        node = self.opened(path)
        self.bench.tree.write(node, 0, data)
        self.bench.close_file(node)

    def opened(self, path: Path) -> WorkNode:
        tree, parent = self.bench.tree, self.parent(path)
        node = tree.lookup(parent, path[-1])
        if node is None:
            node = tree.make(parent, path[-1], Kind.FILE, 0o644, 0, 0)
        elif node.kind != Kind.FILE:
            raise Refused(21)
        tree.opened(node, write=True, truncate=True)
        return node

    def begin(self, path: Path, data: bytes) -> None:
        """Write, and keep the file open."""
        node = self.opened(path)
        self.bench.tree.write(node, 0, data)
        self.open.append(node)

    def end(self) -> None:
        """Close the file that was opened first."""
        if self.open:
            self.bench.close_file(self.open.pop(0))

    def remove(self, path: Path) -> None:
        tree, parent = self.bench.tree, self.parent(path)
        node = tree.lookup(parent, path[-1])
        if node is not None and node.kind == Kind.DIR:
            tree.rmdir(parent, path[-1])
        else:
            tree.unlink(parent, path[-1])

    def mkdir(self, path: Path) -> None:
        self.bench.tree.make(self.parent(path), path[-1], Kind.DIR, 0o755, 0, 0)

    def rename(self, old: Path, new: Path, flags: int) -> None:
        self.bench.tree.rename(self.parent(old), old[-1], self.parent(new), new[-1], flags)

    def chmod(self, path: Path, mode: int) -> None:
        parent = self.parent(path)
        node = self.bench.tree.lookup(parent, path[-1])
        if node is not None:
            self.bench.tree.set_attributes(node, mode=mode)

    def freeze(self) -> None:
        """A commit begins."""
        if self.frozen is None:
            self.frozen = self.bench.freeze()

    def finish(self) -> None:
        """It is made."""
        frozen, self.frozen = self.frozen, None
        if frozen is not None:
            self.bench.finish(frozen)

    def commit(self) -> None:
        """Both at once: then the commit has all files that were changed and closed here, as they are."""
        wanted = {} if self.frozen else {path: node for path, node in self._changed_files() if not node.writers}
        data = {path: self.bench.tree.read(node, 0, 1 << 20) for path, node in wanted.items()}
        self.freeze()
        self.finish()
        made = self.bench.committed()
        assert {path: made[path].data for path in data} == data

    def _changed_files(self) -> Iterator[tuple[Path, WorkNode]]:
        todo = [self.bench.tree.root]
        while todo:
            for child in todo.pop().children.values():
                path = child.path()
                if child.kind == Kind.DIR:
                    todo.append(child)
                elif child.changed and path is not None:
                    yield path, child

    def follow(self) -> None:
        """Never while a commit is made."""
        if self.frozen is None:
            self.bench.follow()

    def crash(self) -> None:
        """kill -9, and a new daemon: what was closed and is in no commit is there."""
        tree = self.bench.tree
        closed = {
            path: tree.read(node, 0, 1 << 20)
            for path, node in self._changed_files() if node.file is not None and not node.writers
        }  # fmt: skip
        self.frozen, self.open = None, []
        self.bench.crash()
        seen = self.bench.seen()
        assert {path: seen[path].data for path in closed if path in seen} == closed

    def look(self) -> None:
        """As a kernel that comes to know everything."""
        self.bench.seen()

    def forget(self) -> None:
        """As a kernel that forgets what it can."""
        self.bench.forget_all()


NAMES = st.sampled_from([b"a", b"b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
DATA = st.integers(0, 255).map(lambda number: b"%d" % number)
STEPS = st.one_of(
    st.tuples(st.just(Node.write), PATHS, DATA),
    st.tuples(st.just(Node.begin), PATHS, DATA),
    st.tuples(st.just(Node.end)),
    st.tuples(st.just(Node.remove), PATHS),
    st.tuples(st.just(Node.mkdir), PATHS),
    st.tuples(st.just(Node.rename), PATHS, PATHS, st.sampled_from([0, 0, 2])),
    st.tuples(st.just(Node.chmod), PATHS, st.sampled_from([0o600, 0o755])),
    st.tuples(st.sampled_from([Node.freeze, Node.finish, Node.commit, Node.commit, Node.follow])),
    st.tuples(st.sampled_from([Node.look, Node.forget, Node.crash])),
)


def run(node: Node, step: Callable[..., None], *words: object) -> None:
    """Do it; what is not possible is not done."""
    try:
        step(node, *words)
    except (Refused, NotFound):
        pass


def settle(nodes: list[Node]) -> None:
    """Both commit all they have, and follow."""
    for node in nodes:
        node.finish()
        while node.open:
            node.end()
    for node in (*nodes, *nodes):
        node.commit()
    for node in nodes:
        node.follow()


def folders(seen: dict[Path, Seen]) -> dict[Path, list[Path]]:
    """directory → the directories in it."""
    found = [path for path, one in seen.items() if one.kind == Kind.DIR]
    return {above: [path for path in found if path[:-1] == above] for above in ((), *found)}


def links(bench: Bench) -> dict[Path, int]:
    """directory → its link count, as users see it."""
    return {path: bench.at(path).nlink for path in folders(bench.seen())}


def shown(seen: dict[Path, Seen]) -> dict[str, str]:
    return {b"/".join(path).decode(): str(one) for path, one in seen.items()}


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two heads that follow one another when they are told to."""
    with ExitStack() as stack:
        first = Bench()
        stack.callback(first.close)
        second = OtherBench(first)
        stack.callback(second.close)
        yield Node(first), Node(second)


def test_what_another_commits_makes_just_what_it_changed_stale_of_ten_thousand_files(nodes: tuple[Node, Node]) -> None:
    one, two = (node.bench for node in nodes)
    names = [b"%05d" % number for number in range(10_000)]
    sub = change_set([((b"d", name), file_entry(name, name)) for name in names])
    with closing(one.repository.writer()) as writer:
        one.repository.commit(
            "r", "main", lambda root, sink: apply(one.repository.nodes, sink, root, sub), writer=writer, message="",
            author="",
        )  # fmt: skip
    one.follow()
    two.follow()
    directory = one.at((b"d",))
    inodes = {name: one.at((b"d", name)).ino for name in names}  # as a kernel that knows them all
    two.write((b"d", names[7]), b"changed")
    two.write((b"d", b"new"), b"added")
    two.tree.unlink(two.at((b"d",)), names[9_999])
    two.commit()
    stale = one.follow()
    assert sorted(stale.names) == [(directory.ino, names[9_999]), (directory.ino, b"new")]
    assert sorted(stale.inodes) == sorted([directory.ino, inodes[names[7]]])
    assert one.follow() == Stale([], [], []), "nothing has changed since"


def test_a_directory_that_was_removed_elsewhere_has_only_what_was_written_here(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    one.mkdir((b"d",))
    for name in (b"seen", b"unseen"):
        one.write((b"d", name), b"old")
    one.commit()
    two.follow()
    one.remove((b"d", b"seen"))
    one.remove((b"d", b"unseen"))
    one.remove((b"d",))
    one.commit()
    two.bench.at((b"d", b"seen"))
    two.write((b"d", b"new"), b"new")
    two.follow()
    assert sorted(two.bench.seen()) == [(b"d",), (b"d", b"new")]
    two.commit()
    assert sorted(two.bench.seen()) == sorted(two.bench.committed()) == [(b"d",), (b"d", b"new")]


@pytest.mark.parametrize("path", [(b"f",), (b"d", b"f")])
def test_a_file_that_was_opened_to_be_written_before_its_removal_elsewhere_was_known_is_there_as_it_is_closed(
    nodes: tuple[Node, Node], path: Path
) -> None:
    one, two = nodes
    one.mkdir((b"d",))
    one.write(path, b"old")
    one.commit()
    two.follow()
    opened = two.bench.at(path)
    two.bench.tree.opened(opened, write=True, truncate=False)
    one.remove(path)
    one.remove((b"d",))
    one.commit()
    two.follow()
    two.bench.tree.write(opened, 0, b"new")
    two.bench.close_file(opened)
    two.commit()
    assert two.bench.seen()[path].data == two.bench.committed()[path].data == b"new"


@pytest.mark.parametrize("path", [(b"f",), (b"d", b"f")])
def test_what_was_removed_elsewhere_cannot_be_changed_by_an_inode_of_before(
    nodes: tuple[Node, Node], path: Path
) -> None:
    """So the kernel, which has not heard of it yet, looks the path up again."""
    one, two = nodes
    one.mkdir((b"d",))
    one.write(path, b"old")
    one.commit()
    two.follow()
    node, tree = two.bench.at(path), two.bench.tree
    one.remove(path)
    one.remove((b"d",))
    one.commit()
    two.follow()
    for change in (
        lambda: tree.opened(node, write=True, truncate=False), lambda: tree.opened(node, write=False, truncate=True),
        lambda: tree.truncate(node, 0), lambda: tree.set_attributes(node, mode=0o600),
        lambda: set_xattr(tree, node, b"user.a", b"1"),
    ):  # fmt: skip
        with pytest.raises(Refused) as refused:
            change()
        assert refused.value.errno == errno.ESTALE
    assert two.bench.freeze() is None and not node.writers


def _write_it(two: Node) -> None:
    two.write((b"x",), b"new")


def _move_it_there(two: Node) -> None:
    two.write((b"beside",), b"new")
    two.rename((b"beside",), (b"x",), 0)


def _link_it_there(two: Node) -> None:
    two.write((b"beside",), b"new")
    two.bench.tree.link(two.bench.at((b"beside",)), two.bench.tree.root, b"x")


def _exchange_it(two: Node) -> None:
    two.write((b"x",), b"old")
    two.write((b"beside",), b"new")
    two.rename((b"beside",), (b"x",), 2)


@pytest.mark.parametrize("put", [_write_it, _move_it_there, _link_it_there, _exchange_it])
def test_a_file_in_the_place_of_a_directory_that_had_more_than_was_known_survives_a_crash(
    nodes: tuple[Node, Node], put: Callable[[Node], None]
) -> None:
    """While a commit is made, a directory is removed and a file put in its place; the commit then follows one of
    another node that put something into that directory."""
    one, two = nodes
    one.write((b"other",), b"0")
    one.mkdir((b"x",))
    one.write((b"x", b"seen"), b"old")
    one.commit()
    two.follow()
    two.write((b"other",), b"1")
    two.freeze()
    two.remove((b"x", b"seen"))
    two.remove((b"x",))
    put(two)
    one.write((b"x", b"unseen"), b"old")
    one.commit()
    two.finish()
    two.crash()
    two.commit()
    assert two.bench.committed()[b"x",].data == two.bench.seen()[b"x",].data == b"new"


@pytest.mark.parametrize("follows", [True, False])
def test_a_directory_that_was_removed_elsewhere_comes_back_with_its_mode(
    nodes: tuple[Node, Node], follows: bool
) -> None:
    one, two = nodes
    one.mkdir((b"d",))
    one.chmod((b"d",), 0o700)
    one.write((b"d", b"f"), b"old")
    one.commit()
    two.follow()
    one.remove((b"d", b"f"))
    one.remove((b"d",))
    one.commit()
    two.write((b"d", b"f"), b"new")  # which changes nothing of d itself
    if follows:
        two.follow()
    two.commit()
    assert two.bench.committed()[b"d",].mode == two.bench.seen()[b"d",].mode == 0o700


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1), STEPS), max_size=40))
def test_whatever_two_heads_do_both_end_as_the_branch_is(steps: list[tuple[int, tuple[Callable[..., None]]]]) -> None:
    with ExitStack() as stack:
        first = Bench()
        stack.callback(first.close)
        second = OtherBench(first)
        stack.callback(second.close)
        nodes = [Node(first), Node(second)]
        for number, step in steps:
            run(nodes[number], *step)
        settle(nodes)
        end = shown(first.committed())
        for node in nodes:
            assert node.bench.freeze() is None
            assert shown(node.bench.seen()) == end
            assert links(node.bench) == {path: 2 + len(below) for path, below in folders(first.committed()).items()}
