"""What differs between two trees. Equal nodes are skipped unread: the cost is that of the difference."""

from __future__ import annotations

from collections.abc import Iterator

from vfsd.model.entry import Entry, Kind, Ref
from vfsd.model.entry import same as same_entry
from vfsd.model.errors import Damaged
from vfsd.model.node import Child, Inner, Leaf
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Path

Changed = tuple[Path, Entry | None, Entry | None]


def diff(nodes: NodeSource, old: Entry | None, new: Entry | None, path: Path = ()) -> Iterator[Changed]:
    """(path, old entry, new entry) of every entry below two directories that is not the same in both, directories
    before what is in them, in order of names; streamed. None stands for a directory that is not there."""
    old_node = old.node if old is not None and old.kind == Kind.DIR else None
    new_node = new.node if new is not None and new.kind == Kind.DIR else None
    for name, one, other in changed_names(nodes, old_node, new_node):
        below = (*path, name)
        yield below, one, other
        if (one is not None and one.kind == Kind.DIR) or (other is not None and other.kind == Kind.DIR):
            yield from diff(nodes, one, other, below)


def changed_names(
    nodes: NodeSource, old: Ref | None, new: Ref | None
) -> Iterator[tuple[bytes, Entry | None, Entry | None]]:
    """(name, old entry, new entry) of the names of one directory whose entries differ, in order."""
    one, other = _Cursor(nodes, old), _Cursor(nodes, new)
    while one.stack or other.stack:
        left, right = one.top, other.top
        if isinstance(left, Ref) or isinstance(right, Ref):
            _descend(one, other, left, right)
        elif left is None or (right is not None and right.name < left.name):
            assert right is not None
            yield right.name, None, right
            other.skip()
        elif right is None or left.name < right.name:
            yield left.name, left, None
            one.skip()
        else:
            if not same_entry(left, right):
                yield left.name, left, right
            one.skip()
            other.skip()


def _descend(one: _Cursor, other: _Cursor, left: Entry | Ref | None, right: Entry | Ref | None) -> None:
    """Skip a node that both have, or open the higher of the two: equal nodes meet on their level."""
    if isinstance(left, Ref) and isinstance(right, Ref):
        if left.id == right.id:
            one.skip()
            other.skip()
            return
        level = max(one.level, other.level)
        opened = [cursor for cursor in (one, other) if cursor.level == level]
    else:
        opened = [one if isinstance(left, Ref) else other]
    for cursor in opened:
        cursor.open()


class _Cursor:
    """A place in a directory: the next entry, or the next node still unread."""

    def __init__(self, nodes: NodeSource, root: Ref | None) -> None:
        self._nodes = nodes
        self.level = 1 << 30  # of the node that `top` points to; the root's is not known before it is read
        self.stack: list[tuple[int, list[Entry] | list[Child], int]] = []
        self._root = root
        if root is not None:
            self.stack.append((self.level, [Child(b"", root)], 0))

    @property
    def top(self) -> Entry | Ref | None:
        """What comes next; None at the end."""
        if not self.stack:
            return None
        _, items, at = self.stack[-1]
        item = items[at]
        return item.ref if isinstance(item, Child) else item

    def skip(self) -> None:
        """Go behind what comes next."""
        level, items, at = self.stack.pop()
        if at + 1 < len(items):
            self.stack.append((level, items, at + 1))
        self._settle()

    def open(self) -> None:
        """Go into the node that comes next."""
        ref = self.top
        assert isinstance(ref, Ref)
        node = self._nodes.get(ref)
        level, items, at = self.stack.pop()
        if at + 1 < len(items):
            self.stack.append((level, items, at + 1))
        if not isinstance(node, Leaf | Inner):
            raise Damaged("a directory points to a node of a chunk list")
        if node.items:
            self.stack.append((node.level - 1 if isinstance(node, Inner) else -1, node.items, 0))
        self._settle()

    def _settle(self) -> None:
        self.level = self.stack[-1][0] if self.stack else -1
