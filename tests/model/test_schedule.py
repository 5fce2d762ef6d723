from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.model.errors import InvalidArgument
from vfsd.model.rev import to_ns
from vfsd.model.schedule import SECOND, between, parse_moment, parse_schedule, shown_second


def at(text: str) -> int:
    return to_ns(datetime.fromisoformat(text).replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "moments"),
    [
        ("@every 90m", ["2026-01-01T01:30:00", "2026-01-01T03:00:00"]),
        ("@every 1s", ["2026-01-01T00:00:01", "2026-01-01T00:00:02"]),
        ("@hourly", ["2026-01-01T01:00:00", "2026-01-01T02:00:00"]),
        ("@daily", ["2026-01-02T00:00:00", "2026-01-03T00:00:00"]),
        ("@midnight", ["2026-01-02T00:00:00"]),
        ("@weekly", ["2026-01-04T00:00:00", "2026-01-11T00:00:00"]),
        ("@monthly", ["2026-02-01T00:00:00"]),
        ("@yearly", ["2027-01-01T00:00:00"]),
        ("@annually", ["2027-01-01T00:00:00"]),
        ("*/15 9-17 * * MON-FRI", ["2026-01-01T09:00:00", "2026-01-01T09:15:00"]),
        ("0 0 29 2 *", ["2028-02-29T00:00:00", "2032-02-29T00:00:00"]),
        ("0 0 13 * 5", ["2026-01-02T00:00:00", "2026-01-09T00:00:00", "2026-01-13T00:00:00"]),  # either, as in cron
        ("30 4 ? * ?", ["2026-01-01T04:30:00"]),
        ("  5   *  * * * ", ["2026-01-01T00:05:00"]),
    ],
)  # fmt: skip
def test_a_schedule_comes_when_cron_does(text: str, moments: list[str]) -> None:
    anchor = at("2026-01-01T00:00:00.7")
    schedule = parse_schedule(text, anchor)
    expected = [at(moment) for moment in moments]
    assert list(between(schedule, anchor, expected[-1])) == expected
    for moment in expected:
        assert schedule.until(moment) == schedule.until(moment + SECOND // 2) == moment


def test_never_is_never() -> None:
    schedule = parse_schedule("@never", 0)
    assert (schedule.after(0), schedule.until(at("2200-01-01T00:00:00"))) == (None, None)


def test_a_clock_at_the_end_of_time_is_no_error() -> None:
    for text in ("@every 1h", "@hourly"):
        assert parse_schedule(text, 0).after(10**21) in {None, at("9900-01-01T01:00:00")}
        parse_schedule(text, 0).until(10**21)


TEXTS = st.sampled_from(["@every 7s", "@every 1h1s", "*/7 * * * *", "3 */5 1-7 * *", "@hourly", "0 0 1 * 1"])


@given(TEXTS, st.integers(0, 4 * 10**18), st.integers(0, 10**16))
def test_what_comes_next_is_what_came_last_by_then(text: str, anchor: int, more: int) -> None:
    schedule = parse_schedule(text, anchor)
    moment = anchor + more
    following = schedule.after(moment)
    assert following is not None and following > moment and following % SECOND == 0
    assert schedule.until(following) == following
    last = schedule.until(following - 1)
    assert last is None or last <= moment
    if last is not None:
        assert schedule.after(last) == following


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "'' is no schedule: write it as five fields of crontab, as `0 3 * * *`, or @daily, @every 1h30m, @never"),
        ("@often", "'@often' is no schedule: write it"),
        ("* * * *", "'* * * *' is no schedule: write it"),
        ("0 0 3 * * *", "'0 0 3 * * *' is no schedule: write it"),
        ("61 * * * *", "'61 * * * *': bad minute"),
        ("* * * 13 *", "'* * * 13 *': bad month"),
        ("0 0 30 2 *", "'0 0 30 2 *': bad day-of-month"),
        ("0 0 * 2 MON#5-", "'0 0 * 2 MON#5-': bad day-of-week"),
        ("@every 5 minutes", "'5 minutes' is not a duration"),
        ("@every 0s", "'0s': a time limit is longer than nothing"),
        ("@every 1500ms", "'@every 1500ms': a schedule goes by whole seconds"),
    ],
)
def test_what_is_no_schedule_gets_one_line(text: str, line: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        parse_schedule(text, 0)
    assert str(error.value).startswith(line)


def test_moments_are_read_and_shown() -> None:
    for text in ("2026-11-22T10:00:00Z", "2026-11-22T11:00:00+01:00", "2026-11-22t10:00:00.25z"):
        assert shown_second(parse_moment(text)) == "2026-11-22T10:00:00Z"
    for text in ("", "tomorrow", "2026-11-22", "2026-11-22T10:00:00", "2026-13-22T10:00:00Z", "0001-01-01T00:00:00Z"):
        with pytest.raises(InvalidArgument):
            parse_moment(text)
