"""Stores new blobs: each once, in packs, or inside the commit object when there are few.

A BlobWriter lives for one commit (or one job). Chunks and nodes go into packs of their own kind, so that the tree of a
commit lies together; a pack is uploaded when it is full (repo/uploads.py). As long as everything fits into EMBED bytes
nothing is placed yet: then it travels inside the commit object, and a small commit needs no pack. When only the chunks
are too many, the nodes still do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import partial

import msgspec

from vfsd.index.index import Index, PlaceRow
from vfsd.model.entry import EMPTY_DIR, Kind, Place, Ref, count_below, linked_below
from vfsd.model.ids import ChunkId, Digest, NodeId
from vfsd.model.node import ChunkInner, ChunkLeaf, Inner, Leaf, Node, node_digest, node_id
from vfsd.repo.gather import COMMIT, Copies, Gathering, is_loose, level_of
from vfsd.repo.guard import Pointers
from vfsd.repo.holds import Work
from vfsd.repo.nodes import Nodes, row_id, stored_form
from vfsd.repo.uploads import Uploads
from vfsd.store.api import Buffer, ObjectStore
from vfsd.store.blob import encode_run
from vfsd.store.pack import CHUNK, NODE, PackBuilder

EMBED = 256 << 10  # bytes of new blobs that still travel inside the commit object
PACK_SIZE = {CHUNK: 32 << 20, NODE: 16 << 20}  # bytes at which a pack is full
UNSETTLED = 100_000  # nodes in packs that one commit may share: bounds memory to some 50 MB
UPPER = 32 << 20  # bytes of nodes of higher clusters that wait until all below them are stored
APART = 1 << 20  # bytes of a pack of nodes from which on those get one of their own: it is read whole


class Pending(msgspec.Struct, frozen=True):
    """A new blob that is not placed yet. `stored` is a chunk's frame, or None for a node, whose bytes hold places.
    level: of the cluster that a node is in. size: bytes that it will take, nearly."""

    kind: int
    id: bytes
    place: Place
    stored: bytes | None
    node: Node | None = None
    size: int = 0
    level: int = 0

    def frame(self) -> bytes:
        """The framed blob; of a node only once everything it points to is placed."""
        if self.stored is not None:
            return self.stored
        assert self.node is not None
        return stored_form(self.node)


class BlobWriter:
    """Takes new chunks and nodes from any thread; `finish` returns when they are durable.

    Children come before the nodes that point to them, as trees are built anyway. Once an upload has failed, every call
    raises. Chunks may be shared by others as soon as they are stored, nodes
    once they are `settled`: what they point to may be condemned until a commit with them is made.

    refresh: called before the first blob that was there already is shared. work: what it keeps from being collected.
    """

    def __init__(
        self, store: ObjectStore, index: Index, nodes: Nodes, *, refresh: Callable[[], object], work: Work
    ) -> None:
        self._index = index
        self._nodes = nodes
        self._refresh: Callable[[], object] | None = refresh
        self._work = work
        self._lock = threading.RLock()
        self._new: dict[bytes, Place] = {}  # blobs that the index does not know yet
        self._unsettled: list[PlaceRow] = []  # nodes in packs: known to nobody else
        self._pending: dict[int, list[Pending]] = {CHUNK: [], NODE: []}  # what may still be embedded
        self._packs: dict[int, PackBuilder] = {}  # none of a kind that may still be embedded
        self._copies: Copies = {}
        self._pending_size = self._upper_size = 0
        self._upper: list[Pending] = []  # nodes of higher clusters, once there are packs of nodes
        self._node_frames: list[tuple[bytes, bytes]] = []
        self._uploads = Uploads(store)
        self._ask_index = index.has_places()
        self.bytes_added = 0  # plain bytes of blobs that were not there yet
        self.pointers = Pointers()  # what was there already and is pointed to

    # Taking blobs

    def add_chunks(self, chunks: Sequence[tuple[ChunkId, Buffer]]) -> list[Place]:
        """Store those of the chunks that are not there; where each lies. Chunks of one file come together: what is
        asked of the index and of zstd for them is then less."""
        with self._lock:
            known = self._known_many([chunk for chunk, _ in chunks])
        new = {chunk: data for chunk, data in chunks if chunk not in known}
        frames = encode_run(list(new.values()))  # outside the lock: this is the work that threads share
        with self._lock:
            for (chunk, data), stored in zip(new.items(), frames, strict=True):
                place = self._new.get(chunk)
                if place is None:
                    place = self._new[chunk] = Place()
                    self.bytes_added += len(data)
                    self._take(Pending(CHUNK, chunk, place, stored, size=len(stored)))
                known[chunk] = place
        return [known[chunk] for chunk, _ in chunks]

    def places(self, chunks: list[ChunkId]) -> dict[ChunkId, Place]:
        """Where those of the chunks lie, or will lie, that were stored already."""
        with self._lock:
            self._ask_index = self._ask_index or self._index.has_places()  # another writer may have stored them
            known = self._known_many(chunks)
        return {chunk: known[chunk] for chunk in chunks if chunk in known}

    def add_node(self, node: Node) -> Ref:
        """Store a node unless it is there; a pointer to it."""
        name = node_id(node)
        with self._lock:
            place = self._known_many([name]).get(name)
            if place is None or is_loose(place):  # in the object of some commit: what leads there has to be gathered
                place = self._new[name] = Place()
                self.pointers.note(node)
                self._nodes.keep(name, node, place)
                ref = pointer_to(node, name, place)
                self._take(_pending(ref, node))
                return ref
        return pointer_to(node, name, place)

    def _known_many(self, blobs: Sequence[bytes]) -> dict[bytes, Place]:
        self._uploads.check()
        known = {blob: place for blob in blobs if (place := self._new.get(blob)) is not None}
        if self._ask_index and len(known) < len(blobs):
            asked = [blob for blob in blobs if blob not in known]
            rows = self._index.usable_places(asked)
            if rows and self._refresh is not None:
                refresh, self._refresh = self._refresh, None
                refresh()
                rows = self._index.usable_places(asked)
            known.update((row.id, Place(row.container, row.offset, row.length)) for row in rows)
        return known

    def _take(self, blob: Pending) -> None:
        if blob.kind in self._packs:
            self._pack(blob)
            return
        self._put_off(blob)
        if self._pending_size > EMBED and CHUNK not in self._packs:
            self._begin_packs(CHUNK)
        if self._pending_size > EMBED:
            self._begin_packs(NODE)

    def _put_off(self, blob: Pending) -> None:
        self._pending[blob.kind].append(blob)
        self._pending_size += blob.size

    def _take_pending(self, kind: int) -> list[Pending]:
        pending, self._pending[kind] = self._pending[kind], []
        self._pending_size -= sum(blob.size for blob in pending)
        return pending

    # Packs

    def _begin_packs(self, kind: int) -> None:
        """From now on there are packs of this kind. Nodes in packs point to nothing that is pending."""
        if kind == NODE and CHUNK not in self._packs:
            self._begin_packs(CHUNK)
        self._packs[kind] = self._uploads.builder() if kind == CHUNK else PackBuilder()
        for blob in self._take_pending(kind):
            self._pack(blob)

    def _pack(self, blob: Pending) -> None:
        if blob.level:
            self._upper.append(blob)
            self._upper_size += blob.size
            if self._upper_size > UPPER:
                self._pack_upper()
        else:
            self._pack_now(self._gathered(blob, self._pack))

    def _pack_upper(self) -> None:
        """Nodes of higher clusters, those of a level one behind another."""
        waiting, self._upper, self._upper_size = self._upper, [], 0
        upper: list[Pending] = []
        for blob in waiting:
            upper.append(self._gathered(blob, upper.append))
        if upper and self._packs[NODE].size > APART:
            self._upload_nodes()
        for blob in sorted(upper, key=lambda one: one.level):
            self._pack_now(blob)

    def _pack_now(self, blob: Pending) -> None:
        pack = self._packs[blob.kind]
        self.pointers.own.add(pack.id)
        stored = blob.frame()
        pack.add(blob.kind, blob.id, stored, blob.place)
        if blob.kind == NODE:
            self._node_frames.append((blob.id, stored))
        if pack.size >= PACK_SIZE[blob.kind]:
            self._packs[blob.kind] = self._uploads.builder() if blob.kind == CHUNK else PackBuilder()
            self._upload(pack)

    # Gathering

    def reaches_beyond(self, window: Collection[bytes], root: Ref | None) -> bool:
        """Whether new nodes, or a root that was there already, lie or lead outside a window."""
        places = {container for container, _ in self.pointers.nodes}
        if root is not None and root.place.container:
            places.add(root.place.container)
        return any(len(container) == COMMIT and container not in window for container in places)

    def gather(self, root: Ref) -> Ref:
        """Have no node that is stored from here on lead into the object of an earlier commit; a pointer to the root
        of the tree as it is stored then."""
        with self._lock:
            self._uploads.check()
            for blob in self._take_pending(NODE):
                self._put_off(self._gathered(blob, self._put_off))
            if is_loose(root.place):
                root = self._gathering(self._pack if self.has_packs_of_nodes else self._put_off).copy(root)
            if self._pending_size > EMBED:
                self._begin_packs(NODE)
            return root

    @property
    def has_packs_of_nodes(self) -> bool:
        """Whether nodes do not travel inside the commit object; then all that are stored are gathered."""
        return NODE in self._packs

    def _gathered(self, blob: Pending, keep: Callable[[Pending], None]) -> Pending:
        """A blob that points to copies of what is scattered below it; these are given to `keep`, or are in packs."""
        if blob.node is None:
            return blob
        node = self._gathering(keep).gathered(blob.node, blob.level)
        if node is blob.node:
            return blob
        self._nodes.replace(blob.id, node, blob.place)
        return msgspec.structs.replace(blob, node=node)

    def _gathering(self, keep: Callable[[Pending], None]) -> Gathering:
        def add(ref: Ref, node: Node) -> Place:
            copy = _pending(msgspec.structs.replace(ref, place=Place()), node)
            self._new.setdefault(copy.id, copy.place)
            self.pointers.note(node)
            self._nodes.keep(copy.id, node, copy.place)
            if self.has_packs_of_nodes and not copy.level:
                self._pack_now(copy)
            else:
                keep(copy)
            return copy.place

        return Gathering(self._nodes, self.pointers.own.__contains__, add, self._copies)

    # Uploads

    def _upload(self, pack: PackBuilder) -> None:
        frames: list[tuple[bytes, bytes]] = []
        if pack.blobs[0].kind == NODE:
            # A node that can be found must be whole: all that it points to is durable before it is.
            self._upload_chunks()
            self._uploads.wait(0)
            frames, self._node_frames = self._node_frames, []
        self._uploads.send(pack, partial(self._stored, frames))

    def _upload_chunks(self) -> None:
        pack = self._packs[CHUNK]
        if pack.blobs:
            self._packs[CHUNK] = self._uploads.builder()
            self._upload(pack)

    def _upload_nodes(self) -> None:
        pack = self._packs[NODE]
        if pack.blobs:
            self._packs[NODE] = PackBuilder()
            self._upload(pack)

    def _stored(self, frames: list[tuple[bytes, bytes]], pack: PackBuilder) -> None:
        """In a thread: a pack is durable. frames: of the nodes that are in it."""
        rows = [PlaceRow(blob.id, pack.id, blob.offset, blob.length) for blob in pack.blobs]
        self._work.goes_on()
        if pack.blobs[0].kind == NODE:
            places = [Place(pack.id, blob.offset, blob.length) for blob in pack.blobs]
            self._index.add_nodes(
                [(row_id(name, place), frame) for (name, frame), place in zip(frames, places, strict=True)]
            )
            self._unsettled.extend(rows)
            if len(self._unsettled) > UNSETTLED:  # the first are forgotten: if they come again, they are stored again
                for row in self._unsettled[: -UNSETTLED // 2]:
                    self._new.pop(row.id, None)
                del self._unsettled[: -UNSETTLED // 2]
            return
        self._index.add_places(rows)
        # Only now may the blobs be asked of the index alone. Other threads may be adding: no lock is held here, each
        # removal is one step.
        self._ask_index = True
        for blob in pack.blobs:
            self._new.pop(blob.id, None)

    def wait(self) -> None:
        """Wait until the packs that are under way are durable."""
        with self._lock:
            self._uploads.wait(0)

    # Ending

    def flush(self) -> None:
        """Make everything taken so far durable, in packs."""
        with self._lock:
            self._uploads.check()
            if any(self._pending.values()):
                self._begin_packs(NODE)
            self._flush_packs()

    def _flush_packs(self) -> None:
        if NODE in self._packs:
            self._pack_upper()
        if CHUNK in self._packs:
            self._upload_chunks()
        if NODE in self._packs:
            self._upload_nodes()
        self._uploads.wait(0)

    def embeddable(self) -> list[Pending]:
        """What a commit object takes in, chunks first, and no blob before what it points to. All else is durable."""
        with self._lock:
            self._uploads.check()
            self._flush_packs()
            return [*self._pending[CHUNK], *self._pending[NODE]]

    def embedded(self, frames: list[bytes]) -> None:
        """The commit object that took the pending blobs in, as `frames`, is durable: let the index know them."""
        with self._lock:
            pending = [*self._take_pending(CHUNK), *self._take_pending(NODE)]
            for blob in pending:
                self._new.pop(blob.id, None)
        self._index.add_places(
            [PlaceRow(blob.id, blob.place.container, blob.place.offset, blob.place.length) for blob in pending]
        )
        self._index.add_nodes(
            [
                (row_id(blob.id, blob.place), frame)
                for blob, frame in zip(pending, frames, strict=True)
                if blob.kind == NODE
            ]
        )

    def not_embedded(self) -> None:
        """The commit object that took the pending blobs in came to nothing: they lie nowhere."""
        with self._lock:
            for blob in (*self._pending[CHUNK], *self._pending[NODE]):
                blob.place.container = b""

    def settled(self) -> None:
        """A commit was made with the nodes that are in packs: others may share them now."""
        with self._lock:
            rows, self._unsettled = self._unsettled, []
            self._index.add_places(rows)
            for row in rows:
                self._new.pop(row.id, None)

    def close(self) -> None:
        """Wait for uploads and end their threads; what was not flushed is dropped, what was not settled forgotten."""
        self._uploads.close()
        self._work.end()
        self._nodes.drop(self._new)  # else the next writer's trees would take over places that point nowhere


def _pending(ref: Ref, node: Node) -> Pending:
    return Pending(NODE, ref.id, ref.place, None, node, 96 * len(node.items), level_of(ref))


def pointer_to(node: Node, name: NodeId, place: Place) -> Ref:
    """A pointer to a node of the id `name` that lies, or will lie, at `place`."""
    match node:
        case Leaf(items):
            size, linked = sum(entry.size for entry in items), sum(map(linked_below, items))
            directories = sum(entry.kind == Kind.DIR for entry in items)
            digest = node_digest(node) if items else EMPTY_DIR
            return Ref(name, digest, sum(map(count_below, items)), size, linked, directories, place)
        case Inner(_, children):
            refs = [child.ref for child in children]
            count, size = sum(ref.count for ref in refs), sum(ref.size for ref in refs)
            linked, directories = sum(ref.linked for ref in refs), sum(ref.directories for ref in refs)
            return Ref(name, node_digest(node), count, size, linked, directories, place)
        case ChunkLeaf(chunks):
            return Ref(name, Digest(name), len(chunks), sum(chunk.size for chunk in chunks), 0, 0, place)
        case ChunkInner(_, refs):
            return Ref(name, Digest(name), sum(r.count for r in refs), sum(r.size for r in refs), 0, 0, place)
