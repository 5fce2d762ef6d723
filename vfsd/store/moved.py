"""Containers that were rewritten: a map in their place says where their blobs lie now, and reads go on as before.

    moved/<container>     a blob of msgpack: [[kind, id, offset, length, container, new offset], ...], by offset

`offset` is where the blob lay, which pointers still say. What nobody needed any more is not in the map.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar

import msgspec

from vfsd.model.entry import Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.store.api import ETag, ObjectStore, Stat
from vfsd.store.blob import container_key, decode_blob, encode_blob
from vfsd.store.pack import CHUNK, HEAD, Blob, PackBuilder
from vfsd.store.wrapped import WrappedStore

PREFIX = "moved/"
MAPS = 64  # maps kept in memory
LINES = 200_000  # lines that they have together, unless one has more: some 50 MB
GAP = 256 << 10  # bytes between two blobs that are read along, to save a request
_MAX_MAP = 1 << 30
_NOTHING = b"\0" * 32  # the id of what is not in a map
_PACK = 16  # bytes of a pack's id
T = TypeVar("T")


class Moved(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One line of a map: the blob (`kind` as in packs), where it lay, and where it lies; its length is the same."""

    kind: int
    id: bytes
    offset: int
    length: int
    container: bytes
    now: int

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.container, self.now, self.length)


_MAP = msgspec.msgpack.Decoder(list[Moved])


def moved_key(container: bytes) -> str:
    """The key of a container's map."""
    return PREFIX + container.hex()


def encode_map(lines: Iterable[Moved]) -> bytes:
    """The object's bytes."""
    return encode_blob(msgspec.msgpack.encode(sorted(lines, key=lambda line: line.offset)), level=3)


class MovedMap:
    """Where the blobs of one container lie now. lines: by offset, none over another."""

    def __init__(self, container: bytes, lines: Sequence[Moved]) -> None:
        self.container = container
        self.lines = lines

    def find(self, place: Place) -> Place | None:
        """Where the blob lies that lay at `place`; None when the map does not have it."""
        at = bisect_left(self.lines, place.offset, key=lambda line: line.offset)
        line = self.lines[at] if at < len(self.lines) else None
        return line.place if line is not None and (line.offset, line.length) == (place.offset, place.length) else None

    def between(self, start: int, end: int) -> Sequence[Moved]:
        """The lines of which a part lay between two offsets."""
        first = max(bisect_right(self.lines, start, key=lambda line: line.offset) - 1, 0)
        last = bisect_left(self.lines, end, key=lambda line: line.offset)
        return [line for line in self.lines[first:last] if line.offset + line.length > start]

    @property
    def end(self) -> int:
        """Where the last blob ended."""
        return self.lines[-1].offset + self.lines[-1].length if self.lines else len(HEAD)

    @cached_property
    def tail(self) -> bytes:
        """Of a pack: a directory of what is left, with blobs of the id 0 for the rest, and the end."""
        if len(self.container) != _PACK:
            return b""
        builder = PackBuilder()
        at = len(HEAD)
        for line in self.lines:
            if line.offset > at:
                builder.blobs.append(Blob(CHUNK, _NOTHING, at, line.offset - at))
            builder.blobs.append(Blob(line.kind, line.id, line.offset, line.length))
            at = line.offset + line.length
        return bytes(builder.finish()[len(HEAD) :])

    @property
    def size(self) -> int:
        """Bytes of the object that is read in place of the container."""
        return self.end + len(self.tail)


def read_map(store: ObjectStore, container: bytes) -> MovedMap:
    """The map of a container; NotFound when it was not moved, Damaged."""
    return read_map_version(store, container)[0]


def read_map_version(store: ObjectStore, container: bytes) -> tuple[MovedMap, ETag]:
    """The same, and which version of it that is."""
    key = moved_key(container)
    data, etag = store.get(key)
    try:
        return MovedMap(container, _MAP.decode(decode_blob(data, _MAX_MAP))), etag
    except (msgspec.MsgspecError, Damaged) as error:
        raise Damaged(f"{key}: this map of moved blobs cannot be read: {error}") from None


class Maps:
    """The maps of one store, each read once as long as it is among the last ones. Safe from any thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._maps: OrderedDict[bytes, MovedMap] = OrderedDict()
        self._lines = 0
        self._lock = threading.Lock()

    def known(self, container: bytes) -> MovedMap | None:
        """The map when it is at hand."""
        with self._lock:
            found = self._maps.get(container)
            if found is not None:
                self._maps.move_to_end(container)
            return found

    def forget(self, moved: MovedMap) -> None:
        """Read a map again when it is wanted next: it was led on since, and where it led was given back."""
        with self._lock:
            if self._maps.get(moved.container) is moved:
                del self._maps[moved.container]
                self._lines -= len(moved.lines)

    def get(self, container: bytes) -> MovedMap:
        """The map of a container; NotFound when there is none."""
        found = self.known(container)
        if found is None:
            found = read_map(self._store, container)
            with self._lock:
                old = self._maps.pop(container, None)
                self._maps[container] = found
                self._lines += len(found.lines) - (0 if old is None else len(old.lines))
                while len(self._maps) > MAPS or (self._lines > LINES and len(self._maps) > 1):
                    self._lines -= len(self._maps.popitem(last=False)[1].lines)
        return found


class MovedStore(WrappedStore):
    """`inner`, with containers that were moved readable at their old keys and offsets, zeros standing where the map has
    nothing. Costs nothing until an object of `packs/` or `commits/` is not there: then two requests, once."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.maps = Maps(inner)

    def _around(self, kind: str, key: str, sent: int, act: Callable[[], T]) -> T:
        return act()

    def get(self, key: str) -> tuple[bytes, ETag]:
        def by_map(moved: MovedMap) -> tuple[bytes, ETag]:
            return self._read(moved, 0, moved.size), _etag(moved)

        return self._either(key, lambda: self.inner.get(key), by_map, whole=True)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._either(
            key, lambda: self.inner.get_range(key, offset, length), lambda moved: self._read(moved, offset, length)
        )

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        return self._either(
            key, lambda: self.inner.get_large(key, offset, length),
            lambda moved: memoryview(self._read(moved, offset, length)),
        )  # fmt: skip

    def stat(self, key: str) -> Stat:
        def by_map(moved: MovedMap) -> Stat:
            return Stat(key, moved.size, _etag(moved), self.inner.stat(moved_key(moved.container)).modified)

        return self._either(key, lambda: self.inner.stat(key), by_map, whole=True)

    def _either(self, key: str, direct: Callable[[], T], by_map: Callable[[MovedMap], T], *, whole: bool = False) -> T:
        """`direct`, or where the object is gone `by_map`; one that is known to be moved is not asked for. A commit
        object is more than its blobs, so `whole` ones are not to be had from a map."""
        container = _container(key)
        if container is None or (whole and len(container) != _PACK):
            return direct()
        moved = self.maps.known(container)
        if moved is not None:
            try:
                return by_map(moved)
            except NotFound:
                self.maps.forget(moved)
        try:
            return direct()
        except NotFound as missing:
            try:
                moved = self.maps.get(container)
            except NotFound:
                raise missing from None
        return by_map(moved)

    def _read(self, moved: MovedMap, offset: int, length: int) -> bytes:
        end = min(offset + length, moved.size)
        if offset < 0 or offset >= end:
            return b""
        data = bytearray(end - offset)
        if len(moved.container) == _PACK:
            _lay(data, offset, 0, HEAD)
        for run in _runs(moved.between(offset, end)):
            start, stop = run[0].now, run[-1].now + run[-1].length
            key = container_key(run[0].container)
            stored = self.get_range(key, start, stop - start)  # it may have been moved on
            if len(stored) != stop - start:
                raise Damaged(f"{key} in {self.url} is cut off: {len(stored)} of {stop - start} bytes at {start}")
            for line in run:
                _lay(data, offset, line.offset, stored[line.now - start : line.now - start + line.length])
        _lay(data, offset, moved.end, moved.tail)
        return bytes(data)


def without_maps(store: ObjectStore) -> ObjectStore:
    """The store as its objects are: for whoever looks after maps itself."""
    return store.inner if isinstance(store, MovedStore) else store


def _etag(moved: MovedMap) -> ETag:
    return ETag(f"moved-{moved.container.hex()}")


def _container(key: str) -> bytes | None:
    """The container that a key is of."""
    if not key.startswith(("packs/", "commits/")):
        return None
    try:
        container = bytes.fromhex(key.rpartition("/")[2])
    except ValueError:
        return None
    return container if container_key(container) == key else None


def _lay(data: bytearray, offset: int, at: int, piece: bytes) -> None:
    """Lay what belongs at `at` over `data`, which begins at `offset`, as far as the two meet."""
    low, high = max(at, offset), min(at + len(piece), offset + len(data))
    if low < high:
        data[low - offset : high - offset] = piece[low - at : high - at]


def _runs(lines: Iterable[Moved]) -> Iterator[list[Moved]]:
    """Lines whose blobs lie near each other now, and in this order, so that one request has them."""
    run: list[Moved] = []
    for line in lines:
        if run:
            last = run[-1]
            if line.container != last.container or not 0 <= line.now - (last.now + last.length) <= GAP:
                yield run
                run = []
        run.append(line)
    if run:
        yield run
