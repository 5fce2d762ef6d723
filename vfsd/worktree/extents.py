"""Which byte ranges of a file have been written: sorted, disjoint, touching ranges joined."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Extents:
    """A set of byte ranges (start, end)."""

    def __init__(self, ranges: list[tuple[int, int]] | None = None) -> None:
        self._starts = [start for start, _ in ranges or ()]
        self._ends = [end for _, end in ranges or ()]

    def ranges(self) -> list[tuple[int, int]]:
        """All ranges, in order."""
        return list(zip(self._starts, self._ends, strict=True))

    def add(self, start: int, end: int) -> int:
        """Add a range; how many bytes of it are new. Appending to the last one costs nothing."""
        if self._ends and self._ends[-1] == start:
            self._ends[-1] = end
            return end - start
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        before = sum(self._ends[low:high]) - sum(self._starts[low:high])
        if low < high:
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._starts[low:high] = [start]
        self._ends[low:high] = [end]
        return end - start - before

    def covered(self) -> int:
        """Bytes in all ranges."""
        return sum(self._ends) - sum(self._starts)

    def cut(self, size: int) -> None:
        """Forget everything at and behind byte `size`."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:]
        del self._ends[keep:]
        if self._ends and self._ends[-1] > size:
            self._ends[-1] = size

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """(start, end, written) pieces that cover the range, in order."""
        at = start
        position = bisect_right(self._ends, start)
        while at < end and position < len(self._starts):
            low, high = max(self._starts[position], at), min(self._ends[position], end)
            if low >= end:
                break
            if low > at:
                yield at, low, False
            yield low, high, True
            at = high
            position += 1
        if at < end:
            yield at, end, False
