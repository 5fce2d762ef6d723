"""Reads that are late are sent a second time, and the first answer counts."""

from __future__ import annotations

import random
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from tests.servers import BUCKET, S3Server
from tests.store.gateway import Answer, Gateway, Request, gateway_to
from vfsd.store import hedge
from vfsd.store.hedge import FLOOR, MOST_BYTES, REMEMBERED, Beaten, Hedger, Latencies, Over
from vfsd.store.retry import Slots
from vfsd.store.s3 import S3Store
from vfsd.store.s3_options import S3Options

WAIT = 60.0  # seconds that nothing here takes


@pytest.fixture
def hedger() -> Iterator[Hedger]:
    """One that may hedge every read, and knows that reads of 1000 bytes are quick."""
    with closing(Hedger(1.0, Slots(8))) as hedger:
        for _ in range(REMEMBERED):  # so many that a few which a busy machine held up are not what is usual
            hedger.read(1000, lambda over: None)
        yield hedger


@pytest.fixture
def nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hedge, "FLOOR", 10 * WAIT)


@pytest.fixture
def late_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Latencies, "late", lambda self, size: FLOOR)


class Twice:
    """A read that does something else the second time. `first` and `second` take `over`."""

    def __init__(self, first: Callable[[Over], str], second: Callable[[Over], str]) -> None:
        self._acts = [first, second]
        self._lock = threading.Lock()
        self.calls = 0

    def __call__(self, over: Over) -> str:
        with self._lock:
            act = self._acts[self.calls]
            self.calls += 1
        return act(over)


def fail(text: str) -> str:
    raise ValueError(text)


def late_until_sent_twice() -> Twice:
    """A read that ends once there is a second one."""
    second_began = threading.Event()

    def first(over: Over) -> str:
        assert second_began.wait(WAIT)
        return "first"

    def second(over: Over) -> str:
        second_began.set()
        return "second"

    return Twice(first, second)


def test_a_late_read_is_overtaken_by_a_second_one_and_told_so(hedger: Hedger) -> None:
    told = threading.Event()

    def stuck(over: Over) -> str:
        begun = time.monotonic()
        while not over() and time.monotonic() < begun + WAIT:
            time.sleep(0.001)
        told.set()
        raise Beaten

    assert hedger.read(1000, Twice(stuck, lambda over: "second")) == "second"
    assert told.wait(WAIT)
    assert (hedger.counts().sent, hedger.counts().won) == (1, 1)


def test_a_late_read_may_still_be_the_first(hedger: Hedger) -> None:
    second_began, first_ended = threading.Event(), threading.Event()

    def first(over: Over) -> str:
        assert second_began.wait(WAIT)
        return "first"

    def second(over: Over) -> str:
        second_began.set()
        first_ended.wait(WAIT)
        return "second"

    assert hedger.read(1000, Twice(first, second)) == "first"
    first_ended.set()
    assert (hedger.counts().sent, hedger.counts().won) == (1, 0)


@pytest.mark.usefixtures("nothing_is_late")
def test_a_read_that_is_not_late_is_done_once(hedger: Hedger) -> None:
    for number in range(100):
        assert hedger.read(1000, lambda over, number=number: number) == number  # type: ignore[misc]
    assert hedger.counts().sent == 0


def test_one_of_the_two_is_enough(hedger: Hedger) -> None:
    began = threading.Event()

    def after_the_second_began(over: Over) -> str:
        assert began.wait(WAIT)
        return fail("first")

    def second(over: Over) -> str:
        began.set()
        time.sleep(0.05)  # the first has failed by then
        return "second"

    assert hedger.read(1000, Twice(after_the_second_began, second)) == "second"
    began.clear()

    def fails(over: Over) -> str:
        began.set()
        return fail("second")

    def first(over: Over) -> str:
        assert began.wait(WAIT)
        time.sleep(0.05)
        return "first"

    assert hedger.read(1000, Twice(first, fails)) == "first"


def test_when_both_fail_it_is_an_error(hedger: Hedger) -> None:
    def late(over: Over) -> str:
        time.sleep(2 * FLOOR)
        return fail("failed")

    with pytest.raises(ValueError, match="failed"):
        hedger.read(1000, Twice(late, late))
    with pytest.raises(ValueError, match="at once"):
        hedger.read(1000, lambda over: fail("at once"))


def test_without_enough_reads_of_the_size_nothing_is_sent_twice(hedger: Hedger) -> None:
    def late(over: Over) -> str:
        time.sleep(3 * FLOOR)
        return "late"

    for size in (9_000, 1 << 20, None):
        assert hedger.read(size, late) == "late"
    assert hedger.counts().sent == 0
    hedger.read(900, late_until_sent_twice())
    assert hedger.counts().sent == 1


def test_what_is_late_follows_the_slowest_of_a_hundred_lately() -> None:
    latencies = Latencies()
    assert latencies.late(1000) is None
    for number in range(REMEMBERED):
        latencies.add(1000, 0.001 if number % 50 else 0.4)
    assert latencies.late(1000) == 0.4
    assert latencies.late(50_000) is None
    for _ in range(REMEMBERED):
        latencies.add(1000, 0.001)
    assert latencies.late(1000) == FLOOR


def slow_store(hedger: Hedger, reads: int) -> None:
    """Every read is late."""
    def late(over: Over) -> None:
        time.sleep(1.5 * FLOOR)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: hedger.read(1000, late), range(reads)))


@pytest.mark.usefixtures("late_at_once")
def test_a_store_that_is_slow_as_a_whole_gets_a_few_more_requests_only() -> None:
    with closing(Hedger(0.05, Slots(64))) as hedger:
        slow_store(hedger, 200)
        assert 5 <= hedger.counts().sent <= 10


def test_memory_and_room_bound_what_is_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Latencies, "late", lambda self, size: 0.0)

    def late(over: Over) -> None:
        time.sleep(0.02)

    with closing(Hedger(1.0, Slots(64))) as hedger:
        hedger.read(MOST_BYTES + 1, late)
        assert hedger.counts().sent == 0
        hedger.read(MOST_BYTES, late_until_sent_twice())
        assert hedger.counts().sent == 1
    slots = Slots(1)
    with closing(Hedger(1.0, slots)) as hedger, slots:
        hedger.read(1000, late)
        assert hedger.counts().sent == 0


def test_a_read_that_is_stuck_does_not_hold_up_the_end_of_the_process() -> None:
    program = f"""
import time
from vfsd.store.hedge import ENOUGH, Hedger
from vfsd.store.retry import Slots
hedger = Hedger(1.0, Slots(8))
for _ in range(ENOUGH):
    hedger.read(1000, lambda over: None)
waits = [{WAIT}, 0]
assert hedger.read(1000, lambda over: time.sleep(waits.pop(0)) or "done") == "done"
hedger.close()
"""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True)
    assert time.monotonic() - begun < WAIT


# On S3


@pytest.fixture
def gateway(moto: S3Server, s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(hedge, "ENOUGH", 20)
    with gateway_to(moto) as gateway:
        yield gateway


def test_an_answer_that_does_not_come_is_waited_for_no_longer_than_usual(gateway: Gateway) -> None:
    release = threading.Event()
    content = secrets.token_bytes(300_000)

    def stall(request: Request, ask: Callable[[], Answer]) -> Answer:
        if request.number == stalled:
            release.wait(WAIT)
        return ask()

    with closing(S3Store(BUCKET, secrets.token_hex(8), gateway.endpoint, S3Options(hedge=1.0))) as store:
        store.put("packs/ab/abcd", content)
        for _ in range(hedge.ENOUGH):
            store.get_range("packs/ab/abcd", 0, 200_000)
        stalled = len(gateway.seen)
        gateway.meddle = stall
        begun = time.monotonic()
        try:
            assert store.get_range("packs/ab/abcd", 100_000, 150_000) == content[100_000:250_000]
            assert time.monotonic() - begun < WAIT
        finally:
            release.set()
        assert len(gateway.seen) == stalled + 2
        assert (store.counts().hedges, store.counts().hedges_won) == (1, 1)
        assert store.counts().retries == 0


@pytest.mark.usefixtures("late_at_once")
def test_late_answers_are_never_taken_for_those_of_others(gateway: Gateway) -> None:
    content = secrets.token_bytes(4 << 20)
    sizes = [70_000, 100_000, 2 << 20]

    def sometimes_late(request: Request, ask: Callable[[], Answer]) -> Answer:
        answer = ask()
        if random.Random(request.number).random() < 0.1:
            time.sleep(0.3)
        return answer

    with closing(S3Store(BUCKET, secrets.token_hex(8), gateway.endpoint, S3Options(hedge=1.0))) as store:
        store.put("packs/ab/abcd", content)
        gateway.meddle = sometimes_late

        def right(number: int) -> bool:
            size = sizes[number % 3]
            offset = number * 7919 % (len(content) - size)
            return store.get_range("packs/ab/abcd", offset, size) == content[offset : offset + size]

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(right, range(240)))
        assert store.counts().hedges > 0
        assert store.counts().retries == 0


def test_hedging_can_be_switched_off(gateway: Gateway) -> None:
    def late(request: Request, ask: Callable[[], Answer]) -> Answer:
        time.sleep(0.15 if request.number >= 30 else 0)
        return ask()

    with closing(S3Store(BUCKET, secrets.token_hex(8), gateway.endpoint, S3Options(hedge=0))) as store:
        store.put("packs/ab/abcd", b"content")
        gateway.meddle = late
        for _ in range(35):
            store.get_range("packs/ab/abcd", 0, 7)
        assert store.counts().hedges == 0
        assert len(gateway.seen) == 36
