"""A filesystem in dicts: what a branch's head is to look like after the same calls, after a crash, and in a commit."""

from __future__ import annotations

import errno

from vfsd.model.entry import Kind

Path = tuple[bytes, ...]


class Inode:
    """A file, directory or symlink. `closed`: the bytes of each time that nobody was writing. `journalled`: (bytes,
    mode, xattrs) that survive a crash, None when nothing does."""

    def __init__(self, kind: int, mode: int, *, target: bytes = b"") -> None:
        self.kind = kind
        self.mode = mode
        self.target = target
        self.data = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.children: dict[bytes, Inode] = {}
        self.writers = 0
        self.dirty = False  # written while open
        self.closed: list[bytes] = []
        self.journalled: tuple[bytes, int, dict[bytes, bytes]] | None = None

    def journal(self) -> None:
        """Its state is in the journal."""
        self.journalled = (self.data, self.mode, dict(self.xattrs))

    def attributes_changed(self) -> None:
        """Attributes are journalled at once, unless nobody knows of the file yet."""
        if self.journalled is not None:
            self.journalled = (self.journalled[0], self.mode, dict(self.xattrs))


class Refusal(Exception):
    """An errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


def refuse(condition: object, number: int) -> None:
    """Refuse with `number` if the condition holds."""
    if condition:
        raise Refusal(number)


class Reference:
    """The tree."""

    def __init__(self) -> None:
        self.root = Inode(Kind.DIR, 0o755)

    def at(self, path: Path) -> Inode:
        """The inode at a path that is there."""
        node = self.root
        for name in path:
            node = node.children[name]
        return node

    def all(self) -> dict[Path, Inode]:
        """Every path but the root."""
        found: dict[Path, Inode] = {}

        def walk(node: Inode, path: Path) -> None:
            for name, child in sorted(node.children.items()):
                found[(*path, name)] = child
                walk(child, (*path, name))

        walk(self.root, ())
        return found

    def make(self, path: Path, kind: int, mode: int, target: bytes = b"") -> Inode:
        parent = self.at(path[:-1])
        refuse(path[-1] in parent.children, errno.EEXIST)
        node = parent.children[path[-1]] = Inode(kind, mode, target=target)
        if kind == Kind.FILE:
            node.dirty = True
        else:
            node.journal()
        return node

    def unlink(self, path: Path) -> None:
        parent = self.at(path[:-1])
        refuse(path[-1] not in parent.children, errno.ENOENT)
        refuse(parent.children[path[-1]].kind == Kind.DIR, errno.EISDIR)
        del parent.children[path[-1]]

    def rmdir(self, path: Path) -> None:
        parent = self.at(path[:-1])
        refuse(path[-1] not in parent.children, errno.ENOENT)
        node = parent.children[path[-1]]
        refuse(node.kind != Kind.DIR, errno.ENOTDIR)
        refuse(node.children, errno.ENOTEMPTY)
        del parent.children[path[-1]]

    def link(self, old: Path, new: Path) -> None:
        node, parent = self.at(old), self.at(new[:-1])
        refuse(node.kind == Kind.DIR, errno.EPERM)
        refuse(new[-1] in parent.children, errno.EEXIST)
        self._need_journalled(node)
        parent.children[new[-1]] = node

    def rename(self, old: Path, new: Path, flags: int) -> None:
        here, there = self.at(old[:-1]), self.at(new[:-1])
        refuse(old[-1] not in here.children, errno.ENOENT)
        node, other = here.children[old[-1]], there.children.get(new[-1])
        refuse(flags == 1 and other is not None, errno.EEXIST)
        refuse(flags == 2 and other is None, errno.ENOENT)
        refuse(new[: len(old)] == old and len(new) > len(old) and node.kind == Kind.DIR, errno.EINVAL)
        refuse(flags == 2 and old[: len(new)] == new and len(old) > len(new), errno.EINVAL)
        if other is node:
            return
        if other is not None and flags != 2:
            if node.kind == Kind.DIR:
                refuse(other.kind != Kind.DIR, errno.ENOTDIR)
                refuse(other.children, errno.ENOTEMPTY)
            else:
                refuse(other.kind == Kind.DIR, errno.EISDIR)
        self._need_journalled(node)
        del here.children[old[-1]]
        there.children[new[-1]] = node
        if flags == 2:
            assert other is not None
            self._need_journalled(other)
            here.children[old[-1]] = other

    def _need_journalled(self, node: Inode) -> None:
        if node.kind == Kind.FILE and node.journalled is None:
            node.journal()

    # Bytes

    def write(self, node: Inode, offset: int, data: bytes) -> None:
        grown = node.data.ljust(offset, b"\0")
        node.data = grown[:offset] + data + grown[offset + len(data) :]
        node.dirty = True

    def truncate(self, node: Inode, size: int) -> None:
        node.data = node.data[:size].ljust(size, b"\0")
        node.dirty = True
        if not node.writers:
            self.close(node)

    def opened(self, node: Inode, *, truncate: bool) -> None:
        if truncate and node.data:
            node.data, node.dirty = b"", True
        node.writers += 1

    def flush(self, node: Inode) -> None:
        if node.dirty:
            node.journal()

    def release(self, node: Inode) -> None:
        node.writers -= 1
        if not node.writers:
            self.close(node)

    def close(self, node: Inode) -> None:
        """Nobody writes it now."""
        node.dirty = False
        node.closed.append(node.data)
        node.journal()

    def crash(self) -> None:
        """What the journal does not know is gone."""

        def walk(node: Inode) -> None:
            for name, child in list(node.children.items()):
                if child.journalled is None:
                    del node.children[name]
                    continue
                child.data, child.mode, xattrs = child.journalled
                child.xattrs = dict(xattrs)
                child.writers, child.dirty, child.closed = 0, False, [*child.closed, child.data]
                walk(child)

        walk(self.root)
