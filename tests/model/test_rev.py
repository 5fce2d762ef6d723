"""What may stand behind `@`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.errors import InvalidArgument
from vfsd.model.rev import HEAD, MAX_STEPS, Rev, check_tag, parse_rev, rfc3339, to_ns

MOMENT = to_ns(datetime(2026, 11, 22, 10, 0, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "rev"),
    [
        ("~", Rev(back=1)),
        ("~3", Rev(back=3)),
        ("^3", Rev(back=3)),
        ("^^~2", Rev(back=4)),
        ("~0", HEAD),
        ("beef", Rev(prefix="beef")),
        ("a" * 64, Rev(prefix="a" * 64)),
        ("beef~2", Rev(prefix="beef", back=2)),
        ("bee", Rev(tag="bee")),
        ("BEEF", Rev(tag="BEEF")),
        ("v1.0", Rev(tag="v1.0")),
        ("größe^", Rev(tag="größe", back=1)),
        ("a" * 65, Rev(tag="a" * 65)),
        ("2026-11-22T10:00:00Z", Rev(time_ns=MOMENT)),
        ("2026-11-22t10:00z", Rev(time_ns=MOMENT)),
        ("2026-11-22 10:00Z", Rev(time_ns=MOMENT)),
        ("2026-11-22T11:30:00+01:30~1", Rev(time_ns=MOMENT, back=1)),
        ("2026-11-22T10:00:00.000001Z", Rev(time_ns=MOMENT + 1000)),
        ("2026-11-22", Rev(time_ns=MOMENT - 10 * 3600 * 10**9)),
    ],
)
def test_a_rev_is_read(text: str, rev: Rev) -> None:
    assert parse_rev(text) == rev


@pytest.mark.parametrize(
    "text",
    ["", "a b", "a@b", "a/b", "~x", "x~1y", "2026-13-22", "2026-11-22T10:00:00", "2026-11-22T25:00Z", "~" + "9" * 30,
     "beef~99999999999999", ".", "-1", "v1~-1"],
)  # fmt: skip
def test_what_is_no_rev_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_rev(text)
    assert "\n" not in str(error.value)


@given(text=st.text(max_size=40))
def test_any_text_is_a_rev_or_invalid(text: str) -> None:
    try:
        rev = parse_rev(text)
    except InvalidArgument:
        return
    assert sum((bool(rev.prefix), bool(rev.tag), rev.time_ns is not None)) <= 1
    assert 0 <= rev.back <= MAX_STEPS


@given(counts=st.lists(st.none() | st.integers(0, 10**9), max_size=5), base=st.sampled_from(["", "beef", "v1"]))
def test_steps_add_up(counts: list[int | None], base: str) -> None:
    text = base + "".join("~" if count is None else f"^{count}" for count in counts)
    if text:
        assert parse_rev(text).back == sum(1 if count is None else count for count in counts)


zones = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moment=st.datetimes(timezones=zones | st.just(UTC)))
def test_a_time_is_read_to_the_microsecond_in_any_zone(moment: datetime) -> None:
    rev = parse_rev(moment.isoformat())
    assert rev.time_ns == to_ns(moment)


@given(time_ns=st.integers(0, 1 << 62))
def test_a_time_that_is_shown_can_be_asked_for(time_ns: int) -> None:
    assert parse_rev(rfc3339(time_ns)).time_ns == time_ns // 1000 * 1000


def test_times_are_shown_in_utc_with_microseconds() -> None:
    assert rfc3339(MOMENT + 1_234) == "2026-11-22T10:00:00.000001Z"
    assert rfc3339(-1) == "1969-12-31T23:59:59.999999Z"


@given(name=st.text(max_size=20))
def test_a_tag_that_may_be_made_is_read_as_that_tag(name: str) -> None:
    try:
        check_tag(name)
    except InvalidArgument:
        return
    assert parse_rev(name) == Rev(tag=name)


@pytest.mark.parametrize("name", ["beef", "20261122", "2026-11-22", "2026-11-22T10:00Z", "~1", ""])
def test_a_tag_that_would_be_read_as_something_else_may_not_be_made(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_tag(name)
