"""Checks trees and what they point to, each pointer once, in memory that does not grow with the store.

Chunks are only looked up in the listing, or read in long ranges as they lie. Where a pointer's place is not there any
more, bytes may have moved: then maps and the index are asked, as readers do, and then the directories of packs and
commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from vfsd.index.index import Index, PlaceRow
from vfsd.index.survey import ChunkRow, PendingRow, Survey
from vfsd.model.entry import Chunk, Entry, Place, Ref
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import ChunkId, CommitId, PackId, hash_bytes
from vfsd.model.node import Leaf, Node
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import parse
from vfsd.repo.node_walk import AT_ONCE, NodeWalk, Whereabouts, decoded_node
from vfsd.repo.wellformed import Expected, children, chunks, entry_fault, faults
from vfsd.store.api import ObjectStore
from vfsd.store.blob import check_chunk, container_key, read_chunk, read_stored
from vfsd.store.pack import CHUNK, NODE, Blob, read_directory

SPAN = 8 << 20  # bytes of chunks read with one request
SPANS = 4  # of these ahead
GAP = 256 << 10  # bytes between two chunks that are read along, to save a request
WRITTEN_WRONG = "the bytes are as they were written: write it again, and report this"

_ENCODE = msgspec.msgpack.Encoder().encode
_EXPECTED = msgspec.msgpack.Decoder(Expected)


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong. where: a SPEC, in the first commit where it was met, or a key. what: a sentence without
    its full stop. remedy: what to do."""

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}: {self.remedy}"


class BadBlob(msgspec.Struct, frozen=True):
    """A blob that is not where a pointer says, or not as it was: `kind` as in packs; size: plain bytes of a chunk, 0 of
    a node. copy: where the store has it as it was, None when nowhere."""

    kind: int
    id: bytes
    place: Place
    size: int
    copy: Place | None = None


class Span(msgspec.Struct, frozen=True):
    """Bytes `start` to `end` of a container, and the chunks in them."""

    container: bytes
    start: int
    end: int
    rows: list[ChunkRow]


def back_from_backup(key: str) -> str:
    """What to do about an object that is damaged or gone."""
    return f"copy {key} back from a backup of the store"


class TreeCheck:
    """Takes roots in, then checks all below them. For one thread; `pool` does the requests."""

    def __init__(
        self, store: ObjectStore, index: Index, survey: Survey, pool: ThreadPoolExecutor, *, read_data: bool,
        tell: Callable[[Problem], None], progress: Callable[[str, int], None],
        bad: Callable[[BadBlob], None], bad_directory: Callable[[bytes], None],
    ) -> None:
        self._store = store
        self._index = index
        self._survey = survey
        self._pool = pool
        self._read_data = read_data
        self._tell = tell
        self._bad = bad
        self._bad_directory = bad_directory
        self._progress = progress
        self._has_directories = False
        self._whereabouts = Whereabouts(store, survey)
        self._walk = NodeWalk(store, survey, pool, self._node, progress)
        self._chunk_bytes = 0
        self.nodes = 0  # tree nodes read
        self.chunks = 0  # pointers to chunks; with read_data, chunks read

    # Taking roots

    def add_tree(self, where: str, ref: Ref) -> None:
        """Check the directory `ref` points to."""
        self._point(0, where.encode(errors="surrogateescape"), Expected(ref, True))

    def add_entry(self, where: str, entry: Entry) -> None:
        """Check one entry and all below it."""
        step = self._survey.add_step(0, where.encode(errors="surrogateescape"))
        fault = entry_fault(entry)
        if fault:
            self._told(step, b"", fault, WRITTEN_WRONG)
        alone = Leaf([entry])
        self._enter(step, ((b"", child) for _, child in children(alone)), ((b"", chunk) for _, chunk in chunks(alone)))

    def visit(self, container: bytes, start: int, end: int, data: bytes) -> None:
        """Check the nodes in line between two offsets of a container whose bytes from `start` are `data`."""
        self._walk.visit(container, start, end, data)

    def drain(self) -> None:
        """Check all nodes in line, and those that they point to."""
        self._walk.drain()

    @property
    def bytes_read(self) -> int:
        """From the store."""
        return self._walk.bytes_read + self._chunk_bytes

    # Nodes

    def _node(self, row: PendingRow, stored: bytes) -> None:
        expected = _EXPECTED.decode(row.expected)
        try:
            if len(stored) != row.length:
                raise Damaged("the object is cut off, or gone")
            node = decoded_node(stored, expected.ref.id)
        except Damaged as error:
            self._bad_node(row, expected, str(error))
            return
        self._follow(row.step, node, expected)

    def _bad_node(self, row: PendingRow, expected: Expected, error: str) -> None:
        key = container_key(row.container)
        bad = BadBlob(NODE, expected.ref.id, Place(row.container, row.offset, row.length), 0)
        what = f"{key} is damaged at offset {row.offset}: {error}"
        for other in self._others(expected.ref.id, bad.place):
            try:
                node = decoded_node(read_stored(self._store, other), expected.ref.id)
            except Damaged:
                continue
            self._bad(msgspec.structs.replace(bad, copy=other))
            self._told(row.step, b"", what, _whole_copy(key, other))
            self._follow(row.step, node, expected)
            return
        self._bad(bad)
        self._told(row.step, b"", f"{what}, and all below cannot be read", back_from_backup(key))

    def _follow(self, step: int, node: Node, expected: Expected) -> None:
        """Check a node and put what it points to in line."""
        self.nodes += 1
        for name, fault in faults(node, expected):
            self._told(step, name, fault, WRITTEN_WRONG)
        self._enter(step, children(node, expected.after), chunks(node))

    def _enter(
        self, step: int, nodes: Iterable[tuple[bytes, Expected]], pointers: Iterable[tuple[bytes, Chunk]]
    ) -> None:
        for name, child in nodes:
            self._point(step, name, child)
        rows = []
        for name, chunk in pointers:
            place = self._settle(step, name, BadBlob(CHUNK, chunk.id, chunk.place, chunk.size))
            if not self._read_data:
                self.chunks += 1
            elif place is not None:
                rows.append(ChunkRow(place.container, place.offset, chunk.id, place.length, chunk.size, step, name))
        self._survey.add_chunks(rows)

    def _point(self, parent: int, name: bytes, expected: Expected) -> None:
        """Put the node that a pointer leads to in line, once."""
        encoded = _ENCODE(expected)
        if not self._survey.is_first(hash_bytes(encoded)[:16]):
            return
        step = self._survey.add_step(parent, name)
        place = self._settle(step, b"", BadBlob(NODE, expected.ref.id, expected.ref.place, 0))
        if place is not None:
            self._survey.add_pending(PendingRow(place.container, place.offset, place.length, step, encoded))

    # Places

    def size_of(self, container: bytes) -> int | None:
        """Bytes of a pack or commit object; None when it is not there. One that is newer than the listing is found."""
        return self._whereabouts.size_of(container)

    def _settle(self, step: int, name: bytes, pointer: BadBlob) -> Place | None:
        """Where the bytes of a blob are, by the pointer, the index or, with a problem, the directories; None, with a
        problem, when they are nowhere."""
        blob, place = pointer.id, pointer.place
        found = self._find(place)
        if found is not None:
            return found
        if not self._survey.is_first(hash_bytes(b"lost" + blob + _ENCODE(place))[:16]):
            return None
        what, key = self._missing(place)
        for other in self._others(blob, place):
            if self._is_whole(pointer, other):
                self._bad(msgspec.structs.replace(pointer, copy=other))
                self._told(step, name, what, f"`vfsd fsck --repair` leads to the copy in {_key(other)}")
                return other
        self._bad(pointer)
        path = hash_bytes(b"lost" + self._where(step, name).encode(errors="surrogateescape") + place.container)
        if self._survey.is_first(path[:16]):  # of a large file in one pack one line is enough
            self._told(step, name, f"{what}, and its bytes are nowhere else", back_from_backup(key))
        return None

    def _find(self, place: Place) -> Place | None:
        """Where the bytes of a place are. A map that cannot be read, which is told once, leads nowhere."""
        try:
            return self._whereabouts.find(place)[0]
        except Damaged as error:
            key, _, what = str(error).partition(": ")
            self._tell(Problem(key, what, back_from_backup(key)))
            return None

    def _is_whole(self, blob: BadBlob, place: Place) -> bool:
        try:
            if blob.kind == NODE:
                decoded_node(read_stored(self._store, place), blob.id)
            else:
                read_chunk(self._store, Chunk(ChunkId(blob.id), blob.size, place))
        except Damaged:
            return False
        return True

    def _missing(self, place: Place) -> tuple[str, str]:
        """(what is wrong with a place, the object's key)."""
        try:
            key = container_key(place.container)
        except Damaged as error:
            return str(error), "the store"
        size = self.size_of(place.container)
        if size is None:
            return f"{key} is gone", key
        return f"{key} has {size} bytes, too few for {place.length} at {place.offset}", key

    def _others(self, blob: bytes, bad: Place) -> Iterator[Place]:
        """Other places where a blob is said to lie, and something does."""
        known = self._index.place(blob)
        if not self._has_directories:
            self._has_directories = True
            self.check_directories(keep=True)
        for row in (*([known] if known else []), *self._survey.blobs(blob)):
            place = self._find(Place(row.container, row.offset, row.length))
            if place is not None and (place.container, place.offset) != (bad.container, bad.offset):
                yield place

    def check_directories(self, *, keep: bool = False) -> None:
        """Read the directory of each pack. keep: and of each commit, and remember what they say."""
        if self._has_directories and not keep:
            return  # done before
        listed = (item for item in self._survey.containers() if keep or len(item[0]) == 16)
        for (container, _), found in ahead(self._pool, self._directory, listed, AT_ONCE):
            if isinstance(found, Damaged):
                key = container_key(container)
                told = str(found).removeprefix(f"{key}: ")
                if len(container) == 16:
                    self._bad_directory(container)
                self._tell(Problem(key, told, back_from_backup(key)))
            elif keep:
                rows = [PlaceRow(blob.id, container, blob.offset, blob.length) for blob in found]
                self._survey.add_blobs(rows)

    def _directory(self, listed: tuple[bytes, int]) -> list[Blob] | Damaged:
        container, size = listed
        try:
            if len(container) == 16:
                return read_directory(self._store, PackId(container), size)
            data, _ = self._store.get(container_key(container))
            return parse(data, CommitId(container.hex()))[0].hints.blobs
        except Damaged as error:
            return error
        except NotFound:
            return []  # deleted meanwhile: who needs it says so

    # Chunks

    def read_chunks(self) -> None:
        """Read the chunks in line and compare their bytes with their ids."""
        for span, found in ahead(self._pool, self._read_span, self._spans(), SPANS):
            self.chunks += len(span.rows)
            self._chunk_bytes += span.end - span.start
            for row, error in found:
                self._bad_chunk(row, error)
            self._progress("chunks", len(span.rows))

    def _spans(self) -> Iterator[Span]:
        rows: list[ChunkRow] = []
        start = end = 0
        for row in self._survey.chunks():
            row_end = row.offset + row.length
            if rows and (
                row.container != rows[0].container or row.offset > end + GAP or max(end, row_end) - start > SPAN
            ):
                yield Span(rows[0].container, start, end, rows)
                rows = []
            if not rows:
                start, end = row.offset, row_end
            rows.append(row)
            end = max(end, row_end)
        if rows:
            yield Span(rows[0].container, start, end, rows)

    def _read_span(self, span: Span) -> list[tuple[ChunkRow, str]]:
        """In a thread of the pool: the chunks that are not as they should be, and why."""
        key = container_key(span.container)
        try:
            data = memoryview(self._store.get_range(key, span.start, span.end - span.start))
        except NotFound:
            return [(row, f"{key} is gone") for row in span.rows]
        bad = []
        for row in span.rows:
            stored = data[row.offset - span.start : row.offset - span.start + row.length]
            place = Place(row.container, row.offset, row.length)
            try:
                if len(stored) != row.length:
                    raise Damaged(f"{key} is cut off at offset {row.offset}")
                check_chunk(self._store, Chunk(ChunkId(row.id), row.size, place), stored)
            except Damaged as error:
                bad.append((row, str(error)))
        return bad

    def _bad_chunk(self, row: ChunkRow, error: str) -> None:
        key = container_key(row.container)
        bad = BadBlob(CHUNK, row.id, Place(row.container, row.offset, row.length), row.size)
        for other in self._others(row.id, bad.place):
            if self._is_whole(bad, other):
                self._bad(msgspec.structs.replace(bad, copy=other))
                self._told(row.step, row.name, error, _whole_copy(key, other))
                return
        self._bad(bad)
        remedy = f"{back_from_backup(key)}; without one, put the file again with a fresh index"
        self._told(row.step, row.name, error, remedy)

    # Telling

    def _where(self, step: int, name: bytes) -> str:
        path = [*self._survey.path(step), *([name] if name else [])]
        return b"/".join(path).decode(errors="surrogateescape")

    def _told(self, step: int, name: bytes, what: str, remedy: str) -> None:
        self._tell(Problem(self._where(step, name), what, remedy))


def _key(place: Place) -> str:
    return container_key(place.container)


def _whole_copy(key: str, other: Place) -> str:
    return f"`vfsd fsck --repair` puts the copy in {_key(other)} in its place; or {back_from_backup(key)}"
