"""Merges what datums wrote into one output tree: the last output, less what some had written, plus what others wrote.

A directory that only one datum writes is taken over, or taken out, whole and unread; only what several share is gone
into. So the cost is that of what changed. What many datums wrote is sorted by name in a temporary file, not in memory.
Every file of the output carries the id of the datum that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NoReturn

import msgspec

from vfsd.model.entry import Entry, Kind, Ref, directory, same
from vfsd.model.errors import AlreadyExists
from vfsd.model.ids import DatumId
from vfsd.pipeline.keyed import Keyed
from vfsd.repo.directory import NodeSink, edit, entries, lookup
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Path, show, walk

EDIT = 5_000  # names of a directory that are changed at once: bounds memory
REMOVED, ADDED = 0, 1  # sides


class Output(msgspec.Struct, frozen=True):
    """What a datum wrote at some path; at first its /pfs/out. files: what is in it, None where that is to be read."""

    datum: DatumId
    entry: Entry
    files: list[Entry] | None = None


Outputs = Iterable[Output]
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(Output).decode


class _Again:
    """What datums wrote at one path, to be gone over any number of times. only: the kind of entries, None for all."""

    def __init__(self, names: Keyed[Output], name: bytes, side: int, only: Kind | None = None) -> None:
        self._names, self._name, self._side, self._only = names, name, side, only

    def __iter__(self) -> Iterator[Output]:
        found = self._names.of(self._name, self._side)
        return found if self._only is None else (output for output in found if output.entry.kind == self._only)

    def directories(self) -> _Again:
        """Those that are directories."""
        return _Again(self._names, self._name, self._side, Kind.DIR)


class Merger:
    """One merge. shown: how messages name a datum. flush: makes durable what was given to `sink`."""

    def __init__(
        self, nodes: NodeSource, sink: NodeSink, shown: Callable[[DatumId], str], flush: Callable[[], None]
    ) -> None:
        self._nodes = nodes
        self._sink = sink
        self._shown = shown
        self._flush = flush

    def merge(self, root: Entry, removed: Outputs, added: Outputs) -> Entry:
        """The output tree `root` without what `removed` had written, with what `added` wrote.

        Directories that become empty by that go. AlreadyExists names the two datums that write the same path, also
        where one has a file and the other a directory.
        """
        node = self._directory(root.node, removed, added, ())
        return directory(
            root.name, node, mode=root.mode, uid=root.uid, gid=root.gid, mtime=root.mtime, extra=root.extra
        )

    def _directory(self, base: Ref | None, removed: Outputs, added: Outputs, path: Path) -> Ref | None:
        names = Keyed(_ENCODE, _DECODE, self._flush)  # flushed, so that places are known when they are written down
        for side, outputs in ((REMOVED, removed), (ADDED, added)):
            names.add(
                (entry.name, side, Output(output.datum, entry))
                for output in outputs
                for entry in (entries(self._nodes, output.entry.node) if output.files is None else output.files)
            )
        edited, changes = base, dict[bytes, Entry | None]()
        for name in names.keys():  # noqa: SIM118  it is no dict
            old, new = _Again(names, name, REMOVED), _Again(names, name, ADDED)
            changes[name] = self._name(lookup(self._nodes, base, name), old, new, (*path, name))
            if len(changes) == EDIT:
                edited, changes = edit(self._nodes, self._sink, edited, changes), {}
                self._flush()  # so that the next edit finds the nodes of this one when memory has let them go
        return edit(self._nodes, self._sink, edited, changes)

    def _name(self, base: Entry | None, old: _Again, new: _Again, path: Path) -> Entry | None:
        """What stands at `path` in the end."""
        if base is not None and any(_wrote(output, base) for output in old):
            base = None
        first, second = (*islice(new, 2), None, None)[:2]
        if first is None:
            return base if base is None or base.kind != Kind.DIR else self._inner(base, old, new, None, path)
        if base is None and second is None:
            return first.entry
        if base is not None and base.kind != Kind.DIR:
            self._clash(path, _writer(base), first.datum, as_directory=first.entry.kind == Kind.DIR)
        file = next((output for output in new if output.entry.kind != Kind.DIR), None)
        if file is not None and second is not None:
            other = second if file.datum == first.datum else first
            self._clash(path, file.datum, other.datum, as_directory=other.entry.kind == Kind.DIR)
        return self._inner(base, old, new, file, path)

    def _inner(
        self, base: Entry | None, old: _Again, new: _Again, file: Output | None, path: Path
    ) -> Entry | None:
        """What stands where the last output has a directory, or where several datums write one. file: what one datum
        writes there that is none."""
        first = next(iter(new.directories()), None)
        gone: Outputs = old.directories() if base is not None else ()
        node = self._directory(base.node if base is not None else None, gone, new.directories(), path)
        if file is not None:
            if node is not None:
                left = directory(path[-1], node)
                self._clash(path, file.datum, next(self._writers(left), file.datum), as_directory=True)
            return file.entry
        like = base or (None if first is None else first.entry)
        if like is None or (node is None and first is None):
            return None
        return directory(path[-1], node, mode=like.mode, uid=like.uid, gid=like.gid, mtime=like.mtime, extra=like.extra)

    def _writers(self, entry: Entry) -> Iterator[DatumId]:
        return (_writer(inner) for _, inner in walk(self._nodes, entry) if inner.kind != Kind.DIR)

    def _clash(self, path: Path, one: DatumId, other: DatumId, *, as_directory: bool) -> NoReturn:
        """`one` wrote a file there, `other` a file too or a directory."""
        what = f"{self._shown(one)} as a file, {self._shown(other)} as a directory"
        if not as_directory:
            what = f"{self._shown(one)} and {self._shown(other)}"
        raise AlreadyExists(f"two datums write {show(path)}: {what}; only one may")


def _wrote(output: Output, entry: Entry) -> bool:
    """Whether all that stands there is what this datum wrote."""
    if entry.kind == Kind.DIR:
        return same(output.entry, entry)
    return output.entry.kind != Kind.DIR and _writer(entry) == output.datum


def _writer(entry: Entry) -> DatumId:
    return DatumId(entry.more.origin.hex())
