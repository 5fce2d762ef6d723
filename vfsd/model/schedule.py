"""Schedules as specs write them: a crontab line, `@daily`, `@every 1h30m`, `@never`. They hold in UTC.

A schedule is nothing but a set of moments, whole seconds all of them: which of them are over is for others to remember.
Moments are ns since 1970.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

from cronsim import CronSim, CronSimError

from vfsd.model.durations import parse_duration
from vfsd.model.errors import InvalidArgument
from vfsd.model.rev import to_ns

SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = to_ns(datetime(9900, 1, 1, tzinfo=UTC))  # a clock that says more says nothing
_NAMED = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip


class Schedule(Protocol):
    """Moments, in order."""

    def after(self, moment: int) -> int | None:
        """The first one later than `moment`; None when there is none."""

    def until(self, moment: int) -> int | None:
        """The last one not later than `moment`; None when there is none."""


class _Never:
    def after(self, moment: int) -> int | None:
        return None

    def until(self, moment: int) -> int | None:
        return None


class _Every:
    """`anchor` + n · `period`, n from 1 on; both in whole seconds."""

    def __init__(self, anchor: int, period: int) -> None:
        self._anchor, self._period = anchor, period

    def after(self, moment: int) -> int | None:
        return self._at(max(1, (moment // SECOND - self._anchor) // self._period + 1))

    def until(self, moment: int) -> int | None:
        number = (moment // SECOND - self._anchor) // self._period
        return self._at(number) if number >= 1 else None

    def _at(self, number: int) -> int | None:
        found = (self._anchor + number * self._period) * SECOND
        return found if found < _LAST else None


class _Crontab:
    def __init__(self, line: str) -> None:
        self._line = line

    def after(self, moment: int) -> int | None:
        return self._first(moment, reverse=False)

    def until(self, moment: int) -> int | None:
        return self._first(moment + SECOND, reverse=True)

    def _first(self, moment: int, *, reverse: bool) -> int | None:
        start = _EPOCH + timedelta(seconds=min(moment, _LAST) // SECOND)
        found = next(CronSim(self._line, start, reverse), None)
        return None if found is None else to_ns(found)


def parse_schedule(text: str, anchor: int) -> Schedule:
    """What a schedule's text says. anchor: the moment from which `@every` counts, less what it has below a second.
    InvalidArgument."""
    text = text.strip()
    if text == "@never":
        return _Never()
    if text.startswith("@every "):
        period = parse_duration(text.removeprefix("@every ").strip())
        if period != int(period):
            raise InvalidArgument(f"{text!r}: a schedule goes by whole seconds")
        return _Every(anchor // SECOND, int(period))
    line = _NAMED.get(text, text)
    fields = ["*" if field == "?" else field for field in line.split()]
    if (text.startswith("@") and text not in _NAMED) or len(fields) != 5:
        raise InvalidArgument(
            f"{text!r} is no schedule: write it as five fields of crontab, as `0 3 * * *`, or @daily, @every 1h30m,"
            " @never"
        )
    found = _Crontab(" ".join(fields))
    try:
        never = found.after(anchor) is None
    except CronSimError as error:
        raise InvalidArgument(f"{text!r}: {str(error).lower()}") from None
    if never:
        raise InvalidArgument(f"{text!r} never comes; if that is what you want, write @never")
    return found


def between(schedule: Schedule, after: int, until: int) -> Iterator[int]:
    """The moments later than `after` and not later than `until`, in order."""
    moment = schedule.after(after)
    while moment is not None and moment <= until:
        yield moment
        moment = schedule.after(moment)


def parse_moment(text: str) -> int:
    """A time of RFC 3339. InvalidArgument, also for one before 1970."""
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or "T" not in text.upper():
        raise InvalidArgument(f"{text!r} is no time: write it as 2026-11-22T10:00:00Z")
    if moment < _EPOCH:
        raise InvalidArgument(f"{text!r} is before 1970")
    return to_ns(moment)


def shown_second(moment: int) -> str:
    """A moment in RFC 3339, to its second, in UTC."""
    return f"{_EPOCH + timedelta(seconds=moment // SECOND):%Y-%m-%dT%H:%M:%SZ}"
