"""Packs that were moved: read as before by whoever has old pointers, whole or in part, over several moves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.entry import Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import hash_bytes
from vfsd.store import moved
from vfsd.store.blob import container_key, read_stored
from vfsd.store.counting import CountingStore
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import Moved, MovedStore, encode_map, moved_key, read_map
from vfsd.store.pack import CHUNK, HEAD, PackBuilder, parse_directory, read_directory


def pack_of(blobs: list[bytes]) -> tuple[PackBuilder, list[Place]]:
    builder = PackBuilder()
    places = [Place() for _ in blobs]
    for data, place in zip(blobs, places, strict=True):
        builder.add(CHUNK, hash_bytes(data), b"\0" + data, place)
    return builder, places


def put(store: MemoryStore | MovedStore, builder: PackBuilder) -> None:
    store.put(container_key(builder.id), bytes(builder.finish()))


def move(store: MemoryStore, old: bytes, live: list[tuple[bytes, Place]]) -> list[Place]:
    """Rewrite the live blobs of a pack into a new one and leave a map; where they are now."""
    stored = MovedStore(store)
    builder = PackBuilder()
    lines, places = [], []
    for blob, place in live:
        now = Place()
        builder.add(CHUNK, blob, read_stored(stored, place), now)
        lines.append(Moved(CHUNK, blob, place.offset, place.length, now.container, now.offset))
        places.append(now)
    store.put(container_key(builder.id), bytes(builder.finish()))
    store.put(moved_key(old), encode_map(lines))
    store.delete(container_key(old))
    return places


@given(st.data())
def test_any_range_of_a_moved_pack_is_as_it_was_where_something_was_needed(data: st.DataObject) -> None:
    blobs = data.draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=12))
    builder, places = pack_of(blobs)
    store = MemoryStore()
    put(store, builder)
    before = store.get(container_key(builder.id))[0]
    live = data.draw(st.lists(st.sampled_from(range(len(blobs))), unique=True))
    data.draw(st.randoms()).shuffle(live)
    move(store, builder.id, [(hash_bytes(blobs[number]), places[number]) for number in live])
    moved = MovedStore(store)
    offset = data.draw(st.integers(0, len(before)))
    length = data.draw(st.integers(1, len(before)))
    found = moved.get_range(container_key(builder.id), offset, length)
    for number in live:
        place = places[number]
        low, high = max(place.offset, offset), min(place.offset + place.length, offset + length)
        if low < high:
            assert found[low - offset : high - offset] == before[low:high]
    for number in live:
        assert read_stored(moved, places[number]) == b"\0" + blobs[number]


def test_a_moved_pack_has_a_directory_that_accounts_for_all_of_it() -> None:
    blobs = [random.Random(number).randbytes(100) for number in range(6)]
    builder, places = pack_of(blobs)
    store = MemoryStore()
    put(store, builder)
    move(store, builder.id, [(hash_bytes(blobs[number]), places[number]) for number in (1, 2, 4)])
    moved = MovedStore(store)
    key = container_key(builder.id)
    whole, _ = moved.get(key)
    assert whole.startswith(HEAD) and len(whole) == moved.stat(key).size
    kept = [blob for blob in parse_directory(key, whole) if any(blob.id)]
    assert [blob.id for blob in kept] == [hash_bytes(blobs[number]) for number in (1, 2, 4)]
    assert read_directory(moved, builder.id, len(whole)) == parse_directory(key, whole)


def test_a_pack_may_be_moved_again_and_again() -> None:
    blobs = [b"a" * 50, b"b" * 60, b"c" * 70]
    builder, places = pack_of(blobs)
    store = MemoryStore()
    put(store, builder)
    old, at = builder.id, places
    for _ in range(3):
        now = move(store, old, [(hash_bytes(data), place) for data, place in zip(blobs, at, strict=True)])
        old, at = now[0].container, now
    moved = MovedStore(store)
    assert [read_stored(moved, place) for place in places] == [b"\0" + data for data in blobs]


def test_finding_out_costs_two_requests_and_then_none() -> None:
    builder, places = pack_of([b"a" * 50, b"b" * 60])
    store = MemoryStore()
    put(store, builder)
    counting = CountingStore(store)
    moved = MovedStore(counting)
    assert read_stored(moved, places[0])
    assert counting.total().requests == 1
    counting.reset()
    move(store, builder.id, [(hash_bytes(b"a" * 50), places[0])])
    assert read_stored(moved, places[0]) == b"\0" + b"a" * 50
    assert counting.total().requests == 3
    counting.reset()
    assert read_stored(moved, places[0])
    assert counting.total().requests == 1


def test_neighbours_that_moved_together_are_one_request() -> None:
    blobs = [bytes([number]) * 1000 for number in range(20)]
    builder, places = pack_of(blobs)
    store = MemoryStore()
    put(store, builder)
    move(store, builder.id, [(hash_bytes(blobs[number]), places[number]) for number in range(0, 20, 2)])
    counting = CountingStore(store)
    moved = MovedStore(counting)
    moved.maps.get(builder.id)
    counting.reset()
    moved.get_range(container_key(builder.id), 0, 20_000)
    assert counting.total().requests == 1


def test_what_was_never_there_is_still_not_there() -> None:
    moved = MovedStore(MemoryStore())
    for key in ("packs/00/" + "0" * 32, "commits/" + "0" * 64, "refs/r/main", "packs/zz/none"):
        with pytest.raises(NotFound):
            moved.get(key)
        with pytest.raises(NotFound):
            moved.get_range(key, 0, 1)


def test_a_map_that_is_none_is_named() -> None:
    store = MemoryStore()
    store.put(moved_key(b"\1" * 16), b"\0rot")
    with pytest.raises(Damaged, match=f"moved/{'01' * 16}: this map of moved blobs cannot be read"):
        read_map(store, b"\1" * 16)
    with pytest.raises(Damaged):
        MovedStore(store).get_range(container_key(b"\1" * 16), 8, 10)


def test_long_maps_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moved, "LINES", 250)
    store = MemoryStore()
    packs = [pack_of([b"%d %d" % (seed, number) for number in range(100)]) for seed in range(10)]
    for builder, there in packs:
        put(store, builder)
        move(store, builder.id, [(hash_bytes(b"x"), place) for place in there])
    wrapped = MovedStore(store)
    for _ in range(2):
        for seed, (_, places) in enumerate(packs):
            assert read_stored(wrapped, places[7]) == b"\0%d 7" % seed
            assert sum(wrapped.maps.known(builder.id) is not None for builder, _ in packs) <= 2
