"""What others committed where this head has changes of its own: taken into this node's commit where that contradicts
nothing, else it gives way, which is said.

Others' changes that a head takes over are in it (worktree/adopt.py). The rest is looked at once more when its own
changes become a commit:

- What others put into a directory that was removed here meanwhile stays: nobody who removed it had seen that.
- What others did in a directory that was renamed here is done under its new name, unless that was changed here too.
- Anything else gives way: the commit before has it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from vfsd.model.entry import Entry, Kind, same
from vfsd.repo.diff import Changed, diff
from vfsd.repo.directory import NodeSink, lookup
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Path, Sub, apply
from vfsd.worktree.freeze import Frozen, FrozenDirectory

MOST = 100_000  # changes that are remembered: some 500 bytes each
NAMED = 100  # paths that a commit and the status name
Others = dict[Path, tuple[Entry | None, Entry | None]]  # path → what was there when this head last saw it, and is now


class Settled(msgspec.Struct):
    """A tree with others' changes in it, those of which this node's changes made nothing, and those that no change here
    has met yet. removed: what others removed and this node had elsewhere, in a directory that it renamed: no diff
    between commits names it."""

    root: Entry
    gave_way: list[Path]
    left: Others
    removed: list[Changed] = []


class Settling:
    """Makes a node's changes to a tree, `sub`, and settles what others did since it was `base`. others: what they had
    done by then that the head has not taken over."""

    def __init__(self, nodes: NodeSource, base: Entry, frozen: Frozen, sub: Sub, others: Others) -> None:
        self._nodes = nodes
        self._base = base
        self._frozen = frozen
        self._sub = sub
        self._others = others
        self.settled: Settled | None = None  # by the last `change`

    def change(self, root: Entry, sink: NodeSink) -> Entry:
        """The tree of a commit that follows the one with the tree `root`. Blocks."""
        others = dict(self._others)
        remember(others, diff(self._nodes, self._base, root))
        after = apply(self._nodes, sink, root, self._sub)
        found = settle_others(self._nodes, sink, root, after, self._frozen, others)
        found.left = {path: change for path, change in found.left.items() if path in self._others}
        self.settled = found
        return found.root

    def removed(self, root: Entry) -> list[Changed]:
        """What the head has still, and the commit that was made, with the tree `root`, has not. Blocks."""
        removed = [] if self.settled is None else self.settled.removed
        return [line for line in removed if _at(self._nodes, root, line[0])[0] is None]

    def gave_way(self) -> list[bytes]:
        """Some of the paths."""
        return [] if self.settled is None else [b"/".join(path) for path in self.settled.gave_way[:NAMED]]


def remember(others: Others, changes: Iterable[Changed]) -> None:
    """Take in what others changed since."""
    for path, old, new in changes:
        if path in others:
            others[path] = (others[path][0], new)
        elif len(others) < MOST:
            others[path] = (old, new)


def settle_others(
    nodes: NodeSource, sink: NodeSink, before: Entry, after: Entry, frozen: Frozen, others: Others
) -> Settled:
    """before: the tree of the commit that the branch stands at; after: with this node's changes. Blocks."""
    moved = _moved(frozen.root, ())
    places: dict[Path, Path] = {}  # old paths of directories that were renamed → their new ones
    wanted: dict[Path, Entry | None] = {}
    settled = Settled(after, [], {})
    for path, (old, new) in sorted(others.items()):
        if old is not None and new is not None and old.kind == new.kind == Kind.DIR:
            if old.node is not None and old.node.id in moved:
                places[path] = moved[old.node.id]
                if new.node is not None:
                    moved[new.node.id] = places[path]
            continue
        target = _place(places, path)
        now, is_free = _at(nodes, after, target)
        if any(target[:depth] in wanted for depth in range(1, len(target))):
            continue  # it comes with the directory that it is in
        if same(now, new):
            settled.left[path] = (old, new)
        elif is_free and (same(now, old) if target != path else new is not None and old is None and now is None):
            wanted[target] = new
            if new is None:
                settled.removed.append((target, now, None))
        elif new is not None and new.kind != Kind.DIR and (now is None or now.digest != new.digest):
            settled.gave_way.append(path)
    if wanted:
        settled.root = apply(nodes, sink, after, _changes(nodes, before, wanted))
    return settled


def _moved(directory: FrozenDirectory, path: Path) -> dict[bytes, Path]:
    """Id of the committed listing → new path, of the directories that were renamed."""
    found: dict[bytes, Path] = {}
    for name, item in directory.items.items():
        if isinstance(item, FrozenDirectory):
            below = (*path, name)
            if item.whole and item.tree is not None:
                found[item.tree.id] = below
            found |= _moved(item, below)
    return found


def _place(places: dict[Path, Path], path: Path) -> Path:
    """Where something is after this node's renames."""
    for depth in range(len(path) - 1, 0, -1):
        if path[:depth] in places:
            return places[path[:depth]] + path[depth:]
    return path


def _at(nodes: NodeSource, root: Entry, path: Path) -> tuple[Entry | None, bool]:
    """What is at a path, and whether something may be put there: no file stands in the way."""
    entry: Entry | None = root
    for name in path:
        if entry is None:
            return None, True
        if entry.kind != Kind.DIR:
            return None, False
        entry = lookup(nodes, entry.node, name)
    return entry, True


def _changes(nodes: NodeSource, before: Entry, wanted: dict[Path, Entry | None]) -> Sub:
    """As changes of a tree; directories that have to be made again are as they were."""
    root = Sub({})
    for path, entry in wanted.items():
        where, was = root, before
        for name in path[:-1]:
            found = lookup(nodes, was.node, name) if was.kind == Kind.DIR else None
            inner = where.changes.get(name)
            if not isinstance(inner, Sub):
                inner = where.changes[name] = Sub({}, like=found)
            where, was = inner, found or Entry(name, Kind.FILE, 0, 0, 0, 0, 0, before.digest)
        where.changes[path[-1]] = entry
    return root
