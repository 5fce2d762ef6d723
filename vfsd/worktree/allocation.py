"""fallocate(2): room that is asked for, and ranges that become zeros."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vfsd.model.errors import Refused
from vfsd.worktree import versions
from vfsd.worktree.links import need_names
from vfsd.worktree.node import WorkNode

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16  # FALLOC_FL_*


def allocate(tree: Worktree, node: WorkNode, offset: int, size: int, how: int, *, most: int) -> None:
    """Room for `size` bytes from `offset`, which the file has from now on unless `how` has KEEP_SIZE; with PUNCH_HOLE
    or ZERO_RANGE those in the file become zeros. Room is looked for and not set aside: ENOSPC when there is too little.
    EOPNOTSUPP for anything else; EFBIG beyond `most` bytes."""
    if how & ~(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE):
        raise Refused(errno.EOPNOTSUPP)
    if offset + size > most:
        raise Refused(errno.EFBIG)
    need_names(tree, node)
    old, end = node.size, offset + size
    if not how & PUNCH_HOLE:
        tree.staging.admit(max(0, end - max(old, offset)))
    if how & KEEP_SIZE and (how == KEEP_SIZE or offset >= old):
        return
    file = versions.writable(tree, node)
    if not how & KEEP_SIZE and end > old:
        file.truncate(end)
    if how & (PUNCH_HOLE | ZERO_RANGE):
        file.zero(offset, min(end, old))
    tree.wrote(node)
