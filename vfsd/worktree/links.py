"""The names of hard-linked files that a head has not come across, and numbers of inodes that their names share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from vfsd.model.entry import Kind
from vfsd.model.errors import NotCached
from vfsd.model.ids import hash_bytes
from vfsd.repo.links import linked_names
from vfsd.worktree.node import WorkNode, need_place

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree

Path = tuple[bytes, ...]
LINKED_INODES = 1 << 62  # inode numbers from here on are made from link numbers, those below are counted


class Names(msgspec.Struct):
    """What a search found: link number → paths in the head. It holds for `epoch`: until a directory is renamed, or a
    commit of others moves names."""

    epoch: int
    paths: dict[int, list[Path]]


def need_names(tree: Worktree, node: WorkNode) -> None:
    """Know all names of a file: a commit has to hold its change under each of them. NotCached until they are found.
    Refused(ESTALE) as of need_place."""
    need_place(node)
    if not node.unseen:
        return
    if tree.names is None or tree.names.epoch != tree.names_epoch:
        search = _search(tree)
        if not tree.replaying:
            raise NotCached(("names", tree.row.id), search)
        search()
    assert tree.names is not None
    for path in tree.names.paths.get(node.link, ()):
        where: WorkNode | None = tree.root
        for name in path:
            where = None if where is None or where.kind != Kind.DIR else tree.lookup(where, name)
    node.unseen = 0


def _search(tree: Worktree) -> Callable[[], None]:
    """What finds, in a thread, all names; also those that the head has come across, as it may forget them again."""
    found = Names(tree.names_epoch, {})
    places = []
    todo = [tree.root]
    while todo:
        node = todo.pop()
        todo += [child for child in node.children.values() if child.kind == Kind.DIR]
        path = node.path()
        if path is None:
            continue
        for name, child in node.children.items():
            if child.link:
                found.paths.setdefault(child.link, []).append((*path, name))
        if node.tree is not None and node.tree.linked:
            places.append((path, node.tree, {*node.children, *node.removed}))

    def run() -> None:
        for above, listing, seen in places:
            for path, entry in linked_names(tree.blocking, listing):
                if path[0] not in seen:
                    found.paths.setdefault(entry.more.link, []).append((*above, *path))
        tree.names = found

    return run


def inode_number(salt: bytes, link: int) -> int:
    """The same for all names, however often the kernel forgets the inode in between: programs that keep hard links
    (tar, rsync, cp) compare numbers that they were given at different times. salt: of the head or snapshot."""
    return LINKED_INODES | int.from_bytes(hash_bytes(b"%b %d" % (salt, link))[:8], "big") >> 2
