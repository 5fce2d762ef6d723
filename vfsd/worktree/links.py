"""The names of hard-linked files that a head has not come across: they are found before such a file changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vfsd.model.entry import Kind
from vfsd.model.errors import NotCached
from vfsd.repo.links import linked_names
from vfsd.worktree.node import WorkNode

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree

Found = dict[int, list[tuple[WorkNode, tuple[bytes, ...]]]]  # link number → (directory, path below it) of each name


def need_names(tree: Worktree, node: WorkNode) -> None:
    """Know all names of a file: a commit has to hold its change under each of them. NotCached until they are found."""
    if not node.unseen:
        return
    if tree.found is None:
        search = _search(tree)
        if not tree.replaying:
            raise NotCached(("names", tree.row.id), search)
        search()
    assert tree.found is not None
    for top, path in tree.found.get(node.link, ()):
        where: WorkNode | None = top
        for name in path:
            where = None if where is None or where.kind != Kind.DIR else tree.lookup(where, name)
    tree.found.pop(node.link, None)
    node.unseen = 0


def _search(tree: Worktree) -> Callable[[], None]:
    """What finds, in a thread, all names that the head has not come across. What is found holds until a directory is
    renamed or the branch moves on: `tree.found` is None again then."""
    places = []
    todo = [tree.root]
    while todo:
        node = todo.pop()
        todo += [child for child in node.children.values() if child.kind == Kind.DIR]
        if node.tree is not None and node.tree.linked:
            places.append((node, node.tree, {*node.children, *node.removed}))

    def run() -> None:
        found: Found = {}
        for node, listing, seen in places:
            for path, entry in linked_names(tree.blocking, listing):
                if path[0] not in seen:
                    found.setdefault(entry.more.link, []).append((node, path))
        tree.found = found

    return run
