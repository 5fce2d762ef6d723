"""Makes a head follow its branch: another commit is the base now, this node's own or somebody else's.

What the commit changed and this head did not is taken over, inode by inode, and named so that the kernel can be told;
what this head has changed stays changed, on top.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vfsd.model.entry import Entry, Kind, linked_below, same
from vfsd.repo.diff import Changed
from vfsd.repo.tree import Path
from vfsd.worktree.node import WorkNode, mark_above
from vfsd.worktree.worktree import Worktree


class Stale(msgspec.Struct):
    """What the kernel may hold that is not so any more. names: (inode of the directory, name). inodes: whose
    attributes and bytes changed. left: what was not taken over, because of changes here."""

    names: list[tuple[int, bytes]]
    inodes: list[int]
    left: list[Changed] = []


def adopt(tree: Worktree, root: Entry, changes: Sequence[Changed], own: frozenset[int]) -> Stale:
    """Take over `changes`, the diff from the old base to `root`. `own`: inodes whose committed bytes came from here, so
    that the kernel has them already."""
    stale = Stale([], [], [])
    known: dict[Path, WorkNode | None] = {(): tree.root}
    tree.root.tree = root.node
    tree.root.count_directories()
    if tree.root.changed:
        tree.root.entry = root
    else:
        tree.root.adopt(root)
    for path, old, new in changes:
        if (old and linked_below(old)) or (new and linked_below(new)):
            tree.names_epoch += 1
        parent = _directory_at(known, path[:-1])
        if parent is None:
            if _is_replaced(tree.root, path[:-1]):
                stale.left.append((path, old, new))
            continue
        child = parent.children.get(path[-1])
        if child is not None and _goes(tree, child, new):
            _keep_written(tree, child)
        if child is None:
            if path[-1] not in parent.removed:
                stale.names.append((parent.ino, path[-1]))
            else:
                stale.left.append((path, old, new))
            if not (old and new and old.kind == new.kind == Kind.DIR):
                tree.forgotten.drop(parent, path[-1], 0 if old is None else old.more.link)
            continue
        if child.changed or not child.placed:
            stale.left.append((path, old, new))
        if _adopt_entry(tree, stale, parent, child, path[-1], old, new, own):
            known[path] = child
    return stale


def _is_replaced(root: WorkNode, path: Path) -> bool:
    """Whether a committed directory was removed here, or has made way for something else."""
    node: WorkNode | None = root
    for name in path:
        if node is None or node.kind != Kind.DIR:
            return False
        if name in node.removed:
            return True
        node = node.children.get(name)
    return False


def _directory_at(known: dict[Path, WorkNode | None], path: Path) -> WorkNode | None:
    """The inode of a committed directory, when there is one that still stands in its place."""
    if path not in known:
        parent = _directory_at(known, path[:-1])
        child = None if parent is None else parent.children.get(path[-1])
        known[path] = child if child is not None and child.kind == Kind.DIR and child.placed else None
    return known[path]


def _adopt_entry(
    tree: Worktree, stale: Stale, parent: WorkNode, child: WorkNode, name: bytes, old: Entry | None, new: Entry | None,
    own: frozenset[int],
) -> bool:
    """Adopt one line of the diff. True for a directory that stays though the commit has none there: what was in it is
    adopted still."""
    if new is None or _goes(tree, child, new):
        if child.changed or child.below:
            if child.placed and child.kind == Kind.DIR:
                _make_again(parent, child)
                return True
            return False
        del parent.children[name]
        child.lose(parent, name)
        child.taken = child.parent is None
        stale.names.append((parent.ino, name))
        return False
    had = child.entry
    if not child.placed and (child.changed or child.kind == Kind.DIR):
        return False
    if child.kind == Kind.DIR:
        child.tree = new.node
        child.count_directories()
    if child.changed:
        # What is changed here wins; bytes that are being written go into a commit once they are closed.
        child.entry = new
        if child.closed is None:
            child.closed_mtime = new.mtime
        return False
    had_link = child.link
    child.adopt(new)
    if had_link and not child.link:
        tree.unlinked(child, had_link)
    if child.link:
        tree.linked[child.link] = child
    if child.ino not in own and (old is not None if child.kind == Kind.DIR else had is None or not same(had, new)):
        stale.inodes.append(child.ino)
        child.ctime = tree.now()
    return False


def _make_again(parent: WorkNode, child: WorkNode) -> None:
    """A directory that somebody else removed, and that has changes here, is one that was made just now."""
    child.tree = None
    child.placed = False
    child.changed = child.changed or 1  # a number that no later change has
    for node in (child, parent):
        node.count_directories()


def _goes(tree: Worktree, child: WorkNode, new: Entry | None) -> bool:
    """Whether a commit has something else under an inode's name, or nothing."""
    return new is None or new.kind != child.kind or _is_another_inode(tree, child, new)


def _keep_written(tree: Worktree, node: WorkNode) -> None:
    """Files that somebody has opened to write them, though nothing is written yet, stay as changed ones do: what is
    written and closed has to be in a commit, and who opened them could not know that they were removed elsewhere."""
    if node.writers and not node.changed:
        node.changed = 1  # a number that no later change has
        mark_above(node.parent)
        tree.on_change()
    for child in node.children.values():
        _keep_written(tree, child)


def _is_another_inode(tree: Worktree, child: WorkNode, new: Entry) -> bool:
    """Whether a name belongs to another file than before: a hard link was undone, or made to a file known here."""
    link = new.more.link
    if child.links and link != child.link:
        return True
    return bool(link) and tree.linked.get(link, child) is not child
