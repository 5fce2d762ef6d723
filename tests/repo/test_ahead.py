"""Work ahead is bounded by number and by weight."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vfsd.repo.ahead import ahead


@pytest.mark.parametrize(
    ("weights", "count", "most", "expected"),
    [
        ([1] * 10, 4, 100, 4),
        ([5] * 10, 8, 10, 2),
        ([50] * 10, 8, 10, 1),
        ([1, 1, 50, 1, 1], 8, 10, 2),
    ],
)
def test_no_more_is_under_way_than_may_be(weights: list[int], count: int, most: int, expected: int) -> None:
    started: list[int] = []
    taken: list[int] = []
    under_way = []

    def act(item: tuple[int, int]) -> int:
        return item[0]

    def items() -> object:
        for item in enumerate(weights):
            started.append(item[0])
            yield item

    with ThreadPoolExecutor(2) as pool:
        for _, result in ahead(pool, act, items(), count, lambda item: item[1], most):  # type: ignore[arg-type]
            under_way.append(len(started) - len(taken))
            taken.append(result)
    assert taken == list(range(len(weights)))
    assert max(under_way) <= expected + 1, "one more is looked at to know what it weighs"
