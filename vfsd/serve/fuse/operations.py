"""The kernel's requests, translated: inode numbers to nodes, errors to errno, NotCached to a load and another try.

No rule of the namespace or of a filesystem is decided here; `serve.view` and `worktree` do that.
"""

from __future__ import annotations

import errno
import functools
import inspect
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileHandleT, FileInfo, FUSEError, InodeT, RequestContext

from vfsd.model.entry import KIND_OF, Entry, Kind
from vfsd.model.errors import NotCached, VfsdError
from vfsd.repo.chunklist import content_of
from vfsd.serve.fuse.attributes import FOREVER, attributes
from vfsd.serve.fuse.handles import OpenDirectory, OpenFile
from vfsd.serve.loads import Loads
from vfsd.serve.readahead import Readahead
from vfsd.serve.trail import Trails
from vfsd.serve.view import Folder, Node, SnapNode, View
from vfsd.worktree.adopt import Stale
from vfsd.worktree.node import WorkNode

log = logging.getLogger(__name__)
T = TypeVar("T")
MAX_XATTR = 64 << 10
DOTS = 2  # `.` and `..`, the first two positions of each directory
_USER = b"user."


def guarded(operations: type[T]) -> type[T]:
    """Answer EIO, and log where, when a handler raises what nobody foresaw: pyfuse3 would end the mount."""

    def guard(handler: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        @functools.wraps(handler)
        async def wrapped(*words: object) -> object:
            try:
                return await handler(*words)
            except FUSEError:
                raise
            except Exception:
                log.exception("%s failed", handler.__name__)
                raise FUSEError(errno.EIO) from None

        return wrapped

    for name, handler in list(vars(operations).items()):
        if inspect.iscoroutinefunction(handler) and not name.startswith("_"):
            setattr(operations, name, guard(handler))
    return operations


@guarded
class Operations(pyfuse3.Operations):
    """pyfuse3's interface over a View."""

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, view: View, loads: Loads, readahead: Readahead, trails: Trails) -> None:
        super().__init__()
        self._view = view
        self._loads = loads
        self._readahead = readahead
        self._trails = trails
        self._nodes: dict[int, Node] = {view.root.ino: view.root}
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._handles = 0
        self.reported: set[str] = set()

    # Plumbing

    async def _run(self, operation: Callable[[], T]) -> T:
        try:
            return operation()
        except NotCached as miss:
            first = miss
        except VfsdError as error:
            raise self._errno(error) from None
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None
        try:
            await self._loads.load(first)
            return await self._loads.run(operation)
        except VfsdError as error:
            raise self._errno(error) from None
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    def _errno(self, error: VfsdError) -> FUSEError:
        if error.errno == errno.EIO:
            # The caller sees only "Input/output error": the log says what and where, once.
            text = str(error)
            if text not in self.reported:
                self.reported.add(text)
                log.error("%s", text)
        return FUSEError(error.errno)

    def _node(self, inode: int) -> Node:
        try:
            return self._nodes[inode]
        except KeyError:
            raise FUSEError(errno.ESTALE) from None

    def _work(self, inode: int) -> WorkNode:
        try:
            return self._view.writable(self._node(inode))
        except VfsdError as error:
            raise self._errno(error) from None

    def _entry(self, node: Node) -> EntryAttributes:
        """Attributes of a node that the kernel is told about: it counts the lookup."""
        node.lookups += 1
        self._nodes[node.ino] = node
        return attributes(node, self._view.started)

    def _attributes(self, node: Node) -> EntryAttributes:
        return attributes(node, self._view.started)

    # Names

    async def lookup(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> EntryAttributes:
        parent = self._node(parent_inode)
        node = await self._run(lambda: self._view.lookup(parent, name))
        if node is None:
            raise FUSEError(errno.ENOENT)
        entry = self._entry(node)
        if isinstance(node, SnapNode) and node is node.top and name.endswith(b"@" + node.commit.encode()):
            entry.entry_timeout = FOREVER  # the whole id of a commit, which never means another
        return entry

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            node = self._nodes.get(inode)
            if node is None:
                continue
            node.lookups -= count
            if node.lookups <= 0 and node is not self._view.root and self._view.forget(node):
                del self._nodes[inode]

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        return self._attributes(self._node(inode))

    async def readlink(self, inode: InodeT, ctx: RequestContext) -> bytes:
        node = self._node(inode)
        if isinstance(node, WorkNode):
            return node.target
        return node.entry.more.target if isinstance(node, SnapNode) else b""

    # Directories

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        node = self._node(inode)
        node.opens += 1
        self._handles += 1
        self._directories[self._handles] = OpenDirectory(node)
        return FileHandleT(self._handles)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        directory = self._directories[fh]
        for number, name in enumerate((b".", b"..")[start_id:], start_id + 1):
            dots = self._attributes(directory.node)  # no lookup: the kernel does not count these two
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), dots, number):
                return
        await self._seek(directory, max(0, start_id - DOTS))
        while True:
            item = await self._next(directory)
            if item is None:
                return
            name, node = item
            # Counted before the kernel is told, taken back when it has no room for the name.
            entry = self._entry(node)
            if not pyfuse3.readdir_reply(token, pyfuse3.FileNameT(name), entry, DOTS + directory.number + 1):
                node.lookups -= 1
                if not node.lookups and self._view.forget(node):
                    self._nodes.pop(node.ino, None)
                directory.listing = None  # begins again behind the last name that was taken
                return
            directory.handed_out(name)

    async def _seek(self, directory: OpenDirectory, position: int) -> None:
        """Have the listing go on behind the first `position` names."""
        if position != directory.number and not directory.go_back(position):
            directory.begin()
        if directory.listing is None:
            directory.listing = self._view.listing(directory.node, directory.last)
        while directory.number < position:
            item = await self._next(directory)
            if item is None:
                return
            directory.handed_out(item[0])

    async def _next(self, directory: OpenDirectory) -> tuple[bytes, Node] | None:
        """The next name that still exists, with its node."""
        while True:
            assert directory.listing is not None
            try:
                item = next(directory.listing, None)
            except NotCached as miss:
                await self._load(miss)
                directory.listing = self._view.listing(directory.node, directory.last)
                continue
            if item is None:
                return None
            name, found = item
            node: Node | None
            if isinstance(found, Entry):
                node = self._view.materialise(directory.node, found)
            elif found is None:
                node = await self._run(lambda name=name: self._view.lookup(directory.node, name))  # type: ignore[misc]
            else:
                node = found
            if node is not None:
                return name, node

    async def _load(self, miss: NotCached) -> None:
        try:
            await self._loads.load(miss)
        except VfsdError as error:
            raise self._errno(error) from None

    async def releasedir(self, fh: FileHandleT) -> None:
        directory = self._directories.pop(fh)
        directory.node.opens -= 1

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        node = self._directories[fh].node
        if isinstance(node, WorkNode):
            await trio.to_thread.run_sync(node.head.sync(None))

    async def mkdir(self, parent_inode: InodeT, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        parent = self._node(parent_inode)
        if isinstance(parent, Folder):
            return await self._make_folder(parent, name)
        return await self._make(parent_inode, name, Kind.DIR, mode, ctx)

    async def _make_folder(self, parent: Folder, name: bytes) -> EntryAttributes:
        try:
            await trio.to_thread.run_sync(self._view.make_folder, parent, os.fsdecode(name))
        except VfsdError as error:
            raise self._errno(error) from None
        return await self.lookup(InodeT(parent.ino), name, None)  # type: ignore[arg-type]

    async def _make(
        self, parent_inode: InodeT, name: bytes, kind: int, mode: int, ctx: RequestContext, *, target: bytes = b"",
        rdev: int = 0,
    ) -> EntryAttributes:
        parent = self._work(parent_inode)
        permissions = 0o777 if kind == Kind.SYMLINK else mode & ~ctx.umask
        return self._entry(
            await self._run(
                lambda: parent.head.make(
                    parent, name, kind, permissions, ctx.uid, ctx.gid, target=target, rdev=rdev
                )
            )
        )

    async def symlink(
        self, parent_inode: InodeT, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return await self._make(parent_inode, name, Kind.SYMLINK, 0o777, ctx, target=target)

    async def mknod(
        self, parent_inode: InodeT, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        kind = KIND_OF[stat.S_IFMT(mode) or stat.S_IFREG]
        entry = await self._make(parent_inode, name, kind, mode, ctx, rdev=rdev)
        if kind == Kind.FILE:
            node = self._node(entry.st_ino)
            assert isinstance(node, WorkNode)
            node.head.flushed(node)
        return entry

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        node, parent = self._work(inode), self._work(new_parent_inode)
        if node.head is not parent.head:
            raise FUSEError(errno.EXDEV)
        return self._entry(await self._run(lambda: node.head.link(node, parent, new_name)))

    async def unlink(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        parent = self._work(parent_inode)
        await self._run(lambda: parent.head.unlink(parent, name))

    async def rmdir(self, parent_inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        parent = self._work(parent_inode)
        await self._run(lambda: parent.head.rmdir(parent, name))

    async def rename(
        self, parent_inode_old: InodeT, name_old: bytes, parent_inode_new: InodeT, name_new: bytes, flags: int,
        ctx: RequestContext,
    ) -> None:
        old, new = self._work(parent_inode_old), self._work(parent_inode_new)
        if old.head is not new.head:
            raise FUSEError(errno.EXDEV)
        await self._run(lambda: old.head.rename(old, name_old, new, name_new, flags))

    # Files

    async def create(
        self, parent_inode: InodeT, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        entry = await self._make(parent_inode, name, Kind.FILE, mode, ctx)
        node = self._node(entry.st_ino)
        assert isinstance(node, WorkNode)
        return await self._open(node, flags & ~os.O_TRUNC), entry

    async def open(self, inode: InodeT, flags: int, ctx: RequestContext) -> FileInfo:
        node = self._node(inode)
        if isinstance(node, Folder):
            raise FUSEError(errno.EISDIR)
        return await self._open(node, flags)

    async def _open(self, node: SnapNode | WorkNode, flags: int) -> FileInfo:
        write = flags & os.O_ACCMODE != os.O_RDONLY
        truncate = bool(flags & os.O_TRUNC)
        if write or truncate:
            work = self._work(node.ino)
            await self._run(lambda: work.head.opened(work, write=write, truncate=truncate))
        else:
            node.opens += 1
        self._handles += 1
        self._files[self._handles] = OpenFile(node, write=write)
        return FileInfo(fh=FileHandleT(self._handles), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        file = self._files[fh]
        node = file.node
        loads = self._loads.begun
        data = await self._run(lambda: self._view.read(node, off, size))
        entry = node.entry
        if entry is not None and (isinstance(node, SnapNode) or node.file is None):
            if entry.size > len(data):
                self._readahead.after_read(file.reader, content_of(entry), off, len(data))
            if off + len(data) == entry.size:
                self._trails.after_read(node, entry.size, waited=self._loads.begun != loads)
        return data

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        node = self._files[fh].node
        assert isinstance(node, WorkNode)
        try:
            if self._view.live.is_crowded:
                await self._view.live.make_room(len(buf))
            return node.head.write(node, off, buf)
        except NotCached:
            return await self._run(lambda: node.head.write(node, off, buf))
        except VfsdError as error:
            raise self._errno(error) from None
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    async def flush(self, fh: FileHandleT) -> None:
        file = self._files[fh]
        if file.write and isinstance(file.node, WorkNode):
            self._locally(lambda: file.node.head.flushed(file.node))  # type: ignore[union-attr, arg-type]

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        node = self._files[fh].node
        if isinstance(node, WorkNode):
            try:
                await trio.to_thread.run_sync(node.head.sync(node))
            except VfsdError as error:
                raise self._errno(error) from None
            except OSError as error:
                raise FUSEError(error.errno or errno.EIO) from None

    async def release(self, fh: FileHandleT) -> None:
        file = self._files.pop(fh)
        file.reader.close()
        node = file.node
        if isinstance(node, WorkNode):
            self._locally(lambda: node.head.released(node, write=file.write))
        else:
            node.opens -= 1
        if node.lookups <= 0 and self._view.forget(node):
            self._nodes.pop(node.ino, None)

    def _locally(self, operation: Callable[[], None]) -> None:
        """An operation on the staging area and the journal alone."""
        try:
            operation()
        except VfsdError as error:
            raise self._errno(error) from None
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from None

    # Attributes

    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: pyfuse3.SetattrFields, fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._work(inode)
        if fields.update_size:
            await self._run(lambda: node.head.truncate(node, attr.st_size))
        wanted: dict[str, int] = {}
        if fields.update_mode:
            wanted["mode"] = stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            wanted["uid"] = attr.st_uid
        if fields.update_gid:
            wanted["gid"] = attr.st_gid
        if fields.update_mtime:
            wanted["mtime"] = attr.st_mtime_ns
        if fields.update_atime:
            wanted["atime"] = attr.st_atime_ns
        if wanted:
            await self._run(lambda: node.head.set_attributes(node, **wanted))
        return self._attributes(node)

    async def getxattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> bytes:
        try:
            return self._view.xattrs(self._node(inode))[name]
        except KeyError:
            raise FUSEError(pyfuse3.ENOATTR) from None

    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[bytes]:
        return list(self._view.xattrs(self._node(inode)))

    async def setxattr(self, inode: InodeT, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if not name.startswith(_USER):
            raise FUSEError(errno.EOPNOTSUPP)
        if len(value) > MAX_XATTR:
            raise FUSEError(errno.E2BIG)
        node = self._work(inode)
        await self._run(lambda: node.head.set_xattr(node, name, value))

    async def removexattr(self, inode: InodeT, name: bytes, ctx: RequestContext) -> None:
        node = self._work(inode)
        await self._run(lambda: node.head.set_xattr(node, name, None))

    async def statfs(self, ctx: RequestContext) -> pyfuse3.StatvfsData:
        disk = os.statvfs(self._view.staging_folder)
        found = pyfuse3.StatvfsData()
        found.f_bsize, found.f_frsize = disk.f_bsize, disk.f_frsize
        found.f_blocks, found.f_bfree, found.f_bavail = disk.f_blocks, disk.f_bfree, disk.f_bavail
        found.f_files, found.f_ffree, found.f_favail = disk.f_files, disk.f_ffree, disk.f_favail
        found.f_namemax = 255
        return found

    # Telling the kernel

    def stale(self, stale: Stale) -> None:
        """Have the kernel forget what is not so any more. Runs in a thread of its own: the kernel may ask back."""
        for parent, name in stale.names:
            if parent in self._nodes:
                pyfuse3.invalidate_entry_async(InodeT(parent), pyfuse3.FileNameT(name), ignore_enoent=True)
        for inode in stale.inodes:
            if inode in self._nodes:
                try:
                    pyfuse3.invalidate_inode(InodeT(inode))
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
