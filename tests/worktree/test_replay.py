"""The head of a branch against a filesystem in dicts: through any calls, commits, failed commits, and crashes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.worktree.parts import Bench, Path, Seen
from tests.worktree.reference import Inode, Reference, Refusal
from vfsd.model.entry import Kind
from vfsd.model.errors import NotCached, Refused
from vfsd.worktree import staged as staged_module
from vfsd.worktree import staging as staging_module
from vfsd.worktree import worktree as worktree_module
from vfsd.worktree.freeze import Frozen, thaw
from vfsd.worktree.node import WorkNode
from vfsd.worktree.xattrs import set_xattr

SMALL = 64  # bytes up to which files share a staging file here
NAMES = [b"a", b"b", b"c", b"d\xff"]
picks = st.integers(0, 1 << 16)
names = st.sampled_from(NAMES)
data = st.one_of(st.sampled_from([b"", b"x", b"y" * 70]), st.binary(max_size=90))


class Head(RuleBasedStateMachine):
    """Calls reach a Worktree and a Reference alike."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(staged_module, "SMALL", SMALL)
        self.patch.setattr(staging_module, "SEGMENT", 300)
        # A clock that stands still: what is made anew as it was is equal to it, and no diff names it.
        self.patch.setattr(worktree_module, "time", SimpleNamespace(time_ns=lambda: 1))
        self.bench = Bench()
        self.reference = Reference()
        self.open: list[tuple[WorkNode, Inode]] = []  # files open for writing
        self.frozen: Frozen | None = None
        self.expected: dict[Path, Seen] = {}  # what `frozen` makes of the commit
        self.recorded: dict[int, list[bytes]] = {}  # what a freeze may have recorded anew of a file that it left out
        self.synced: set[int] = set()  # files that the journal was told of while they were being written

    def teardown(self) -> None:
        self.bench.close()
        self.patch.undo()

    # Choosing

    def any_path(self, pick: int) -> Path:
        paths = [(), *self.reference.all()]
        return paths[pick % len(paths)]

    def directory(self, pick: int) -> Path:
        found = [(), *(path for path, node in self.reference.all().items() if node.kind == Kind.DIR)]
        return found[pick % len(found)]

    def file(self, pick: int) -> Path | None:
        found = [path for path, node in self.reference.all().items() if node.kind == Kind.FILE]
        return found[pick % len(found)] if found else None

    def both(self, one: Callable[[], object], other: Callable[[], object]) -> bool:
        """Do the same to both; whether it was done. Both refuse alike."""
        try:
            other()
        except Refusal as refusal:
            with pytest.raises(Refused) as refused:
                one()
            assert refused.value.errno == refusal.errno, refusal
            return False
        self.do(one)
        return True

    def do(self, operation: Callable[[], object]) -> None:
        """As the daemon does it: again, with what was missing."""
        for _ in range(9):
            try:
                operation()
                return
            except NotCached as miss:
                miss.load()
        raise AssertionError("it never has what it needs")

    # Names

    @rule(where=picks, name=names, kind=st.sampled_from([Kind.DIR, Kind.DIR, Kind.SYMLINK, Kind.FIFO]))
    def make(self, where: int, name: bytes, kind: Kind) -> None:
        path = (*self.directory(where), name)
        target = b"to " + name if kind == Kind.SYMLINK else b""
        self.both(
            lambda: self.bench.tree.make(self.bench.at(path[:-1]), name, kind, 0o700, 0, 0, target=target),
            lambda: self.reference.make(path, kind, 0o700, target),
        )

    @rule(where=picks, name=names, close=st.booleans(), data=data)
    def create(self, where: int, name: bytes, close: bool, data: bytes) -> None:
        path = (*self.directory(where), name)
        if self.both(
            lambda: self.bench.tree.make(self.bench.at(path[:-1]), name, Kind.FILE, 0o644, 0, 0),
            lambda: self.reference.make(path, Kind.FILE, 0o644),
        ):
            self._open(path, truncate=False)
            self.write(len(self.open) - 1, 0, data)
            if close:
                self.close(len(self.open) - 1)

    @rule(pick=picks)
    def unlink(self, pick: int) -> None:
        path = self.any_path(pick)
        if path:
            self.both(
                lambda: self.bench.tree.unlink(self.bench.at(path[:-1]), path[-1]), lambda: self.reference.unlink(path)
            )

    @rule(pick=picks)
    def rmdir(self, pick: int) -> None:
        path = self.any_path(pick)
        if path:
            self.both(
                lambda: self.bench.tree.rmdir(self.bench.at(path[:-1]), path[-1]), lambda: self.reference.rmdir(path)
            )

    @rule(pick=picks, where=picks, name=names, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, pick: int, where: int, name: bytes, flags: int) -> None:
        old, new = self.any_path(pick), (*self.directory(where), name)
        if old:
            self.both(
                lambda: self.bench.tree.rename(
                    self.bench.at(old[:-1]), old[-1], self.bench.at(new[:-1]), new[-1], flags
                ),
                lambda: self.reference.rename(old, new, flags),
            )

    @rule(pick=picks, other=picks)
    def exchange(self, pick: int, other: int) -> None:
        old, new = self.any_path(pick), self.any_path(other)
        if old and new:
            self.both(
                lambda: self.bench.tree.rename(self.bench.at(old[:-1]), old[-1], self.bench.at(new[:-1]), new[-1], 2),
                lambda: self.reference.rename(old, new, 2),
            )

    @rule(pick=picks, where=picks, name=names)
    def link(self, pick: int, where: int, name: bytes) -> None:
        old, new = self.any_path(pick), (*self.directory(where), name)
        if old:
            self.both(
                lambda: self.bench.tree.link(self.bench.at(old), self.bench.at(new[:-1]), new[-1]),
                lambda: self.reference.link(old, new),
            )

    # Attributes

    @rule(pick=picks, mode=st.integers(0, 0o777))
    def chmod(self, pick: int, mode: int) -> None:
        path = self.any_path(pick)
        self.do(lambda: self.bench.tree.set_attributes(self.bench.at(path), mode=mode))
        node = self.reference.at(path)
        node.mode = mode
        node.attributes_changed()

    @rule(pick=picks, name=names, value=st.none() | st.binary(max_size=5))
    def set_xattr(self, pick: int, name: bytes, value: bytes | None) -> None:
        path = self.any_path(pick)
        if not path:
            return
        node = self.reference.at(path)
        if value is None and name not in node.xattrs:
            with pytest.raises(Refused):
                set_xattr(self.bench.tree, self.bench.at(path), name, None)
            return
        self.do(lambda: set_xattr(self.bench.tree, self.bench.at(path), name, value))
        if value is None:
            del node.xattrs[name]
        else:
            node.xattrs[name] = value
        node.attributes_changed()

    # Bytes

    def _open(self, path: Path, *, truncate: bool) -> None:
        work, node = self.bench.at(path), self.reference.at(path)
        self.do(lambda: self.bench.tree.opened(work, write=True, truncate=truncate))
        self.reference.opened(node, truncate=truncate)
        self.open.append((work, node))

    @rule(pick=picks, truncate=st.booleans())
    def open_file(self, pick: int, truncate: bool) -> None:
        path = self.file(pick)
        if path and len(self.open) < 3:
            self._open(path, truncate=truncate)

    @precondition(lambda self: self.open)
    @rule(pick=picks, offset=st.integers(0, 120), data=data)
    def write(self, pick: int, offset: int, data: bytes) -> None:
        work, node = self.open[pick % len(self.open)]
        if data:
            self.both(
                lambda: self.bench.tree.write(work, offset, data), lambda: self.reference.write(node, offset, data)
            )

    @rule(pick=picks, size=st.integers(0, 150))
    def truncate(self, pick: int, size: int) -> None:
        path = self.file(pick)
        if path:
            self.both(
                lambda: self.bench.tree.truncate(self.bench.at(path), size),
                lambda: self.reference.truncate(self.reference.at(path), size),
            )

    @precondition(lambda self: self.open)
    @rule(pick=picks)
    def flush(self, pick: int) -> None:
        work, node = self.open[pick % len(self.open)]
        self.bench.tree.flushed(work)
        self._flushed(node)

    @precondition(lambda self: self.open)
    @rule(pick=picks)
    def fsync(self, pick: int) -> None:
        work, node = self.open[pick % len(self.open)]
        self.bench.tree.sync(work)()
        self._flushed(node)

    def _flushed(self, node: Inode) -> None:
        self.reference.flush(node)
        self.recorded.pop(id(node), None)
        if node.dirty:
            self.synced.add(id(node))

    @precondition(lambda self: self.open)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        work, node = self.open.pop(pick % len(self.open))
        self.bench.close_file(work)
        self._flushed(node)
        self.reference.release(node)
        if not node.writers:
            self.synced.discard(id(node))

    # Commits and crashes

    @precondition(lambda self: self.frozen is None)
    @rule()
    def freeze(self) -> None:
        self.frozen = self.bench.freeze()
        self.expected = {} if self.frozen is None else self.of_commit()
        if self.frozen is None:
            self.check_commit(self.of_commit())
            return
        for node in self.reference.all().values():
            if node.writers and node.dirty and node.journalled is not None:
                self.recorded.setdefault(id(node), []).append(node.data)

    def check_commit(self, expected: dict[Path, Seen]) -> None:
        """What was closed is there as it was. Of a file that is being written, what was there before may be, or what
        was closed once, but never anything else."""
        found = self.bench.committed()
        for path, versions in self.written.items():
            if path in found:
                assert found[path].data in versions
                del found[path]
        assert found == expected

    def of_commit(self) -> dict[Path, Seen]:
        """What a commit made now has of files that are not being written, and of everything else."""
        before = self.bench.committed()
        self.written: dict[Path, list[bytes]] = {}
        found = {}
        for path, node in self.reference.all().items():
            if node.writers and node.dirty:
                self.written[path] = [*node.closed, *([before[path].data] if path in before else [])]
            else:
                found[path] = Seen(node.kind, node.mode, node.target or node.data, node.xattrs)
        return found

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def commit(self) -> None:
        assert self.frozen is not None
        self.bench.finish(self.frozen)
        self.frozen = None
        self.check_commit(self.expected)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def fail_to_commit(self) -> None:
        assert self.frozen is not None
        thaw(self.bench.tree, self.frozen, committed=False)
        self.frozen = None

    @precondition(lambda self: self.frozen is None)
    @rule()
    def close_and_commit_everything(self) -> None:
        while self.open:
            self.close(0)
        self.bench.commit()
        assert self.bench.committed() == {
            path: Seen(node.kind, node.mode, node.target or node.data, node.xattrs)
            for path, node in self.reference.all().items()
        }
        self.head_and_reference_are_the_same_tree()
        assert self.bench.freeze() is None
        assert self.bench.journal.records(self.bench.row.id) == []

    @rule()
    def crash(self) -> None:
        written = {
            id(node): node.data
            for node in self.reference.all().values()
            if node.dirty and node.journalled is not None
            and (
                id(node) in self.synced
                or max(map(len, (node.data, node.journalled[0], *self.recorded.get(id(node), ())))) > SMALL
            )
        }  # fmt: skip
        self.bench.crash()
        self.reference.crash()
        for path, node in self.reference.all().items():
            recorded = self.recorded.pop(id(node), [])
            if self.bench.seen()[path].data in recorded:
                self.survived(path, node)
            elif id(node) in written:
                self.settle(path, node, written.pop(id(node)), [node.data, *recorded])
            assert self.bench.seen()[path].data == (node.target or node.data)
        self.recorded.clear()
        self.synced.clear()
        self.open.clear()
        self.frozen = None

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def crash_in_a_commit(self) -> None:
        """The branch has moved, and the journal has not heard of it."""
        assert self.frozen is not None
        self.bench.store_commit(self.frozen)
        self.crash()
        self.check_commit(self.expected)

    def settle(self, path: Path, node: Inode, new: bytes, recorded: list[bytes]) -> None:
        """A file that was written in place and not closed, of more than `SMALL` bytes or recorded meanwhile: each
        byte may be as it was recorded, or new."""
        found = self.bench.seen()[path].data
        assert any(
            len(found) == len(old)
            and all(byte in {0, old[at], *new[at : at + 1]} for at, byte in enumerate(found))
            for old in recorded
        )
        self.survived(path, node)

    def survived(self, path: Path, node: Inode) -> None:
        """The file has what is there now."""
        node.data = self.bench.seen()[path].data
        node.closed.append(node.data)
        node.journal()

    @rule()
    def forget(self) -> None:
        self.bench.forget_all()

    @rule()
    def head_and_reference_are_the_same_tree(self) -> None:
        """A rule and no invariant: looking at everything would let the head know every name of every inode."""
        seen = self.bench.seen()
        expected = self.reference.all()
        assert seen == {
            path: Seen(node.kind, node.mode, node.target or node.data, node.xattrs) for path, node in expected.items()
        }
        inodes: dict[int, int] = {}
        for path, node in expected.items():
            assert inodes.setdefault(id(node), seen[path].link) == seen[path].link, "names of one inode"
        assert len(set(inodes.values())) == len(inodes)

    @rule(pick=picks)
    def count_names(self, pick: int) -> None:
        path = self.any_path(pick)
        node = self.reference.at(path)
        if path and node.kind != Kind.DIR:
            names = sum(other is node for other in self.reference.all().values())
            assert self.bench.at(path).nlink == names


TestHead = Head.TestCase
TestHead.settings = settings(
    max_examples=300, stateful_step_count=40, report_multiple_bugs=False
)  # the slow suite looks further: tests/slow/test_head.py
