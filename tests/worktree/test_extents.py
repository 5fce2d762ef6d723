"""Extents against a set of numbers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vfsd.worktree.extents import Extents

positions = st.integers(0, 40)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), positions, st.integers(1, 12)),
        st.tuples(st.just("append"), st.just(0), st.integers(1, 5)),
        st.tuples(st.just("cut"), positions, st.just(0)),
    ),
    max_size=20,
)


def runs(numbers: set[int]) -> list[tuple[int, int]]:
    """The set as sorted ranges that do not touch."""
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number + 1 for number in numbers if number + 1 not in numbers)
    return list(zip(starts, ends, strict=True))


@settings(max_examples=300)
@given(steps=steps, start=positions, length=st.integers(0, 50))
def test_ranges_and_pieces_are_those_of_a_set_of_bytes(
    steps: list[tuple[str, int, int]], start: int, length: int
) -> None:
    extents, reference = Extents(), set[int]()
    for kind, at, size in steps:
        if kind == "cut":
            extents.cut(at)
            reference = {number for number in reference if number < at}
        else:
            start = max(reference, default=-1) + 1 if kind == "append" else at
            extents.add(start, start + size)
            reference |= set(range(start, start + size))
        assert extents.ranges() == runs(reference)
    end = start + length
    pieces = list(extents.pieces(start, end))
    assert [number for low, high, _ in pieces for number in range(low, high)] == list(range(start, end))
    assert all(low < high for low, high, _ in pieces)
    written = {number for low, high, is_written in pieces if is_written for number in range(low, high)}
    assert written == reference & set(range(start, end))
    assert Extents(extents.ranges()).ranges() == extents.ranges()


def test_writing_in_order_keeps_one_range() -> None:
    extents = Extents()
    for at in range(0, 1000, 10):
        extents.add(at, at + 10)
    assert extents.ranges() == [(0, 1000)]
