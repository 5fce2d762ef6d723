"""What stays the same of an inode that the kernel forgets and asks for again: its number and ctime.

Programs compare both between two looks at a name (git, cp, fts(3)), and a kernel that is short of memory forgets in
between. The last `MOST` are remembered; hard-linked files have numbers of their own (worktree.links).
"""

from __future__ import annotations

from collections import OrderedDict

from vfsd.worktree.node import WorkNode

MOST = 1 << 16  # some 300 bytes each


class Forgotten:
    """Of one head. No number is given out twice: what is remembered of a name is taken out with it."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[int, bytes], tuple[int, int]] = OrderedDict()

    def keep(self, parent: WorkNode, name: bytes, node: WorkNode) -> None:
        """The kernel has forgotten `node`, and its object goes."""
        self._known[_key(parent, name, node.link)] = (node.ino, node.ctime)
        if len(self._known) > MOST:
            self._known.popitem(last=False)

    def take(self, parent: WorkNode, name: bytes, link: int) -> tuple[int, int]:
        """(number, ctime) of what had this name, or this link number; zeros if that is not known."""
        return self._known.pop(_key(parent, name, link), (0, 0))

    def drop(self, parent: WorkNode, name: bytes, link: int) -> None:
        """Somebody else's commit has something else there. link: of what was there."""
        self._known.pop(_key(parent, name, link), None)


def _key(parent: WorkNode, name: bytes, link: int) -> tuple[int, bytes]:
    return (0, b"%d" % link) if link else (parent.ino, name)
