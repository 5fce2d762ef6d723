"""Files without a name (O_TMPFILE): in no directory and in no commit until they are given one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfsd.model.entry import Kind
from vfsd.worktree import versions
from vfsd.worktree.node import WorkNode, need_directory

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree


def make(tree: Worktree, parent: WorkNode, mode: int, uid: int, gid: int) -> WorkNode:
    """An empty file that could be in a directory."""
    tree.moment = tree.now()
    need_directory(parent)
    return tree.new(parent, b"?", Kind.FILE, mode, uid, gid)


def name(tree: Worktree, node: WorkNode, parent: WorkNode, name: bytes) -> WorkNode:
    """Give it its first name, with what was written to it so far."""
    tree.bind(parent, name, node)
    node.ctime = tree.moment
    versions.record(tree, node)
    if not node.writers:
        versions.close(tree, node)
    tree.touch(node)
    return node
