"""Blobs come back as they were, small where they can be; what is damaged is named and harms nobody."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Damaged
from vfsd.model.ids import ChunkId, hash_bytes
from vfsd.store import ObjectStore
from vfsd.store.blob import MAX_STORED, container_key, decode_blob, encode_blob, read_chunk, read_stored
from vfsd.store.local import LocalStore

TEXT = b"The quick brown fox jumps over the lazy dog. " * 8
PACK = bytes.fromhex("ab" * 16)
PACK_KEY = "packs/ab/" + "ab" * 16


@given(st.binary(max_size=3000), st.integers(1, 50))
def test_a_blob_comes_back_as_it_was(data: bytes, times: int) -> None:
    plain = data * times
    stored = encode_blob(plain)
    assert decode_blob(stored, len(plain)) == plain
    assert len(stored) <= len(plain) + 1


def test_stored_blobs_of_the_first_format_can_be_read() -> None:
    raw = bytes.fromhex("006869")
    packed = bytes.fromhex(
        "0128b52ffd606800b50100d40254686520717569636b2062726f776e20666f78206a756d7073206f76657220746865206c617a79"
        "20646f672e200100c581aa2a03"
    )
    assert decode_blob(raw, 2) == b"hi"
    assert decode_blob(packed, len(TEXT)) == TEXT
    assert encode_blob(b"hi") == raw


@pytest.mark.parametrize("size", [1000, 60_000, 1 << 20])
def test_only_what_shrinks_is_compressed(size: int) -> None:
    text, noise = (TEXT * (size // len(TEXT) + 1))[:size], os.urandom(size)
    assert len(encode_blob(text)) < size // 2
    assert encode_blob(noise) == b"\0" + noise
    assert encode_blob(memoryview(text)) == encode_blob(bytearray(text)) == encode_blob(text)


def test_a_large_blob_that_shrinks_in_its_middle_only_is_compressed() -> None:
    noise = os.urandom(64 << 10)
    plain = noise + bytes(1 << 20) + noise
    assert len(encode_blob(plain)) < len(plain) // 4


@given(st.sampled_from([b"", b"hi", TEXT]), st.data())
def test_changed_bytes_are_refused_or_give_no_more_than_was_asked(plain: bytes, data: st.DataObject) -> None:
    stored = bytearray(encode_blob(plain))
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(stored)))
    for damaged in (stored, stored[:cut], stored + b"more"):
        try:
            assert len(decode_blob(damaged, len(plain) + 4)) <= len(plain) + 4
        except Damaged:
            pass


def _zstd(data: bytes, **settings: bool) -> bytes:
    return b"\1" + zstandard.ZstdCompressor(**settings).compress(data)


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (b"", "empty"),
        (b"\2abc", "unknown codec 2"),
        (b"\0" + bytes(101), "101 bytes where at most 100 belong"),
        (b"\1not zstd", "zstd"),
        (_zstd(bytes(1 << 24)), "16777216 bytes where at most 100 belong"),
        (_zstd(bytes(10), write_content_size=False), "-1 bytes"),
        (_zstd(b"x" * 100) + b"y", "zstd"),
        (_zstd(os.urandom(100))[:-5], "zstd"),
    ],
)
def test_what_is_no_blob_is_damage(stored: bytes, said: str) -> None:
    with pytest.raises(Damaged, match=said):
        decode_blob(stored, 100)


def test_blobs_are_encoded_and_decoded_by_many_threads_at_once() -> None:
    plains = [bytes([number]) * 50_000 + os.urandom(100) for number in range(32)]
    start = threading.Barrier(4)

    def work(_: int) -> bool:
        start.wait()
        return all(decode_blob(encode_blob(plain, level=3), len(plain)) == plain for plain in plains)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_containers_have_their_keys() -> None:
    assert container_key(PACK) == PACK_KEY
    assert container_key(bytes(31) + b"\1") == "commits/" + "0" * 62 + "01"
    for size in (0, 15, 17, 64):
        with pytest.raises(Damaged, match=f"by {size} bytes"):
            container_key(bytes(size))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return LocalStore(str(tmp_path / "store"))


def _write(store: ObjectStore, *plains: bytes) -> list[Chunk]:
    """Put a pack with these chunks."""
    stored = [encode_blob(plain) for plain in plains]
    store.put(PACK_KEY, b"".join(stored))
    starts = [sum(map(len, stored[:number])) for number in range(len(stored))]
    return [
        Chunk(ChunkId(hash_bytes(plain)), len(plain), Place(PACK, start, len(blob)))
        for plain, start, blob in zip(plains, starts, stored, strict=True)
    ]


def test_chunks_are_read_from_their_pack(store: ObjectStore) -> None:
    plains = [TEXT, b"", os.urandom(100_000), b"end"]
    assert [read_chunk(store, chunk) for chunk in _write(store, *plains)] == plains


@pytest.mark.parametrize("plain", [TEXT * 50, os.urandom(5000)], ids=["compressed", "raw"])
def test_a_changed_byte_names_pack_and_offset_and_leaves_the_rest_readable(
    store: ObjectStore, tmp_path: Path, plain: bytes
) -> None:
    before, chunk, behind = _write(store, b"before", plain, b"behind")
    path = tmp_path / "store" / PACK_KEY
    content = bytearray(path.read_bytes())
    for at in (0, 1, chunk.place.length // 2, chunk.place.length - 1):
        changed = content.copy()
        changed[chunk.place.offset + at] ^= 0x40
        path.write_bytes(changed)
        with pytest.raises(Damaged, match=f"{PACK_KEY} in file://.* damaged at offset {chunk.place.offset}"):
            read_chunk(store, chunk)
        assert (read_chunk(store, before), read_chunk(store, behind)) == (b"before", b"behind")


def test_the_bytes_of_another_chunk_are_damage(store: ObjectStore) -> None:
    one, other = _write(store, b"one", b"two")
    with pytest.raises(Damaged, match="not those of chunk"):
        read_chunk(store, Chunk(one.id, one.size, other.place))


def test_a_missing_or_shortened_pack_is_named(store: ObjectStore, tmp_path: Path) -> None:
    chunk = _write(store, b"first", TEXT)[1]
    path = tmp_path / "store" / PACK_KEY
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(Damaged, match=f"{PACK_KEY} in .* is cut off"):
        read_chunk(store, chunk)
    store.delete(PACK_KEY)
    with pytest.raises(Damaged, match=f"{PACK_KEY} is gone from file://"):
        read_chunk(store, chunk)


@pytest.mark.parametrize(("offset", "length"), [(0, 0), (0, MAX_STORED + 1), (-1, 10), (1 << 63, 10), (0, -5)])
def test_a_place_that_cannot_be_is_damage(store: ObjectStore, offset: int, length: int) -> None:
    _write(store, TEXT)
    with pytest.raises(Damaged, match=PACK_KEY):
        read_stored(store, Place(PACK, offset, length))
