"""A branch of a real mount behaves as a directory of the local filesystem, over commits, transactions, remounts and
kill -9 with files open."""

from __future__ import annotations

import itertools
import os
import stat
import sys
import time
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.mount.conftest import Mounted
from tests.slow.model import EXCHANGE, NOREPLACE, Example, Which, other_node, rename, revive
from vfsd.repo.repository import Repository

pytestmark = pytest.mark.slow
EXAMPLES = int(os.environ.get("VFSD_TEST_EXAMPLES", "500"))
STEPS = 40
ACTS = ["nothing", "rename", "exchange", "link", "unlink", "replace", "fsync"]
KILLS, REMOUNTS = 3, 1  # in one example, besides the kill at its end: each takes as long as all other steps

names = st.sampled_from([b"a", b"b", b"c", b"\xff\xe9"])
paths = st.one_of(names.map(lambda name: (name,)), st.tuples(names, names), st.tuples(names, names, names))
existing = st.integers(0, 15).map(lambda number: (number,))
LAST_OPENED: Which = (-1,)
opened = st.integers(-4, -1).map(lambda number: (number,))
fresh = st.tuples(st.integers(0, 7), names)
anything = st.one_of(opened, opened, existing, existing, paths)
places = st.one_of(fresh, fresh, opened, existing, paths)
modes = st.sampled_from([0o644, 0o600, 0o755, 0o444, 0o1777])
offsets = st.sampled_from([0, 1, 100, 4095, 4096, 100_000, 131_072, 200_000])
sizes = st.sampled_from([1, 10, 100, 4096, 5000, 60_000, 131_073, 300_000])
letters = st.sampled_from([b"x", b"y", b"z"])
times = st.sampled_from([0, 1, 1_000_000_001, 123_456_789_123_456_789])
which = st.integers(0, 3)
hows = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
extras = st.sampled_from([
    0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_CREAT | os.O_TRUNC, os.O_TRUNC, os.O_CREAT | os.O_APPEND,
])  # fmt: skip
moments = st.sampled_from([None, None, 0.0, 0.001, 0.003, 0.006, 0.01, 0.02])


def _known_of(fd: int) -> tuple[int, ...]:
    """Of an open file mode, size and number of names; of a directory the mode, the rest is each filesystem's own."""
    info = os.fstat(fd)
    return (info.st_mode,) if stat.S_ISDIR(info.st_mode) else (info.st_mode, info.st_size, info.st_nlink)


class MountMachine(RuleBasedStateMachine):
    """See tests/slow/model.py, which does the work."""

    mounted: ClassVar[Mounted]
    other: ClassVar[Repository]
    numbers: ClassVar[itertools.count[int]] = itertools.count()
    killed_with: ClassVar[Counter[str]] = Counter()  # how often, with how many files open for writing

    def __init__(self) -> None:
        super().__init__()
        revive(self.mounted)
        self.example = Example(self.mounted, self.other, next(self.numbers))

    def teardown(self) -> None:
        failed = sys.exc_info()[0] is not None
        if not failed:
            self._have_one_open()
            self._count_kill()
        self.example.end(failed=failed)

    def _have_one_open(self) -> None:
        if not self.example.written:
            self.begin_writing(self.example.some_file(), os.O_CREAT, 0o644, 0, 100, b"w")

    def _count_kill(self) -> None:
        example = self.example
        named = len(example.open_paths(example.compare()))
        told = "transaction, " if example.saved is not None else ""
        self.killed_with[f"{told}{min(len(example.written), 3)} open, {min(named, 3)} names of them"] += 1

    @initialize()
    def begin(self) -> None:
        """Something to work on: files of two sizes, one of them with two names, and directories."""
        for folder in ((b"b",), (b"b", b"c")):
            self.mkdir(folder, 0o755)
        self.save((b"a",), 100, b"x", 0o644)
        self.save((b"b", b"a"), 131_073, b"y", 0o600)
        self.link((b"a",), (b"b", b"b"))

    # Open files

    @rule(where=places, size=sizes, letter=letters, mode=modes)
    def save(self, where: Which, size: int, letter: bytes, mode: int) -> None:
        handle = self.example.open(self.example.find(where), os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
        if handle is not None:
            self.example.pair(handle, lambda fd: os.pwrite(fd, letter * size, 0))
            self.example.changed(handle.inode)
            self.example.close(handle)

    @rule(where=places, how=hows, extra=extras, mode=modes)
    def open(self, where: Which, how: int, extra: int, mode: int) -> None:
        if how == os.O_RDONLY:
            extra = 0  # what it means to cut a file for reading only is nobody's business
        self.example.open(self.example.find(where), how | extra, mode)

    @rule(where=places, extra=extras, mode=modes, offset=offsets, size=sizes, letter=letters)
    def begin_writing(self, where: Which, extra: int, mode: int, offset: int, size: int, letter: bytes) -> None:
        handle = self.example.open(self.example.find(where), os.O_RDWR | extra, mode)
        if handle is not None:
            self.example.pair(handle, lambda fd: os.pwrite(fd, letter * size, offset))
            self.example.changed(handle.inode)

    @precondition(lambda self: self.example.handles)
    @rule(number=which, offset=offsets, size=sizes, letter=letters)
    def write(self, number: int, offset: int, size: int, letter: bytes) -> None:
        handle = self.example.handles[number % len(self.example.handles)]
        self.example.pair(handle, lambda fd: os.pwrite(fd, letter * size, offset))
        self.example.changed(handle.inode)

    @precondition(lambda self: self.example.handles)
    @rule(number=which, size=offsets)
    def ftruncate(self, number: int, size: int) -> None:
        handle = self.example.handles[number % len(self.example.handles)]
        self.example.pair(handle, lambda fd: os.ftruncate(fd, size))
        self.example.changed(handle.inode)

    @precondition(lambda self: self.example.handles)
    @rule(number=which, offset=offsets, size=sizes)
    def read(self, number: int, offset: int, size: int) -> None:
        handle = self.example.handles[number % len(self.example.handles)]
        self.example.pair(handle, lambda fd: os.pread(fd, size, offset))
        self.example.pair(handle, _known_of)

    @precondition(lambda self: self.example.handles)
    @rule(number=which)
    def fsync(self, number: int) -> None:
        handle = self.example.handles[number % len(self.example.handles)]
        self.example.pair(handle, os.fsync)
        self.example.journalled(handle.inode, whole=True)

    @precondition(lambda self: self.example.handles)
    @rule(number=which)
    def close(self, number: int) -> None:
        self.example.close(self.example.handles[number % len(self.example.handles)])

    # Names

    @rule(where=places, mode=modes)
    def mkdir(self, where: Which, mode: int) -> None:
        at = self.example.at(self.example.find(where))
        self.example.both(lambda top: os.mkdir(at(top), mode | 0o700))

    @rule(where=anything)
    def rmdir(self, where: Which) -> None:
        at = self.example.at(self.example.find(where))
        self.example.both(lambda top: os.rmdir(at(top)))

    @rule(where=anything)
    def unlink(self, where: Which) -> None:
        self.example.unlink(self.example.find(where))

    @rule(where=places, to=st.sampled_from([b"a", b"b/c", b"nowhere"]))
    def symlink(self, where: Which, to: bytes) -> None:
        at = self.example.at(self.example.find(where))
        self.example.both(lambda top: os.symlink(to, at(top)))

    @rule(old=anything, new=places)
    def link(self, old: Which, new: Which) -> None:
        one, other = self.example.find(old), self.example.find(new)
        here, there = self.example.at(one), self.example.at(other)
        if self.example.both(lambda top: os.link(here(top), there(top), follow_symlinks=False)):
            self.example.journalled(self.example.inode(other), whole=False)

    @rule(old=anything, new=places, flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, old: Which, new: Which, flags: int) -> None:
        one, other = self.example.find(old), self.example.find(new)
        here, there = self.example.at(one), self.example.at(other)
        same = self.example.inode(one) == self.example.inode(other)
        if self.example.both(lambda top: rename(here(top), there(top), flags)) and not same:
            for where in (one, other):
                self.example.journalled(self.example.inode(where), whole=False)

    # Attributes

    @rule(where=anything, size=offsets)
    def truncate(self, where: Which, size: int) -> None:
        path = self.example.find(where)
        at = self.example.at(path)
        self.example.both(lambda top: os.truncate(at(top), size))
        self.example.changed(self.example.inode(path, follow=True))

    @rule(where=anything, mode=modes)
    def chmod(self, where: Which, mode: int) -> None:
        at = self.example.at(self.example.find(where))
        self.example.both(lambda top: os.chmod(at(top), mode))

    @rule(where=anything, when=times)
    def utimens(self, where: Which, when: int) -> None:
        path = self.example.find(where)
        at = self.example.at(path)
        self.example.both(lambda top: os.utime(at(top), ns=(when, when), follow_symlinks=False))
        self.example.changed(self.example.inode(path))

    @rule(where=anything, name=st.sampled_from(["user.a", "user.b"]), size=sizes.filter(lambda size: size <= 100))
    def setxattr(self, where: Which, name: str, size: int) -> None:
        at = self.example.at(self.example.find(where))
        self.example.both(lambda top: os.setxattr(at(top), name, b"v" * size))

    @rule(where=anything, name=st.sampled_from(["user.a", "user.b"]))
    def removexattr(self, where: Which, name: str) -> None:
        at = self.example.at(self.example.find(where))
        self.example.both(lambda top: os.removexattr(at(top), name))

    # The whole

    @rule()
    def compare(self) -> None:
        self.example.compare()

    @rule()
    def commit(self) -> None:
        self.example.commit()

    @precondition(lambda self: self.example.saved is None)
    @rule()
    def start_transaction(self) -> None:
        self.example.start()

    @precondition(lambda self: self.example.saved is not None)
    @rule()
    def abort_transaction(self) -> None:
        self.example.abort()

    @precondition(lambda self: self.example.elsewhere < 3)
    @rule(size=sizes, letter=letters)
    def commit_elsewhere(self, size: int, letter: bytes) -> None:
        self.example.commit_elsewhere(size, letter)

    @rule()
    def forget(self) -> None:
        self.example.forget()

    @precondition(lambda self: self.example.remounts < REMOUNTS)
    @rule()
    def remount(self) -> None:
        self.example.remount()

    @precondition(lambda self: self.example.written and self.example.kills < KILLS)
    @rule(during_commit=moments, again=st.sampled_from([False, False, True]))
    def kill(self, during_commit: float | None, again: bool) -> None:
        self._count_kill()
        self.example.kill(during_commit=during_commit, again=again)

    @precondition(lambda self: self.example.kills < KILLS)
    @rule(where=places, extra=extras, offset=offsets, size=sizes, new=places, act=st.sampled_from(ACTS))
    def kill_a_writer(self, where: Which, extra: int, offset: int, size: int, new: Which, act: str) -> None:
        """What otherwise would seldom be drawn one after the other."""
        self.begin_writing(where, extra, 0o644, offset, size, b"w")
        self._have_one_open()
        if act == "rename":
            self.rename(LAST_OPENED, new, 0)
        elif act == "exchange":
            self.rename(LAST_OPENED, new, EXCHANGE)
        elif act == "link":
            self.link(LAST_OPENED, new)
        elif act == "unlink":
            self.unlink(LAST_OPENED)
        elif act == "replace":
            self.rename(new, LAST_OPENED, 0)
        elif act == "fsync" and self.example.handles:
            self.fsync(len(self.example.handles) - 1)
            self.write(len(self.example.handles) - 1, offset, size, b"v")
        self._count_kill()
        self.example.kill()


def test_a_branch_behaves_as_a_local_directory(mounted: Mounted) -> None:
    MountMachine.mounted = mounted
    MountMachine.other = other_node(mounted)
    started = time.monotonic()
    try:
        run_state_machine_as_test(
            MountMachine,
            settings=settings(
                max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=False,
                suppress_health_check=list(HealthCheck), print_blob=True,
            ),
        )  # fmt: skip
    finally:
        MountMachine.other.close()
    print(f"{EXAMPLES} examples in {time.monotonic() - started:.0f} s; killed with")
    for what, times_ in sorted(MountMachine.killed_with.items()):
        print(f"  {what}: {times_} times")
