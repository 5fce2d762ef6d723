"""The kernel's requests, translated: inode numbers to nodes, errors to errno, NotCached to a load and another try.

No rule of the namespace or of a filesystem is decided here; `serve.view` and `worktree` do that. A handler is a plain
function from a request to the body of its answer. It may be called again from its beginning, so what it changes, it
changes last.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import trio

from vfsd.model.entry import KIND_OF, Entry, Kind
from vfsd.model.errors import NotCached
from vfsd.serve.fuse import protocol
from vfsd.serve.fuse.attributes import FOREVER, attributes, attributes_hold, fitting, mode, name_holds
from vfsd.serve.fuse.channel import After, Answer, Body, Failure, Handler, Request
from vfsd.serve.fuse.handles import OpenDirectory, OpenFile
from vfsd.serve.fuse.protocol import Opcode
from vfsd.serve.fuse.restarting import Restarting
from vfsd.serve.loads import Loads
from vfsd.serve.observer import Observer
from vfsd.serve.readahead import Readahead
from vfsd.serve.trail import Trails
from vfsd.serve.view import Folder, Node, SnapNode, View
from vfsd.worktree import nameless
from vfsd.worktree.adopt import Stale
from vfsd.worktree.allocation import allocate
from vfsd.worktree.node import WorkNode
from vfsd.worktree.worktree import MAX_FILE
from vfsd.worktree.xattrs import MAX_XATTR, set_xattr

DOTS = 2  # `.` and `..`, the first two positions of each directory
LONGEST_COPY = (1 << 32) - 4096  # bytes that the answer to a copy can speak of
COPIED = 1 << 20  # bytes that are copied for one request where they cannot be shared
DONE = b""  # the answer that has nothing to say
_USER = b"user."
_WRITE_HEAD = protocol.WRITE_IN.size
_unpack_write, _unpack_read = protocol.WRITE_IN.unpack_from, protocol.READ_IN.unpack_from
_pack_written = protocol.WRITE_OUT.pack


class Operations:
    """What the kernel asks, answered from a View."""

    def __init__(
        self, view: View, loads: Loads, readahead: Readahead, trails: Trails, observer: Observer | None
    ) -> None:
        """observer: None to look at nobody."""
        self._view = view
        self._loads = loads
        self._readahead = readahead
        self._trails = trails
        self._observer = observer
        self._nodes: dict[int, Node] = {view.root.ino: view.root}
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._handles = 0
        self._restarting = Restarting(loads)

    def handlers(self) -> dict[int, Handler]:
        """opcode → what answers it."""
        own: dict[int, Callable[[Request], Answer]] = {
            Opcode.LOOKUP: self.lookup, Opcode.FORGET: self.forget, Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.GETATTR: self.getattr, Opcode.SETATTR: self.setattr, Opcode.READLINK: self.readlink,
            Opcode.SYMLINK: self.symlink, Opcode.MKNOD: self.mknod, Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink, Opcode.RMDIR: self.rmdir, Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2, Opcode.LINK: self.link, Opcode.CREATE: self.create, Opcode.OPEN: self.open,
            Opcode.READ: self.read, Opcode.WRITE: self.write, Opcode.FLUSH: self.flush, Opcode.RELEASE: self.release,
            Opcode.FSYNC: self.fsync, Opcode.FSYNCDIR: self.fsyncdir, Opcode.OPENDIR: self.opendir,
            Opcode.READDIRPLUS: self.readdirplus, Opcode.RELEASEDIR: self.releasedir, Opcode.STATFS: self.statfs,
            Opcode.SETXATTR: self.setxattr, Opcode.GETXATTR: self.getxattr, Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr, Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.TMPFILE: self.tmpfile, Opcode.FALLOCATE: self.fallocate, Opcode.DESTROY: lambda _: DONE,
        }  # fmt: skip
        return {opcode: self._restarting.handler(handler) for opcode, handler in own.items()}

    # Plumbing

    def _node(self, inode: int) -> Node:
        node = self._nodes.get(inode)
        if node is None or (isinstance(node, WorkNode) and node.is_given_up):
            raise Failure(errno.ESTALE)  # the kernel then looks the path up again
        return node

    def _work(self, inode: int, caller: int) -> WorkNode:
        return self._view.writable(self._node(inode), caller)

    def _entry(self, node: Node, holds: int | None = None) -> bytes:
        """A node that the kernel is told about: it counts the lookup."""
        node.lookups += 1
        self._nodes[node.ino] = node
        holds = name_holds(node) if holds is None else holds
        return protocol.entry(node.ino, attributes(node, self._view.started), holds, attributes_hold(node))

    def _attributes(self, node: Node) -> bytes:
        return protocol.ATTR_OUT.pack(attributes_hold(node), 0, 0) + attributes(node, self._view.started)

    # Names

    def lookup(self, request: Request) -> Body:
        return self._looked_up(self._node(request.node), request.name())

    def _looked_up(self, parent: Node, name: bytes) -> bytes:
        node = self._view.lookup(parent, name)
        if node is None:
            raise Failure(errno.ENOENT)
        if isinstance(node, SnapNode) and node is node.top and name.endswith(b"@" + node.commit.encode()):
            return self._entry(node, FOREVER)  # the whole id of a commit, which never means another
        return self._entry(node)

    def forget(self, request: Request) -> None:
        (count,) = protocol.FORGET_IN.unpack_from(request.body)
        self._forget(request.node, count)

    def batch_forget(self, request: Request) -> None:
        count, _ = protocol.BATCH_FORGET_IN.unpack_from(request.body)
        start, size = protocol.BATCH_FORGET_IN.size, protocol.FORGET_ONE.size
        for inode, lookups in protocol.FORGET_ONE.iter_unpack(request.body[start : start + count * size]):
            self._forget(inode, lookups)

    def _forget(self, inode: int, count: int) -> None:
        node = self._nodes.get(inode)
        if node is not None:
            node.lookups -= count
            self._let_go(node)

    def _let_go(self, node: Node) -> None:
        """Of a node that nobody uses any more."""
        if node.lookups <= 0 and self._nodes.get(node.ino) is node is not self._view.root and self._view.forget(node):
            del self._nodes[node.ino]

    def getattr(self, request: Request) -> Body:
        return self._attributes(self._node(request.node))

    def readlink(self, request: Request) -> Body:
        node = self._node(request.node)
        if isinstance(node, WorkNode):
            return node.target
        return node.entry.more.target if isinstance(node, SnapNode) else b""

    # Directories

    def opendir(self, request: Request) -> Body:
        node = self._node(request.node)
        node.opens += 1
        self._handles += 1
        self._directories[self._handles] = OpenDirectory(node)
        # The kernel keeps the names of a directory that never changes.
        flags = protocol.CACHE_DIR | protocol.KEEP_CACHE if isinstance(node, SnapNode) else 0
        return protocol.OPEN_OUT.pack(self._handles, flags, 0)

    def readdirplus(self, request: Request) -> Body:
        handle, position, size, *_ = _unpack_read(request.body)
        directory = self._directories[handle]
        if isinstance(directory.node, WorkNode) and directory.node.is_given_up:
            raise Failure(errno.ESTALE)
        out: list[bytes] = []
        for number, name in enumerate((b".", b"..")[position:], position + 1):
            # No lookup: the kernel does not count these two.
            item = bytes(_ENTRY) + protocol.dirent(name, directory.node.ino, number, stat.S_IFDIR)
            size -= len(item)
            out.append(item)
        try:
            self._seek(directory, max(0, position - DOTS))
            while (item_ := self._next(directory)) is not None:
                name, node = item_
                size -= _ENTRY + protocol.DIRENT.size + len(name) + (-len(name) % 8)
                if size < 0:
                    directory.listing = None  # begins again behind the last name that was taken
                    self._unused(node)
                    break
                directory.handed_out(name)
                out.append(self._entry(node))
                out.append(protocol.dirent(name, node.ino, DOTS + directory.number, mode(node)))
        except NotCached:
            directory.listing = None
            if not out:
                raise
        return b"".join(out)

    def _unused(self, node: Node) -> None:
        if not node.lookups and self._view.forget(node):
            self._nodes.pop(node.ino, None)

    def _seek(self, directory: OpenDirectory, position: int) -> None:
        """Have the listing go on behind the first `position` names."""
        if position != directory.number and not directory.go_back(position):
            directory.begin()
        if directory.listing is None:
            directory.listing = self._view.listing(directory.node, directory.last)
        while directory.number < position:
            item = self._next(directory)
            if item is None:
                return
            directory.handed_out(item[0])

    def _next(self, directory: OpenDirectory) -> tuple[bytes, Node] | None:
        """The next name that still exists, with its node."""
        assert directory.listing is not None
        for name, found in directory.listing:
            node: Node | None
            if isinstance(found, Entry):
                node = self._view.materialise(directory.node, found)
            else:
                node = self._view.lookup(directory.node, name) if found is None else found
            if node is not None:
                return name, node
        return None

    def releasedir(self, request: Request) -> Body:
        (handle,) = protocol.HANDLE_IN.unpack_from(request.body)
        node = self._directories.pop(handle).node
        node.opens -= 1
        self._let_go(node)
        return DONE

    def fsyncdir(self, request: Request) -> Answer:
        (handle,) = protocol.HANDLE_IN.unpack_from(request.body)
        node = self._directories[handle].node
        return self._sync(node.head.sync(None)) if isinstance(node, WorkNode) else DONE

    async def _sync(self, sync: Callable[[], None]) -> Body:
        await trio.to_thread.run_sync(sync)
        return DONE

    def mkdir(self, request: Request) -> Answer:
        parent = self._node(request.node)
        permissions, _ = protocol.MKDIR_IN.unpack_from(request.body)
        name = request.name(protocol.MKDIR_IN.size)
        if isinstance(parent, Folder):
            return self._make_folder(parent, name)
        return self._entry(self._make(request, name, Kind.DIR, permissions))

    async def _make_folder(self, parent: Folder, name: bytes) -> Body:
        await trio.to_thread.run_sync(self._view.make_folder, parent, os.fsdecode(name))
        return await self._loads.run(lambda: self._looked_up(parent, name))

    def _make(
        self, request: Request, name: bytes, kind: int, permissions: int, *, target: bytes = b"", rdev: int = 0
    ) -> WorkNode:
        parent = self._work(request.node, request.thread)
        return parent.head.make(parent, name, kind, permissions, request.uid, request.gid, target=target, rdev=rdev)

    def symlink(self, request: Request) -> Body:
        name, target = protocol.names(request.body)
        return self._entry(self._make(request, name, Kind.SYMLINK, 0o777, target=target))

    def mknod(self, request: Request) -> Body:
        wanted, rdev, _, _ = protocol.MKNOD_IN.unpack_from(request.body)
        kind = KIND_OF[stat.S_IFMT(wanted) or stat.S_IFREG]
        node = self._make(request, request.name(protocol.MKNOD_IN.size), kind, wanted, rdev=rdev)
        if kind == Kind.FILE:
            node.head.flushed(node)
        return self._entry(node)

    def link(self, request: Request) -> Body:
        (inode,) = protocol.LINK_IN.unpack_from(request.body)
        node, parent = self._work(inode, request.thread), self._work(request.node, request.thread)
        if node.head is not parent.head:
            raise Failure(errno.EXDEV)
        return self._entry(node.head.link(node, parent, request.name(protocol.LINK_IN.size)))

    def unlink(self, request: Request) -> Body:
        parent = self._work(request.node, request.thread)
        parent.head.unlink(parent, request.name())
        return DONE

    def rmdir(self, request: Request) -> Body:
        parent = self._work(request.node, request.thread)
        parent.head.rmdir(parent, request.name())
        return DONE

    def rename(self, request: Request) -> Body:
        (to,) = protocol.RENAME_IN.unpack_from(request.body)
        return self._rename(request, to, protocol.names(request.body[protocol.RENAME_IN.size :]), 0)

    def rename2(self, request: Request) -> Body:
        to, flags, _ = protocol.RENAME2_IN.unpack_from(request.body)
        return self._rename(request, to, protocol.names(request.body[protocol.RENAME2_IN.size :]), flags)

    def _rename(self, request: Request, to: int, names: list[bytes], flags: int) -> Body:
        old, new = self._work(request.node, request.thread), self._work(to, request.thread)
        if old.head is not new.head:
            raise Failure(errno.EXDEV)
        old.head.rename(old, names[0], new, names[1], flags)
        return DONE

    # Files

    def create(self, request: Request) -> Body:
        flags, permissions, _, _ = protocol.CREATE_IN.unpack_from(request.body)
        node = self._make(request, request.name(protocol.CREATE_IN.size), Kind.FILE, permissions)
        return self._entry(node) + self._open(node, flags & ~os.O_TRUNC, request.thread, made=True)

    def tmpfile(self, request: Request) -> Body:
        flags, permissions, _, _ = protocol.CREATE_IN.unpack_from(request.body)
        parent = self._work(request.node, request.thread)
        node = nameless.make(parent.head, parent, permissions, request.uid, request.gid)
        return self._entry(node) + self._open(node, flags & ~os.O_TRUNC, request.thread, made=True)

    def open(self, request: Request) -> Body:
        flags, _ = protocol.OPEN_IN.unpack_from(request.body)
        node = self._node(request.node)
        if isinstance(node, Folder):
            raise Failure(errno.EISDIR)
        return self._open(node, flags, request.thread)

    def _open(self, node: SnapNode | WorkNode, flags: int, caller: int, *, made: bool = False) -> bytes:
        write = flags & os.O_ACCMODE != os.O_RDONLY
        truncate = bool(flags & os.O_TRUNC)
        observer, run = self._observer, None
        if observer is not None and not (made or truncate) and flags & os.O_ACCMODE != os.O_WRONLY:
            observer.read(caller, node)
        if write or truncate:
            work = self._view.writable(node, caller)
            work.head.opened(work, write=write, truncate=truncate)
            run = None if observer is None else observer.written_by(caller)
            if run is not None and (made or truncate):
                work.written_by(run)
        else:
            node.opens += 1
        self._handles += 1
        self._files[self._handles] = OpenFile(node, caller, run, write=write)
        return protocol.OPEN_OUT.pack(self._handles, protocol.KEEP_CACHE | (0 if write else protocol.NO_FLUSH), 0)

    def read(self, request: Request) -> Body:
        handle, offset, size, *_ = _unpack_read(request.body)
        file = self._files[handle]
        node = file.node
        content = self._view.committed(node)
        if content is not None and size < content.size:
            self._readahead.asked(file.reader, content, offset, size)
        pieces = self._view.read(node, offset, size)
        if content is not None and offset + sum(map(len, pieces)) == content.size:
            self._trails.after_read(node, content.size, waited=request.waited)
        return pieces

    def write(self, request: Request) -> Answer:
        handle, offset, size, *_ = _unpack_write(request.body)
        file = self._files[handle]
        node = file.node
        assert isinstance(node, WorkNode)
        if file.run is not None and file.run not in node.runs:
            node.written_by(file.run)
        data = request.body[_WRITE_HEAD : _WRITE_HEAD + size]
        if self._view.live.room.is_crowded:
            return self._write_with_room(node, offset, bytes(data))
        return After(_pack_written(size, 0), node.head.write_behind(node, offset, data))

    async def _write_with_room(self, node: WorkNode, offset: int, data: bytes) -> Body:
        await self._view.live.room.make(len(data))
        await self._loads.run(lambda: node.head.write(node, offset, data))
        return _pack_written(len(data), 0)

    def copy_file_range(self, request: Request) -> Answer:
        handle, start, _, target, offset, size, _ = protocol.COPY_IN.unpack_from(request.body)
        node, to = self._files[handle].node, self._files[target].node
        assert isinstance(to, WorkNode)
        if (run := self._files[target].run) is not None:
            to.written_by(run)
        size = min(size, LONGEST_COPY)
        content = self._view.committed(node)
        if content is not None and start == offset and offset < content.size:
            size = min(size, content.size - offset)
            if to.head.share(to, content, offset, size):
                return _pack_written(size, 0)
        if self._view.live.room.is_crowded:
            raise Failure(errno.EOPNOTSUPP)  # the program then copies itself, and waits for room at each write
        data = b"".join(self._view.read(node, start, min(size, COPIED)))
        if data:
            to.head.write(to, offset, data)
        return _pack_written(len(data), 0)

    def fallocate(self, request: Request) -> Body:
        handle, offset, size, how, _ = protocol.FALLOCATE_IN.unpack_from(request.body)
        file = self._files[handle]
        assert isinstance(file.node, WorkNode)
        if file.run is not None:
            file.node.written_by(file.run)
        allocate(file.node.head, file.node, offset, size, how, most=MAX_FILE)
        return DONE

    def flush(self, request: Request) -> Body:
        (handle,) = protocol.HANDLE_IN.unpack_from(request.body)
        file = self._files[handle]
        if file.write and isinstance(file.node, WorkNode):
            if self._view.outlets is not None and self._view.outlets.is_unfinished(file, request.thread):
                return DONE
            if self._observer is not None:
                self._observer.closes(file)
            file.node.head.flushed(file.node)
        return DONE

    def fsync(self, request: Request) -> Answer:
        (handle,) = protocol.HANDLE_IN.unpack_from(request.body)
        node = self._files[handle].node
        return self._sync(node.head.sync(node)) if isinstance(node, WorkNode) else DONE

    def release(self, request: Request) -> Body:
        (handle,) = protocol.HANDLE_IN.unpack_from(request.body)
        file = self._files.pop(handle)
        file.reader.close()
        node = file.node
        try:
            if isinstance(node, WorkNode):
                if self._view.outlets is not None and file.write:
                    self._view.outlets.released(file, node)
                node.head.released(node, write=file.write)
            else:
                node.opens -= 1
        finally:
            self._let_go(node)
        return DONE

    # Attributes

    def setattr(self, request: Request) -> Body:
        fields, _, _, size, _, atime, mtime, _, atime_ns, mtime_ns, _, permissions, _, uid, gid, _ = (
            protocol.SETATTR_IN.unpack_from(request.body)
        )
        node = self._work(request.node, request.thread)
        if fields & protocol.SET_SIZE:
            node.head.truncate(node, size)
            if self._observer is not None and (run := self._observer.written_by(request.thread)) is not None:
                node.written_by(run)
        wanted: dict[str, int] = {}
        if fields & protocol.SET_MODE:
            wanted["mode"] = stat.S_IMODE(permissions)
        if fields & protocol.SET_UID:
            wanted["uid"] = uid
        if fields & protocol.SET_GID:
            wanted["gid"] = gid
        if fields & protocol.SET_MTIME:
            wanted["mtime"] = mtime * 1_000_000_000 + mtime_ns
        if fields & protocol.SET_ATIME:
            wanted["atime"] = atime * 1_000_000_000 + atime_ns
        if wanted:
            node.head.set_attributes(node, **wanted)
        return self._attributes(node)

    def getxattr(self, request: Request) -> Body:
        size, _ = protocol.GETXATTR_IN.unpack_from(request.body)
        value = self._view.xattrs(self._node(request.node)).get(request.name(protocol.GETXATTR_IN.size))
        if value is None:
            raise Failure(errno.ENODATA)
        return fitting(value, size)

    def listxattr(self, request: Request) -> Body:
        size, _ = protocol.GETXATTR_IN.unpack_from(request.body)
        return fitting(b"".join(name + b"\0" for name in self._view.xattrs(self._node(request.node))), size)

    def setxattr(self, request: Request) -> Body:
        size, flags = protocol.SETXATTR_IN.unpack_from(request.body)
        name, _, rest = bytes(request.body[protocol.SETXATTR_IN.size :]).partition(b"\0")
        if not name.startswith(_USER):
            raise Failure(errno.EOPNOTSUPP)
        if size > MAX_XATTR:
            raise Failure(errno.E2BIG)
        node = self._work(request.node, request.thread)
        set_xattr(node.head, node, name, rest[:size], flags)
        return DONE

    def removexattr(self, request: Request) -> Body:
        node = self._work(request.node, request.thread)
        set_xattr(node.head, node, request.name(), None)
        return DONE

    def statfs(self, request: Request) -> Body:
        disk = os.statvfs(self._view.staging_folder)
        return protocol.STATFS_OUT.pack(
            disk.f_blocks, disk.f_bfree, disk.f_bavail, disk.f_files, disk.f_ffree, disk.f_bsize, 255, disk.f_frsize, 0
        )

    # Telling the kernel

    def replace(self, old: WorkNode, new: WorkNode) -> None:
        """Another inode stands for the root of a branch, under the same number."""
        if self._nodes.get(old.ino) is old:
            self._nodes[new.ino] = new
            new.lookups = old.lookups
        for directory in self._directories.values():
            if directory.node is old:
                directory.node, directory.listing = new, None
                old.opens -= 1
                new.opens += 1

    def notifications(self, stale: Stale) -> list[bytes]:
        """What has the kernel forget what is not so any more."""
        names = [protocol.invalidate_entry(parent, name) for parent, name in stale.names if parent in self._nodes]
        return [*names, *(protocol.invalidate_inode(inode) for inode in stale.inodes if inode in self._nodes)]


_ENTRY = protocol.ENTRY_OUT.size + protocol.ATTR.size
