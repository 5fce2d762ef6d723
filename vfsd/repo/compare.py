"""A local directory beside a branch's tree: what has to change in the tree for it to be as the directory is.

Both sides are walked in order of names, as streams: of the directory the names of one folder a level are held, of the
tree one node a level. As rsync does, a file of equal size and mtime counts as equal; only others are read. What cannot
be had now is named instead of waited for.
"""

from __future__ import annotations

import enum
import heapq
import os
import stat
import time
from collections.abc import Iterator

import msgspec

from vfsd.model.entry import KIND_OF, NO_EXTRA, Entry, Kind, Ref, directory, storable_time
from vfsd.repo.closed import BEING_WRITTEN, BeingWritten
from vfsd.repo.directory import entries, lookup
from vfsd.repo.ingest import Ingest
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Change, Path, Sub

MANY = 100_000  # paths to look at; more are not told apart: everything is looked at
OBSTACLES = 10_000  # that are kept


class Look:
    """What to look at in a directory: the names in `names`, or with `whole` everything. Without either, it alone.
    start: with `whole`, what comes before this path was looked at already."""

    __slots__ = ("names", "start", "whole")

    def __init__(self, *, whole: bool = False, start: Path = ()) -> None:
        self.names: dict[bytes, Look] = {}
        self.whole = whole
        self.start = start

    def __bool__(self) -> bool:
        return self.whole or bool(self.names)

    def add(self, path: Path, *, whole: bool = False) -> None:
        """Look at `path` too, and with `whole` at everything in it."""
        here = self
        for name in path:
            if here.whole:
                here.start = ()  # it may be before that
                return
            here = here.names.setdefault(name, Look())
        if whole:
            here.set_whole()

    def set_whole(self) -> None:
        """Look at everything."""
        self.whole = True
        self.names, self.start = {}, ()

    def merge(self, other: Look) -> None:
        """Look also at what `other` looks at."""
        if self.whole or other.whole:
            start = self.start if not other else () if self else other.start
            self.set_whole()
            self.start = start
            return
        for name, inner in other.names.items():
            self.names.setdefault(name, Look()).merge(inner)


class Limits(msgspec.Struct, frozen=True):
    """When a comparison ends before its end. changes: after so many. deadline: of time.monotonic(), in seconds."""

    changes: int
    deadline: float


class _Same(enum.Enum):
    """The answer that nothing has to change."""

    SAME = enum.auto()


_WHOLE = Look(whole=True)


class Comparison:
    """One comparison of the directory `top` with a tree. Blocks.

    delete: whether a name that is not in the directory goes from the tree. Without it only what is in the directory
    counts, and a directory's mtime alone is no difference: removals, which are not followed, change that.
    Afterwards `changed` counts what differs, `first` has the first few of its paths, `obstacles` says of paths why they
    cannot be had now, and `rest` what is still to be looked at: limits ended it early, or a file of several names
    changed, of which the kernel tells one.
    """

    def __init__(self, top: bytes, ingest: Ingest, nodes: NodeSource, *, delete: bool, limits: Limits) -> None:
        self._top = top
        self._ingest = ingest
        self._nodes = nodes
        self._delete = delete
        self._limits = limits
        self._is_cut = False
        self._is_whole = False
        self._start: Path = ()  # what comes before it is not looked at
        self._end: Path = ()  # what limits ended it before
        self.changed = 0
        self.first: list[tuple[Path, bool]] = []  # with whether it is there
        self.obstacles: dict[Path, str] = {}
        self.rest = Look()

    def run(self, old: Entry | None, look: Look) -> Sub | None:
        """What makes the directory entry `old` (None: there is none) like the directory; None when it is so already.

        A directory that is there keeps its own attributes. OSError when `top` cannot be listed; what the ingest
        raises when the store fails.
        """
        status = os.stat(self._top)
        self._is_whole, self._start = look.whole, look.start
        changes = self._changes((), old, _WHOLE if old is None else look)
        if self._is_cut:
            self.rest.merge(Look(whole=True, start=self._end) if look.whole or old is None else look)
        if old is None:
            return Sub(changes, _attributes(b"", status))
        return Sub(changes) if changes else None

    def _changes(self, at: Path, old: Entry | None, look: Look) -> dict[bytes, Change]:
        """What has to change in a directory that is a directory in the tree too, or not there."""
        changes: dict[bytes, Change] = {}
        for name, entry, inner in self._whole(at, old) if look.whole else self._named(old, look):
            if self.changed >= self._limits.changes or time.monotonic() > self._limits.deadline:
                if not self._is_cut:
                    self._is_cut, self._end = True, (*at, name)
                break
            change = self._name((*at, name), entry, inner)
            if change is not _Same.SAME:
                changes[name] = change
        return changes

    def _named(self, old: Entry | None, look: Look) -> Iterator[tuple[bytes, Entry | None, Look]]:
        """(name, entry in the tree, where to look) of the names to look at."""
        for name, inner in sorted(look.names.items()):
            yield name, lookup(self._nodes, None if old is None else old.node, name), inner

    def _whole(self, at: Path, old: Entry | None) -> Iterator[tuple[bytes, Entry | None, Look]]:
        """(name, entry in the tree, where to look) of all names that the directory or the tree has."""
        depth = len(at)
        start = b"" if old is None or at != self._start[:depth] else b"".join(self._start[depth : depth + 1])
        try:
            here = sorted(name for name in os.listdir(self._local(at)) if name >= start)
        except OSError as error:
            if not at:
                raise
            self._obstructed(at, error)
            return
        there = _entries_from(self._nodes, None if old is None else old.node, start)
        pairs: Iterator[tuple[bytes, Entry | None]] = heapq.merge(
            ((name, None) for name in here), ((entry.name, entry) for entry in there), key=lambda pair: pair[0]
        )
        waiting: bytes | None = None  # of equal names the directory's comes first
        for name, entry in pairs:
            if waiting is not None and waiting != name:
                yield waiting, None, _WHOLE
            waiting = None
            if entry is None:
                waiting = name
            else:
                yield name, entry, _WHOLE
        if waiting is not None:
            yield waiting, None, _WHOLE

    def _name(self, at: Path, old: Entry | None, look: Look) -> Change | _Same:
        local = self._local(at)
        try:
            status = os.lstat(local)
            if stat.S_ISDIR(status.st_mode):
                return self._directory(at, old, status, look)
            new = _unread(old, status) or self._ingest.one(local, at[-1], status)
            if old is not None and _shown(new) == _shown(old):
                return _Same.SAME
            if old is not None and status.st_nlink > 1 and not self._is_whole:
                self.rest.set_whole()
            return self._differs(at, new)
        except (FileNotFoundError, NotADirectoryError):
            return self._differs(at, None) if self._delete and old is not None else _Same.SAME
        except (BeingWritten, OSError) as error:
            self._obstructed(at, error)
        return _Same.SAME

    def _directory(self, at: Path, old: Entry | None, status: os.stat_result, look: Look) -> Change | _Same:
        was = old if old is not None and old.kind == Kind.DIR else None
        changes = self._changes(at, was, _WHOLE if was is None else look)
        new = _attributes(at[-1], status)
        if was is not None and not changes and self._alike(was, new):
            return _Same.SAME
        if not changes:
            self._differs(at, new)
        return Sub(changes, msgspec.structs.replace(new, extra=None if was is None else was.extra))

    def _alike(self, one: Entry, other: Entry) -> bool:
        if (one.mode, one.uid, one.gid) != (other.mode, other.uid, other.gid):
            return False
        return one.mtime == other.mtime or not self._delete

    def _differs(self, at: Path, new: Entry | None) -> Entry | None:
        self.changed += 1
        if len(self.first) < 4:
            self.first.append((at, new is not None))
        return new

    def _obstructed(self, at: Path, error: Exception) -> None:
        if len(self.obstacles) < OBSTACLES:  # else the next comparison of everything finds it
            self.obstacles[at] = (error.strerror or str(error)) if isinstance(error, OSError) else BEING_WRITTEN

    def _local(self, at: Path) -> bytes:
        return os.path.join(self._top, *at)


def _entries_from(nodes: NodeSource, tree: Ref | None, start: bytes) -> Iterator[Entry]:
    """All entries in order of their names, from `start` on."""
    if start and (first := lookup(nodes, tree, start)) is not None:
        yield first
    yield from entries(nodes, tree, start or None)


def _unread(old: Entry | None, status: os.stat_result) -> Entry | None:
    """The new entry of a file whose size and mtime are those of `old`, so that it need not be read; else None."""
    if old is None or old.kind != Kind.FILE or KIND_OF[stat.S_IFMT(status.st_mode)] != Kind.FILE:
        return None
    if (old.size, old.mtime) != (status.st_size, storable_time(status.st_mtime_ns)):
        return None
    mode = stat.S_IMODE(status.st_mode)
    if (old.mode, old.uid, old.gid) == (mode, status.st_uid, status.st_gid):
        return old
    # Names of one hard-linked file have one mode and owner: this one is a file of its own from here on.
    extra = msgspec.structs.replace(old.more, link=0, names=0)
    return msgspec.structs.replace(
        old, mode=mode, uid=status.st_uid, gid=status.st_gid, extra=None if extra == NO_EXTRA else extra
    )


def _shown(entry: Entry) -> tuple[object, ...]:
    """What a comparison goes by: not by what a local file does not say, such as the datum that wrote it."""
    return (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime, entry.size, entry.digest)


def _attributes(name: bytes, status: os.stat_result) -> Entry:
    return directory(
        name, None, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid,
        mtime=storable_time(status.st_mtime_ns),
    )
