"""Revs, locations and names: what parses as what, and what is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.errors import InvalidArgument
from vfsd.model.location import parse_location
from vfsd.model.names import check_label, from_key_part, is_label, key_part, split_path
from vfsd.model.rev import Rev, check_tag, parse_rev, rfc3339


@pytest.mark.parametrize(
    ("text", "rev"),
    [
        ("abcd", Rev(prefix="abcd")),
        ("f" * 64, Rev(prefix="f" * 64)),
        ("v1.0", Rev(tag="v1.0")),
        ("abc", Rev(tag="abc")),
        ("~3", Rev(back=3)),
        ("^", Rev(back=1)),
        ("~2^3~", Rev(back=6)),
        ("abcd~2", Rev(prefix="abcd", back=2)),
        ("v1^", Rev(tag="v1", back=1)),
        ("1970-01-01", Rev(time_ns=0)),
        ("1970-01-01T00:00:01Z", Rev(time_ns=10**9)),
        ("1970-01-01T01:00:01+01:00~1", Rev(time_ns=10**9, back=1)),
    ],
)
def test_a_rev_parses(text: str, rev: Rev) -> None:
    assert parse_rev(text) == rev


@pytest.mark.parametrize("text", ["", "@", "a b", "~-1", "2026-13-01", "a/b", "~9999999999999999"])
def test_nonsense_is_no_rev(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_rev(text)


@pytest.mark.parametrize("name", ["abcd", "deadbeef", "2026-11-22", "a b", "", "-v", "a@b"])
def test_a_tag_that_would_read_as_something_else_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_tag(name)


@given(st.integers(0, 4 * 10**18))
def test_a_time_as_it_is_shown_names_the_same_microsecond(time_ns: int) -> None:
    assert parse_rev(rfc3339(time_ns)).time_ns == time_ns // 1000 * 1000


@given(st.text(max_size=90))
def test_a_label_survives_its_key(name: str) -> None:
    if is_label(name):
        part = key_part(check_label("repo", name))
        assert from_key_part(part) == name
        assert part.isascii() and "/" not in part and len(part) <= 255


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda name: not {0, 47} & set(name)), max_size=5))
def test_a_location_is_the_path_in_the_mount(names: list[bytes]) -> None:
    names = [name for name in names if name not in {b".", b".."}]
    text = "/".join(["repo", "main@v1", *(name.decode(errors="surrogateescape") for name in names)])
    where = parse_location(text)
    assert (where.repo, where.branch, where.rev, where.path) == ("repo", "main", Rev(tag="v1"), tuple(names))
    assert str(where) == text


@pytest.mark.parametrize("text", ["repo", "/", "repo/", "re po/main", "repo/main@", "repo/main/..", "repo/@v1"])
def test_what_is_no_location_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_location(text)


def test_paths_are_split_and_refused_where_they_climb() -> None:
    assert split_path(b"/a//b/") == (b"a", b"b")
    with pytest.raises(InvalidArgument):
        split_path(b"a/../b")
