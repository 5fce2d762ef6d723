"""Tree nodes by pointer: from memory, from the index, or from the store, verified on their way in."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from vfsd.index.index import Index
from vfsd.model.entry import Place, Ref
from vfsd.model.errors import Damaged, NotCached, NotFound
from vfsd.model.node import Node, check_node, decode_node, encode_node
from vfsd.repo.containers import Containers
from vfsd.store.blob import container_key, decode_blob, encode_blob

MEMORY_ITEMS = 200_000  # entries of decoded nodes kept in memory: about 100 MB
MAX_NODE = 64 << 20  # plain bytes; a node is some 10 KiB


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
        self._memory: OrderedDict[bytes, Node] = OrderedDict()
        self._items = 0
        self._lock = threading.Lock()

    def get(self, ref: Ref) -> Node:
        """The node `ref` points to; blocks. NotFound or Damaged when the store does not have it as it was."""
        return self.cached(ref) or self.load(ref)

    def cached(self, ref: Ref) -> Node | None:
        """The node when it is in memory or in the index."""
        with self._lock:
            node = self._memory.get(ref.id)
            if node is not None:
                self._memory.move_to_end(ref.id)
                return node
        stored = self._index.node(ref.id)
        if stored is None:
            return None
        node = decode_node(decode_blob(stored, MAX_NODE))
        self.keep(ref.id, node)
        return node

    def load(self, ref: Ref) -> Node:
        """Read the node from the store, by its pointer's hint or, where bytes have moved, by what the index knows."""
        stored, node = self._read(ref)
        self._index.add_nodes([(ref.id, stored)])
        self.keep(ref.id, node)
        return node

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
            raise Damaged(f"{container_key(place.container)} at {place.offset}: {error}") from None
        return stored, node

    def keep(self, node_id: bytes, node: Node) -> None:
        """Put a node into memory; the least recently used go when it is full."""
        with self._lock:
            if node_id in self._memory:
                return
            self._memory[node_id] = node
            self._items += len(node.items)
            while self._items > MEMORY_ITEMS and len(self._memory) > 1:
                self._items -= len(self._memory.popitem(last=False)[1].items)

    def drop(self, node_ids: Iterable[bytes]) -> None:
        """Take nodes out of memory that never came to be stored: their places point nowhere."""
        with self._lock:
            for node_id in node_ids:
                node = self._memory.pop(node_id, None)
                if node is not None:
                    self._items -= len(node.items)


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
