"""Sizes as Kubernetes writes them, which is how specs ask for memory and disk."""

from __future__ import annotations

import re

from vfsd.model.errors import InvalidArgument

_TEXT = re.compile(r"(\d+(?:\.\d+)?)([kKMGTP]?)(i?)")
_POWERS = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def parse_quantity(text: str) -> int:
    """Bytes: `512Mi` and `1Gi` count by 1024, `512M` and `1G` by 1000. InvalidArgument."""
    found = _TEXT.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise InvalidArgument(f"{text!r} is no size: write it as 512Mi, 2G or a number of bytes")
    size = int(float(found[1]) * (1024 if found[3] else 1000) ** _POWERS[found[2]])
    if size <= 0:
        raise InvalidArgument(f"{text!r}: a size is more than nothing")
    return size
