"""Merges what datums wrote into one output tree: the last output, less what some had written, plus what others wrote.

A directory that only one datum writes is taken over, or taken out, whole and unread; only what several share is gone
into. So the cost is that of what changed. Every file of the output carries the id of the datum that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NoReturn

import msgspec

from vfsd.model.entry import Entry, Kind, Ref, directory, same
from vfsd.model.errors import AlreadyExists
from vfsd.model.ids import DatumId
from vfsd.repo.directory import NodeSink, edit, entries, lookup
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Path, show, walk


class Output(msgspec.Struct, frozen=True):
    """What a datum wrote at some path; at first its /pfs/out. files: what is in it, None where that is to be read."""

    datum: DatumId
    entry: Entry
    files: list[Entry] | None = None


class Merger:
    """One merge. shown: how messages name a datum."""

    def __init__(self, nodes: NodeSource, sink: NodeSink, shown: Callable[[DatumId], str]) -> None:
        self._nodes = nodes
        self._sink = sink
        self._shown = shown

    def merge(self, root: Entry, removed: Iterable[Output], added: Iterable[Output]) -> Entry:
        """The output tree `root` without what `removed` had written, with what `added` wrote.

        Directories that become empty by that go. AlreadyExists names the two datums that write the same path, also
        where one has a file and the other a directory.
        """
        node = self._directory(root.node, removed, added, ())
        return directory(
            root.name, node, mode=root.mode, uid=root.uid, gid=root.gid, mtime=root.mtime, extra=root.extra
        )

    def _directory(
        self, base: Ref | None, removed: Iterable[Output], added: Iterable[Output], path: Path
    ) -> Ref | None:
        names: dict[bytes, tuple[list[Output], list[Output]]] = {}
        for side, outputs in enumerate((removed, added)):
            for output in outputs:
                for entry in entries(self._nodes, output.entry.node) if output.files is None else output.files:
                    names.setdefault(entry.name, ([], []))[side].append(Output(output.datum, entry))
        changes = {
            name: self._name(lookup(self._nodes, base, name), old, new, (*path, name))
            for name, (old, new) in names.items()
        }
        return edit(self._nodes, self._sink, base, changes)

    def _name(self, base: Entry | None, old: list[Output], new: list[Output], path: Path) -> Entry | None:
        """What stands at `path` in the end."""
        if base is not None and any(_wrote(output, base) for output in old):
            base = None
        if base is None and len(new) == 1:
            return new[0].entry
        if base is not None and base.kind != Kind.DIR:
            if new:
                self._clash(path, _writer(base), new[0].datum, as_directory=new[0].entry.kind == Kind.DIR)
            return base
        files = [output for output in new if output.entry.kind != Kind.DIR]
        if files and len(new) > 1:
            other = next(output for output in new if output is not files[0])
            self._clash(path, files[0].datum, other.datum, as_directory=other.entry.kind == Kind.DIR)
        if base is None and not new:
            return None
        return self._inner(base, old, new, files, path)

    def _inner(
        self, base: Entry | None, old: list[Output], new: list[Output], files: list[Output], path: Path
    ) -> Entry | None:
        """What stands where the last output has a directory, or where several datums write one."""
        dirs = [output for output in new if output.entry.kind == Kind.DIR]
        gone = [output for output in old if output.entry.kind == Kind.DIR] if base is not None else []
        node = self._directory(base.node if base is not None else None, gone, dirs, path)
        if files:
            if node is not None:
                left = directory(path[-1], node)
                self._clash(path, files[0].datum, next(self._writers(left), files[0].datum), as_directory=True)
            return files[0].entry
        if node is None and not dirs:
            return None
        like = base or dirs[0].entry
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
