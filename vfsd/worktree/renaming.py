"""What rename(2) refuses."""

from __future__ import annotations

import errno
from collections.abc import Callable

from vfsd.model.entry import Kind
from vfsd.model.errors import Refused
from vfsd.worktree.node import WorkNode

NOREPLACE, EXCHANGE = 1, 2  # flags of renameat2(2)


def check_rename(
    node: WorkNode, parent: WorkNode, other: WorkNode | None, to: WorkNode, flags: int,
    is_empty: Callable[[WorkNode], bool],
) -> None:
    """Refused when `node` in `parent` may not take the place in `to` where `other` is."""
    exchange = bool(flags & EXCHANGE)
    if flags & ~(NOREPLACE | EXCHANGE) or flags == NOREPLACE | EXCHANGE:
        raise Refused(errno.EINVAL)
    if flags & NOREPLACE and other is not None:
        raise Refused(errno.EEXIST)
    if exchange and other is None:
        raise Refused(errno.ENOENT)
    if _is_below(to, node) or (exchange and other is not None and _is_below(parent, other)):
        raise Refused(errno.EINVAL)
    if other is None or other is node or exchange:
        return
    if node.kind == Kind.DIR:
        if other.kind != Kind.DIR:
            raise Refused(errno.ENOTDIR)
        if not is_empty(other):
            raise Refused(errno.ENOTEMPTY)
    elif other.kind == Kind.DIR:
        raise Refused(errno.EISDIR)


def _is_below(node: WorkNode, above: WorkNode) -> bool:
    """Whether `node` is `above` or somewhere below it."""
    where: WorkNode | None = node
    while where is not None:
        if where is above:
            return True
        where = where.parent
    return False
