"""Nodes as the kernel's attributes."""

from __future__ import annotations

import os
import stat

import pyfuse3

from vfsd.model.entry import S_IFMT, Kind
from vfsd.serve.view import Folder, Node, SnapNode
from vfsd.worktree.node import WorkNode

FOREVER = 10 * 365 * 86400.0  # seconds: a snapshot never changes
UNTIL_TOLD = 3600.0  # a live branch changes only through the kernel, or with a notification
MOMENT = 1.0  # names of repos and branches, which others make and remove
NOT_AT_ALL = 0.0  # names such as `main@~1`, which mean another commit after the next

_UID, _GID = os.geteuid(), os.getegid()


def attributes(node: Node, started: int) -> pyfuse3.EntryAttributes:
    """The attributes of a node; `started`: mtime in ns of the namespace's own folders."""
    found = pyfuse3.EntryAttributes()
    found.st_ino = pyfuse3.InodeT(node.ino)
    found.generation = 0
    found.st_blksize = 1 << 20
    if isinstance(node, WorkNode):
        _work(found, node)
    elif isinstance(node, SnapNode):
        _snapshot(found, node)
    else:
        _folder(found, node, started)
    found.st_blocks = (found.st_size + 511) // 512
    return found


def _work(found: pyfuse3.EntryAttributes, node: WorkNode) -> None:
    found.st_mode = pyfuse3.ModeT(S_IFMT[node.kind] | node.mode)
    found.st_nlink = node.nlink
    found.st_uid, found.st_gid, found.st_rdev = node.uid, node.gid, node.rdev
    found.st_size = node.size
    found.st_mtime_ns, found.st_ctime_ns = node.mtime, node.ctime
    found.st_atime_ns = node.atime
    found.entry_timeout = found.attr_timeout = UNTIL_TOLD
    if node is node.head.root:
        found.entry_timeout = MOMENT


def _snapshot(found: pyfuse3.EntryAttributes, node: SnapNode) -> None:
    entry = node.entry
    found.st_mode = pyfuse3.ModeT(entry.st_mode & ~0o222 if entry.kind != Kind.SYMLINK else entry.st_mode)
    found.st_nlink = max(1, entry.more.names)
    if entry.kind == Kind.DIR:
        found.st_nlink = 2 + (0 if entry.node is None else entry.node.directories)
    found.st_uid, found.st_gid, found.st_rdev = entry.uid, entry.gid, entry.more.rdev
    found.st_size = 0 if entry.kind == Kind.DIR else entry.size
    found.st_mtime_ns = found.st_ctime_ns = found.st_atime_ns = entry.mtime
    found.entry_timeout = found.attr_timeout = FOREVER
    if node is node.top:
        found.entry_timeout = NOT_AT_ALL


def _folder(found: pyfuse3.EntryAttributes, node: Folder, started: int) -> None:
    found.st_mode = pyfuse3.ModeT(stat.S_IFDIR | (0o555 if node.gid else 0o755))
    found.st_nlink = 2
    found.st_uid, found.st_gid, found.st_rdev = _UID, _GID, 0
    found.st_size = 0
    found.st_mtime_ns = found.st_ctime_ns = found.st_atime_ns = started
    found.entry_timeout = found.attr_timeout = MOMENT


