"""Loads chunks before they are asked for: a reader that goes on where it stopped gets a window that doubles.

The kernel does not do this for us: at 20 ms a request it reads at 12 MiB/s without. What lies together in the store is
loaded together, and no more is under way than BUDGET.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from vfsd.model.entry import Chunk
from vfsd.model.errors import NotCached, VfsdError
from vfsd.repo.chunklist import Content, iter_chunks
from vfsd.repo.nodes import NodeSource
from vfsd.serve.loads import Loads

FIRST, LAST = 2 << 20, 64 << 20  # bytes ahead
TOGETHER = 8 << 20  # bytes that one load brings at most
BUDGET = 256 << 20  # bytes under way, of all readers
NEAR = 8 << 20  # bytes off the expected place that are no jump: the kernel's own readahead asks side by side


class Reader:
    """One open file's position, as far as it can be guessed from its reads."""

    __slots__ = ("expected", "is_gone", "reached", "window")

    def __init__(self) -> None:
        self.expected = 0
        self.reached = 0
        self.window = 0
        self.is_gone = False

    def close(self) -> None:
        """Nobody reads here any more: what has not begun to be loaded is not."""
        self.is_gone = True


class Readahead:
    """Decides what to load ahead, and has it loaded in a nursery.

    is_here: whether a chunk is at hand, without waiting. fetch: brings chunks there; blocks.
    """

    def __init__(
        self, nodes: NodeSource, is_here: Callable[[Chunk], bool], fetch: Callable[[list[Chunk]], None], loads: Loads,
        start: Callable[..., None],
    ) -> None:
        self._nodes = nodes
        self._is_here = is_here
        self._fetch = fetch
        self._loads = loads
        self._start = start
        self._under_way = 0

    def after_read(self, reader: Reader, content: Content, offset: int, size: int) -> None:
        """A read was answered: load on when it continued the one before."""
        end = offset + size
        if abs(offset - reader.expected) > NEAR:
            reader.window, reader.reached, reader.expected = 0, 0, end
        elif reader.expected < end < content.size:
            reader.window = min(max(FIRST, reader.window * 2), LAST)
        reader.expected = end = max(reader.expected, end)
        if reader.window and reader.reached - end < reader.window // 2:
            self._load_ahead(reader, content, max(end, reader.reached), end + reader.window)

    def _load_ahead(self, reader: Reader, content: Content, start: int, end: int) -> None:
        self.load(reader, self._wanted(reader, content, start, end))

    def load(self, reader: Reader, wanted: Iterable[Chunk]) -> None:
        """Have chunks that are not here loaded; what is over the budget, or under way already, is left out."""
        for chunks in runs(chunk for chunk in wanted if not self._loads.is_running(chunk.id)):
            if self._under_way >= BUDGET:
                return
            size = sum(chunk.size for chunk in chunks)
            self._under_way += size
            self._start(self._load, reader, chunks, size)

    def _wanted(self, reader: Reader, content: Content, start: int, end: int) -> Iterator[Chunk]:
        """The chunks up to `end` that are not here."""
        try:
            for at, chunk in iter_chunks(self._nodes, content, start):
                if at >= end:
                    return
                reader.reached = at + chunk.size
                if not self._is_here(chunk):
                    yield chunk
        except NotCached:
            pass  # a part of the chunk list is not here; the reader itself will ask for it

    def prepare(self, miss: NotCached) -> None:
        """Have loaded what is missing for looking further ahead."""
        if not self._loads.is_running(miss.key):
            self._start(self._prepare, miss)

    async def _prepare(self, miss: NotCached) -> None:
        try:
            await self._loads.load(miss)
        except VfsdError:
            pass  # as below

    async def _load(self, reader: Reader, chunks: list[Chunk], size: int) -> None:
        try:
            await self._loads.ahead(
                [chunk.id for chunk in chunks], lambda: None if reader.is_gone else self._fetch(chunks)
            )
        except VfsdError:
            pass  # whoever needs these bytes will meet the error and be told
        finally:
            self._under_way -= size


def runs(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """Chunks that lie behind one another in one container, up to TOGETHER bytes of them."""
    run: list[Chunk] = []
    size = 0
    for chunk in chunks:
        if run and (size + chunk.size > TOGETHER or not _follows(run[-1], chunk)):
            yield run
            run, size = [], 0
        run.append(chunk)
        size += chunk.size
    if run:
        yield run


def _follows(one: Chunk, other: Chunk) -> bool:
    place, behind = one.place, other.place
    return place.container == behind.container and place.offset + place.length == behind.offset
