"""Where `put` and `cp` place an entry in a branch's tree. Pure: the same on every head that it is asked about.

The target names the result. A directory that is there already is filled and keeps its own attributes: a directory
goes into it name by name, everything else under its own name. A file never replaces a directory, nor the other way.
"""

from __future__ import annotations

import errno
import os
import time

import msgspec

from vfsd.model.entry import Entry, Kind, directory
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.location import Location
from vfsd.repo.diff import changed_names
from vfsd.repo.directory import NodeSink, lookup
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Change, Path, Sub, apply, find, show


class Target(msgspec.Struct, frozen=True):
    """Where something goes. inside: into the directory at `path`, under its `own_name` (empty: it has none)."""

    where: Location
    path: Path
    inside: bool
    own_name: bytes


def final_path(nodes: NodeSource, root: Entry, target: Target, kind: int) -> Path:
    """The path that an entry of `kind` would get in the tree `root`; Refused or InvalidArgument where it cannot."""
    here = _find(nodes, root, target.path)
    if target.inside or (here is not None and here.kind == Kind.DIR and kind != Kind.DIR):
        if not target.own_name:
            raise InvalidArgument(f"{target.where} is a directory: name the file that is to be in it")
        path = (*target.path, target.own_name)
        here = _find(nodes, root, path)
    else:
        path = target.path
    if here is not None:
        _check_kinds(here.kind, kind, path)
    return path


def place(nodes: NodeSource, sink: NodeSink, root: Entry, target: Target, entry: Entry) -> Entry:
    """The tree `root` with `entry` at the target; what is missing above it is made. Errors as in `final_path`."""
    path = final_path(nodes, root, target, entry.kind)
    *above, here = _on_the_way(nodes, root, path)
    change = _merged(nodes, here, msgspec.structs.replace(entry, name=path[-1] if path else b""), path)
    for name, there in zip(reversed(path), reversed(above), strict=True):
        change = Sub({name: change}, None if there else _new_directory())
    assert isinstance(change, Sub)  # the root is a directory, so it was merged
    return apply(nodes, sink, root, change)


def _merged(nodes: NodeSource, old: Entry | None, new: Entry, path: Path) -> Change:
    """What makes `new` of `old`, or fills it."""
    if old is None:
        return new
    _check_kinds(old.kind, new.kind, path)
    if new.kind != Kind.DIR:
        return new
    return Sub({
        name: _merged(nodes, one, other, (*path, name))
        for name, one, other in changed_names(nodes, old.node, new.node)
        if other is not None
    })


def _check_kinds(old: int, new: int, path: Path) -> None:
    if old == Kind.DIR and new != Kind.DIR:
        raise Refused(errno.EISDIR, f"{show(path)} is a directory, which a file may not replace: remove it first")
    if old != Kind.DIR and new == Kind.DIR:
        raise Refused(errno.ENOTDIR, f"{show(path)} is a file, which a directory may not replace: remove it first")


def _find(nodes: NodeSource, root: Entry, path: Path) -> Entry | None:
    try:
        return find(nodes, root, path)
    except NotFound:
        return None


def _on_the_way(nodes: NodeSource, root: Entry, path: Path) -> list[Entry | None]:
    """The entries at the beginnings of a path, from the root to its end; None from the first that is missing."""
    found: list[Entry | None] = [root]
    for name in path:
        there = found[-1]
        found.append(None if there is None else lookup(nodes, there.node, name))
    return found


def _new_directory() -> Entry:
    """The attributes of a directory that is made on the way."""
    return directory(b"", None, uid=os.geteuid(), gid=os.getegid(), mtime=time.time_ns())
