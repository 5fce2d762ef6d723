"""Nodes as the kernel's attributes."""

from __future__ import annotations

import errno
import os
import stat

from vfsd.model.entry import S_IFMT, Kind
from vfsd.serve.fuse import protocol
from vfsd.serve.fuse.channel import Failure
from vfsd.serve.view import Node, SnapNode
from vfsd.worktree.node import WorkNode

# How long the kernel need not ask again, in seconds.
FOREVER = 10 * 365 * 86400  # a snapshot never changes
UNTIL_TOLD = 3600  # a live branch changes only through the kernel, or with a notification
MOMENT = 1  # names of repos and branches, which others make and remove
NOT_AT_ALL = 0  # names such as `main@~1`, which mean another commit after the next

_UID, _GID = os.geteuid(), os.getegid()


def mode(node: Node) -> int:
    """Kind and permissions."""
    if isinstance(node, WorkNode):
        return S_IFMT[node.kind] | node.mode
    if isinstance(node, SnapNode):
        entry = node.entry
        return entry.st_mode if entry.kind == Kind.SYMLINK else entry.st_mode & ~0o222
    return stat.S_IFDIR | (0o555 if node.gid else 0o755)


def attributes(node: Node, started: int) -> bytes:
    """The attributes of a node; `started`: times, in ns since 1970, of the namespace's own folders."""
    if isinstance(node, WorkNode):
        return protocol.attr(
            node.ino, mode(node), node.nlink, node.uid, node.gid, node.rdev, node.size, node.atime, node.mtime,
            node.ctime,
        )  # fmt: skip
    if isinstance(node, SnapNode):
        return _snapshot(node)
    return protocol.attr(node.ino, mode(node), 2, _UID, _GID, 0, 0, started, started, started)


def _snapshot(node: SnapNode) -> bytes:
    entry = node.entry
    nlink, size = max(1, entry.more.names), entry.size
    if entry.kind == Kind.DIR:
        nlink, size = 2 + (0 if entry.node is None else entry.node.directories), 0
    mtime = entry.mtime
    return protocol.attr(
        node.ino, mode(node), nlink, entry.uid, entry.gid, entry.more.rdev, size, mtime, mtime, mtime
    )


def name_holds(node: Node) -> int:
    """For how long the name of a node stands for it."""
    if isinstance(node, WorkNode):
        return MOMENT if node is node.head.root else UNTIL_TOLD
    if isinstance(node, SnapNode):
        return NOT_AT_ALL if node is node.top else FOREVER
    return MOMENT


def attributes_hold(node: Node) -> int:
    """For how long the attributes of a node are what they are."""
    if isinstance(node, WorkNode):
        return UNTIL_TOLD
    return FOREVER if isinstance(node, SnapNode) else MOMENT


def fitting(value: bytes, size: int) -> bytes:
    """An attribute's value as it is asked for: with size 0, how long it is."""
    if size == 0:
        return protocol.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise Failure(errno.ERANGE)
    return value
