"""Loads chunks before they are asked for: a reader that goes on where it stopped gets a window that doubles.

The kernel does not do this for us: at 20 ms a request it reads at 12 MiB/s without. What lies together in the store is
loaded together, and no more is under way than BUDGET. Requests begin and end at round places of an object, where they
can: servers keep large objects in parts, and read a part again for each request that has a piece of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from vfsd.cache.bulk import runs
from vfsd.model.entry import Chunk
from vfsd.model.errors import NotCached, VfsdError
from vfsd.repo.chunklist import Content, iter_chunks
from vfsd.repo.nodes import NodeSource
from vfsd.serve.loads import Loads

FIRST, LAST = 2 << 20, 64 << 20  # bytes ahead
OPENING = 16  # times what is asked for at a file's beginning: who asks for much there, mostly goes on
STEP = 16 << 20  # bytes by which a large window goes on: the next requests are to be sent before the last ones are read
TOGETHER = 8 << 20  # bytes that one load brings at most
BUDGET = 256 << 20  # bytes under way, of all readers
NEAR = 8 << 20  # bytes off the expected place that are no jump: the kernel's own readahead asks side by side


class Reader:
    """One open file's position, as far as it can be guessed from its reads."""

    __slots__ = ("expected", "is_gone", "is_looking", "reached", "window")

    def __init__(self) -> None:
        self.expected = 0
        self.reached = 0
        self.window = 0
        self.is_gone = False
        self.is_looking = False  # what to load is being looked for

    def is_short(self, content: Content) -> bool:
        """Whether a step of the window was not looked at yet, or half of a small one."""
        step = min(STEP, self.window // 2)
        return bool(
            self.window and not self.is_gone
            and self.reached < content.size and self.reached - self.expected <= self.window - step
        )

    def close(self) -> None:
        """Nobody reads here any more: what has not begun to be loaded is not."""
        self.is_gone = True


class Readahead:
    """Decides what to load ahead, and has it loaded in a nursery.

    nodes: may block. lacking: those of some chunks that are not here, without waiting. fetch: brings a run of such
    here, as of cache.bulk.runs; blocks.
    """

    def __init__(
        self, nodes: NodeSource, lacking: Callable[[Sequence[Chunk]], Sequence[Chunk]],
        fetch: Callable[[list[Chunk]], None], loads: Loads, start: Callable[..., None],
    ) -> None:
        self._nodes = nodes
        self._lacking = lacking
        self._fetch = fetch
        self._loads = loads
        self._start = start
        self._under_way = 0

    def asked(self, reader: Reader, content: Content, offset: int, size: int) -> None:
        """A read is to be answered: load on behind it when it continues the one before."""
        end = min(offset + size, content.size)
        if abs(offset - reader.expected) > NEAR:
            reader.window, reader.reached, reader.expected = 0, 0, end
        elif reader.expected < end < content.size:
            first = FIRST if offset else max(FIRST, OPENING * size)
            reader.window = min(max(first, reader.window * 2), LAST)
        reader.expected = max(reader.expected, end)
        if not reader.is_looking and reader.is_short(content):
            reader.is_looking = True
            self._start(self._look_ahead, reader, content)

    async def _look_ahead(self, reader: Reader, content: Content) -> None:
        """Find in a thread, beside the event loop, what is to be loaded: thousands of chunks."""
        try:
            while reader.is_short(content):
                reached, expected = reader.reached, reader.expected
                start, end = max(expected, reached), expected + reader.window
                found, end = await self._loads.beside(partial(self._coming, content, start, end))
                if reader.reached == reached and expected <= reader.expected <= end:  # else it jumped meanwhile
                    reader.reached = end
                    self._begin(reader, found)
        except VfsdError:
            pass  # as in _load
        finally:
            reader.is_looking = False

    def _coming(self, content: Content, start: int, end: int) -> tuple[list[list[Chunk]], int]:
        """Blocks: the requests that bring what is not here, from one byte to another, or a little further, and where
        they end. A large window ends at a round place of an object."""
        chunks: list[Chunk] = []
        more = TOGETHER if end - start >= TOGETHER else 0
        for at, chunk in iter_chunks(self._nodes, content, start):
            if at >= end and (at >= end + more or not chunks or _part(chunk) != _part(chunks[-1])):
                return in_order(self._lacking(chunks)), at
            chunks.append(chunk)
        return in_order(self._lacking(chunks)), content.size

    def load(self, reader: Reader, wanted: Sequence[Chunk]) -> None:
        """Have chunks that are not here loaded."""
        self._begin(reader, in_order(self._lacking(wanted)))

    def _begin(self, reader: Reader, coming: Iterable[list[Chunk]]) -> None:
        """What is over the budget, or under way already, is left out."""
        for run in coming:
            chunks = [chunk for chunk in run if not self._loads.is_running(chunk.id)]
            for part in [run] if len(chunks) == len(run) else _requests(chunks):
                if self._under_way >= BUDGET:
                    return
                size = sum(chunk.size for chunk in part)
                self._under_way += size
                self._start(self._load, reader, part, size)

    def prepare(self, miss: NotCached, then: Callable[[bool], None]) -> None:
        """Have loaded what is missing for looking further ahead. then: is told whether it is here."""
        self._start(self._prepare, miss, then)

    async def _prepare(self, miss: NotCached, then: Callable[[bool], None]) -> None:
        try:
            await self._loads.load(miss)
        except VfsdError:
            then(False)  # as below
        else:
            then(True)

    async def _load(self, reader: Reader, chunks: list[Chunk], size: int) -> None:
        try:
            await self._loads.ahead(
                [chunk.id for chunk in chunks], lambda: None if reader.is_gone else self._fetch(chunks)
            )
        except VfsdError:
            pass  # whoever needs these bytes will meet the error and be told
        finally:
            self._under_way -= size


def in_order(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """The chunks by the requests that bring them, that one first which brings what is wanted first. A file that was
    edited often lies in many pieces, turn by turn in old packs and new ones; most of them still come together."""
    turn = {chunk.id: at for at, chunk in enumerate(chunks)}
    return sorted(_requests(chunks), key=lambda run: min(turn[chunk.id] for chunk in run))


def _requests(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    return runs(chunks, TOGETHER, is_cut=True)


def _part(chunk: Chunk) -> tuple[bytes, int]:
    return chunk.place.container, chunk.place.offset // TOGETHER
