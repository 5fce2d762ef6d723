"""Keeps the nodes of a tree together, so that the way from a root to any file leads through few objects.

Small commits scatter a tree: each carries its few new nodes in its own object. The commits since the tree was gathered
last are its *window*; a commit names it, and who reads the tree asks for all of it at once. When the window is full, or
a commit has packs of nodes anyway, the tree is gathered: nodes that lie in the objects of earlier commits are stored
once more, with the new ones. Places are hints, so no id changes.

A tree is cut into *clusters*: nodes that hang together and have the same level, a level for each power of CLUSTER in
what is below a node. What is gathered is gathered by the cluster, and the nodes of a cluster lie one behind another. So
a way crosses one cluster of each level, whatever the history, and none has more than one level for each power of
CLUSTER in what its root has below it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from vfsd.model.entry import Entry, Place, Ref
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.node import ChunkInner, Inner, Leaf, Node
from vfsd.repo.nodes import NodeSource

WINDOW = 16  # commits whose objects have nodes of one tree, at most
CLUSTER_BITS = 10  # a cluster of level 0 has less than 2**10 below it, one of level 1 less than 2**20, and so on
CHUNK_BITS = 16  # 2**16 bytes of files count as one name
COMMIT = 32  # bytes of a commit's id, and so of the name of its object
Copies = dict[tuple[bytes, int], Place]  # container and offset of a node → where its copy lies


def level_of(ref: Ref) -> int:
    """The level of the cluster that a node is in, which is never above that of a node that leads to it."""
    names = 0 if bytes(ref.digest) == ref.id else ref.count  # a chunk list's digest is its id
    weight = names + (ref.size >> CHUNK_BITS)
    return max(0, weight.bit_length() - 1) // CLUSTER_BITS


def is_loose(place: Place) -> bool:
    """Whether a node lies in the object of a commit."""
    return len(place.container) == COMMIT


def is_full(window: Collection[bytes]) -> bool:
    """Whether no further commit fits into a window."""
    return sum(len(container) == COMMIT for container in window) >= WINDOW


class Gathering:
    """Finds, for nodes that are about to be stored, what is to be stored with them.

    is_own: whether a container is the writer's. add: stores a copy of a node as it is given, and says where. copies:
    what has been copied; it gets more.
    """

    def __init__(
        self, nodes: NodeSource, is_own: Callable[[bytes], bool], add: Callable[[Ref, Node], Place], copies: Copies
    ) -> None:
        self._nodes = nodes
        self._is_own = is_own
        self._add = add
        self._copies = copies

    def gathered(self, node: Node, level: int) -> Node:
        """The node, which is of a cluster of this level, with pointers to copies of what is scattered below it."""
        match node:
            case Leaf(items):
                entries = [self._entry(entry, level) for entry in items]
                return Leaf(entries) if any(new is not old for new, old in zip(entries, items, strict=True)) else node
            case Inner(height, children):
                refs = [self._ref(child.ref, level) for child in children]
                pairs = list(zip(children, refs, strict=True))
                if all(ref is child.ref for child, ref in pairs):
                    return node
                return Inner(height, [msgspec.structs.replace(child, ref=ref) for child, ref in pairs])
            case ChunkInner(height, below):
                refs = [self._ref(ref, level) for ref in below]
                return ChunkInner(height, refs) if any(a is not b for a, b in zip(refs, below, strict=True)) else node
        return node

    def copy(self, ref: Ref) -> Ref:
        """A pointer to a copy of a node, gathered; the old one when the node cannot be read, which is for others to
        say."""
        key = (ref.place.container, ref.place.offset)
        if key not in self._copies:
            try:
                node = self._nodes.get(ref)
            except (NotFound, Damaged):
                return ref
            self._copies[key] = self._add(ref, self.gathered(node, level_of(ref)))
        return msgspec.structs.replace(ref, place=self._copies[key])

    def _entry(self, entry: Entry, level: int) -> Entry:
        if entry.node is None:
            return entry
        ref = self._ref(entry.node, level)
        return entry if ref is entry.node else msgspec.structs.replace(entry, node=ref)

    def _ref(self, ref: Ref, level: int) -> Ref:
        container = ref.place.container
        if not container or self._is_own(container):
            return ref
        return self.copy(ref) if is_loose(ref.place) or level_of(ref) == level else ref
