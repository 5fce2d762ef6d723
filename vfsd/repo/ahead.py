"""Work in threads a little ahead of whoever takes the results, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(
    pool: ThreadPoolExecutor, act: Callable[[T], U], items: Iterable[T], count: int,
    weigh: Callable[[T], int] = lambda item: 0, most: int = 0,
) -> Iterator[tuple[T, U]]:
    """(item, result) in order. At most `count` items are taken from `items` before their results are, and those that
    are worked on weigh `most` together, or it is only one: `items` may be long, and results large."""
    waiting: deque[tuple[T, Future[U]]] = deque()
    weight = 0
    try:
        for item in items:
            weight += weigh(item)
            while waiting and weight > most:
                weight -= weigh(waiting[0][0])
                yield _first(waiting)
            waiting.append((item, pool.submit(act, item)))
            if len(waiting) >= count:
                weight -= weigh(waiting[0][0])
                yield _first(waiting)
        while waiting:
            yield _first(waiting)
    finally:
        for _, future in waiting:
            future.cancel()


def _first(waiting: deque[tuple[T, Future[U]]]) -> tuple[T, U]:
    """The result alone: who waits for the next one holds no reference to it."""
    item, future = waiting.popleft()
    return item, future.result()
