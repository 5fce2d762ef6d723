"""The faults that tests inject do what their names say, and traffic is counted as it is."""

from __future__ import annotations

import time

import pytest

from vfsd.model.errors import Conflict, NotFound, Unavailable
from vfsd.store.counting import CountingStore, Traffic
from vfsd.store.faulty import Crashed, Fault, FaultyStore, Request, script, seeded, slow
from vfsd.store.memory import MemoryStore


def test_a_failed_write_did_not_happen_and_a_lost_one_did() -> None:
    store = FaultyStore(MemoryStore(), script({0: Fault.FAIL, 1: Fault.LOSE}))
    for key in ("failed", "lost"):
        with pytest.raises(Unavailable):
            store.put_if_absent(key, b"1")
    assert [item.key for item in store.inner.list()] == ["lost"]
    store.put_if_absent("lost", b"1")


def test_a_repeated_write_gets_the_answer_to_its_second_attempt() -> None:
    store = FaultyStore(MemoryStore(), lambda request: Fault.REPEAT)
    first = store.put_if_absent("refs/r/main", b"1")
    second = store.put_if_match("refs/r/main", b"2", first)
    assert store.inner.get("refs/r/main") == (b"2", second)
    with pytest.raises(Conflict):
        store.put_if_match("refs/r/main", b"3", first)


@pytest.mark.parametrize(("fault", "landed"), [(Fault.CRASH, []), (Fault.CRASH_AFTER, ["b"])])
def test_after_a_crash_nothing_works_any_more(fault: Fault, landed: list[str]) -> None:
    store = FaultyStore(MemoryStore(), script({1: fault}))
    store.put("a", b"1")
    for call in (
        lambda: store.put("b", b"1"),
        lambda: store.get("a"),
        lambda: store.delete("a"),
        lambda: list(store.list()),
        lambda: list(store.list_folders("")),
    ):
        with pytest.raises(Crashed):
            call()
    assert [item.key for item in store.inner.list()] == ["a", *landed]


def test_the_same_seed_gives_the_same_faults() -> None:
    def faults(seed: int) -> list[Fault | None]:
        plan = seeded(seed, 0.2, list(Fault))
        return [plan(Request(number, "put", "key")) for number in range(500)]

    assert faults(1) == faults(1) != faults(2)
    assert 50 < sum(fault is not None for fault in faults(1)) < 150
    reads = seeded(1, 1.0, [Fault.FAIL])
    assert reads(Request(0, "get", "key")) is None


def test_a_slow_store_takes_its_time() -> None:
    store = FaultyStore(MemoryStore(), slow(0.02))
    begun = time.monotonic()
    store.put("a", b"1")
    assert store.get("a")[0] == b"1"
    assert time.monotonic() - begun >= 0.04


def test_requests_and_bytes_are_counted_by_kind() -> None:
    store = CountingStore(MemoryStore())
    store.put("packs/ab/abcd", bytes(1000))
    store.get_range("packs/ab/abcd", 900, 500)
    store.get_range("packs/ab/abcd", 0, 10)
    store.get("packs/ab/abcd")
    list(store.list())
    with pytest.raises(NotFound):
        store.get("nothing")
    assert store.traffic() == {
        "put": Traffic(1, 1000, 0),
        "get_range": Traffic(2, 0, 110),
        "get": Traffic(2, 0, 1000),
        "list": Traffic(1, 0, 0),
    }
    assert store.total() == Traffic(6, 1000, 1110)
    store.reset()
    assert store.total() == Traffic()
