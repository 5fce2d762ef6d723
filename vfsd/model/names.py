"""Names of repos, branches, tags and pipelines, and the store keys and tree paths they go into.

Names inside a tree are bytes: anything but `/` and NUL, up to 255 of them. Names of repos, branches, tags and
pipelines are typed on command lines and stand in keys, so they are text with a few exclusions.
"""

from __future__ import annotations

import unicodedata
from urllib.parse import quote, unquote

from vfsd.model.errors import InvalidArgument

MAX_NAME = 255  # bytes, as every Linux filesystem has it
MAX_LABEL = 85  # bytes of UTF-8: percent-encoded they still fit the 255 of a file name
DEFAULT_BRANCH = "main"

_REFUSED = set('/@:\\"\'`*?[]{}|<>$!;&()#~^% ')


def check_label(kind: str, name: str) -> str:
    """`name` when it may name a `kind` ("repo", "branch", "tag", "pipeline"); InvalidArgument otherwise."""
    if not name:
        raise InvalidArgument(f"a {kind} needs a name")
    if name[0] in ".-":
        raise InvalidArgument(f"{kind} {name!r}: a name may not begin with {name[0]!r}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{kind} {name!r}: a name must be valid UTF-8") from None
    if size > MAX_LABEL:
        raise InvalidArgument(f"{kind} {name[:20]!r}…: a name has at most {MAX_LABEL} bytes, this one has {size}")
    for char in name:
        if char in _REFUSED or unicodedata.category(char)[0] in "CZ":
            raise InvalidArgument(f"{kind} {name!r}: {char!r} may not stand in a name")
    return name


def is_label(name: str) -> bool:
    """Whether `name` may name a repo, branch, tag or pipeline."""
    try:
        check_label("name", name)
    except InvalidArgument:
        return False
    return True


def key_part(name: str) -> str:
    """A label as one component of a store key: percent-encoded UTF-8, safe in every object store."""
    return quote(name, safe="-_.")


def from_key_part(part: str) -> str:
    """The label that `key_part` encoded."""
    return unquote(part)


def check_name(name: bytes) -> bytes:
    """One component of a tree path; InvalidArgument when a filesystem could not hold it."""
    if not name or name in {b".", b".."} or b"/" in name or b"\0" in name:
        raise InvalidArgument(f"{name!r} cannot be a file name")
    if len(name) > MAX_NAME:
        raise InvalidArgument(f"a file name has at most {MAX_NAME} bytes, {name[:20]!r}… has {len(name)}")
    return name


def split_path(path: bytes) -> tuple[bytes, ...]:
    """The components of a tree path: `b"/a//b/"` is `(b"a", b"b")`; `.` and `..` are refused."""
    return tuple(check_name(part) for part in path.split(b"/") if part)
