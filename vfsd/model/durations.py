"""Durations as Go writes them, which is how specs give time limits: `30s`, `90m`, `1h30m`."""

from __future__ import annotations

import re

from vfsd.model.errors import InvalidArgument

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


def parse_duration(text: str) -> float:
    """A Go duration in seconds: numbers with units ns, us, ms, s, m, h, one after the other. InvalidArgument."""
    if not text or _DURATION.sub("", text):
        raise InvalidArgument(f"{text!r} is not a duration: write it as 30s, 90m or 1h30m")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    if seconds <= 0:
        raise InvalidArgument(f"{text!r}: a time limit is longer than nothing")
    return seconds
