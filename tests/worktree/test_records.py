"""Journal records are read back as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.entry import Chunk, Place, Ref
from vfsd.model.errors import Damaged
from vfsd.repo.chunklist import Content
from vfsd.worktree.records import (
    Attributes,
    AttributesRecord,
    FileRecord,
    LinkRecord,
    MakeRecord,
    MoveRecord,
    Record,
    RemoveRecord,
    Stored,
    decode_record,
    encode_record,
)

names = st.binary(min_size=1, max_size=255)
paths = st.lists(names, max_size=4).map(tuple)
ids = st.binary(min_size=32, max_size=32)
sizes = st.integers(0, (1 << 62) - 1)
attributes = st.builds(
    Attributes,
    st.integers(0, 0o7777),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, (1 << 32) - 1),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.dictionaries(names, st.binary(max_size=20), max_size=3),
)
places = st.builds(Place, st.binary(min_size=16, max_size=16), sizes, sizes)
chunks = st.lists(st.builds(Chunk, ids, sizes, places), max_size=2).map(tuple)
refs = st.builds(Ref, ids, ids, sizes, sizes, sizes, sizes, places)
contents = st.builds(Content, sizes, ids, chunks, st.none() | refs)
ranges = st.lists(st.tuples(sizes, sizes), max_size=3).map(tuple)
stored = st.builds(Stored, st.sampled_from(["s1", "f22"]), sizes, ranges)
records = st.one_of(
    st.builds(FileRecord, paths, attributes, sizes, st.none() | contents, sizes, st.none() | stored),
    st.builds(MakeRecord, paths, st.integers(1, 6), attributes, names, st.integers(0, (1 << 32) - 1)),
    st.builds(RemoveRecord, paths),
    st.builds(MoveRecord, paths, paths, st.booleans()),
    st.builds(LinkRecord, paths, paths),
    st.builds(AttributesRecord, paths, attributes),
)


@given(record=records)
def test_a_record_is_read_back_as_it_was_written(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\xa4what", b"\x92\xa6remove\x01"])
def test_what_is_no_record_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        decode_record(data)
