"""Spans of time on the command line: 90s, 30m, 12h, 30d, 2w, 1y, and several of them together."""

from __future__ import annotations

import re

import click

from vfsd.model.errors import InvalidArgument

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_PART = re.compile(r"(\d{1,9}(?:\.\d+)?)([smhdwy])")
_WHOLE = re.compile(r"(?:\d{1,9}(?:\.\d+)?[smhdwy])+")


class DurationParam(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A span of time, as seconds."""

    name = "TIME"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return parse(value) if isinstance(value, str) else value


def parse(text: str) -> float:
    """Seconds; InvalidArgument for what is none."""
    if text == "0":
        return 0.0
    if _WHOLE.fullmatch(text) is None:
        raise InvalidArgument(f"{text!r} is no span of time: write it as 90s, 30m, 12h, 30d, 2w or 1y")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def shown(seconds: float) -> str:
    """A span of time in one or two units: `45 s`, `12 h`, `1 d 6 h`."""
    rest = round(seconds)
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count} {unit if unit != 'm' else 'min'}")
    return " ".join(parts[:2]) or "0 s"


DURATION = DurationParam()
