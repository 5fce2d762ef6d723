"""Which segment of the disk cache goes when room is needed. No I/O, no clock: rows in, rows out.

The rule has three parts; docs/decisions/0014-what-the-disk-cache-drops.md has what it was compared with.

1. New segments are passing. While there is room everything stays; what was filled before room became short is kept.
   From then on a sixteenth of the cache is passing, the oldest of it goes first, and what is kept stays: so of data
   larger than the cache that is read again and again, a part stays as large as the cache.
2. A passing segment of which a sixteenth is read again is kept from then on; the kept one that is coldest makes room.
3. Whether what is kept is still wanted: bytes that had gone and are wanted again vote against it when it has been cold
   for more than twice as long as they were away; misses of other bytes vote for it. If the vote is lost by half a
   segment, the coldest kept one goes, and the newest passing one is kept in its place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from vfsd.index.blocks import SegmentRow

PASSING = 16  # that part of the cache is passing
AGAIN = 16  # a passing segment is kept when this part of it was read again
WARM = 2  # a kept segment is warm when this part of it was read
COLDER = 2  # how much longer than the others were away it must have been cold
PAID = 4  # loading ahead has paid when this part of it was read before it went
REMEMBERED = 4  # chunks that went are remembered until as many times the cache's limit went after them
GRANULES = 1 << 14  # places of a segment that are told apart
GHOSTS = 1 << 15  # of them, at most: when they are more, every second one stands for two


class Eviction:
    """Remembers what a process sees of its cache's use. limit, segment: bytes of the cache and of a full segment.
    Times are nanoseconds of one clock. `hit` may be called from any thread; the rest is for one at a time.

    passing: bytes that pass through the cache while the rest of it is kept."""

    def __init__(self, limit: int, segment: int) -> None:
        self._segment = max(segment, 1)
        self._limit = limit
        self.passing = max(limit // PASSING, segment)
        self._granule = segment // GRANULES + 1
        self._seen: dict[int, bytearray] = {}  # of passing segments: a bit for each granule that was read since
        self._hits: dict[int, int] = {}  # bytes read once more of segments, since the last review
        self._read: dict[int, int] = {}  # and before that, since they were last found warm
        self._coldest: int | None = None
        self._votes = 0
        self._rest = 0  # segments until loading ahead is tried again
        self._next_rest = 4 * self.passing // self._segment
        self._ghosts: dict[int, int] = {}
        self._groups: deque[tuple[int, list[int]]] = deque()  # (bytes, ghosts) of segments that went, oldest first
        self._gone = 0
        self._mask = 0

    # What happens

    def begun(self, segment: int) -> None:
        """A segment is filled from now on."""
        self._seen[segment] = bytearray(GRANULES // 8)

    def hit(self, segment: int, offset: int, size: int) -> None:
        """A block was read, or was written because somebody was reading it. The first time does not count: what was
        loaded ahead of its reader is read then."""
        seen = self._seen.get(segment)
        if seen is not None:
            # A segment of a run with another limit may be longer.
            byte, bit = divmod(min(offset // self._granule, GRANULES - 1), 8)
            if not seen[byte] >> bit & 1:
                seen[byte] |= 1 << bit
                return
        self._hits[segment] = self._hits.get(segment, 0) + size

    def missed(self, chunk: bytes, size: int, now: int) -> None:
        """A chunk was wanted and not there."""
        ghost = int.from_bytes(chunk[:8], "big")
        if ghost & self._mask:
            return
        weight = size * (self._mask + 1)
        begun = self._ghosts.pop(ghost, None)
        if begun is not None and self._coldest is not None and (now - begun) * COLDER < now - self._coldest:
            self._votes = min(self._votes + weight, self._segment)
        else:
            self._votes = max(self._votes - weight, 0)

    def went(self, row: SegmentRow, chunks: Sequence[bytes]) -> None:
        """A segment was dropped, and these chunks with it."""
        if row.kept and self._is_outvoted:
            self._votes -= self._segment // 2
        if row.id in self._seen:
            self._judge(self._seen.pop(row.id), len(chunks))
        ghosts = [int.from_bytes(chunk[:8], "big") for chunk in chunks]
        ghosts = [ghost for ghost in ghosts if not ghost & self._mask]
        self._ghosts.update(dict.fromkeys(ghosts, row.born))
        self._groups.append((row.size, ghosts))
        self._gone += row.size
        while self._gone > self._limit * REMEMBERED:
            size, ghosts = self._groups.popleft()
            self._gone -= size
            for ghost in ghosts:
                self._ghosts.pop(ghost, None)
        while len(self._ghosts) > GHOSTS:
            self._mask = self._mask << 1 | 1
            self._ghosts = {ghost: begun for ghost, begun in self._ghosts.items() if not ghost & self._mask}
            self._groups = deque(
                (size, [ghost for ghost in ghosts if not ghost & self._mask]) for size, ghosts in self._groups
            )

    def _judge(self, seen: bytearray, blocks: int) -> None:
        """Whether what passed through had been read: if not, what nobody asked for is not loaded for a while, twice as
        long as the last time."""
        paid = int.from_bytes(seen, "big").bit_count() * PAID >= blocks
        if self._rest:
            self._rest -= 1
        elif not paid:
            self._rest = self._next_rest
            self._next_rest = min(2 * self._next_rest, self._limit * REMEMBERED // self._segment)
        else:
            self._next_rest = 4 * self.passing // self._segment

    # What follows from it

    @property
    def ahead_pays(self) -> bool:
        """Whether what is loaded ahead of any reader is likely to be read before it goes."""
        return not self._rest

    def review(self, rows: Sequence[SegmentRow], now: int, *, is_full: bool) -> list[SegmentRow]:
        """The rows as they are to be from now on, by what was read since the last time. is_full: room is needed."""
        hits, self._hits = self._hits, {}
        before, self._read = self._read, {}
        surplus = self._surplus(rows) if is_full else set()
        found = []
        for row in rows:
            read = before.get(row.id, 0) + hits.get(row.id, 0)
            if not row.kept and row.id not in self._seen:
                self.begun(row.id)  # by another process: which of these bytes were read before is not known
                read = 0
            if read * (WARM if row.kept else AGAIN) >= max(row.size, 1):
                row, read = msgspec.structs.replace(row, kept=True, used=now), 0  # noqa: PLW2901
            elif row.id in surplus:
                row = msgspec.structs.replace(row, kept=True)  # noqa: PLW2901
            self._read[row.id] = read
            found.append(row)
        self._coldest = min((row.used for row in found if row.kept), default=None)
        passing = {row.id for row in found if not row.kept}
        self._seen = {segment: seen for segment, seen in self._seen.items() if segment in passing}
        return found

    def order(self, rows: Sequence[SegmentRow]) -> list[SegmentRow]:
        """The rows, those first that are to go first."""
        passing = _oldest_first(rows)
        kept = sorted((row for row in rows if row.kept), key=lambda row: (row.used, row.id))
        if self._is_outvoted or sum(row.size for row in passing) <= self.passing:
            return kept + passing
        return passing + kept

    def heir(self, rows: Sequence[SegmentRow], victim: SegmentRow) -> SegmentRow | None:
        """Which of `rows` is kept in the place of `victim`, if that is a kept one that was outvoted: the newest."""
        if not (victim.kept and self._is_outvoted):
            return None
        passing = _oldest_first(rows)
        return passing[-1] if passing else None

    @property
    def _is_outvoted(self) -> bool:
        return self._votes >= max(self._segment // 2, 1)

    def _surplus(self, rows: Sequence[SegmentRow]) -> set[int]:
        """The oldest passing ones that are more than are to pass."""
        passing = _oldest_first(rows)
        size = sum(row.size for row in passing)
        found = set()
        for row in passing:
            size -= row.size
            if size <= self.passing:
                break
            found.add(row.id)
        return found


def _oldest_first(rows: Sequence[SegmentRow]) -> list[SegmentRow]:
    """The passing ones of `rows`."""
    return sorted((row for row in rows if not row.kept), key=lambda row: (row.born, row.id))
