"""Byte order from servers that list folder by folder: they give `a/x` before `a-b`, though `-` sorts before `/`.

S3 itself lists in byte order; SeaweedFS and gateways onto filesystems do not. What is here makes no difference to the
former, and needs not know which one it talks to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_BELOW_SLASH = re.compile(r"[!-.]")


def safe_start(after: str) -> str:
    """A key that comes, in both orders, before all keys behind `after` in byte order: `after` itself, or the folder
    that holds the first component for which the orders may differ."""
    lower = _BELOW_SLASH.search(after)
    return after if lower is None else after[: after.rfind("/", 0, lower.start()) + 1]


def in_byte_order(found: Iterable[T], key: Callable[[T], str], name: Callable[[T], str]) -> Iterator[T]:
    """`found`, which comes in either order, in byte order of `key`. `name` gives the component below the folder that
    is listed.

    The orders differ only among names of which one is `s` and others are `s` and a character below `/`. In both, such
    names stand together, so a run of them is held and sorted; the objects of one folder are a run, at least.
    """
    run: list[T] = []
    stem = ""
    for item in found:
        now = name(item)
        if run and not (now.startswith(stem) and now[len(stem) : len(stem) + 1] < "/"):
            yield from sorted(run, key=key)
            run = []
        if not run:
            stem = now
        run.append(item)
    yield from sorted(run, key=key)
