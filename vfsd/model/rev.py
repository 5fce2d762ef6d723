"""Revs: what may stand behind `@` in `repo/branch@rev`. This module parses; `repo.resolve` resolves.

    rev    = base? step*
    base   = commit id or a prefix of it of at least four digits | tag | time
    step   = ("~" | "^") count?            each counts back along the first parent, 1 when no count is given
    time   = RFC 3339 with a zone or `Z`, or a date: the last commit that was there at that time

An empty base is the head of the branch.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time

import msgspec

from vfsd.model.errors import InvalidArgument
from vfsd.model.ids import is_commit_prefix
from vfsd.model.names import check_label

_STEPS = re.compile(r"([~^]\d*)+$")
_STEP = re.compile(r"[~^](\d*)")
_TIME = re.compile(r"\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([Zz]|[+-]\d{2}:\d{2}))?$")
MAX_STEPS = 1 << 40


class Rev(msgspec.Struct, frozen=True):
    """A parsed rev: at most one of `prefix`, `tag`, `time_ns` is set; none means the head. Then `back` steps."""

    prefix: str = ""
    tag: str = ""
    time_ns: int | None = None
    back: int = 0


HEAD = Rev()


def parse_rev(text: str) -> Rev:
    """Parse what stands behind `@`; InvalidArgument names what is wrong with it."""
    if not text:
        raise InvalidArgument("nothing stands behind '@': a commit id, a tag, ~N or a time does")
    steps = _STEPS.search(text)
    base = text[: steps.start()] if steps else text
    back = 0
    if steps:
        for count in _STEP.findall(steps.group()):
            back += int(count[:15]) if count else 1
        if back > MAX_STEPS:
            raise InvalidArgument(f"rev {text!r}: nothing has that many commits")
    if not base:
        return Rev(back=back)
    if _TIME.match(base):
        return Rev(time_ns=_time_ns(base), back=back)
    if is_commit_prefix(base):
        return Rev(prefix=base, back=back)
    try:
        check_label("tag", base)
    except InvalidArgument:
        raise InvalidArgument(f"rev {text!r} is no commit id, tag, ~N or time like 2026-11-22T10:00:00Z") from None
    return Rev(tag=base, back=back)


def check_tag(name: str) -> str:
    """A name that may be given to a tag: a label that cannot be read as a commit id or a time."""
    check_label("tag", name)
    if is_commit_prefix(name):
        raise InvalidArgument(f"tag {name!r} would read as the beginning of a commit id: choose another name")
    if _TIME.match(name):
        raise InvalidArgument(f"tag {name!r} would read as a time: choose another name")
    return name


def _time_ns(text: str) -> int:
    try:
        if len(text) == 10:
            moment = datetime.combine(date.fromisoformat(text), time(tzinfo=UTC))
        else:
            moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise InvalidArgument(f"time {text!r}: {error}") from None
    return to_ns(moment)


def to_ns(moment: datetime) -> int:
    """Nanoseconds since 1970 of an aware datetime, exact to its microsecond."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000


def rfc3339(time_ns: int) -> str:
    """A time as every listing and `--json` shows it: UTC, microseconds, `Z`."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest // 1000:06d}Z"
