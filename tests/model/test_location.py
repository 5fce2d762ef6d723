"""Locations: paths as they stand in the mount."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.errors import InvalidArgument
from vfsd.model.location import Location, parse_branch, parse_location, split_branch
from vfsd.model.names import is_label
from vfsd.model.rev import Rev

labels = st.text("ab0.-_+=,üß文", min_size=1, max_size=12).filter(is_label)
names = st.binary(min_size=1, max_size=12).filter(lambda name: not set(name) & set(b"/\0") and name.strip(b".") != b"")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("r/main", Location("r", "main")),
        ("/r/main/", Location("r", "main")),
        ("r/main/a//b/", Location("r", "main", None, (b"a", b"b"))),
        ("r/main@~1", Location("r", "main", Rev(back=1), (), "~1")),
        ("r/main@v1/a@b", Location("r", "main", Rev(tag="v1"), (b"a@b",), "v1")),
        ("größe/main/ü", Location("größe", "main", None, ("ü".encode(),))),
    ],
)
def test_a_location_is_read(text: str, where: Location) -> None:
    assert parse_location(text) == where


@given(repo=labels, branch=labels, rev=st.sampled_from(["", "v1", "~3", "2026-11-22T10:00:00Z"]), path=st.lists(names))
def test_a_location_is_shown_as_it_is_read(repo: str, branch: str, rev: str, path: list[bytes]) -> None:
    text = "/".join([repo, f"{branch}@{rev}" if rev else branch, *(os.fsdecode(name) for name in path)])
    where = parse_location(text)
    assert (where.repo, where.branch, where.path) == (repo, branch, tuple(path))
    assert parse_location(str(where)) == where
    assert str(where) == text


@pytest.mark.parametrize(
    "text",
    ["", "/", "r", "r/", "/r/", "//main", "r/main@", "r/@v1", "r/main/../x", "r/ma in", "r/main@a b", "r/main/\0"],
)
def test_what_is_no_location_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_location(text)
    assert "\n" not in str(error.value)


@given(text=st.text(st.characters(), max_size=30))
def test_any_text_is_a_location_or_invalid(text: str) -> None:
    try:
        where = parse_location(text)
    except InvalidArgument:
        return
    assert parse_location(str(where)) == where


def test_text_that_no_file_name_can_be_is_invalid() -> None:
    """A lone surrogate comes from JSON, never from a command line."""
    with pytest.raises(InvalidArgument):
        parse_location("r/main/\ud800")


def test_a_branch_is_a_location_of_just_that() -> None:
    assert parse_branch("r/main") == ("r", "main")
    for text in ("r/main@v1", "r/main/a"):
        with pytest.raises(InvalidArgument, match="REPO/BRANCH"):
            parse_branch(text)
    assert split_branch("main@v@1") == ("main", "v@1")
    assert split_branch("main") == ("main", None)
