"""Extended attributes, by the rules of setxattr(2) and removexattr(2)."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from vfsd.model.errors import Refused
from vfsd.worktree.links import need_names
from vfsd.worktree.node import WorkNode

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree

MAX_XATTR = 64 << 10  # bytes of a value


def set_xattr(tree: Worktree, node: WorkNode, name: bytes, value: bytes | None, flags: int = 0) -> None:
    """Set an attribute, or with None remove it. flags: XATTR_CREATE, XATTR_REPLACE. A branch's root has none: commits
    do not hold them."""
    if node is tree.root:
        raise Refused(errno.ENOTSUP)
    if flags & os.XATTR_CREATE and name in node.xattrs:
        raise Refused(errno.EEXIST)
    if (value is None or flags & os.XATTR_REPLACE) and name not in node.xattrs:
        raise Refused(errno.ENODATA)
    need_names(tree, node)
    if value is None:
        del node.xattrs[name]
    else:
        node.xattrs = dict(sorted({**node.xattrs, name: value}.items()))
    node.ctime = tree.now()
    tree.attributes_changed(node)
