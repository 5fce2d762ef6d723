"""Stores new blobs: each once, in packs, or inside the commit object when there are few.

A BlobWriter lives for one commit (or one job). Chunks and nodes go into packs of their own kind, so that the tree of a
commit lies together; a pack is uploaded when it is full, a few at a time. As long as everything fits into EMBED bytes
nothing is placed yet: then it travels inside the commit object, and a small commit needs no pack.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from vfsd.index.index import Index, PlaceRow
from vfsd.model.entry import EMPTY_DIR, Kind, Place, Ref, count_below, linked_below
from vfsd.model.errors import Unavailable
from vfsd.model.ids import ChunkId, Digest, NodeId
from vfsd.model.node import ChunkInner, ChunkLeaf, Inner, Leaf, Node, node_digest, node_id
from vfsd.repo.guard import Pointers
from vfsd.repo.holds import Work
from vfsd.repo.nodes import Nodes, row_id, stored_form
from vfsd.store.api import ObjectStore
from vfsd.store.blob import container_key, encode_blob
from vfsd.store.pack import CHUNK, NODE, PackBuilder

EMBED = 256 << 10  # bytes of new blobs that still travel inside the commit object
PACK_SIZE = {CHUNK: 32 << 20, NODE: 16 << 20}  # bytes at which a pack is full
UPLOADS = 2  # packs on their way at once: bounds memory to a few packs


class Pending(msgspec.Struct, frozen=True):
    """A new blob that is not placed yet. `stored` is a chunk's frame, or None for a node, whose bytes hold places."""

    kind: int
    id: bytes
    place: Place
    stored: bytes | None
    node: Node | None = None

    def frame(self) -> bytes:
        """The framed blob; of a node only once everything it points to is placed."""
        if self.stored is not None:
            return self.stored
        assert self.node is not None
        return stored_form(self.node)


class BlobWriter:
    """Takes new chunks and nodes from any thread; `finish` returns when they are durable.

    Children come before the nodes that point to them, as trees are built anyway. Once an upload has failed, every call
    raises: places were handed out that point nowhere. Chunks may be shared by others as soon as they are stored, nodes
    once they are `settled`: what they point to may be condemned until a commit with them is made.

    refresh: called before the first blob that was there already is shared. work: what it keeps from being collected.
    """

    def __init__(
        self, store: ObjectStore, index: Index, nodes: Nodes, *, refresh: Callable[[], object], work: Work
    ) -> None:
        self._store = store
        self._index = index
        self._nodes = nodes
        self._refresh: Callable[[], object] | None = refresh
        self._work = work
        self._lock = threading.RLock()
        self._new: dict[bytes, Place] = {}  # blobs that the index does not know yet
        self._unsettled: list[PlaceRow] = []  # nodes in packs: known to nobody else
        self._pending: list[Pending] = []
        self._pending_size = 0
        self._packs: dict[int, PackBuilder] | None = None  # None while everything may still be embedded
        self._node_frames: dict[int, list[tuple[bytes, bytes]]] = {CHUNK: [], NODE: []}
        self._uploads: list[Future[None]] = []
        self._pool: ThreadPoolExecutor | None = None
        self._failed: BaseException | None = None  # an upload that failed: what it had is lost to this writer
        self._ask_index = index.has_places()
        self.bytes_added = 0  # plain bytes of blobs that were not there yet
        self.pointers = Pointers()  # what was there already and is pointed to

    # Taking blobs

    def add_chunk(self, chunk: ChunkId, data: bytes | memoryview) -> Place:
        """Store a chunk unless it is there; where it lies."""
        with self._lock:
            known = self._known(chunk)
        if known is not None:
            return known
        stored = encode_blob(bytes(data))  # outside the lock: this is the work that threads share
        with self._lock:
            known = self._new.get(chunk)
            if known is not None:
                return known
            place = self._new[chunk] = Place()
            self.bytes_added += len(data)
            self._take(Pending(CHUNK, chunk, place, stored), len(stored))
        return place

    def add_node(self, node: Node) -> Ref:
        """Store a node unless it is there; a pointer to it."""
        name = node_id(node)
        with self._lock:
            place = self._known(name)
            if place is None:
                place = self._new[name] = Place()
                self.pointers.note(node)
                self._nodes.keep(name, node, place)
                self._take(Pending(NODE, name, place, None, node), 96 * len(node.items))
        return _point(node, name, place)

    def _known(self, blob: bytes) -> Place | None:
        self._check()
        known = self._new.get(blob)
        if known is None and self._ask_index:
            row = self._index.usable_place(blob)
            if row is not None and self._refresh is not None:
                refresh, self._refresh = self._refresh, None
                refresh()
                row = self._index.usable_place(blob)
            if row is not None:
                return Place(row.container, row.offset, row.length)
        return known

    def _take(self, pending: Pending, size: int) -> None:
        if self._packs is None:
            self._pending.append(pending)
            self._pending_size += size
            if self._pending_size > EMBED:
                self._pack_pending()
        else:
            self._pack(pending)

    # Packs

    def _pack_pending(self) -> None:
        self._packs = {CHUNK: PackBuilder(), NODE: PackBuilder()}
        pending, self._pending = self._pending, []
        for blob in pending:
            self._pack(blob)

    def _pack(self, blob: Pending) -> None:
        assert self._packs is not None
        pack = self._packs[blob.kind]
        self.pointers.own.add(pack.id)
        stored = blob.frame()
        pack.add(blob.kind, blob.id, stored, blob.place)
        if blob.kind == NODE:
            self._node_frames[NODE].append((blob.id, stored))
        if pack.size >= PACK_SIZE[blob.kind]:
            self._packs[blob.kind] = PackBuilder()
            self._upload(pack)

    def _upload(self, pack: PackBuilder) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="vfsd-upload")
        frames: list[tuple[bytes, bytes]] = []
        if pack.blobs[0].kind == NODE:
            # A node that can be found must be whole: all that it points to is durable before it is.
            self._upload_chunks()
            self._wait(0)
            frames, self._node_frames[NODE] = self._node_frames[NODE], []
        self._wait(UPLOADS - 1)
        self._uploads.append(self._pool.submit(self._upload_now, pack, frames))

    def _upload_chunks(self) -> None:
        assert self._packs is not None
        pack = self._packs[CHUNK]
        if pack.blobs:
            self._packs[CHUNK] = PackBuilder()
            self._upload(pack)

    def _wait(self, left: int) -> None:
        """Wait until no more than `left` uploads are under way."""
        while len(self._uploads) > left:
            try:
                self._uploads.pop(0).result()
            except BaseException as error:
                self._failed = error
                raise
        self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise Unavailable(f"an upload failed before, so nothing more is stored: {self._failed}") from self._failed

    def _upload_now(self, pack: PackBuilder, frames: list[tuple[bytes, bytes]]) -> None:
        self._store.put(container_key(pack.id), pack.finish())
        rows = [PlaceRow(blob.id, pack.id, blob.offset, blob.length) for blob in pack.blobs]
        self._work.goes_on()
        if pack.blobs[0].kind == NODE:
            places = [Place(pack.id, blob.offset, blob.length) for blob in pack.blobs]
            self._index.add_nodes(
                [(row_id(name, place), frame) for (name, frame), place in zip(frames, places, strict=True)]
            )
            self._unsettled.extend(rows)
            return
        self._index.add_places(rows)
        # Only now may the blobs be asked of the index alone. Other threads may be adding: no lock is held here, each
        # removal is one step.
        self._ask_index = True
        for blob in pack.blobs:
            self._new.pop(blob.id, None)

    # Ending

    def flush(self) -> None:
        """Make everything taken so far durable, in packs."""
        with self._lock:
            self._check()
            if self._packs is None:
                if not self._pending:
                    return
                self._pack_pending()
            assert self._packs is not None
            self._upload_chunks()
            pack = self._packs[NODE]
            if pack.blobs:
                self._packs[NODE] = PackBuilder()
                self._upload(pack)
            self._wait(0)

    def embeddable(self) -> list[Pending] | None:
        """What a commit object takes in, or None when there are packs: then `flush` has made them durable."""
        with self._lock:
            self._check()
            if self._packs is None:
                return self._pending
        self.flush()
        return None

    def embedded(self, frames: list[bytes]) -> None:
        """The commit object that took the pending blobs in, as `frames`, is durable: let the index know them."""
        with self._lock:
            pending, self._pending, self._pending_size, self._new = self._pending, [], 0, {}
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

    def settled(self) -> None:
        """A commit was made with the nodes that are in packs: others may share them now."""
        with self._lock:
            rows, self._unsettled = self._unsettled, []
            self._index.add_places(rows)
            for row in rows:
                self._new.pop(row.id, None)

    def close(self) -> None:
        """Wait for uploads and end their threads; what was not flushed is dropped, what was not settled forgotten."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._work.end()
        self._nodes.drop(self._new)  # else the next writer's trees would take over places that point nowhere


def _point(node: Node, name: NodeId, place: Place) -> Ref:
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
