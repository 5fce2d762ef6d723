"""How often a store is asked again, and how much of it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from vfsd.store.retry import BUCKET, DECREASE_EVERY, LONGEST_WAIT, TRICKLE, RetryBudget, Slots, backoff


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taken(budget: RetryBudget) -> int:
    """How many retries may be sent now; none is left then."""
    count = 0
    while not budget.take():
        count += 1
    return count


def test_waits_grow_with_the_attempts_are_random_and_end_at_a_limit() -> None:
    means = [sum(backoff(attempt) for _ in range(2000)) / 2000 for attempt in (0, 2, 4, 12, 5000)]
    assert means[0] < means[1] < means[2] < means[3]
    assert means[3:] == pytest.approx([LONGEST_WAIT / 2] * 2, rel=0.1)
    assert 0 <= min(backoff(12) for _ in range(2000)) < 0.1 * LONGEST_WAIT
    assert 0.9 * LONGEST_WAIT < max(backoff(12) for _ in range(2000)) <= LONGEST_WAIT
    assert sum(backoff(1, throttled=True) for _ in range(2000)) > 3 * sum(backoff(1) for _ in range(2000))


def test_an_empty_budget_fills_with_time_and_says_when() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    assert taken(budget) == BUCKET
    clock.now += budget.take() / 2
    assert taken(budget) == 0
    clock.now += budget.take()
    assert taken(budget) == 1
    clock.now += 1e9
    assert taken(budget) == BUCKET


@pytest.mark.parametrize(
    ("share", "retries"),
    [(0.02, "all"), (0.05, "all"), (0.3, "all"), (0.9, "few")],
)
def test_few_failures_are_retried_without_limit_and_many_are_not(share: float, retries: str) -> None:
    """Each request fails by `share`; a failed one is sent again as soon as the budget lets it. Time stands still."""
    budget = RetryBudget(Clock())
    sent = given_up = asked_again = 0
    failing = 0.0

    def fails() -> bool:
        nonlocal failing, sent
        sent += 1
        failing += share
        if failing >= 1:
            failing -= 1
            return True
        return False

    for _ in range(10_000):
        was_retry = False
        while fails():
            if budget.take():
                given_up += 1
                break
            was_retry = True
            asked_again += 1
        else:
            budget.succeeded(was_retry=was_retry)
    assert (given_up == 0) == (retries == "all")
    if retries == "few":
        assert asked_again < 0.3 * 10_000


def test_a_store_that_is_back_is_used_again_at_once() -> None:
    clock = Clock()
    budget = RetryBudget(clock)
    taken(budget)
    clock.now += 1 / TRICKLE
    rounds, waiting = 0, 60
    while waiting:  # all that failed wait to be sent again, and succeed from now on
        may = min(waiting, taken(budget))
        for _ in range(may):
            budget.succeeded(was_retry=True)
        waiting -= may
        rounds += 1
    assert rounds < 10


def entered(slots: Slots) -> int:
    """How many come in at once."""
    count = 0
    while slots.enter_at_once():
        count += 1
    for _ in range(count):
        slots.leave()
    return count


def test_room_shrinks_when_the_server_asks_and_comes_back_with_successes() -> None:
    clock = Clock()
    slots = Slots(20, clock)
    assert entered(slots) == slots.limit == 20
    slots.slow_down()
    slots.slow_down()  # an answer to a request that was sent before the first
    assert entered(slots) == slots.limit == 14
    for _ in range(40):
        clock.now += DECREASE_EVERY
        slots.slow_down()
    assert entered(slots) == slots.limit == 1
    for _ in range(5):
        slots.succeeded()
    assert 2 <= entered(slots) <= 4
    for _ in range(1000):
        slots.succeeded()
    assert entered(slots) == slots.limit == 20


def test_who_finds_no_room_waits_for_it() -> None:
    slots = Slots(2)
    inside, most, lock = 0, 0, threading.Lock()
    gate = threading.Barrier(2)

    def work() -> None:
        nonlocal inside, most
        with slots:
            with lock:
                inside += 1
                most = max(most, inside)
            gate.wait(60)  # passes only when two are in at once
            with lock:
                inside -= 1

    threads = [_started(work) for _ in range(10)]
    for thread in threads:
        thread.join(60)
    assert (inside, most, entered(slots)) == (0, 2, 2)


def _started(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
