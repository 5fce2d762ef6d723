"""Many chunks with few large requests: chunks that lie near each other in one object come together.

`runs` says which; `ChunkCache.bring` brings a run; `BulkFetch` brings any number of them, several at a time, within a
bound of memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from operator import attrgetter
from typing import NamedTuple, Protocol

import msgspec

from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import hash_bytes
from vfsd.store.api import ObjectStore, Plain
from vfsd.store.blob import FRAME, MAX_STORED, RAW, check_chunk, container_key

RANGE = 16 << 20  # bytes of an object that one request brings
LARGE = 1 << 20  # bytes of a request whose answer is not taken apart: what is not compressed stays where it came
GAP = 512 << 10  # bytes that nobody wants, but that take less time than another request
PLAIN = 4 * RANGE  # bytes that they may be once they are decompressed
THREADS = 8  # requests at once
BUDGET = 256 << 20  # bytes in memory at once, stored and decoded together
QUEUED = 1024  # requests that wait or are under way, of one caller
_WHERE = attrgetter("place.container", "place.offset")
AT_ONCE = 1 << 16  # chunks that are put in order together, or fewer that have BUDGET bytes


class Fetched(msgspec.Struct, frozen=True):
    """What was brought: chunks, their plain bytes, and how many requests that took. problems: what could not be."""

    chunks: int = 0
    size: int = 0
    requests: int = 0
    problems: tuple[Damaged, ...] = ()

    def __add__(self, other: Fetched) -> Fetched:
        return Fetched(
            self.chunks + other.chunks, self.size + other.size, self.requests + other.requests,
            self.problems + other.problems,
        )  # fmt: skip


class Brings(Protocol):
    """A ChunkCache, as far as it is needed here."""

    def bring(self, chunks: Sequence[Chunk], *, warm: bool = False) -> Fetched:
        """Have chunks at hand."""
        ...


def runs(chunks: Iterable[Chunk], most: int = RANGE, *, is_cut: bool = False) -> Iterator[list[Chunk]]:
    """The chunks, each once, by where they lie: those in one list are near each other in one object, and one request of
    up to `most` bytes brings them, but for the end of the last one; a larger chunk is alone. is_cut: those of one list
    begin between the same two multiples of `most`."""
    unique = {chunk.id: chunk for chunk in chunks}.values()
    run: list[Chunk] = []
    start = end = plain = 0
    for chunk in sorted(unique, key=_WHERE):
        place = chunk.place
        if not _is_sound(place):
            yield [chunk]
            continue
        near = run and place.container == run[0].place.container and place.offset - end <= GAP
        is_long = place.offset // most > start // most if is_cut else place.offset + place.length - start > most
        if not near or is_long or plain + chunk.size > PLAIN:
            if run:
                yield run
            run, start, end, plain = [], place.offset, 0, 0
        run.append(chunk)
        end = max(end, place.offset + place.length)
        plain += chunk.size
    if run:
        yield run


def _is_sound(place: Place) -> bool:
    """Whether anything can lie there; a pointer that is damaged shares its request with nobody."""
    return 0 <= place.offset < 1 << 62 and FRAME <= place.length <= MAX_STORED


def span(run: Sequence[Chunk]) -> tuple[int, int]:
    """(offset, length) of the part of the object that has a run."""
    start = run[0].place.offset
    return start, max(chunk.place.offset + chunk.place.length for chunk in run) - start


class Brought(NamedTuple):
    """What one request brought. stored: all of it. parts: the chunks, checked, by id, that are parts of it because they
    are not compressed: most of it, or none. apart: the others."""

    stored: memoryview
    parts: dict[bytes, tuple[int, memoryview]]
    apart: dict[bytes, bytes]

    @property
    def plain(self) -> dict[bytes, Plain]:
        """The bytes of all chunks."""
        return {**{chunk: data for chunk, (_, data) in self.parts.items()}, **self.apart}


def read_run(store: ObjectStore, run: Sequence[Chunk]) -> Brought:
    """The chunks of a run, with one request; without those that are not as they were. Unavailable, AccessDenied."""
    brought = Brought(memoryview(b""), {}, {})
    if not _is_sound(run[0].place):
        return brought
    start, length = span(run)
    key = container_key(run[0].place.container)
    try:
        if length >= LARGE:
            stored = store.get_large(key, start, length)
        else:
            stored = memoryview(store.get_range(key, start, length))
    except (NotFound, Damaged):
        return brought
    brought = Brought(stored, {}, {})
    large = len(stored) if len(stored) >= LARGE else 0
    for chunk in run:
        offset, size = chunk.place.offset - start, chunk.place.length
        if size == FRAME + chunk.size and offset < large and stored[offset] == RAW:
            plain = stored[offset + FRAME : offset + size]
            if hash_bytes(plain) == chunk.id:
                brought.parts[chunk.id] = offset + FRAME, plain
            continue
        try:
            brought.apart[chunk.id] = check_chunk(store, chunk, stored[offset : offset + size])
        except Damaged:
            continue  # whoever reads it alone is told what is wrong with it
    if sum(len(data) for _, data in brought.parts.values()) < len(stored) // 4 * 3:
        return Brought(stored, {}, {chunk: bytes(data) for chunk, data in brought.plain.items()})
    return brought


class BulkFetch:
    """Brings chunks into a cache, with up to `threads` requests and `budget` bytes under way, over all its callers."""

    def __init__(self, cache: Brings, *, threads: int = THREADS, budget: int = BUDGET) -> None:
        self._cache = cache
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="vfsd-fetch")
        self._budget = _Budget(budget)

    def fetch(
        self,
        chunks: Iterable[Chunk],
        *,
        warm: bool = False,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, int], None] = lambda chunks, size: None,
    ) -> Fetched:
        """Bring those of the chunks that are not here. Blocks, so it is called from a thread; any number of callers.

        chunks: streamed; what lies together should come together. warm: as of ChunkCache.bring. stop: is
        asked before each request; what is under way then is brought to its end. progress: is told (chunks, plain bytes)
        since the last time, present ones included, from any thread but never from two at once. Damaged chunks are
        among the result's problems; Unavailable and AccessDenied are raised, after what was under way.
        """
        under_way: deque[Future[Fetched]] = deque()
        fetched = Fetched()
        lock = threading.Lock()
        failed = threading.Event()

        def bring(run: list[Chunk]) -> Fetched:
            found = Fetched()
            if failed.is_set() or stop():
                return found
            try:
                found = self._cache.bring(run, warm=warm)
            except Damaged as error:
                found = Fetched(problems=(error,))
            except BaseException:
                failed.set()
                raise
            with lock:
                progress(len(run), sum(chunk.size for chunk in run))
            return found

        try:
            for run in _all_runs(chunks):
                cost = 2 * sum(chunk.size for chunk in run)  # stored and decoded, about
                self._budget.take(cost)
                if failed.is_set() or stop():
                    self._budget.give(cost)
                    break
                future = self._pool.submit(bring, run)
                future.add_done_callback(lambda _, cost=cost: self._budget.give(cost))  # type: ignore[misc]
                under_way.append(future)
                while len(under_way) > QUEUED or under_way[0].done():
                    fetched += under_way.popleft().result()
                    if not under_way:
                        break
        except BaseException:
            failed.set()
            raise
        finally:
            wait(under_way)
        return sum((future.result() for future in under_way), fetched)

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _all_runs(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    part: list[Chunk] = []
    size = 0
    for chunk in chunks:
        part.append(chunk)
        size += chunk.size
        if len(part) >= AT_ONCE or size >= BUDGET:
            yield from runs(part)
            part, size = [], 0
    yield from runs(part)


class _Budget:
    """Bytes that may be under way. One who wants more than all of them has to be alone."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._changed = threading.Condition()

    def take(self, size: int) -> None:
        """Wait until there is room."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._size)
            self._taken += size

    def give(self, size: int) -> None:
        with self._changed:
            self._taken -= size
            self._changed.notify_all()
