"""Sizes as people write them: 1048576, 512KiB, `10 GiB`."""

from __future__ import annotations

import re

import click

from vfsd.model.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|KiB|MiB|GiB|TiB)?")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class SizeParam(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A number of bytes."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return parse(value)


def parse(text: str | int) -> int:
    """Bytes; InvalidArgument for what is none."""
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise InvalidArgument(f"{text!r} is no size: say bytes, or KiB, MiB, GiB, TiB")
    return int(float(match[1]) * _UNITS[match[2] or "B"])


SIZE = SizeParam()
