"""Work in threads a little ahead of whoever takes the results, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def ahead(pool: ThreadPoolExecutor, act: Callable[[T], U], items: Iterable[T], count: int) -> Iterator[tuple[T, U]]:
    """(item, result) in order. At most `count` items are taken from `items` before their results are: it may be long,
    and results large."""
    waiting: deque[tuple[T, Future[U]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(act, item)))
            if len(waiting) >= count:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        for _, future in waiting:
            future.cancel()
