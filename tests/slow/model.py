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
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.mount.conftest import Mounted
from vfsd.daemon import control

NOREPLACE, EXCHANGE = 1, 2
AT_FDCWD = -100
SMALL = 128 << 10  # bytes; the open states of a larger file are not kept apart
LONG_AGO = 10**18  # ns; explicit times are before, the clock's are after
WRITING = os.O_WRONLY | os.O_RDWR

Where = tuple[bytes, ...]
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


@dataclass
class Thing:
    """What there is at one path. group: the first path of the same inode."""

    kind: int
    mode: int
    size: int
    mtime: int
    links: int
    group: Where
    content: bytes
    xattrs: dict[str, bytes]


@dataclass
class States:
    """What a kill may leave of a file that is open for writing: these bytes, or with `absent` no file. None in `kept`:
    anything."""

    kept: list[bytes] | None = field(default_factory=list)
    absent: bool = False


def revive(mounted: Mounted) -> None:
    """Mount again if the daemon has died in an example before."""
    try:
        os.stat(mounted.path / "data")
    except OSError:
        mounted.mount()


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


def look(top: bytes) -> dict[Where, Thing]:
    """All that is below a directory."""
    found: dict[Where, Thing] = {}
    groups: dict[int, Where] = {}

    def walk(folder: bytes, where: Where) -> None:
        for name in sorted(os.listdir(folder)):
            path, here = os.path.join(folder, name), (*where, name)
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            content = b""
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    content = file.read()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            xattrs = {key: os.getxattr(path, key, follow_symlinks=False) for key in _user_xattrs(path)}
            size, links = (0, 0) if kind == stat.S_IFDIR else (info.st_size, info.st_nlink)
            group = groups.setdefault(info.st_ino, here) if kind != stat.S_IFDIR else here
            found[here] = Thing(
                kind, stat.S_IMODE(info.st_mode), size, info.st_mtime_ns, links, group, content, xattrs
            )
            if kind == stat.S_IFDIR:
                walk(path, here)

    walk(top, ())
    return found


def _user_xattrs(path: bytes) -> list[str]:
    return sorted(key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user."))


class Example:
    """A fresh branch and a fresh directory."""

    def __init__(self, mounted: Mounted, number: int) -> None:
        self.mounted = mounted
        self.branch = f"model{number}"
        self.mine = os.fsencode(mounted.path / "data" / self.branch)
        self.reference = os.fsencode(mounted.folder / "reference" / self.branch)
        os.makedirs(self.reference)
        os.mkdir(self.mine)
        self.handles: list[Handle] = []
        self.states: dict[int, States] = {}  # inode of the reference → of those that are open for writing
        self.restarted = False

    # Doing things

    def both(self, act: Callable[[bytes], object]) -> object:
        """Do it in both places; the errno or the result has to be the same."""
        results = []
        for top in (self.reference, self.mine):
            try:
                results.append(("result", act(top)))
            except OSError as error:
                results.append(("errno", errno.errorcode[error.errno or 0]))
        assert results[1] == results[0], f"vfsd: {results[1]}, the local filesystem: {results[0]}"
        return results[0]

    def at(self, where: Where) -> Callable[[bytes], bytes]:
        """A path on either side."""
        return lambda top: b"/".join((top, *where))

    def find(self, which: Which) -> Where:
        """A path: as given; by number one that is there; by number of a directory and name one in that."""
        if not which or isinstance(which[0], bytes):
            return tuple(part for part in which if isinstance(part, bytes))
        number, *rest = which
        found: list[Where] = [()] if rest else []
        for folder, folders, files in os.walk(self.reference):
            folders.sort()
            inner = os.path.relpath(folder, self.reference)
            above = () if inner == b"." else tuple(inner.split(b"/"))
            found += [(*above, name) for name in sorted(folders if rest else [*folders, *files])]
        if not found:
            return (b"a",)
        return (*found[int(number) % len(found)], *(part for part in rest if isinstance(part, bytes)))

    def inode(self, where: Where, *, follow: bool = False) -> int | None:
        """The reference's inode at a path."""
        with suppress(OSError):
            return os.stat(self.at(where)(self.reference), follow_symlinks=follow).st_ino
        return None

    def open(self, where: Where, flags: int, mode: int) -> None:
        """open(2); the handle stays."""
        inode = self.inode(where, follow=True)
        path = self.at(where)(self.reference)
        old = Path(os.fsdecode(path)).read_bytes() if os.path.isfile(path) else b""
        opened: list[int] = []

        def act(top: bytes) -> None:
            opened.append(os.open(self.at(where)(top), flags, mode))

        try:
            outcome = self.both(act)
        except AssertionError:
            for fd in opened:
                os.close(fd)
            raise
        if outcome != ("result", None):
            return
        reference, mine = opened
        handle = Handle(mine, reference, os.fstat(reference).st_ino, bool(flags & WRITING))
        self.handles.append(handle)
        if handle.writing:
            self.states.setdefault(handle.inode, States(absent=True) if inode is None else States([old]))
            self.changed(handle.inode)

    def changed(self, inode: int) -> None:
        """The bytes of an inode are others: where it is open for writing, one more state that a kill may leave."""
        states = self.states.get(inode)
        handle = next((one for one in self.handles if one.inode == inode), None)
        if states is None or handle is None or states.kept is None:
            return
        size = os.fstat(handle.reference).st_size
        states.kept = None if size > SMALL else [*states.kept, _bytes(handle.reference)]

    def journalled(self, inode: int | None, *, whole: bool) -> None:
        """The file is in the journal; `whole`: as it is now."""
        states = self.states.get(inode or 0)
        if states is None:
            return
        states.absent = False
        handle = next(one for one in self.handles if one.inode == inode)
        if whole and os.fstat(handle.reference).st_size <= SMALL:
            states.kept = [_bytes(handle.reference)]

    def close(self, handle: Handle) -> None:
        """close(2) on both sides."""
        if handle.writing:
            self.journalled(handle.inode, whole=True)
        os.close(handle.mine)
        os.close(handle.reference)
        self.handles.remove(handle)
        if not any(other.inode == handle.inode and other.writing for other in self.handles):
            self.states.pop(handle.inode, None)

    def pair(self, handle: Handle, act: Callable[[int], object]) -> None:
        """Do something with an open file on both sides."""
        results = []
        for fd in (handle.reference, handle.mine):
            try:
                results.append(("result", act(fd)))
            except OSError as error:
                results.append(("errno", errno.errorcode[error.errno or 0]))
        assert results[1] == results[0], f"vfsd: {_short(results[1])}, the local filesystem: {_short(results[0])}"

    # Comparing

    def open_paths(self, seen: dict[Where, Thing]) -> set[Where]:
        """Paths of files that are open for writing."""
        return {where for where in seen if self.inode(where) in self.states}

    def compare(self) -> dict[Where, Thing]:
        """Both trees are equal; vfsd's."""
        mine, reference = look(self.mine), look(self.reference)
        alike(mine, reference)
        return mine

    def commit(self) -> None:
        """Commit, and compare the snapshot with the tree; of files that are open for writing only that they may be
        there or not."""
        seen = self.compare()
        (path,) = (self.mounted.folder / "state").glob("*/control")
        made = control.ask(str(path), "commit", branch=f"data/{self.branch}", message="")
        if made["id"] is None:
            assert not set(seen) - self.open_paths(seen), "no commit, and something is there"
            return
        snapshot = look(os.fsencode(self.mounted.path / "data" / f"{self.branch}@{made['id']}"))
        being_written = self.open_paths(seen)
        for where in being_written:
            seen.pop(where)
            snapshot.pop(where, None)
        assert set(snapshot) == set(seen)
        for where, thing in snapshot.items():
            now = seen[where]
            assert _kept(thing) == _kept(now), f"{_shown(where)} in the snapshot: {thing}, at the head: {now}"
            if not _above(where, being_written):
                assert thing.mtime == now.mtime, f"{_shown(where)}: mtime {thing.mtime} in the snapshot, {now.mtime}"
        self.compare()

    # Restarting

    def remount(self) -> None:
        """Close everything, unmount and mount again: nothing may have changed."""
        for handle in list(self.handles):
            self.close(handle)
        before = self.compare()
        self.mounted.umount()
        self.mounted.mount()
        assert self.compare() == before

    def kill(self) -> None:
        """kill -9, and mount again: what was closed is as it was, what was open is in one of its states."""
        before = self.compare()
        self.mounted.kill()
        _wait_for_the_end(self.mounted)
        for handle in self.handles:
            with suppress(OSError):
                os.close(handle.mine)
        self.mounted.mount()
        being_written = self.open_paths(before)
        for where in being_written:
            self._take_state(where)
        for handle in self.handles:
            os.close(handle.reference)
        self.handles.clear()
        self.states.clear()
        after = self.compare()
        for where in set(before) - being_written:
            if not _above(where, being_written):
                assert after[where].mtime == before[where].mtime, f"{_shown(where)}: another mtime after the kill"

    def _take_state(self, where: Where) -> None:
        """Make the reference what the kill left of a file, if that may be."""
        mine, reference = self.at(where)(self.mine), self.at(where)(self.reference)
        states = self.states[os.lstat(reference).st_ino]
        if not os.path.lexists(mine):
            assert states.absent, f"{_shown(where)} was journalled, and is gone after the kill"
            os.unlink(reference)
        else:
            with open(mine, "rb") as file:
                content = file.read()
            known = states.kept is None or content in states.kept
            assert known, f"{_shown(where)} holds what it never held: {_short(content)}"
            with open(reference, "r+b") as file:
                file.truncate(0)
                file.write(content)
            info = os.stat(mine)
            os.chmod(reference, stat.S_IMODE(info.st_mode))
            for key in _user_xattrs(reference):
                os.removexattr(reference, key)
            for key in _user_xattrs(mine):
                os.setxattr(reference, key, os.getxattr(mine, key))
            os.utime(reference, ns=(info.st_mtime_ns, info.st_mtime_ns))
        for depth in range(len(where)):
            info = os.stat(self.at(where[:depth])(self.mine))
            os.utime(self.at(where[:depth])(self.reference), ns=(info.st_mtime_ns, info.st_mtime_ns))

    def end(self) -> None:
        """Close what is open; compare once more; leave the mount for the next example."""
        try:
            for handle in list(self.handles):
                self.close(handle)
            self.compare()
        finally:
            shutil.rmtree(self.reference)


def alike(mine: dict[Where, Thing], reference: dict[Where, Thing]) -> None:
    """Two trees are equal, but for times that the clock gave."""
    assert set(mine) == set(reference), f"only here: {set(mine) - set(reference)}, gone: {set(reference) - set(mine)}"
    for where, thing in mine.items():
        other = reference[where]
        for name in ("kind", "mode", "size", "links", "group", "xattrs", "content"):
            one, two = getattr(thing, name), getattr(other, name)
            assert one == two, f"{_shown(where)}: {name} is {_short(one)}, it should be {_short(two)}"
        if other.mtime < LONG_AGO or thing.mtime < LONG_AGO:
            assert thing.mtime == other.mtime, f"{_shown(where)}: mtime is {thing.mtime}, it should be {other.mtime}"


def _kept(thing: Thing) -> tuple[object, ...]:
    """What a commit keeps, but for the mtime. Snapshots are shown without write permission."""
    mode = thing.mode if thing.kind == stat.S_IFLNK else thing.mode & ~0o222
    return (thing.kind, mode, thing.size, thing.content, thing.xattrs)


def _above(where: Where, others: set[Where]) -> bool:
    return any(other[: len(where)] == where for other in others)


def _bytes(fd: int) -> bytes:
    path = f"/proc/self/fd/{fd}"  # opened anew: the descriptor may be for writing only
    with open(path, "rb") as file:
        return file.read()


def _shown(where: Where) -> str:
    return os.fsdecode(b"/".join(where))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:100]}…{text[-60:]} ({len(text)})"
