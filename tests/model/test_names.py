"""Labels that can be typed and stand in keys, names that filesystems can hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.errors import InvalidArgument
from vfsd.model.names import (
    MAX_LABEL,
    check_label,
    check_name,
    from_key_part,
    is_label,
    key_part,
    split_path,
)
from vfsd.store.keys import check_key


@given(text=st.text(max_size=90))
def test_every_label_stands_in_a_key_and_comes_back(text: str) -> None:
    if is_label(text):
        part = key_part(text)
        assert from_key_part(part) == text
        assert "/" not in part
        assert len(part) <= 255
        check_key(f"refs/{part}/{part}")
    else:
        with pytest.raises(InvalidArgument):
            check_label("repo", text)


labels = st.text("aA%._-+üß文é", min_size=1, max_size=8).filter(is_label)


@given(one=labels, other=labels)
def test_different_labels_have_different_keys(one: str, other: str) -> None:
    assert (key_part(one) == key_part(other)) == (one == other)


@pytest.mark.parametrize("name", ["main", "a.b", "a_b-c", "größe", "数据", "v1.0+2", "x" * 85, "=", "a,b"])
def test_common_names_are_labels(name: str) -> None:
    assert check_label("repo", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-x", "a/b", "a b", "a@b", "a:b", "a\nb", "a\0", "a~b", "a^b", "a*", "\ud800", "\u200b",
     "\u3000x"],
)  # fmt: skip
def test_what_a_shell_or_a_rev_would_misread_is_no_label(name: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        check_label("branch", name)
    assert "\n" not in str(error.value)


def test_a_labels_length_is_counted_in_bytes() -> None:
    assert is_label("ß" * 42)
    assert not is_label("ß" * 43)
    with pytest.raises(InvalidArgument, match=f"at most {MAX_LABEL} bytes, this one has 86"):
        check_label("tag", "x" * 86)


@given(name=st.binary(max_size=300))
def test_a_name_is_any_bytes_that_a_directory_can_hold(name: bytes) -> None:
    good = 0 < len(name) <= 255 and not set(name) & set(b"/\0") and name not in {b".", b".."}
    if good:
        assert check_name(name) == name
    else:
        with pytest.raises(InvalidArgument):
            check_name(name)


def test_paths_are_split_at_any_number_of_slashes() -> None:
    assert split_path(b"/a//b/") == (b"a", b"b")
    assert split_path(b"") == split_path(b"//") == ()
    for path in (b"a/../b", b"./a", b"a/\0"):
        with pytest.raises(InvalidArgument):
            split_path(path)
