"""Holds: the store is told of work that takes long, and nobody waits for that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from vfsd.repo import holds as holds_module
from vfsd.repo.holds import PREFIX, Holds
from vfsd.store.faulty import FaultyStore, Request
from vfsd.store.memory import MemoryStore


@contextmanager
def telling(holds: Holds, store: FaultyStore) -> Iterator[None]:
    """In the block, the store is slow to take in the hold of a writer that has begun."""
    asked, answered = threading.Event(), threading.Event()

    def plan(request: Request) -> None:
        if request.kind == "put":
            asked.set()
            assert answered.wait(120)

    store.plan = plan
    thread = threading.Thread(target=holds.renew)
    thread.start()
    try:
        assert asked.wait(60)
        yield
    finally:
        answered.set()
        thread.join()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds_module, "AFTER_S", 1e-9)


def test_a_writer_begins_and_ends_while_the_store_is_slow_to_be_told_of_another() -> None:
    store = FaultyStore(MemoryStore())
    holds = Holds(store)
    first = holds.begin()
    with telling(holds, store):
        other = threading.Thread(target=lambda: holds.begin().end(), daemon=True)
        other.start()
        other.join(60)
        assert not other.is_alive()
    assert len(list(store.list(PREFIX))) == 1
    first.end()
    assert list(store.list(PREFIX)) == []


def test_a_hold_whose_writer_ends_while_it_is_written_does_not_stay() -> None:
    store = FaultyStore(MemoryStore())
    holds = Holds(store)
    only = holds.begin()
    with telling(holds, store):
        ending = threading.Thread(target=only.end, daemon=True)
        ending.start()
        ending.join(60)
        assert not ending.is_alive()
    assert list(store.list(PREFIX)) == []
