"""Things by key: what joins, groups and merges are made from. In memory while few, in a temporary file beyond."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from vfsd.index.keyed import KeyedFile

MEMORY = 50_000  # things kept in memory: some 20 MB

T = TypeVar("T")


def _nothing() -> None:
    """What most have to do before they are written down."""


class Keyed(Generic[T]):
    """Things by key and side, a side being any small number. First all are added, then they are read.

    encode, decode: a thing as bytes and back, for the file. before: called before the first one is encoded.
    """

    def __init__(
        self, encode: Callable[[T], bytes], decode: Callable[[bytes], T], before: Callable[[], None] = _nothing
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._before = before
        self._few: dict[bytes, dict[int, list[T]]] = {}
        self._count = 0
        self._many: KeyedFile | None = None

    @property
    def few(self) -> bool:
        """Whether all is in memory."""
        return self._many is None

    def add(self, rows: Iterable[tuple[bytes, int, T]]) -> None:
        """Add rows of key, side, thing."""
        for key, side, thing in rows:
            self._few.setdefault(key, {}).setdefault(side, []).append(thing)
            self._count += 1
            if self._count >= MEMORY:
                self._spill()

    def _spill(self) -> None:
        if self._many is None:
            self._many = KeyedFile()
        self._before()
        self._many.add(
            (key, side, self._encode(thing))
            for key, sides in self._few.items()
            for side, things in sides.items()
            for thing in things
        )
        self._few, self._count = {}, 0

    def keys(self) -> Iterator[bytes]:
        """The keys, each once, in order."""
        many = self._file()
        return iter(sorted(self._few)) if many is None else many.keys()

    def sides(self, key: bytes) -> set[int]:
        """On which sides something has this key."""
        many = self._file()
        return set(self._few.get(key, ())) if many is None else many.sides(key)

    def of(self, key: bytes, side: int) -> Iterator[T]:
        """What was added under a key on one side, in the order in which it was added."""
        many = self._file()
        return iter(self._few.get(key, {}).get(side, ())) if many is None else map(self._decode, many.of(key, side))

    def _file(self) -> KeyedFile | None:
        if self._many is not None and self._few:
            self._spill()
        return self._many
