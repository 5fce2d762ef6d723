"""Puts the pieces of several inputs together: cross, union, join and group, within one another in every way.

Each input answers three questions as a stream, with memory bounded by what changed and by what one key has: which
datums are there, which came and went since an earlier job, and which stayed. Answers are about contents: a datum whose
pieces are equal has stayed. Nothing that stayed is looked at to find out what changed in a cross or a union; a join or
a group whose inputs changed is walked once, for the keys that changed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

import msgspec

from vfsd.model.entry import Entry
from vfsd.model.spec_input import Input, PfsInput
from vfsd.pipeline.keyed import Keyed
from vfsd.pipeline.pieces import Change, Combo, Leaf, Piece
from vfsd.repo.nodes import NodeSource

KEPT = 10_000  # items that are kept to be gone over again; more are made anew
GONE, FRESH, COMMON = 0, 1, 2  # how a combo stands to the trees before and now

T = TypeVar("T")
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODE = msgspec.msgpack.Decoder(tuple[Piece, ...]).decode
Key = Callable[[Combo], bytes]


class Source(Protocol):
    """An input. outer: whether a join keeps its datums where another input has none of their key."""

    outer: bool

    def all(self, new: bool) -> Iterator[Combo]:
        """Every datum there is now, or else was before."""
        ...

    def common(self) -> Iterator[Combo]:
        """The datums that are there now and were before."""
        ...

    def changes(self) -> Iterator[Change]:
        """The datums that are there now or were before, but not both."""
        ...


Trees = list[tuple[Entry | None, Entry | None]]


def source(nodes: NodeSource, one: Input, leaves: tuple[PfsInput, ...], trees: Trees) -> Source:
    """The datums of an input. leaves: of the spec; trees: for each of them the roots before and now."""
    numbers = iter(range(len(leaves)))

    def made(one: Input) -> Source:
        if not one.parts:
            number = next(numbers)
            return Leaf(nodes, number, leaves[number], *trees[number])
        parts = [made(part) for part in one.parts]
        if one.kind == "union":
            return Union(parts)
        if one.kind == "join":
            return Join(parts)
        if one.kind == "group":
            return Group(parts)
        whole = parts.pop()
        while parts:
            whole = Cross(parts.pop(), whole)
        return whole

    return made(one)


class _Again(Generic[T]):
    """A stream that can be gone over again: kept while it is short, made anew where it is long."""

    def __init__(self, make: Callable[[], Iterator[T]]) -> None:
        self._make = make
        self._kept: list[T] | None = None
        self._long = False

    @property
    def empty(self) -> bool:
        """Whether it was gone over to its end and nothing was in it."""
        return self._kept == []

    def starts(self) -> bool:
        """Whether there is anything in it."""
        if self._kept is None and not self._long:
            kept = list(islice(self._make(), KEPT + 1))
            if len(kept) > KEPT:
                self._long = True
            else:
                self._kept = kept
        return self._long or bool(self._kept)

    def __iter__(self) -> Iterator[T]:
        if self._kept is not None:
            return iter(self._kept)
        return self._make() if self._long else self._first()

    def _first(self) -> Iterator[T]:
        kept: list[T] = []
        for item in self._make():
            if len(kept) < KEPT:
                kept.append(item)
            else:
                self._long = True
            yield item
        if not self._long:
            self._kept = kept


class Union:
    """The datums of all parts, one part after the other."""

    def __init__(self, parts: list[Source]) -> None:
        self._parts = parts
        self.outer = any(part.outer for part in parts)

    def all(self, new: bool) -> Iterator[Combo]:
        """See Source."""
        for part in self._parts:
            yield from part.all(new)

    def common(self) -> Iterator[Combo]:
        """See Source."""
        for part in self._parts:
            yield from part.common()

    def changes(self) -> Iterator[Change]:
        """See Source."""
        for part in self._parts:
            yield from part.changes()


class Cross:
    """Each datum of one with each of the other."""

    def __init__(self, one: Source, other: Source) -> None:
        self._one = one
        self._other = other
        self.outer = one.outer or other.outer

    def all(self, new: bool) -> Iterator[Combo]:
        """See Source."""
        return _product(self._one.all(new), lambda: self._other.all(new))

    def common(self) -> Iterator[Combo]:
        """See Source."""
        return _product(self._one.common(), self._other.common)

    def changes(self) -> Iterator[Change]:
        """What changed in the one with all of the other, then what stayed in the one with what changed in the other."""
        others = _Again(lambda: self._other.all(False)), _Again(lambda: self._other.all(True))
        for combo, new in self._one.changes():
            for other in others[new]:
                yield combo + other, new
        changed = _Again(self._other.changes)
        if not changed.starts():
            return
        for combo in self._one.common():
            for other, new in changed:
                yield combo + other, new


def _product(first: Iterable[Combo], make_second: Callable[[], Iterator[Combo]]) -> Iterator[Combo]:
    second = _Again(make_second)
    for one in first:
        for other in second:
            yield one + other
        if second.empty:
            return


def _key(values: Iterable[bytes]) -> bytes:
    """The key of a datum: what its pieces say, each different thing once."""
    return _ENCODE(list(dict.fromkeys(filter(None, values))))


def _join_key(combo: Combo) -> bytes:
    return _key(piece.join_on for piece in combo)


def _group_key(combo: Combo) -> bytes:
    return _key(piece.group_by for piece in combo)


class _Member:
    """A part of a join or a group, its datums sorted by key."""

    def __init__(self, part: Source, key: Key) -> None:
        self.part = part
        self._key = key

    def all(self, new: bool, number: int) -> Iterator[tuple[bytes, int, Combo]]:
        """Key, side, combo of the datums there are, as common ones."""
        return ((self._key(combo), 3 * number + COMMON, combo) for combo in self.part.all(new))

    def changes(self, number: int) -> Iterator[tuple[bytes, int, Combo]]:
        """Of those that came or went."""
        for combo, new in self.part.changes():
            yield self._key(combo), 3 * number + (FRESH if new else GONE), combo

    def common(self, number: int, keys: Container[bytes] | None) -> Iterator[tuple[bytes, int, Combo]]:
        """Of those that stayed, with one of these keys."""
        for combo in self.part.common():
            key = self._key(combo)
            if keys is None or key in keys:
                yield key, 3 * number + COMMON, combo


class _Sorted:
    """The datums of the parts of a join or group, as those with one key are asked for."""

    def __init__(self, parts: list[Source], key: Key) -> None:
        self._members = [_Member(part, key) for part in parts]

    def at(self, new: bool) -> Keyed[Combo]:
        """All that there is now, or was before; as if it had stayed."""
        found = Keyed(_ENCODE, _DECODE)
        for number, member in enumerate(self._members):
            found.add(member.all(new, number))
        return found

    def compared(self, *, whole: bool) -> Keyed[Combo] | None:
        """What came, went and stayed, of the keys for which something came or went, or of the whole. None when nothing
        came or went, and only that was asked for."""
        found = Keyed(_ENCODE, _DECODE)
        for number, member in enumerate(self._members):
            found.add(member.changes(number))
        keys = set(found.keys())
        if not keys and not whole:
            return None
        for number, member in enumerate(self._members):
            found.add(member.common(number, None if whole else keys))
        return found


class _OneKey:
    """What the parts of a join or group have of one key."""

    def __init__(self, kept: Keyed[Combo], key: bytes) -> None:
        self._kept = kept
        self._key = key
        self._sides = kept.sides(key)

    def has(self, number: int, new: bool) -> bool:
        """Whether part `number` has, or had, any."""
        return 3 * number + COMMON in self._sides or 3 * number + (FRESH if new else GONE) in self._sides

    def of(self, number: int, *kinds: int) -> Iterator[Combo]:
        """Those of some part that came, went or stayed."""
        for kind in kinds:
            if 3 * number + kind in self._sides:
                yield from self._kept.of(self._key, 3 * number + kind)


class Join:
    """The cross of the parts within each key. A key that some part does not have leaves the outer parts."""

    def __init__(self, parts: list[Source]) -> None:
        self._sorted = _Sorted(parts, _join_key)
        self._outer = [part.outer for part in parts]
        self.outer = any(self._outer)

    def all(self, new: bool) -> Iterator[Combo]:
        """See Source."""
        kept = self._sorted.at(new)
        for key in kept.keys():  # noqa: SIM118  it is no dict
            here = _OneKey(kept, key)
            yield from _crossed(here, self._numbers(here, new), COMMON)

    def common(self) -> Iterator[Combo]:
        """See Source."""
        kept = self._sorted.compared(whole=True)
        assert kept is not None
        for key in kept.keys():  # noqa: SIM118
            here = _OneKey(kept, key)
            numbers = self._numbers(here, True)
            if numbers == self._numbers(here, False):
                yield from _crossed(here, numbers, COMMON)

    def changes(self) -> Iterator[Change]:
        """See Source."""
        kept = self._sorted.compared(whole=False)
        for key in () if kept is None else kept.keys():
            here = _OneKey(kept, key)  # type: ignore[arg-type]  # it is there when it has keys
            before, now = (self._numbers(here, new) for new in (False, True))
            if before != now:
                for new, numbers in ((False, before), (True, now)):
                    for combo in _crossed(here, numbers, COMMON, FRESH if new else GONE):
                        yield combo, new
            else:
                yield from _changed_cross(here, now)

    def _numbers(self, here: _OneKey, new: bool) -> list[int]:
        """The parts whose datums are crossed."""
        found = [number for number in range(len(self._outer)) if here.has(number, new)]
        return found if len(found) == len(self._outer) else [number for number in found if self._outer[number]]


def _crossed(here: _OneKey, numbers: list[int], *kinds: int) -> Iterator[Combo]:
    """The cross of what these parts have of one key; nothing for no parts."""
    if not numbers:
        return iter(())
    first, *rest = numbers
    if not rest:
        return here.of(first, *kinds)
    return _product(here.of(first, *kinds), lambda: _crossed(here, rest, *kinds))


def _changed_cross(here: _OneKey, numbers: list[int]) -> Iterator[Change]:
    """What came and went in the cross of these parts: for each part, what stayed in those ahead of it with what changed
    in it and all that those behind it had or have."""
    for at, number in enumerate(numbers):
        for kind, new in ((GONE, False), (FRESH, True)):
            ahead, behind = numbers[:at], numbers[at + 1 :]
            for combo in here.of(number, kind):
                inner = _crossed(here, behind, COMMON, kind) if behind else iter([()])
                for tail in inner:
                    for head in _crossed(here, ahead, COMMON) if ahead else iter([()]):
                        yield (*head, *combo, *tail), new


class Group:
    """One datum for each key, of all pieces that the parts have of it."""

    def __init__(self, parts: list[Source]) -> None:
        self._sorted = _Sorted(parts, _group_key)
        self._count = len(parts)
        self.outer = any(part.outer for part in parts)

    def all(self, new: bool) -> Iterator[Combo]:
        """See Source."""
        kept = self._sorted.at(new)
        for key in kept.keys():  # noqa: SIM118  it is no dict
            yield self._together(_OneKey(kept, key), COMMON)

    def common(self) -> Iterator[Combo]:
        """See Source."""
        kept = self._sorted.compared(whole=True)
        assert kept is not None
        for key in kept.keys():  # noqa: SIM118
            here = _OneKey(kept, key)
            now = self._together(here, COMMON, FRESH)
            if now and now == self._together(here, COMMON, GONE):
                yield now

    def changes(self) -> Iterator[Change]:
        """See Source."""
        kept = self._sorted.compared(whole=False)
        for key in () if kept is None else kept.keys():
            here = _OneKey(kept, key)  # type: ignore[arg-type]  # it is there when it has keys
            before, now = self._together(here, COMMON, GONE), self._together(here, COMMON, FRESH)
            if before != now:
                if before:
                    yield before, False
                if now:
                    yield now, True

    def _together(self, here: _OneKey, *kinds: int) -> Combo:
        """All pieces of a key, each once, in the order of the spec and of their paths."""
        pieces = {
            (piece.leaf, piece.path): piece
            for number in range(self._count)
            for combo in here.of(number, *kinds)
            for piece in combo
        }
        return tuple(piece for _, piece in sorted(pieces.items(), key=_place))


def _place(item: tuple[tuple[int, bytes], Piece]) -> tuple[int, bytes]:
    return item[0]
