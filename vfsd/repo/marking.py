"""Marks what trees need: containers, tree nodes, and where it is asked for bytes. In memory that does not grow with the
store (index.survey). For one thread; a pool does the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from vfsd.index.survey import PendingRow, Survey
from vfsd.model.entry import Place, Ref
from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId, PackId, hash_bytes
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import CommitObject, parse
from vfsd.repo.guard import pointers_of
from vfsd.repo.node_walk import AT_ONCE, NodeWalk, Whereabouts, decoded_node
from vfsd.store.api import ObjectStore
from vfsd.store.blob import container_key
from vfsd.store.moved import Maps
from vfsd.store.pack import NODE, read_directory

PACK, COMMIT = 16, 32  # bytes of the id of a pack and of a commit
REMEMBERED = 100_000  # containers that are known to be marked without SQL


class Marking:
    """measure: whether bytes are counted (Survey.live_bytes), which takes some 50 bytes of disk for each blob.

    lost: how many chunks are not where pointers say, which is no reason to delete anything else.
    """

    def __init__(
        self, store: ObjectStore, survey: Survey, pool: ThreadPoolExecutor, *, measure: bool,
        progress: Callable[[str, int], None],
    ) -> None:
        self._store = store
        self._survey = survey
        self._pool = pool
        self._measure = measure
        self._whereabouts = Whereabouts(store, survey)
        self._walk = NodeWalk(store, survey, pool, self._take, progress)
        self._plain: set[bytes] = set()  # containers that are there and marked
        self._has_directories = False
        self.lost = 0

    # Roots

    def need(self, container: bytes) -> None:
        """A container is needed for itself: the object of a commit."""
        self._survey.mark(container)

    def need_tree(self, ref: Ref, why: str) -> None:
        """A tree is needed. Damaged when its root is not there; `why` says what leads to it."""
        self._node(ref.id, ref.place, why)

    def need_nodes(self, container: bytes, size: int) -> None:
        """Everything is needed that the nodes of a container lead to, a pack of `size` bytes; nothing for a pack of
        chunks, or for one whose directory is damaged: no ref can lead there."""
        try:
            blobs = read_directory(self._store, PackId(container), size)
        except Damaged:
            return
        for blob in blobs:
            if blob.kind == NODE:
                self._node(blob.id, Place(container, blob.offset, blob.length), container_key(container))

    def visit(self, container: bytes, data: bytes) -> None:
        """Take the nodes in line in a container whose bytes are `data`."""
        self._walk.visit(container, 0, len(data), data)

    def drain(self) -> None:
        """Follow all that is in line. Damaged names a node that cannot be read: what it leads to is not known."""
        self._walk.drain()

    # Following

    def _node(self, node: bytes, place: Place, why: str) -> None:
        here = self._find(place)
        if here is None:
            raise _unreadable(f"{_key(place)} does not have a tree node that {why} leads to")
        if self._survey.need_node(here.container, here.offset):
            self._survey.mark(here.container)
            self._survey.add_pending(PendingRow(here.container, here.offset, here.length, 0, node))
            if self._measure:
                self._survey.add_live([(here.container, here.offset, here.length)])

    def _take(self, row: PendingRow, stored: bytes) -> None:
        key = container_key(row.container)
        try:
            node = decoded_node(stored, row.expected)
        except Damaged as error:
            raise _unreadable(f"{key} is damaged at offset {row.offset}: {error}") from None
        places, refs = pointers_of(node)
        for ref in refs:
            self._node(ref.id, ref.place, key)
        live = []
        for place in places:
            if place.container in self._plain and not self._measure:
                continue
            here = self._find(place)
            if here is None:
                self.lost += 1
                continue
            if here is place:
                if len(self._plain) >= REMEMBERED:
                    self._plain.clear()
                if place.container not in self._plain:
                    self._plain.add(place.container)
                    self._survey.mark(place.container)
            else:
                self._survey.mark(here.container)
            if self._measure:
                live.append((here.container, here.offset, here.length))
        if live:
            self._survey.add_live(live)

    def _find(self, place: Place) -> Place | None:
        """Where a blob lies; the maps that lead there are needed."""
        here, hops = self._whereabouts.find(place)
        for hop in hops if here is not None else ():
            self._survey.mark(hop)
        return here

    # Afterwards

    def note_commit(self, commit: CommitObject) -> None:
        """Which nodes lie in a commit's object, needed or not."""
        container = bytes.fromhex(commit.id)
        if self._survey.is_first(_noted(container)):
            self._survey.add_nodes(container, [blob.offset for blob in commit.hints.blobs if blob.kind == NODE])

    def unneeded_nodes(self) -> Iterator[tuple[bytes, int]]:
        """(container, offset) of all tree nodes to which nothing leads and which lie in containers that are needed,
        under each name that pointers may have for them."""
        if not self._has_directories:
            self._read_directories()
            self._has_directories = True  # what is met later is newer than the listing
        yield from self._survey.unneeded_nodes()
        maps = Maps(self._store)
        for row in self._survey.marked():
            if row.moved:
                for line in maps.get(row.id).lines:
                    if line.kind == NODE:
                        here, _ = self._whereabouts.find(line.place)
                        if here is None or not self._survey.is_needed(here.container, here.offset):
                            yield row.id, line.offset

    def _read_directories(self) -> None:
        packs = [container for container in self._survey.node_containers() if len(container) == PACK]
        for container, offsets in ahead(self._pool, self._nodes_in, packs, AT_ONCE):
            self._survey.add_nodes(container, offsets)
        unknown = [
            row.id for row in self._survey.marked()
            if len(row.id) == COMMIT and not row.moved and not self._survey.has(_noted(row.id))
        ]  # fmt: skip
        for _, commit in ahead(self._pool, self._commit, unknown, AT_ONCE):
            self.note_commit(commit)

    def _nodes_in(self, container: bytes) -> list[int]:
        size = self._survey.container_size(container)
        assert size is not None
        return [blob.offset for blob in read_directory(self._store, PackId(container), size) if blob.kind == NODE]

    def _commit(self, container: bytes) -> CommitObject:
        return parse(self._store.get(container_key(container))[0], CommitId(container.hex()))[0]


def _noted(container: bytes) -> bytes:
    return hash_bytes(b"noted" + container)[:16]


def _unreadable(what: str) -> Damaged:
    return Damaged(f"{what}, so it is not known what is needed: nothing is deleted; `vfsd fsck` says more")


def _key(place: Place) -> str:
    try:
        return container_key(place.container)
    except Damaged:
        return "the store"
