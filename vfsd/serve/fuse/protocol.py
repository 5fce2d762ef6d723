"""The FUSE protocol, as far as it is spoken here: the bytes of requests, answers and notifications.

Source: include/uapi/linux/fuse.h of Linux 6.18, protocol 7.45; numbers and layouts are the kernel's. Integers are in
the machine's own order. Times are seconds and nanoseconds; a name ends with NUL.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

MAJOR, MINOR = 7, 41  # what is spoken; an older kernel's minor version is taken over
OLDEST_MINOR = 31  # Linux 5.4


class Opcode(IntEnum):
    """What the kernel asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    COPY_FILE_RANGE = 47
    TMPFILE = 51


LAST_OPCODE = 64  # numbers from here on are unknown


# Requests. Each begins with HEADER: length, opcode, unique, node, uid, gid, thread, extension, padding.
HEADER = Struct("=IIQQIIIHH")
INIT_IN = Struct("=IIII")  # major, minor, readahead, flags; in newer kernels more
INIT_MORE = Struct("=I")  # the second word of flags, behind INIT_IN
FORGET_IN = Struct("=Q")  # lookups
BATCH_FORGET_IN = Struct("=II")  # count, padding; then so many FORGET_ONE
FORGET_ONE = Struct("=QQ")  # node, lookups
SETATTR_IN = Struct("=IIQQQqqqIIIIIIII")
# valid, padding, handle, size, lock owner, atime, mtime, ctime, their ns, mode, unused, uid, gid, unused
MKNOD_IN = Struct("=IIII")  # mode, rdev, umask, padding; name
MKDIR_IN = Struct("=II")  # mode, umask; name
RENAME_IN = Struct("=Q")  # new directory; two names
RENAME2_IN = Struct("=QII")  # new directory, flags, padding; two names
LINK_IN = Struct("=Q")  # node; name
CREATE_IN = Struct("=IIII")  # flags, mode, umask, open flags; name
OPEN_IN = Struct("=II")  # flags, open flags
READ_IN = Struct("=QQIIQII")  # handle, offset, size, read flags, lock owner, flags, padding
WRITE_IN = Struct("=QQIIQII")  # handle, offset, size, write flags, lock owner, flags, padding; bytes
HANDLE_IN = Struct("=Q")  # handle, with which RELEASE, FLUSH and FSYNC begin
FALLOCATE_IN = Struct("=QQQII")  # handle, offset, length, mode, padding
COPY_IN = Struct("=QQQQQQQ")  # handle, offset; node, handle, offset to write to; size, flags
SETXATTR_IN = Struct("=II")  # size, flags; name, value
GETXATTR_IN = Struct("=II")  # size of the buffer, padding; name

# Answers. Each begins with ANSWER: length, negative errno or 0, unique. Notifications too, with the code for errno.
ANSWER = Struct("=IiQ")
INIT_OUT = Struct("=IIIIHHIIHHII24x")
# major, minor, readahead, flags, max_background, congestion, max_write, time granularity, max_pages, alignment, flags2,
# depth of stacking, unused
ENTRY_OUT = Struct("=QQQQII")  # node, generation, seconds that the name and the attributes hold, their ns; ATTR
ATTR_OUT = Struct("=QII")  # seconds that the attributes hold, ns, padding; ATTR
ATTR = Struct("=QQQqqqIIIIIIIIII")
# inode, size, blocks, atime, mtime, ctime, their ns, mode, links, uid, gid, rdev, block size, flags
OPEN_OUT = Struct("=QIi")  # handle, flags, descriptor of a backing file
WRITE_OUT = Struct("=II")  # size, padding
GETXATTR_OUT = Struct("=II")  # size, padding
STATFS_OUT = Struct("=QQQQQIIII24x")  # blocks, free, available; inodes, free; block, name, fragment, padding
DIRENT = Struct("=QQII")  # inode, position behind it, length of the name, kind; the name, padded to 8 bytes

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY = 2, 3
INVAL_INODE_OUT = Struct("=Qqq")  # node, offset, length: 0 and 0 for all
INVAL_ENTRY_OUT = Struct("=QII")  # directory, length of the name, flags; the name and NUL

# Flags of INIT
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
DO_READDIRPLUS = 1 << 13
ASYNC_DIO = 1 << 15
PARALLEL_DIROPS = 1 << 18
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
EXPLICIT_INVAL_DATA = 1 << 25
HANDLE_KILLPRIV_V2 = 1 << 28
INIT_EXT = 1 << 30

# Flags of answers to OPEN and OPENDIR
KEEP_CACHE = 1 << 1
CACHE_DIR = 1 << 3
NO_FLUSH = 1 << 5

# Which fields of SETATTR_IN are meant
SET_MODE, SET_UID, SET_GID, SET_SIZE, SET_ATIME, SET_MTIME = 1, 2, 4, 8, 16, 32

_SECOND = 1_000_000_000


def attr(
    inode: int, mode: int, nlink: int, uid: int, gid: int, rdev: int, size: int, atime: int, mtime: int, ctime: int
) -> bytes:
    """ATTR; times in ns since 1970. mode holds the kind as well."""
    return ATTR.pack(
        inode, size, (size + 511) // 512, atime // _SECOND, mtime // _SECOND, ctime // _SECOND, atime % _SECOND,
        mtime % _SECOND, ctime % _SECOND, mode, nlink, uid, gid, rdev, 1 << 20, 0,
    )  # fmt: skip


def entry(inode: int, attributes: bytes, name_s: int, attr_s: int) -> bytes:
    """A node that the kernel is told of. name_s, attr_s: seconds that it need not ask again."""
    return ENTRY_OUT.pack(inode, 0, name_s, attr_s, 0, 0) + attributes


def dirent(name: bytes, inode: int, position: int, mode: int) -> bytes:
    """A name of a directory."""
    head = DIRENT.pack(inode, position, len(name), mode >> 12)
    return head + name + bytes(-len(name) % 8)


def names(body: bytes | memoryview) -> list[bytes]:
    """The names that a request ends with."""
    return bytes(body).split(b"\0")[:-1]


def invalidate_inode(inode: int) -> bytes:
    """The notification that a node's attributes and bytes are not what the kernel holds."""
    size = ANSWER.size + INVAL_INODE_OUT.size
    return ANSWER.pack(size, NOTIFY_INVAL_INODE, 0) + INVAL_INODE_OUT.pack(inode, 0, 0)


def invalidate_entry(directory: int, name: bytes) -> bytes:
    """The notification that a name in a directory is not what the kernel holds."""
    body = INVAL_ENTRY_OUT.pack(directory, len(name), 0) + name + b"\0"
    return ANSWER.pack(ANSWER.size + len(body), NOTIFY_INVAL_ENTRY, 0) + body


class Unsupported(ValueError):
    """The kernel speaks no version of the protocol that is spoken here."""


def answer_init(question: bytes, *, readahead: int, max_background: int, max_write: int) -> bytes:
    """The body of the answer to INIT, of which `question` is the body: what is wanted, as far as the kernel offers it.

    - EXPLICIT_INVAL_DATA: pages stay in the kernel's cache until it is told, not until a file's mtime changes; a file
      that was just written is read without asking.
    - HANDLE_KILLPRIV_V2: writing clears the set-user-ID bits here, so that the kernel need not ask for the attribute
      security.capability before each write.
    - readahead, max_write: bytes; max_background: requests that the kernel keeps in flight without waiting for them.

    Unsupported.
    """
    major, minor, _, offered = INIT_IN.unpack_from(question)
    if major < MAJOR or (major == MAJOR and minor < OLDEST_MINOR):
        raise Unsupported(f"the kernel speaks FUSE {major}.{minor}, and {MAJOR}.{OLDEST_MINOR} or later is needed")
    wanted = (
        ASYNC_READ | ATOMIC_O_TRUNC | BIG_WRITES | DO_READDIRPLUS | ASYNC_DIO | PARALLEL_DIROPS | MAX_PAGES
        | CACHE_SYMLINKS | EXPLICIT_INVAL_DATA | HANDLE_KILLPRIV_V2
    )  # fmt: skip
    return INIT_OUT.pack(
        MAJOR, min(minor, MINOR), readahead, wanted & offered, max_background, max_background * 3 // 4, max_write, 1,
        max_write // 4096, 0, 0, 0,
    )  # fmt: skip
