"""Does a store keep its conditions? Some S3 servers accept `If-Match` and `If-None-Match` and ignore them.

Asked once, when a store is made; only a store that keeps both may be shared between nodes.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from vfsd.model.errors import Conflict
from vfsd.store.api import ETag, ObjectStore

KEYS = 8  # fresh keys that are raced for, all at once: some servers take a third of a second for each loser
WRITERS = 8  # threads that race for each key, so 64 conditional writes


class ProbeResult(msgspec.Struct, frozen=True):
    """created, swapped: how many of the writers won each key; one is right. problems: a sentence for each condition
    that does not hold, none when the store may be shared."""

    created: tuple[int, ...]
    swapped: tuple[int, ...]
    problems: tuple[str, ...]

    @property
    def shared(self) -> bool:
        """Whether several nodes may use the store at once."""
        return not self.problems

    @property
    def usable(self) -> bool:
        """Whether one node may: no condition is refused out of hand."""
        return min(self.created + self.swapped) > 0


def probe_conditional_writes(store: ObjectStore) -> ProbeResult:
    """Race for fresh keys below `probe/`, which are deleted again. Raises what a plain write raises."""
    run = f"probe/{secrets.token_hex(8)}"
    creates = [f"{run}-create-{number}" for number in range(KEYS)]
    swaps = [f"{run}-swap-{number}" for number in range(KEYS)]
    with ThreadPoolExecutor(KEYS * WRITERS) as pool:
        try:
            created = _race(pool, [partial(store.put_if_absent, key) for key in creates])
            etags = list(pool.map(lambda key: store.put(key, secrets.token_bytes(16)), swaps))
            swapped = _race(pool, [_swap(store, key, etag) for key, etag in zip(swaps, etags, strict=True)])
        finally:
            list(pool.map(store.delete, creates + swaps))
    found = (_problem("If-None-Match: * (create only)", created), _problem("If-Match (replace one version)", swapped))
    return ProbeResult(created, swapped, tuple(problem for problem in found if problem))


Write = Callable[[bytes], object]


def _swap(store: ObjectStore, key: str, etag: ETag) -> Write:
    return lambda data: store.put_if_match(key, data, etag)


def _race(pool: ThreadPoolExecutor, writes: Sequence[Write]) -> tuple[int, ...]:
    """Let WRITERS threads do each of `writes`, all at the same time; how many believe that they won it."""
    start = threading.Barrier(len(writes) * WRITERS)

    def won(write: Write) -> bool:
        start.wait()
        try:
            write(secrets.token_bytes(16))
        except Conflict:
            return False
        return True

    wins = list(pool.map(won, [write for write in writes for _ in range(WRITERS)]))
    return tuple(sum(wins[at : at + WRITERS]) for at in range(0, len(wins), WRITERS))


def _problem(condition: str, won: tuple[int, ...]) -> str:
    if all(count == 1 for count in won):
        return ""
    if max(won) == 0:
        return f"the store refuses every write with {condition}"
    return f"the store ignores {condition}: {max(won)} of {WRITERS} writers won the same object"
