"""Trees by path: find, walk, change. Directories themselves are in repo.directory."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Union

import msgspec

from vfsd.model.entry import Chunk, Entry, Kind, directory
from vfsd.model.errors import NotFound, Refused
from vfsd.model.shown import shown_name
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.directory import NodeSink, edit, entries, lookup
from vfsd.repo.nodes import NodeSource

Path = tuple[bytes, ...]


class Sub(msgspec.Struct):
    """Changes within a directory that stays: name → new entry, None to remove, or Sub for a directory within.

    attributes: the directory's new ones (mode, owner, mtime, extra), or None to keep what it has. A directory that is
    not there yet is made; without `attributes` it is `like` another.
    """

    changes: dict[bytes, Change] = {}
    attributes: Entry | None = None
    like: Entry | None = None


Change = Union[Entry, None, Sub]  # noqa: UP007  msgspec.Struct is not there yet when this is read


def show(path: Path) -> str:
    """A path for people: `a/b`, `.` for the root."""
    return shown_name(b"/".join(path)) or "."


def find(nodes: NodeSource, root: Entry, path: Path) -> Entry:
    """The entry at `path`; NotFound names the first part that is missing, Refused(ENOTDIR) the one that is a file."""
    entry = root
    for depth, name in enumerate(path):
        if entry.kind != Kind.DIR:
            raise Refused(errno.ENOTDIR, f"{show(path[:depth])} is not a directory")
        found = lookup(nodes, entry.node, name)
        if found is None:
            raise NotFound(f"there is no {show(path[: depth + 1])}")
        entry = found
    return entry


def walk(nodes: NodeSource, root: Entry, path: Path = ()) -> Iterator[tuple[Path, Entry]]:
    """(path, entry) of everything below a directory, depth first in order of names; streamed."""
    for entry in entries(nodes, root.node):
        below = (*path, entry.name)
        yield below, entry
        if entry.kind == Kind.DIR:
            yield from walk(nodes, entry, below)


def change_set(changes: Iterable[tuple[Path, Entry | None]]) -> Sub:
    """Single paths as one Sub; a later change of a path, or of something above it, wins."""
    root = Sub({})
    for path, entry in changes:
        where = root
        for name in path[:-1]:
            inner = where.changes.get(name)
            if not isinstance(inner, Sub):
                inner = where.changes[name] = Sub({})
            where = inner
        where.changes[path[-1]] = entry
    return root


def apply(nodes: NodeSource, sink: NodeSink, root: Entry, sub: Sub, *, prune: bool = False) -> Entry:
    """The directory `root` with the changes made. With `prune`, directories that become empty go."""
    items: dict[bytes, Entry | None] = {}
    for name, change in sub.changes.items():
        if isinstance(change, Sub):
            old = lookup(nodes, root.node, name)
            items[name] = _apply_below(nodes, sink, old, name, change, prune=prune)
        else:
            items[name] = change
    node = edit(nodes, sink, root.node, items)
    like = sub.attributes or root
    return directory(
        root.name, node, mode=like.mode, uid=like.uid, gid=like.gid, mtime=like.mtime, extra=like.extra
    )


def _apply_below(
    nodes: NodeSource, sink: NodeSink, old: Entry | None, name: bytes, change: Sub, *, prune: bool
) -> Entry | None:
    if old is None or old.kind != Kind.DIR:
        if not _brings(change):
            return old
        like = change.like or directory(name, None)
        old = directory(name, None, mode=like.mode, uid=like.uid, gid=like.gid, mtime=like.mtime, extra=like.extra)
    new = apply(nodes, sink, old, change, prune=prune)
    return None if prune and new.node is None else new


def _brings(sub: Sub) -> bool:
    """Whether a Sub makes anything where nothing was."""
    if sub.attributes is not None:
        return True
    return any(_brings(change) if isinstance(change, Sub) else change is not None for change in sub.changes.values())


def chunks_below(nodes: NodeSource, entry: Entry) -> Iterator[Chunk]:
    """The chunks of a file, or of all files below a directory in the order of paths, which is how they lie in packs."""
    files = [entry] if entry.kind == Kind.FILE else (below for _, below in walk(nodes, entry))
    for file in files:
        if file.kind == Kind.FILE:
            for _, chunk in iter_chunks(nodes, content_of(file)):
                yield chunk
