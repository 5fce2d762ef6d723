"""Which keys there may be, and which of them name objects that never change. All stores refuse the same keys."""

from __future__ import annotations

import re

from vfsd.model.errors import InvalidArgument

MAX_KEY = 1024  # bytes, S3's limit
MAX_COMPONENT = 255  # bytes, the limit of Linux filesystems
RESERVED = frozenset({"tmp", "locks"})  # folders of a local store that hold no objects
IMMUTABLE = ("packs/", "commits/")  # prefixes of objects that are written once and may be deleted, but never replaced
IN_PARTS = ("packs/", "moved/")  # prefixes of objects that may be so large as to go up in parts

_COMPONENT = re.compile(r"[!-.0-~]{1,255}")
_KEY = re.compile(r"[!-.0-~]+(/[!-.0-~]+)*")


def check_key(key: str) -> str:
    """`key` when every store can hold it; InvalidArgument says what is wrong with it."""
    if _KEY.fullmatch(key) is None:
        raise InvalidArgument(f"key {key[:80]!r}: components of printable ASCII, separated by single '/', are allowed")
    if len(key) > MAX_KEY:
        raise InvalidArgument(f"key {key[:80]!r}… is longer than {MAX_KEY} bytes")
    parts = key.split("/")
    if parts[0] in RESERVED or "." in parts or ".." in parts:
        raise InvalidArgument(f"key {key!r}: '.' and '..' are not allowed, nor is a first component 'tmp' or 'locks'")
    if len(max(parts, key=len)) > MAX_COMPONENT:
        raise InvalidArgument(f"key {key[:80]!r}…: one component is longer than {MAX_COMPONENT} bytes")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` when keys may begin with it: the beginning of a key, possibly empty or ending in `/`."""
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix


def is_component(name: str) -> bool:
    """Whether `name` may stand between two slashes of a key."""
    return _COMPONENT.fullmatch(name) is not None and name not in {".", ".."}


def is_immutable(key: str) -> bool:
    """Whether the object is never replaced, so that its bytes may be kept open or cached."""
    return key.startswith(IMMUTABLE)
