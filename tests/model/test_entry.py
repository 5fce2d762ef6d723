"""Entries: what is part of an identity, what of a likeness, and how they are written down."""

from __future__ import annotations

import stat

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.entry import (
    EMPTY_DIR,
    EMPTY_FILE,
    KIND_OF,
    S_IFMT,
    Chunk,
    Entry,
    Extra,
    Kind,
    Place,
    Ref,
    chunks_digest,
    count_below,
    directory,
    identity,
    likeness,
    same,
    special_digest,
    storable_time,
    symlink_digest,
)
from vfsd.model.ids import ChunkId, Digest, NodeId

ids = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, 1 << 62)
places = st.builds(Place, st.binary(min_size=16, max_size=16), sizes, sizes)
chunks = st.lists(st.builds(Chunk, ids.map(ChunkId), sizes, places), max_size=3).map(tuple)
refs = st.builds(Ref, ids.map(NodeId), ids.map(Digest), sizes, sizes, sizes, sizes, places)
names = st.binary(min_size=1, max_size=20)
extras = st.builds(Extra, names, sizes, sizes, st.dictionaries(names, names, max_size=2), ids)
entries = st.builds(
    Entry, names, st.sampled_from(Kind), st.integers(0, 0o7777), sizes, sizes, st.integers(-(1 << 63), (1 << 63) - 1),
    sizes, ids.map(Digest), chunks, st.none() | refs, st.none() | extras,
)  # fmt: skip
_DECODE = msgspec.msgpack.Decoder(Entry).decode


@given(entry=entries)
def test_an_entry_is_read_back_as_it_was_written(entry: Entry) -> None:
    assert _DECODE(msgspec.msgpack.encode(entry)) == entry


@given(entry=entries, place=places)
def test_moving_bytes_changes_no_identity(entry: Entry, place: Place) -> None:
    moved = msgspec.structs.replace(
        entry,
        chunks=tuple(msgspec.structs.replace(chunk, place=place) for chunk in entry.chunks),
        node=None if entry.node is None else msgspec.structs.replace(entry.node, place=place),
    )
    assert identity(moved) == identity(entry)
    assert same(moved, entry)


@given(entry=entries)
def test_times_and_owners_are_no_part_of_likeness(entry: Entry) -> None:
    other = msgspec.structs.replace(entry, mtime=1, uid=2, gid=3, mode=entry.mode ^ 0o200)
    assert likeness(other) == likeness(entry)
    assert same(other, entry) == (other == entry)


def test_the_exec_bit_of_a_file_is_part_of_likeness_but_not_a_directorys() -> None:
    file = Entry(b"f", Kind.FILE, 0o644, 0, 0, 0, 0, EMPTY_FILE)
    assert likeness(file) != likeness(msgspec.structs.replace(file, mode=0o744))
    assert likeness(directory(b"d", None, mode=0o755)) == likeness(directory(b"d", None, mode=0o600))


def test_digests_of_different_kinds_never_meet() -> None:
    digests = [
        EMPTY_FILE, EMPTY_DIR, symlink_digest(b""), symlink_digest(b"x"), special_digest(Kind.FIFO, 0),
        special_digest(Kind.SOCKET, 0), special_digest(Kind.CHAR, 1), special_digest(Kind.BLOCK, 1),
        *(chunks_digest((Chunk(ChunkId(b"1" * 32), size, Place()),)) for size in (1, 2)),
    ]  # fmt: skip
    assert len(set(digests)) == len(digests)


def test_nothing_is_the_same_only_as_nothing() -> None:
    entry = directory(b"d", None)
    assert same(None, None)
    assert not same(entry, None)
    assert not same(None, entry)


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_has_its_type_bits(kind: Kind) -> None:
    entry = Entry(b"f", kind, 0o640, 0, 0, 0, 0, EMPTY_FILE)
    assert entry.st_mode == S_IFMT[kind] | 0o640
    assert KIND_OF[stat.S_IFMT(entry.st_mode)] == kind


def test_the_numbers_of_kinds_are_the_formats() -> None:
    assert {kind.name: int(kind) for kind in Kind} == {
        "FILE": 0, "DIR": 1, "SYMLINK": 2, "FIFO": 3, "CHAR": 4, "BLOCK": 5, "SOCKET": 6,
    }  # fmt: skip


def test_directories_count_what_is_below_them() -> None:
    ref = Ref(NodeId(b"n" * 32), Digest(b"d" * 32), 7, 99, 0, 0, Place())
    entry = directory(b"d", ref)
    assert (count_below(entry), entry.size, entry.digest) == (7, 99, b"d" * 32)
    assert count_below(directory(b"d", None)) == 0
    assert count_below(Entry(b"f", Kind.FILE, 0, 0, 0, 0, 5, EMPTY_FILE)) == 1
    assert entry.more == Extra()


def test_times_are_kept_within_64_bits() -> None:
    assert storable_time(1 << 70) == (1 << 63) - 1
    assert storable_time(-(1 << 70)) == -(1 << 63)
    assert storable_time(-5) == -5
