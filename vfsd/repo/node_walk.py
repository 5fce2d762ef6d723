"""Reads the tree nodes that are in line, container by container, the newest first: nodes point to older ones, so that
nearly every object is read once and whole. What a node means is left to whoever takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from vfsd.index.survey import LeadRow, PendingRow, Survey
from vfsd.model.entry import Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import hash_bytes
from vfsd.model.node import Node, check_node, decode_node
from vfsd.repo.ahead import ahead
from vfsd.repo.nodes import MAX_NODE
from vfsd.store.api import ObjectStore
from vfsd.store.blob import FRAME, MAX_STORED, container_key, decode_blob
from vfsd.store.moved import MovedMap, MovedStore, read_map

AT_ONCE = 16  # requests under way
MAX_LOADED = 64 << 20  # bytes of node containers in memory, where one is not larger
MOST_HOPS = 32  # maps that lead from one to the next

Take = Callable[[PendingRow, bytes], None]


def decoded_node(stored: bytes, wanted: bytes) -> Node:
    """The node of that id from its stored bytes; Damaged."""
    node = decode_node(decode_blob(stored, MAX_NODE))
    check_node(node, wanted)
    return node


def _map_key(container: bytes) -> bytes:
    return hash_bytes(b"map" + container)[:16]


class Whereabouts:
    """Which containers there are, and where blobs of those lie that were moved. For one thread."""

    def __init__(self, store: ObjectStore, survey: Survey) -> None:
        self._store = store
        self._survey = survey

    def size_of(self, container: bytes) -> int | None:
        """Bytes of a pack or commit object; None when it is not there. One that is newer than the listing is found."""
        size = self._survey.container_size(container)
        if size is None and len(container) in {16, 32} and self._survey.is_first(hash_bytes(b"gone" + container)[:16]):
            try:
                stat = self._store.stat(container_key(container))
            except NotFound:
                return None
            self._survey.add_containers([(container, stat.size, stat.modified)])
            size = self._survey.container_size(container)
        return size

    def find(self, place: Place) -> tuple[Place | None, list[bytes]]:
        """Where the bytes of `place` are, None when they are nowhere, and the maps that led there."""
        hops: list[bytes] = []
        here: Place | None = place
        while here is not None and not self._is_inside(here):
            if len(hops) == MOST_HOPS or not self.has_map(here.container):
                return None, hops
            hops.append(here.container)
            lead = self._survey.lead(here.container, here.offset)
            right = lead is not None and lead.length == here.length
            here = Place(lead.there, lead.now, lead.length) if lead is not None and right else None
        return here, hops

    def has_map(self, container: bytes) -> bool:
        """Whether a container has a map, which is read once."""
        if not self._survey.is_moved(container):
            return False
        if self._survey.is_first(_map_key(container)):
            try:
                self._add(read_map(self._store, container))
            except NotFound:
                return False  # deleted since the listing
        return True

    def read_maps(self, pool: ThreadPoolExecutor) -> None:
        """Read all maps that were listed. One that is damaged leads nowhere."""

        def read(container: bytes) -> MovedMap | None:
            try:
                return read_map(self._store, container)
            except (NotFound, Damaged):
                return None

        new = [container for container in self._survey.moved() if not self._survey.has(_map_key(container))]
        for container, found in ahead(pool, read, new, AT_ONCE):
            if found is not None and self._survey.is_first(_map_key(container)):
                self._add(found)

    def _add(self, found: MovedMap) -> None:
        self._survey.add_leads(
            LeadRow(found.container, line.offset, line.length, line.kind, line.container, line.now)
            for line in found.lines
        )

    def _is_inside(self, place: Place) -> bool:
        if not 0 <= place.offset < 1 << 62 or not FRAME <= place.length <= MAX_STORED:
            return False
        size = self.size_of(place.container)
        return size is not None and place.offset + place.length <= size


class NodeWalk:
    """A walk. take: is given each node in line with its stored bytes, which may be fewer than they should be; it puts
    into line what the node points to."""

    def __init__(
        self, store: ObjectStore, survey: Survey, pool: ThreadPoolExecutor, take: Take,
        progress: Callable[[str, int], None],
    ) -> None:
        self._store = MovedStore(store)  # what is rewritten meanwhile is read by its map
        self._survey = survey
        self._pool = pool
        self._take = take
        self._progress = progress
        self.bytes_read = 0  # from the store

    def visit(self, container: bytes, start: int, end: int, data: bytes) -> None:
        """Take the nodes in line between two offsets of a container whose bytes from `start` are `data`. They may be
        fewer than the listing said."""
        while rows := self._survey.take_pending(container, start, end):
            for row in rows:
                self._take(row, data[row.offset - start : row.offset - start + row.length])
            self._progress("tree nodes", len(rows))

    def drain(self) -> None:
        """Take all nodes in line, and those that they point to."""
        while parts := self._next_parts():
            for (container, start, end), data in ahead(self._pool, self._load, parts, len(parts)):
                self.bytes_read += len(data)
                self.visit(container, start, end, data)

    def _next_parts(self) -> list[tuple[bytes, int, int]]:
        parts: list[tuple[bytes, int, int]] = []
        total = 0
        for container in self._survey.next_containers(AT_ONCE):
            end = self._survey.pending_end(container)
            start = max(0, end - MAX_STORED)
            total += end - start
            if parts and total > MAX_LOADED:
                break
            parts.append((container, start, end))
        return parts

    def _load(self, part: tuple[bytes, int, int]) -> bytes:
        container, start, end = part
        try:
            return self._store.get_range(container_key(container), start, end - start)
        except (NotFound, Damaged):
            return b""
