"""Ids: what is one and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.errors import InvalidArgument
from vfsd.model.ids import commit_id, global_id, hash_bytes, is_commit_prefix, is_global_id

hexes = st.text("0123456789abcdef", min_size=1, max_size=70)


def test_hashes_are_blake3() -> None:
    assert hash_bytes(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert hash_bytes(bytearray(b"abc")) == hash_bytes(memoryview(b"abc")) == hash_bytes(b"abc")


@given(text=hexes)
def test_hex_digits_are_an_id_when_there_are_as_many_as_it_has(text: str) -> None:
    assert is_commit_prefix(text) == (4 <= len(text) <= 64)
    assert is_global_id(text) == (len(text) == 32)
    for parse, length in ((commit_id, 64), (global_id, 32)):
        if len(text) == length:
            assert parse(text) == text
        else:
            with pytest.raises(InvalidArgument, match="hex digits"):
                parse(text)


@pytest.mark.parametrize("text", ["ABCD", "g" * 64, "abcd\n", "a" * 63 + " ", "٣" * 32])
def test_nothing_else_is_an_id(text: str) -> None:
    assert not is_commit_prefix(text)
    assert not is_global_id(text)
    for parse in (commit_id, global_id):
        with pytest.raises(InvalidArgument):
            parse(text)
