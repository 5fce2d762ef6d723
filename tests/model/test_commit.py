"""The small objects of the store: canonical JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.commit import (
    BranchHead,
    Commit,
    GlobalRecord,
    Provenance,
    RepoObject,
    RootAttributes,
    StoreFormat,
    Tag,
    commit_id_of,
    decode,
    encode,
)
from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId, GlobalId, JobId, hash_bytes

texts = st.text(max_size=20)
times = st.integers(0, (1 << 63) - 1)
commit_ids = st.binary(min_size=32, max_size=32).map(lambda raw: CommitId(raw.hex()))
commits = st.builds(
    Commit, repo=texts, branch=texts, tree=texts, digest=texts,
    root=st.builds(RootAttributes, st.integers(0, 0o7777), times, times, st.integers(-(1 << 63), (1 << 63) - 1)),
    files=times, size=times, linked=times, directories=times,
    parents=st.lists(commit_ids, max_size=2).map(tuple), author=texts, time=times,
    message=texts, global_id=texts.map(GlobalId),
    provenance=st.lists(st.builds(Provenance, texts, texts, commit_ids, texts), max_size=2).map(tuple),
    pipeline=texts, job=st.none() | texts.map(JobId),
)  # fmt: skip
values = st.one_of(
    commits,
    st.builds(BranchHead, commit=st.none() | commit_ids, nonce=texts, moved=times, pipeline=texts),
    st.builds(RepoObject, created=times, description=texts, nonce=texts),
    st.builds(Tag, commit=commit_ids, created=times, message=texts),
    st.builds(GlobalRecord, commit=commit_ids, time=times),
    st.builds(StoreFormat, id=texts, created=times, chunk_min=times, chunk_avg=times, chunk_max=times),
)


@given(value=values)
def test_a_value_is_read_back_as_it_was_written_by_any_json_reader_too(value: Commit) -> None:
    data = encode(value)
    assert decode(data, type(value), "it") == value
    assert encode(decode(data, type(value), "it")) == data
    assert b"\n" not in data
    assert list(json.loads(data)) == list(value.__struct_fields__), "all fields, in their order"


@given(value=commits)
def test_a_commits_id_is_the_hash_of_its_header(value: Commit) -> None:
    assert commit_id_of(encode(value)) == hash_bytes(encode(value)).hex()


def test_fields_that_a_later_version_added_are_passed_over() -> None:
    tag = Tag(commit=CommitId("0" * 64), created=1)
    data = encode(tag)[:-1] + b',"new":{"field":[1]}}'
    assert decode(data, Tag, "it") == tag


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"format":1}', b"\xff", b'{"commit":1,"created":1}'])
def test_what_cannot_be_read_is_damaged_and_named(data: bytes) -> None:
    with pytest.raises(Damaged, match="tags/r/v1"):
        decode(data, Tag, "tags/r/v1")


def test_an_object_of_a_later_format_is_refused() -> None:
    with pytest.raises(Damaged, match="tags/r/v1 has format 2"):
        decode(encode(Tag(format=2, commit=CommitId("0" * 64), created=1)), Tag, "tags/r/v1")
