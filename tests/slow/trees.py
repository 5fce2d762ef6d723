"""Trees as `ls`, `cat` and `getfattr` show them, and what it means that two of them are alike."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

LONG_AGO = 10**18  # ns; explicit times are before, the clock's are after

Where = tuple[bytes, ...]


@dataclass
class Thing:
    """What there is at one path. group: the first path of the same inode."""

    kind: int
    mode: int
    size: int
    mtime: int
    links: int
    group: Where
    content: bytes
    xattrs: dict[str, bytes]


def look(top: bytes, prefix: bytes = b"") -> dict[Where, Thing]:
    """All that is below a directory, and whose name in it begins with the prefix: others may work on the rest."""
    found: dict[Where, Thing] = {}
    groups: dict[int, Where] = {}

    def walk(folder: bytes, where: Where) -> None:
        for name in sorted(os.listdir(folder)):
            path, here = os.path.join(folder, name), (*where, name)
            if not here[0].startswith(prefix):
                continue
            info = os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            content = b""
            if kind == stat.S_IFREG:
                with open(path, "rb") as file:
                    content = file.read()
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            size, links = (0, 0) if kind == stat.S_IFDIR else (info.st_size, info.st_nlink)
            group = groups.setdefault(info.st_ino, here) if kind != stat.S_IFDIR else here
            found[here] = Thing(
                kind, stat.S_IMODE(info.st_mode), size, info.st_mtime_ns, links, group, content, xattrs_of(path)
            )
            if kind == stat.S_IFDIR:
                walk(path, here)

    walk(top, ())
    return found


def xattrs_of(path: bytes) -> dict[str, bytes]:
    """The user's extended attributes at a path."""
    names = sorted(key for key in os.listxattr(path, follow_symlinks=False) if key.startswith("user."))
    return {key: os.getxattr(path, key, follow_symlinks=False) for key in names}


def alike(mine: dict[Where, Thing], reference: dict[Where, Thing]) -> None:
    """Two trees are equal, but for times that the clock gave."""
    assert set(mine) == set(reference), f"only here: {set(mine) - set(reference)}, gone: {set(reference) - set(mine)}"
    for where, thing in mine.items():
        other = reference[where]
        for name in ("kind", "mode", "size", "links", "group", "xattrs", "content"):
            one, two = getattr(thing, name), getattr(other, name)
            assert one == two, f"{shown(where)}: {name} is {short(one)}, it should be {short(two)}"
        if other.mtime < LONG_AGO or thing.mtime < LONG_AGO:
            assert thing.mtime == other.mtime, f"{shown(where)}: mtime is {thing.mtime}, it should be {other.mtime}"


def kept(thing: Thing) -> tuple[object, ...]:
    """What a commit keeps, but for the mtime. Snapshots are shown without write permission."""
    mode = thing.mode if thing.kind == stat.S_IFLNK else thing.mode & ~0o222
    return (thing.kind, mode, thing.size, thing.content, thing.xattrs, thing.links)


def same_links(one: dict[Where, Thing], other: dict[Where, Thing]) -> bool:
    """Whether the same of these paths are names of one inode."""
    return _groups(one) == _groups(other)


def _groups(tree: dict[Where, Thing]) -> set[frozenset[Where]]:
    names: dict[Where, set[Where]] = {}
    for where, thing in tree.items():
        names.setdefault(thing.group, set()).add(where)
    return {frozenset(paths) for paths in names.values()}


def above(where: Where, others: set[Where]) -> bool:
    """Whether it is one of the others, or a directory above one."""
    return any(other[: len(where)] == where for other in others)


def shown(where: Where) -> str:
    return os.fsdecode(b"/".join(where))


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) < 200 else f"{text[:100]}…{text[-60:]} ({len(text)})"
