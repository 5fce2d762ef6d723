"""Hard links in trees: finding their names, and telling the files of a copy from those of its original.

Each pointer to a node says how many names of hard-linked files are below it, so a search reads what has some, and a
tree without hard links costs nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import msgspec

from vfsd.model.entry import Entry, Extra, Kind, Ref, linked_below
from vfsd.model.ids import hash_bytes
from vfsd.model.node import Inner, Leaf
from vfsd.repo.directory import NodeSink
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Path, apply, change_set

LINK_BITS = 62


def new_link() -> int:
    """A number for a file's names to share: random, so that it is another one than any that a tree has already."""
    return secrets.randbits(LINK_BITS) + 1


def linked_entries(nodes: NodeSource, root: Ref | None) -> Iterator[Entry]:
    """Of a directory: names of hard-linked files, and directories that have some below, in order."""
    if root is None or not root.linked:
        return
    node = nodes.get(root)
    if isinstance(node, Leaf):
        yield from filter(linked_below, node.items)
    elif isinstance(node, Inner):
        for child in node.items:
            yield from linked_entries(nodes, child.ref)


def linked_names(nodes: NodeSource, root: Ref | None, path: Path = ()) -> Iterator[tuple[Path, Entry]]:
    """(path, entry) of all names of hard-linked files below a directory; streamed."""
    for entry in linked_entries(nodes, root):
        below = (*path, entry.name)
        if entry.kind == Kind.DIR:
            yield from linked_names(nodes, entry.node, below)
        else:
            yield below, entry


def relink(nodes: NodeSource, sink: NodeSink, entry: Entry, salt: bytes) -> Entry:
    """`entry`, a copy of a tree or of one name: its hard-linked files are others than those of the original, and have
    the names that are within it. Equal copies of one `salt` come out equal."""
    if not linked_below(entry):
        return entry
    if entry.kind != Kind.DIR:
        return _relinked(entry, 0, 0)
    groups: dict[int, list[tuple[Path, Entry]]] = {}
    for path, found in linked_names(nodes, entry.node):
        groups.setdefault(found.more.link, []).append((path, found))
    changes = []
    for old, group in groups.items():
        number = int.from_bytes(hash_bytes(b"%d %b" % (old, salt))[:8], "big") >> (64 - LINK_BITS)
        link, names = (number + 1, len(group)) if len(group) > 1 else (0, 0)
        changes += [(path, _relinked(found, link, names)) for path, found in group]
    return apply(nodes, sink, entry, change_set(changes))


def _relinked(entry: Entry, link: int, names: int) -> Entry:
    extra = msgspec.structs.replace(entry.more, link=link, names=names)
    return msgspec.structs.replace(entry, extra=None if extra == Extra() else extra)
