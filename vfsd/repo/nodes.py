"""Tree nodes by pointer: from memory, from the index, or from the store, verified on their way in."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from vfsd.index.index import Index
from vfsd.model.entry import Place, Ref
from vfsd.model.errors import Damaged, NotCached, NotFound
from vfsd.model.ids import hash_bytes
from vfsd.model.node import Node, check_node, decode_node, encode_node
from vfsd.repo.containers import Containers
from vfsd.store.blob import container_key, decode_blob, encode_blob

MEMORY_ITEMS = 200_000  # entries of decoded nodes kept in memory: about 100 MB
MAX_NODE = 64 << 20  # plain bytes; a node is some 10 KiB
UNSAVED = 32  # nodes that the index does not have yet: it takes several at once as fast as one


class NodeSource(Protocol):
    """Who gives nodes for pointers."""

    def get(self, ref: Ref) -> Node:
        """The node, or NotFound, Damaged, Unavailable, or NotCached from a source that may not block."""
        ...


class Nodes:
    """Reads nodes, blocking where they come from the store; safe from any thread."""

    def __init__(self, containers: Containers, index: Index) -> None:
        self._containers = containers
        self._index = index
        # By id; of equal nodes that were stored twice each with its own pointers. Places fill in while they are here.
        self._memory: OrderedDict[bytes, list[tuple[Place, Node]]] = OrderedDict()
        self._items = 0
        self._unsaved: list[tuple[bytes, bytes]] = []
        self._lock = threading.Lock()

    def get(self, ref: Ref) -> Node:
        """The node `ref` points to; blocks. NotFound or Damaged when the store does not have it as it was."""
        return self.cached(ref) or self.load(ref)

    def cached(self, ref: Ref) -> Node | None:
        """The node when it is in memory or in the index, with the pointers that it has at this place."""
        with self._lock:
            for place, node in self._memory.get(ref.id, ()):
                if place is ref.place or place == ref.place:
                    self._memory.move_to_end(ref.id)
                    return node
        stored = self._index.node(row_id(ref.id, ref.place)) if ref.place.container else None
        if stored is None:
            return None
        found = decode_node(decode_blob(stored, MAX_NODE))
        self.keep(ref.id, found, ref.place)
        return found

    def load(self, ref: Ref) -> Node:
        """Read the node from the store, by its pointer's hint or, where bytes have moved, by what the index knows."""
        stored, node = self._read(ref)
        self.keep(ref.id, node, ref.place)
        with self._lock:
            self._unsaved.append((row_id(ref.id, ref.place), stored))
            is_due = len(self._unsaved) >= UNSAVED
        if is_due:
            self.save()
        return node

    def save(self) -> None:
        """Have the index know all that was read."""
        with self._lock:
            rows, self._unsaved = self._unsaved, []
        if rows:
            self._index.add_nodes(rows)

    def stored(self, ref: Ref) -> Node:
        """The node with just the pointers that it has in the store at `ref`: one of the same id may have others."""
        return self._read_at(ref, ref.place)[1]

    def clear(self) -> None:
        """Forget all nodes, in memory and in the index."""
        with self._lock:
            self._memory.clear()
            self._unsaved.clear()
            self._items = 0
        self._index.forget_nodes()

    def _read(self, ref: Ref) -> tuple[bytes, Node]:
        try:
            return self._read_at(ref, ref.place)
        except (NotFound, Damaged):
            known = self._index.place(ref.id)
            if known is None or (known.container, known.offset) == (ref.place.container, ref.place.offset):
                raise
            return self._read_at(ref, Place(known.container, known.offset, known.length))

    def _read_at(self, ref: Ref, place: Place) -> tuple[bytes, Node]:
        stored = self._containers.read(place)
        try:
            node = decode_node(decode_blob(stored, MAX_NODE))
            check_node(node, ref.id)
        except Damaged as error:
            self._containers.forget(place.container)
            raise Damaged(f"{container_key(place.container)} at {place.offset}: {error}") from None
        return stored, node

    def keep(self, node_id: bytes, node: Node, place: Place) -> None:
        """Put a node into memory; the least recently used go when it is full."""
        with self._lock:
            there = self._memory.setdefault(node_id, [])
            if any(other is place or other == place for other, _ in there):
                return
            there.append((place, node))
            self._items += len(node.items)
            while self._items > MEMORY_ITEMS and len(self._memory) > 1:
                self._items -= sum(len(old.items) for _, old in self._memory.popitem(last=False)[1])

    def replace(self, node_id: bytes, node: Node, place: Place) -> None:
        """Put a node into memory in the place of an equal one there that has other pointers."""
        with self._lock:
            there = self._memory.get(node_id, [])
            there[:] = [(at, node if at is place else known) for at, known in there]

    def drop(self, node_ids: Iterable[bytes]) -> None:
        """Take nodes out of memory that never came to be stored: their places point nowhere."""
        with self._lock:
            for node_id in node_ids:
                self._items -= sum(len(node.items) for _, node in self._memory.pop(node_id, ()))


class InlineNodes:
    """The same nodes for a caller that may not block: what is not at hand is named by NotCached."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def get(self, ref: Ref) -> Node:
        """The node when it is at hand, else NotCached."""
        node = self._nodes.cached(ref)
        if node is None:
            raise NotCached(ref.id, lambda: self._nodes.load(ref))
        return node


def stored_form(node: Node) -> bytes:
    """A node's framed blob, as it lies in a pack or a commit object."""
    return encode_blob(encode_node(node))


def row_id(node_id: bytes, place: Place) -> bytes:
    """What a node is found by in the index: one of the same id elsewhere may have other pointers."""
    return hash_bytes(node_id + place.container + place.offset.to_bytes(8, "little"))
