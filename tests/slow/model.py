"""One example of the state machine: a branch of a real mount, and a directory of the local filesystem beside it.

Everything is done in both, and has to come out alike: results, errnos, trees. docs/semantics.md says what a kill may
take: of a file that is open for writing, any of its states since it was last journalled is right.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.mount.conftest import Mounted
from tests.repo.parts import commit
from tests.slow.trees import Thing, Where, above, alike, kept, look, same_links, short, shown, xattrs_of
from tests.slow.written import Written
from vfsd.daemon import control
from vfsd.index.index import Index
from vfsd.model.errors import VfsdError
from vfsd.repo.repository import Repository, read_format
from vfsd.store.open import open_store

NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD = -100
WRITING = os.O_WRONLY | os.O_RDWR

Which = tuple[bytes | int, ...]  # how a rule names a path: see Example.find
_libc = ctypes.CDLL(None, use_errno=True)


def rename(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2)."""
    if _libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass
class Handle:
    """A file that is open on both sides. inode: of the reference."""

    mine: int
    reference: int
    inode: int
    writing: bool


def revive(mounted: Mounted) -> None:
    """Mount again if the daemon has died in an example before."""
    try:
        os.stat(mounted.path / "data")
    except OSError:
        mounted.mount()


def other_node(mounted: Mounted) -> Repository:
    """The store of a mount, for somebody who commits to it from elsewhere."""
    store = open_store(mounted.store)
    return Repository(store, Index(str(mounted.folder / "other-index")), read_format(store))


def _wait_for_the_end(mounted: Mounted) -> None:
    """Until the kernel knows that the daemon is dead: a child that it was just starting may hold the mount on."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.statvfs(mounted.path)
        except OSError as error:
            assert error.errno == errno.ENOTCONN
            return
        time.sleep(0.005)
    raise AssertionError("the mount answers, and its daemon was killed")


class Example:
    """A fresh branch and a fresh directory. `saved`: the reference as it was when the open transaction began."""

    def __init__(self, mounted: Mounted, other: Repository, number: int) -> None:
        self.mounted = mounted
        self.other = other
        self.branch = f"model{number}"
        self.mine = os.fsencode(mounted.path / "data" / self.branch)
        self.reference = os.fsencode(mounted.folder / "reference" / self.branch)
        self.saved: bytes | None = None
        os.makedirs(self.reference)
        os.mkdir(self.mine)
        self.handles: list[Handle] = []
        self.written: dict[int, Written] = {}  # inode of the reference → of those that are open for writing
        self.closed: dict[int, list[bytes]] = {}  # inode of the reference → what it held when nobody was writing
        self.touched: set[int] = set()  # directories of the reference that lost what the journal never heard of
        self.kills = self.remounts = self.elsewhere = 0

    # Doing things

    def both(self, act: Callable[[bytes], object]) -> bool:
        """Do it in both places; whether it was done. The errno or the result has to be the same."""
        results = []
        for top in (self.reference, self.mine):
            try:
                results.append(("result", act(top)))
            except OSError as error:
                results.append(("errno", errno.errorcode[error.errno or 0]))
        assert results[1] == results[0], f"vfsd: {results[1]}, the local filesystem: {results[0]}"
        return results[0][0] == "result"

    def at(self, where: Where) -> Callable[[bytes], bytes]:
        """A path on either side."""
        return lambda top: b"/".join((top, *where))

    def find(self, which: Which) -> Where:
        """A path: as given; by number one that is there, by a negative one that of an open file, -1 the last that was
        opened; by number of a directory and name one in that."""
        if not which or isinstance(which[0], bytes):
            return tuple(part for part in which if isinstance(part, bytes))
        number, *rest = which
        found: list[Where] = [()] if rest else []
        order = {handle.inode: number for number, handle in enumerate(self.handles)}
        opened: list[tuple[int, Where]] = []
        for folder, folders, files in os.walk(self.reference):
            folders.sort()
            inner = os.path.relpath(folder, self.reference)
            inside = () if inner == b"." else tuple(inner.split(b"/"))
            found += [(*inside, name) for name in sorted(folders if rest else [*folders, *files])]
            for name in sorted(files):
                inode = self.inode((*inside, name))
                if inode in order:
                    opened.append((order[inode], (*inside, name)))
        if int(number) < 0 and opened:
            found = [where for _, where in sorted(opened)]
        if not found:
            return (b"a",)
        return (*found[int(number) % len(found)], *(part for part in rest if isinstance(part, bytes)))

    def some_file(self) -> Where:
        """One that is there, or could be made."""
        tree = look(self.reference)
        return next((where for where, thing in tree.items() if thing.kind == stat.S_IFREG), (b"new",))

    def inode(self, where: Where, *, follow: bool = False) -> int | None:
        """The reference's inode at a path."""
        with suppress(OSError):
            return os.stat(self.at(where)(self.reference), follow_symlinks=follow).st_ino
        return None

    # Open files

    def open(self, where: Where, flags: int, mode: int) -> Handle | None:
        """open(2); the handle stays."""
        inode = self.inode(where, follow=True)
        path = self.at(where)(self.reference)
        old = Path(os.fsdecode(path)).read_bytes() if os.path.isfile(path) else b""
        mtime = os.stat(self.at(where)(self.mine)).st_mtime_ns if os.path.isfile(path) else 0
        opened: list[int] = []

        def act(top: bytes) -> None:
            opened.append(os.open(self.at(where)(top), flags, mode))

        try:
            if not self.both(act):
                return None
        except AssertionError:
            for fd in opened:
                os.close(fd)
            raise
        reference, mine = opened
        handle = Handle(mine, reference, os.fstat(reference).st_ino, bool(flags & WRITING))
        self.handles.append(handle)
        if handle.writing:
            self._begin(handle, None if inode is None else old, mtime)
        return handle

    def _begin(self, handle: Handle, old: bytes | None, mtime: int) -> None:
        if old is None:
            self.closed[handle.inode] = []  # an inode of that number may have been removed
        if handle.inode not in self.written:
            closed = self.closed.setdefault(handle.inode, [])
            if old is not None:
                closed.append(old)
            self.written[handle.inode] = Written([] if old is None else [old], old is None, closed, {mtime})
        self.changed(handle.inode)

    def _handle(self, inode: int) -> Handle:
        return next(one for one in self.handles if one.inode == inode)

    def changed(self, inode: int | None) -> None:
        """The bytes or times of an inode are others: where it is open for writing, one more state that a kill may
        leave."""
        written = self.written.get(inode or 0)
        if written is not None and inode is not None:
            handle = self._handle(inode)
            written.states.append(_bytes(handle.reference))
            written.mtimes.add(os.fstat(handle.mine).st_mtime_ns)

    def journalled(self, inode: int | None, *, whole: bool) -> None:
        """The file is in the journal; `whole`: as it is now."""
        written = self.written.get(inode or 0)
        if written is not None:
            written.absent = False
            if whole:
                written.states = written.states[-1:]
                written.synced = True

    def unlink(self, where: Where) -> None:
        """unlink(2)."""
        written = self.written.get(self.inode(where) or 0)
        if self.both(lambda top: os.unlink(self.at(where)(top))) and written is not None and written.absent:
            self.touched.add(self.inode(where[:-1]) or 0)

    def close(self, handle: Handle) -> None:
        """close(2) on both sides."""
        if handle.writing:
            self.journalled(handle.inode, whole=True)
        os.close(handle.mine)
        os.close(handle.reference)
        self.handles.remove(handle)
        if not any(other.inode == handle.inode and other.writing for other in self.handles):
            self.written.pop(handle.inode, None)

    def close_all(self) -> None:
        """Close what is open."""
        for handle in list(self.handles):
            self.close(handle)

    def pair(self, handle: Handle, act: Callable[[int], object]) -> None:
        """Do something with an open file on both sides."""
        results = []
        for fd in (handle.reference, handle.mine):
            try:
                results.append(("result", act(fd)))
            except OSError as error:
                results.append(("errno", errno.errorcode[error.errno or 0]))
        assert results[1] == results[0], f"vfsd: {short(results[1])}, the local filesystem: {short(results[0])}"

    # Comparing

    def open_paths(self, seen: dict[Where, Thing]) -> set[Where]:
        """Paths of files that are open for writing."""
        return {where for where in seen if self.inode(where) in self.written}

    def compare(self) -> dict[Where, Thing]:
        """Both trees are equal; vfsd's."""
        mine, reference = look(self.mine), look(self.reference)
        alike(mine, reference)
        return mine

    # Committing

    def ask(self, question: str) -> Any:
        """Ask the daemon about the branch."""
        (path,) = (self.mounted.folder / "state").glob("*/control")
        return control.ask(str(path), question, branch=f"data/{self.branch}", message="")

    def commit(self) -> None:
        """Commit, by the end of the transaction if there is one, and compare the snapshot with the tree."""
        seen = self.compare()
        made = self.ask("commit" if self.saved is None else "finish")
        self._end_transaction()
        if made["id"] is None:
            assert not set(seen) - self.open_paths(seen), "no commit, and something is there"
            return
        snapshot = look(os.fsencode(self.mounted.path / "data" / f"{self.branch}@{made['id']}"))
        being_written = self.open_paths(seen)
        for where in being_written:
            there = snapshot.pop(where, None)
            now = seen.pop(where)
            try:
                self.written[self.inode(where) or 0].check_committed(None if there is None else there.content)
                if there is not None:
                    assert (there.mode, there.xattrs) == (now.mode & ~0o222, now.xattrs), "has not its attributes"
            except AssertionError as error:
                raise AssertionError(f"{shown(where)}, open, {error}") from None
        assert set(snapshot) == set(seen)
        assert same_links(snapshot, seen)
        for where, thing in snapshot.items():
            now = seen[where]
            assert kept(thing) == kept(now), f"{shown(where)} in the snapshot: {thing}, at the head: {now}"
            if not above(where, being_written):
                assert thing.mtime == now.mtime, f"{shown(where)}: mtime {thing.mtime} in the snapshot, {now.mtime}"
        self.compare()

    def start(self) -> None:
        """Begin a transaction. Files that are being written are closed before: what they hold would be neither before
        nor since the start."""
        self.close_all()
        self.ask("start")
        self.saved = self.reference + b".saved"
        subprocess.run(["cp", "-a", self.reference, self.saved], check=True)

    def abort(self) -> None:
        """Abort the transaction: the branch is as it was at the start, once what is open is closed."""
        assert self.saved is not None
        self.ask("abort")
        self.close_all()
        shutil.rmtree(self.reference)
        os.rename(self.saved, self.reference)
        self.closed.clear()
        self.saved = None
        self._until_alike()

    def _end_transaction(self) -> None:
        if self.saved is not None:
            shutil.rmtree(self.saved)
            self.saved = None

    def commit_elsewhere(self, size: int, letter: bytes) -> None:
        """Somebody else puts a file into the branch, under a name that is nowhere else."""
        self.elsewhere += 1
        name = b"other%d" % self.elsewhere
        assert commit(self.other, {(name,): letter * size}, "data", self.branch) is not None
        for top in (self.reference, self.saved):
            if top is not None:
                path = os.path.join(top, name)
                with open(path, "wb") as file:
                    file.write(letter * size)
                os.chmod(path, 0o644)
                os.utime(path, ns=(0, 0))
        self._until_alike()

    def _until_alike(self) -> None:
        """The kernel is told a moment later."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self.compare()
                return
            except (AssertionError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    # Restarting

    def remount(self) -> None:
        """Close everything, unmount and mount again: nothing may have changed."""
        self.remounts += 1
        self.close_all()
        before = self.compare()
        self.mounted.umount()
        self.mounted.mount()
        assert self.compare() == before

    def kill(self, *, during_commit: float | None = None, again: bool = False) -> None:
        """kill -9, so many seconds after a commit was begun if that is given, and mount again: what was closed is as it
        was, what was open is in one of its states. `again`: kill the next daemon too, while it commits."""
        self.kills += 1
        before = self.compare()
        if during_commit is not None and self.saved is None:
            asking = threading.Thread(target=self._ask_and_be_let_down)
            asking.start()
            time.sleep(during_commit)
            self._kill()
            asking.join()
        else:
            self._kill()
        for handle in self.handles:
            with suppress(OSError):
                os.close(handle.mine)
        if again:
            self.mounted.mount()
            self._kill()
        self.mounted.mount()
        being_written = self.open_paths(before)
        for where in sorted(being_written):
            try:
                self._take_state(where, before[where])
            except AssertionError as error:
                raise AssertionError(f"{shown(where)}, open when the daemon was killed, {error}") from None
        touched = {where for where in before if self.inode(where) in self.touched}
        for where in touched:
            self._take_mtime(where)
        for handle in self.handles:
            os.close(handle.reference)
        self.handles.clear()
        self.written.clear()
        self.touched.clear()
        after = self.compare()
        for where in set(before) - being_written - touched:
            if not above(where, being_written):
                assert after[where].mtime == before[where].mtime, f"{shown(where)}: another mtime after the kill"

    def _kill(self) -> None:
        self.mounted.kill()
        _wait_for_the_end(self.mounted)

    def _ask_and_be_let_down(self) -> None:
        with suppress(VfsdError, OSError):
            self.ask("commit")

    def _take_state(self, where: Where, before: Thing) -> None:
        """Make the reference what the kill left of a file, if that may be."""
        mine, reference = self.at(where)(self.mine), self.at(where)(self.reference)
        written = self.written[os.lstat(reference).st_ino]
        if not os.path.lexists(mine):
            written.check_survivor(None, 0)
            os.unlink(reference)
        else:
            with open(mine, "rb") as file:
                content = file.read()
            info = os.stat(mine)
            written.check_survivor(content, info.st_mtime_ns)
            assert (stat.S_IMODE(info.st_mode), xattrs_of(mine)) == (before.mode, before.xattrs), "has other attributes"
            with open(reference, "r+b") as file:
                file.truncate(0)
                file.write(content)
            os.utime(reference, ns=(info.st_mtime_ns, info.st_mtime_ns))
        for depth in range(len(where)):
            self._take_mtime(where[:depth])

    def _take_mtime(self, where: Where) -> None:
        """That of a directory which something was made or removed in that the journal never heard of."""
        info = os.stat(self.at(where)(self.mine))
        os.utime(self.at(where)(self.reference), ns=(info.st_mtime_ns, info.st_mtime_ns))

    def forget(self) -> None:
        """Have the kernel drop the names that it knows, as it does when it is short of memory."""
        subprocess.run(["mount", "-i", "-o", "remount", str(self.mounted.path)], check=True)

    def end(self, *, failed: bool) -> None:
        """Kill the daemon with all that is open; what it leaves becomes a commit. Leave the mount for the next one."""
        try:
            if not failed:
                self.kill()
                self.commit()
        finally:
            for handle in self.handles:
                for fd in (handle.mine, handle.reference):
                    with suppress(OSError):
                        os.close(fd)
            self._end_transaction()
            shutil.rmtree(self.reference)


def _bytes(fd: int) -> bytes:
    path = f"/proc/self/fd/{fd}"  # opened anew: the descriptor may be for writing only
    with open(path, "rb") as file:
        return file.read()
