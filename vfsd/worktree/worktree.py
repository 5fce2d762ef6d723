"""The mutable head of one branch: what POSIX operations do to it. Single-threaded: the event loop's thread calls it.

No call blocks on the store: where committed bytes or names are needed that are not at hand, NotCached is raised before
anything has changed, and the caller loads them and calls again. What a call acknowledges is in the journal first.
"""

from __future__ import annotations

import errno
import itertools
import os
import time
from collections.abc import Callable, Iterator

from vfsd.index.journal import BranchRow, JournalFile
from vfsd.model.entry import Entry, Kind, storable_time
from vfsd.model.errors import Refused
from vfsd.repo.chunklist import Content, content_of
from vfsd.repo.content import ChunkSource, read_content
from vfsd.repo.directory import entries, lookup
from vfsd.repo.links import new_link
from vfsd.repo.nodes import NodeSource
from vfsd.worktree import links, nameless, versions
from vfsd.worktree.forgotten import Forgotten
from vfsd.worktree.node import Removed, WorkNode, mark_above, need_directory, need_place
from vfsd.worktree.records import (
    AttributesRecord,
    LinkRecord,
    MakeRecord,
    MoveRecord,
    RebaseRecord,
    Record,
    RemoveRecord,
    encode_record,
)
from vfsd.worktree.renaming import EXCHANGE, check_rename
from vfsd.worktree.runs import Noted
from vfsd.worktree.staging import Staging

MAX_NAME, MAX_FILE = 255, 1 << 62  # bytes


class Worktree:
    """A branch's head on this node. `on_change` is called after each change that a commit would hold. `nodes` says
    NotCached where `blocking`, for threads, asks the store. number: of the root's inode; others get theirs from
    `numbers`."""

    def __init__(
        self,
        row: BranchRow,
        root: Entry,
        *,
        nodes: NodeSource,
        blocking: NodeSource,
        chunks: ChunkSource,
        journal: JournalFile,
        staging: Staging,
        numbers: Iterator[int],
        number: int,
        on_change: Callable[[], None],
    ) -> None:
        self.row = row
        self.nodes, self.blocking = nodes, blocking
        self.journal, self.staging, self.last_record = journal, staging, 0
        self._chunks, self._numbers, self.on_change = chunks, numbers, on_change
        self.read_only = ""  # why users may not write here; empty when they may
        self._changes = itertools.count(1)
        self.linked: dict[int, WorkNode] = {}  # link number → the inode that its names share
        self.names: links.Names | None = None  # of hard-linked files, as the last search found them
        self.names_epoch = 0
        self._salt = os.urandom(16)
        self._numbered: dict[int, int] = {}  # link number → inode number that the file had before
        self.forgotten = Forgotten()
        self.noted, self.replaying = Noted(), False
        self.is_detached, self.replayed_time = False, 0  # detached: the branch is deleted or opened anew without this
        self.is_abandoned = False  # nobody brings its changes back: what is not open has no bytes any more
        self.moment = 0  # when the operation under way began: what all names and directories in it get
        self.root = WorkNode(self, number, Kind.DIR, b"", None)
        self.root.adopt(root)
        self.root.placed = True

    # Looking

    def lookup(self, parent: WorkNode, name: bytes) -> WorkNode | None:
        """The inode under a name, or None."""
        need_directory(parent)
        node = parent.children.get(name)
        if node is not None or name in parent.removed or parent.tree is None:
            return node
        entry = lookup(self.nodes, parent.tree, name)
        return None if entry is None else self.materialise(parent, entry)

    def materialise(self, parent: WorkNode, entry: Entry) -> WorkNode:
        """The inode of a committed entry that has none yet."""
        link = entry.more.link
        node = self.linked.get(link) if link else None
        if node is not None and node.parent and versions.may_be(node, entry):
            node.links.append((parent, entry.name))
            node.unseen = max(0, node.unseen - 1)
            if node.changed:
                mark_above(parent)  # the change is one of this name too
        else:
            number, ctime = self.forgotten.take(parent, entry.name, 0 if node else link)
            known = self._numbered.get(link) or links.inode_number(self._salt, link) if link and not node else number
            node = WorkNode(self, known or next(self._numbers), entry.kind, entry.name, parent)
            node.ctime = ctime
            node.adopt(entry)
            node.placed = True
            if link:
                self.linked[link] = node
        parent.children[entry.name] = node
        return node

    def listing(self, parent: WorkNode, after: bytes | None) -> Iterator[tuple[bytes, WorkNode | Entry]]:
        """(name, inode or committed entry) behind `after`, in order of names."""
        own = sorted(name for name in parent.children if after is None or name > after)
        at = 0
        for entry in entries(self.nodes, parent.tree, after):
            while at < len(own) and own[at] < entry.name:
                if own[at] in parent.children:
                    yield own[at], parent.children[own[at]]
                at += 1
            if at < len(own) and own[at] == entry.name:
                continue
            if entry.name not in parent.removed:
                yield entry.name, parent.children.get(entry.name, entry)
        for name in own[at:]:
            if name in parent.children:
                yield name, parent.children[name]

    def is_empty(self, node: WorkNode) -> bool:
        """Whether a directory has no names."""
        return next(self.listing(node, None), None) is None

    def forget(self, node: WorkNode) -> None:
        """The kernel does not know the inode any more: drop it unless something needs it."""
        if node.lookups or node.opens or node.changed or node.below or node.children or node.parent is None:
            self._discard_unused(node)
            return
        if node.removed or not node.placed:
            return
        if self.linked.get(node.link) is node:
            del self.linked[node.link]
        for parent, name in node.names():
            if parent.children.get(name) is node:
                self.forgotten.keep(parent, name, node)
                del parent.children[name]
                if not parent.lookups:
                    self.forget(parent)

    # Making and removing names

    def make(
        self, parent: WorkNode, name: bytes, kind: int, mode: int, uid: int, gid: int, *, target: bytes = b"",
        rdev: int = 0,
    ) -> WorkNode:
        """A new directory, symlink, special file, or empty file. A file is recorded when it is closed."""
        self.moment = self.now()
        if len(name) > MAX_NAME:
            raise Refused(errno.ENAMETOOLONG)
        if self.lookup(parent, name) is not None:
            raise Refused(errno.EEXIST)
        node = self.new(parent, name, kind, mode, uid, gid)
        node.target, node.rdev = target, rdev
        if kind != Kind.FILE:
            self.record(MakeRecord((*self._path(parent), name), kind, node.attributes, target, rdev, node.ctime))
        self.bind(parent, name, node)
        self.touch(node)
        return node

    def new(self, parent: WorkNode, name: bytes, kind: int, mode: int, uid: int, gid: int) -> WorkNode:
        """An inode that could be in a directory, without a name."""
        self._path(parent)
        node = WorkNode(self, next(self._numbers), kind, name, None)
        node.mode, node.uid, node.gid = mode & 0o7777, uid, gid
        if parent.mode & 0o2000:
            node.gid = parent.gid
            if kind == Kind.DIR:
                node.mode |= 0o2000
        node.mtime = node.ctime = node.atime = node.made = self.moment
        if kind == Kind.FILE:
            node.file = versions.empty(self)
        return node

    def unlink(self, parent: WorkNode, name: bytes) -> WorkNode:
        """Remove a name that is not a directory's; the inode."""
        self.moment = self.now()
        node = self._existing(parent, name)
        if node.kind == Kind.DIR:
            raise Refused(errno.EISDIR)
        links.need_names(self, node)
        if not versions.is_new(node):
            self.record(RemoveRecord((*self._path(parent), name), self.moment))
        self._unbind(parent, name, node)
        self._discard_unused(node)
        return node

    def rmdir(self, parent: WorkNode, name: bytes) -> WorkNode:
        """Remove an empty directory; its inode."""
        self.moment = self.now()
        node = self._existing(parent, name)
        need_directory(node)
        if not self.is_empty(node):
            raise Refused(errno.ENOTEMPTY)
        self.record(RemoveRecord((*self._path(parent), name), self.moment))
        self._unbind(parent, name, node)
        return node

    def link(self, node: WorkNode, parent: WorkNode, name: bytes) -> WorkNode:
        """A second name for a file."""
        self.moment = self.now()
        if node.kind == Kind.DIR:
            raise Refused(errno.EPERM)
        if len(name) > MAX_NAME:
            raise Refused(errno.ENAMETOOLONG)
        if self.lookup(parent, name) is not None:
            raise Refused(errno.EEXIST)
        self._path(parent)
        if node.parent is None:
            return nameless.name(self, node, parent, name)
        path = self._path(node)
        links.need_names(self, node)
        versions.record_new(self, node)
        self.record(LinkRecord(path, (*self._path(parent), name), self.moment))
        if not node.link:
            node.link = new_link()
            self._numbered[node.link] = node.ino
        self.linked[node.link] = node
        node.links.append((parent, name))
        parent.children[name] = node
        self._changed_names(parent)
        node.ctime = self.moment
        self.touch(node)
        return node

    def rename(self, parent: WorkNode, name: bytes, to: WorkNode, new: bytes, flags: int) -> WorkNode | None:
        """rename(2) with RENAME_NOREPLACE (1) and RENAME_EXCHANGE (2); the inode that lost its name, if any."""
        self.moment = self.now()
        node = self._existing(parent, name)
        if len(new) > MAX_NAME:
            raise Refused(errno.ENAMETOOLONG)
        other = self.lookup(to, new)
        self._path(to)
        check_rename(node, parent, other, to, flags, self.is_empty)
        if other is node:
            return None
        exchange = bool(flags & EXCHANGE)
        if other is not None and not exchange:
            links.need_names(self, other)
        for each in (node, other) if exchange else (node,):
            if each is not None:
                versions.record_new(self, each)
        self.record(MoveRecord((*self._path(parent), name), (*self._path(to), new), exchange, self.moment))
        if node.kind == Kind.DIR or (other is not None and other.kind == Kind.DIR):
            self.names_epoch += 1
        if other is not None:
            self._unbind(to, new, other)
        self._unbind(parent, name, node)
        self.bind(to, new, node)
        if exchange and other is not None:
            self.bind(parent, name, other)
            other.ctime = self.moment
            self.touch(other)
            other = None
        if other is not None:
            self._discard_unused(other)
        node.ctime = self.moment
        self.touch(node)
        return other

    # Attributes

    def set_attributes(
        self, node: WorkNode, *, mode: int | None = None, uid: int | None = None, gid: int | None = None,
        mtime: int | None = None, atime: int | None = None,
    ) -> None:
        """chmod, chown, utimens. atime is not kept in versions."""
        links.need_names(self, node)
        if mode is not None:
            node.mode = mode & 0o7777
        elif (uid, gid) != (None, None):
            node.drop_set_ids()
        if uid is not None:
            node.uid = uid
        if gid is not None:
            node.gid = gid
        if mtime is not None:
            node.mtime = storable_time(mtime)
        if atime is not None:
            node.atime = atime
        node.ctime = self.now()
        if (mode, uid, gid, mtime) != (None, None, None, None):
            self.attributes_changed(node)

    def attributes_changed(self, node: WorkNode) -> None:
        """Record a node's attributes as they are now."""
        path = node.path()
        if path is not None and not versions.is_new(node):
            self.record(AttributesRecord(path, versions.attributes(node)))
        self.touch(node)

    # Bytes

    def opened(self, node: WorkNode, *, write: bool, truncate: bool) -> None:
        """A file was opened."""
        if write:
            need_place(node)
        if truncate:
            links.need_names(self, node)
        node.writers += write
        if truncate and (node.size or node.file is not None):
            self.truncate(node, 0)  # which a full journal may refuse, where nobody writes
        node.opens += 1

    def read(self, node: WorkNode, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`."""
        if node.file is not None:
            return node.file.read(offset, size, self._read_base)
        return b"" if node.entry is None else self._read_base(content_of(node.entry), offset, size)

    def _read_base(self, content: Content, offset: int, size: int) -> bytes:
        return read_content(self.nodes, self._chunks, content, offset, size)

    def write(self, node: WorkNode, offset: int, data: bytes | memoryview) -> None:
        """`write_behind`, done to its end."""
        self.write_behind(node, offset, data)()

    def write_behind(self, node: WorkNode, offset: int, data: bytes | memoryview) -> Callable[[], None]:
        """Write; NotCached when a commit reads what is there and it is too large to copy at once. `data` is not kept.
        What is returned is left to be done, as of `StagedFile.write_behind`."""
        if offset + len(data) > MAX_FILE:
            raise Refused(errno.EFBIG)
        links.need_names(self, node)
        rest = versions.writable(self, node).write_behind(offset, data)
        self.wrote(node)
        return rest

    def share(self, node: WorkNode, content: Content, offset: int, size: int) -> bool:
        """`StagedFile.share`: have bytes of a committed content without moving any; whether that could be done."""
        links.need_names(self, node)
        done = versions.writable(self, node).share(content, offset, size)
        if done:
            self.wrote(node)
        return done

    def truncate(self, node: WorkNode, size: int) -> None:
        """Cut off or extend with zeros."""
        if node.kind == Kind.DIR:
            raise Refused(errno.EISDIR)
        if size > MAX_FILE:
            raise Refused(errno.EFBIG)
        links.need_names(self, node)
        if size == 0:
            versions.replace(node, versions.empty(self))
        else:
            versions.writable(self, node).truncate(size)
        self.wrote(node)
        if not node.writers:
            versions.close(self, node)

    def wrote(self, node: WorkNode) -> None:
        """A file's bytes are others."""
        node.mtime = node.ctime = self.now()
        node.drop_set_ids()
        if not node.changed or not node.writers:
            self.touch(node)

    def flushed(self, node: WorkNode) -> None:
        """A descriptor was closed: what was written so far is in the journal when this returns."""
        if node.file is not None and node.changed:
            self._need_journal()
            if node.writers:
                versions.record(self, node)
            else:
                versions.close(self, node)

    def released(self, node: WorkNode, *, write: bool) -> None:
        """An open file is gone. The last writer's end makes the bytes a version that a commit may hold."""
        node.opens -= 1
        node.writers -= write
        if write and not node.writers and node.file is not None and node.parent is not None:
            versions.close(self, node)
            self.touch(node)
        self._discard_unused(node)

    def sync(self, node: WorkNode | None) -> Callable[[], None]:
        """fsync: records what there is, and gives what must be run, in a thread, to make it survive a power cut."""
        sync_bytes = self.staging.sync_segments
        if node is not None and node.file is not None:
            self._need_journal()
            versions.record(self, node)
            sync_bytes = node.file.syncing()

        def run() -> None:
            sync_bytes()
            self.journal.sync()

        return run

    # Journal

    def record(self, record: Record) -> int:
        """Append to the journal, unless it is being replayed, or nobody will replay it; the record's number."""
        if not self.replaying and not self.is_detached:
            self.last_record = self.journal.append(self.row.id, encode_record(record))
        return self.last_record

    def rebased(self, commit: str) -> None:
        """Record that the head follows its branch to another commit."""
        self.record(RebaseRecord(commit))

    def now(self) -> int:
        """ns since 1970; when the record that is being replayed was written."""
        return self.replayed_time or time.time_ns()

    # The names of a directory

    def bind(self, parent: WorkNode, name: bytes, node: WorkNode) -> None:
        """Give an inode a name."""
        parent.children[name] = node  # over what is in `removed`: it may be long until a commit can hold the new one
        if node.parent is None:
            node.parent, node.name, node.placed = parent, name, False
            parent.subdirectories += node.kind == Kind.DIR
            if node.link:
                self.linked[node.link] = node
        else:
            node.links.append((parent, name))
        self._changed_names(parent)

    def _unbind(self, parent: WorkNode, name: bytes, node: WorkNode) -> None:
        parent.children.pop(name, None)
        had = parent.removed.get(name)
        directory = node.kind == Kind.DIR
        parent.removed[name] = Removed(next(self._changes), directory and node.placed if had is None else had.directory)
        parent.subdirectories -= directory
        node.lose(parent, name)
        node.ctime = self.moment
        if node.parent is not None:
            self.touch(node)  # its other names say in commits how many there are
        else:
            self.unlinked(node, node.link)
        self._changed_names(parent)

    def unlinked(self, node: WorkNode, link: int) -> None:
        """A file has no names that share this number any more."""
        if self.linked.get(link) is node:
            del self.linked[link]
            self._numbered.pop(link, None)

    def _changed_names(self, parent: WorkNode) -> None:
        parent.mtime = parent.ctime = self.moment
        self.touch(parent)

    def touch(self, node: WorkNode) -> None:
        """An inode has changes that no commit has."""
        node.changed = next(self._changes)
        for where in (node.parent, *(parent for parent, _ in node.links)):
            mark_above(where)
        self.on_change()

    def abandon(self) -> None:
        """Its changes are not wanted any more, and the journal has dropped them: their bytes go, those of open files
        once they are closed."""
        self.is_detached = self.is_abandoned = True
        todo = [self.root]
        while todo:
            node = todo.pop()
            todo += node.children.values()
            self._discard_unused(node)

    def _discard_unused(self, node: WorkNode) -> None:
        unnamed = node.parent is None and node is not self.root and not node.lookups
        if (unnamed or self.is_abandoned) and not node.opens:
            self._discard(node)

    def _discard(self, node: WorkNode) -> None:
        """An inode without a name and without users: its bytes go."""
        for file in filter(None, {node.file, node.closed}):
            file.drop()
        node.file = node.closed = None

    def _existing(self, parent: WorkNode, name: bytes) -> WorkNode:
        node = self.lookup(parent, name)
        if node is None:
            raise Refused(errno.ENOENT)
        return node

    def _need_journal(self) -> None:
        """Refused(ESTALE) when the branch is deleted: what is written can be kept nowhere. Where somebody has aborted
        the transaction, its bytes are not wanted."""
        if self.is_detached and not self.is_abandoned:
            raise Refused(errno.ESTALE)

    def _path(self, node: WorkNode) -> tuple[bytes, ...]:
        if self.is_detached:
            raise Refused(errno.ESTALE)  # an operation that had to wait meanwhile
        path = node.path()
        if path is None:
            raise Refused(errno.ENOENT)
        return path
