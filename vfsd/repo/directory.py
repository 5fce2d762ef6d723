"""Directories as prolly trees: look up, iterate, build and edit. The cost of an edit is the nodes it touches.

How nodes are cut is in model.node; the shape depends on the set of names alone, so an edited directory equals one that
was built from nothing.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from vfsd.model.entry import Entry, Ref
from vfsd.model.errors import Damaged
from vfsd.model.node import Child, Inner, Leaf, Node, name_level
from vfsd.repo.nodes import NodeSource


class NodeSink(Protocol):
    """Who stores new nodes."""

    def add_node(self, node: Node) -> Ref:
        """Store a node, unless it is stored already, and point to it."""
        ...


def lookup(nodes: NodeSource, root: Ref | None, name: bytes) -> Entry | None:
    """The entry under `name`, or None."""
    ref = root
    while ref is not None:
        node = nodes.get(ref)
        if isinstance(node, Leaf):
            at = bisect_left(node.items, name, key=_entry_name)
            return node.items[at] if at < len(node.items) and node.items[at].name == name else None
        inner = _inner(node)
        at = bisect_left(inner.items, name, key=_child_last)
        ref = inner.items[at].ref if at < len(inner.items) else None
    return None


def entries(nodes: NodeSource, root: Ref | None, after: bytes | None = None) -> Iterator[Entry]:
    """All entries in order of their names, from the first behind `after`; nodes are read as they are reached."""
    if root is None:
        return
    node = nodes.get(root)
    if isinstance(node, Leaf):
        start = 0 if after is None else bisect_right(node.items, after, key=_entry_name)
        yield from node.items[start:]
        return
    inner = _inner(node)
    start = 0 if after is None else bisect_right(inner.items, after, key=_child_last)
    for child in inner.items[start:]:
        yield from entries(nodes, child.ref, after)
        after = None


class DirectoryBuilder:
    """Builds a directory from entries that come in order of their names; holds one open node a level."""

    def __init__(self, sink: NodeSink) -> None:
        self._sink = sink
        self._levels: list[list[Entry] | list[Child]] = [[]]
        self._lone: dict[bytes, Ref] = {}  # inner nodes of one child → that child

    def add(self, entry: Entry) -> None:
        """The next entry; its name sorts behind all before it."""
        leaf: list[Entry] = self._levels[0]  # type: ignore[assignment]
        leaf.append(entry)
        reach = name_level(entry.name)
        for level in range(reach):
            self._close(level)

    def _close(self, level: int) -> None:
        items = self._levels[level]
        if not items:
            return
        self._levels[level] = []
        if level + 1 == len(self._levels):
            self._levels.append([])
        parent: list[Child] = self._levels[level + 1]  # type: ignore[assignment]
        parent.append(child := _store(self._sink, level, items))
        if level and len(items) == 1 and isinstance(items[0], Child):
            self._lone[child.ref.id] = items[0].ref

    def finish(self) -> Ref | None:
        """The root, or None for no entries."""
        level = 0
        while level < len(self._levels):
            items = self._levels[level]
            if items and not any(self._levels[level + 1 :]):
                if len(items) == 1 and isinstance(items[0], Child):
                    return self._lowest(items[0].ref)
                return _store(self._sink, level, items).ref
            self._close(level)
            level += 1
        return None

    def _lowest(self, ref: Ref) -> Ref:
        while ref.id in self._lone:
            ref = self._lone[ref.id]
        return ref


def edit(nodes: NodeSource, sink: NodeSink, root: Ref | None, changes: Mapping[bytes, Entry | None]) -> Ref | None:
    """The directory `root` with `changes` made: an Entry sets its name, None removes it. Costs what changes."""
    ordered = sorted(changes.items())
    if root is None:
        builder = DirectoryBuilder(sink)
        for _, entry in ordered:
            if entry is not None:
                builder.add(entry)
        return builder.finish()
    if not ordered:
        return root
    top = nodes.get(root)
    height = top.level if isinstance(top, Inner) else 0
    pending: list[tuple[bytes, Entry | Child | None]] = list(ordered)
    for level in range(height + 1):
        pending = _rewrite(nodes, sink, root, level, pending)
    children = [item for _, item in pending if isinstance(item, Child)]
    level = height
    while len(children) > 1:
        level += 1
        children = [_store(sink, level, part) for part in _parts(children, level)]
    return _collapse(nodes, children[0].ref) if children else None


Items = list[Entry] | list[Child] | list[Entry | Child]


def _rewrite(
    nodes: NodeSource, sink: NodeSink, root: Ref, level: int, changes: list[tuple[bytes, Entry | Child | None]]
) -> list[tuple[bytes, Entry | Child | None]]:
    """Make `changes` to the items of one level; returns the changes that this makes to the level above."""
    result: dict[bytes, Entry | Child | None] = {}
    carried: list[Entry | Child] = []
    behind: bytes | None = None  # the last name of the node that `carried` fell out of
    at = 0
    while at < len(changes) or carried:
        key = changes[at][0] if behind is None else behind
        items, final = _locate(nodes, root, level, key, past=behind is not None)
        last = _key(items[-1])
        upto = len(changes) if final else bisect_right(changes, last, lo=at, key=_first)
        merged = carried + _merge(items, changes[at:upto])
        at, carried, behind = upto, [], None
        result[last] = None
        parts = _parts(merged, level)
        if parts and not final and name_level(_key(parts[-1][-1])) <= level:
            # The name that ended this node is gone: what stood before it now begins the next node.
            carried, behind = parts.pop(), last
        for part in parts:
            child = _store(sink, level, part)
            result[child.last] = child
    return sorted(result.items())


def _locate(nodes: NodeSource, root: Ref, level: int, key: bytes, *, past: bool) -> tuple[Items, bool]:
    """The items of the node of `level` that `key` belongs to (or, with `past`, of the next node behind the one that
    ends with `key`), and whether it is the last of its level."""
    node = nodes.get(root)
    final = True
    find = bisect_right if past else bisect_left
    while (node.level if isinstance(node, Inner) else 0) > level:
        inner = _inner(node)
        at = min(find(inner.items, key, key=_child_last), len(inner.items) - 1)
        final = final and at == len(inner.items) - 1
        node = nodes.get(inner.items[at].ref)
    if not isinstance(node, Leaf | Inner):
        raise Damaged("a directory points to a node of a chunk list")
    return node.items, final


def _merge(items: Items, changes: list[tuple[bytes, Entry | Child | None]]) -> list[Entry | Child]:
    merged: list[Entry | Child] = []
    start = 0
    for key, item in changes:
        at = bisect_left(items, key, lo=start, key=_key)
        merged.extend(items[start:at])
        if item is not None:
            merged.append(item)
        start = at + 1 if at < len(items) and _key(items[at]) == key else at
    merged.extend(items[start:])
    return merged


def _parts(items: Iterable[Entry | Child], level: int) -> list[list[Entry | Child]]:
    parts: list[list[Entry | Child]] = [[]]
    for item in items:
        parts[-1].append(item)
        if name_level(_key(item)) > level:
            parts.append([])
    return [part for part in parts if part]


def _store(sink: NodeSink, level: int, items: Items) -> Child:
    node = Inner(level, items) if level else Leaf(items)  # type: ignore[arg-type]
    return Child(_key(items[-1]), sink.add_node(node))


def _collapse(nodes: NodeSource, ref: Ref) -> Ref:
    """The lowest node that has everything: an inner node of one child adds nothing."""
    while True:
        node = nodes.get(ref)
        if not isinstance(node, Inner) or len(node.items) > 1:
            return ref
        ref = node.items[0].ref


def _inner(node: Node) -> Inner:
    if not isinstance(node, Inner):
        raise Damaged("a directory points to a node of a chunk list")
    return node


def _key(item: Entry | Child) -> bytes:
    return item.name if isinstance(item, Entry) else item.last


def _entry_name(entry: Entry) -> bytes:
    return entry.name


def _child_last(child: Child) -> bytes:
    return child.last


def _first(change: tuple[bytes, object]) -> bytes:
    return change[0]
