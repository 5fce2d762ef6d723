"""Inodes of a branch's mutable head. A WorkNode exists while the kernel knows the inode, or while it holds changes."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from vfsd.model.entry import Entry, Kind, Ref
from vfsd.model.errors import Refused
from vfsd.worktree.records import Attributes
from vfsd.worktree.runs import Run
from vfsd.worktree.staged import StagedFile

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree

MOST_RUNS = 64  # that are named for one file


class Removed(NamedTuple):
    """A name that is in the commit and not, or as another inode, in the head. number: of the change. directory: whether
    the commit has a directory there."""

    number: int
    directory: bool


class WorkNode:
    """One inode. For a directory `tree` is the committed listing beneath the changes that `children` and `removed`
    hold; for a file `file` holds bytes that are in no commit yet, over `entry`, the committed one.

    changed: number of the last change, 0 when the node is as committed. below: something below it is changed.
    placed: the commit has it under this parent and name.
    """

    __slots__ = (
        "atime", "below", "changed", "children", "closed", "closed_mtime", "ctime", "entry", "file", "gid", "head",
        "ino", "kind", "link", "links", "lookups", "made", "mode", "mtime", "name", "opens", "parent", "placed",
        "rdev", "removed", "runs", "subdirectories", "taken", "target", "tree", "uid", "unseen", "writers", "xattrs",
    )

    def __init__(self, head: Worktree, ino: int, kind: int, name: bytes, parent: WorkNode | None) -> None:
        self.head = head
        self.ino = ino
        self.kind = kind
        self.name = name
        self.parent = parent
        self.mode = 0o644
        self.uid = 0
        self.gid = 0
        self.mtime = 0
        self.ctime = 0
        self.atime = 0
        self.made = 0  # when, if it was made here
        self.rdev = 0
        self.target = b""
        self.xattrs: dict[bytes, bytes] = {}
        self.entry: Entry | None = None
        self.tree: Ref | None = None
        self.children: dict[bytes, WorkNode] = {}
        self.removed: dict[bytes, Removed] = {}  # names that the commit has and the head does not, or has anew
        self.subdirectories = 0
        self.file: StagedFile | None = None
        self.closed: StagedFile | None = None  # last closed, uncommitted bytes while `file` is being written anew
        self.closed_mtime = 0  # of `closed`, or else of `entry`, while `file` is being written
        self.link = 0  # number that the names of a hard-linked file share in commits, once it has several
        self.links: list[tuple[WorkNode, bytes]] = []  # its names but the first
        self.unseen = 0  # how many more it has that this head has not come across
        self.changed = 0
        self.below = False
        self.placed = False
        self.taken = False  # a commit that was made elsewhere has removed it
        self.lookups = 0
        self.opens = 0
        self.writers = 0
        self.runs: tuple[Run, ...] = ()  # that wrote what is in no commit yet

    @property
    def size(self) -> int:
        """Bytes: of a file's current content, of a symlink's target."""
        if self.file is not None:
            return self.file.size
        if self.kind == Kind.SYMLINK:
            return len(self.target)
        return self.entry.size if self.entry is not None and self.kind == Kind.FILE else 0

    @property
    def nlink(self) -> int:
        """How many names it has; a directory has its own, `.`, and `..` in each of those below it."""
        if self.kind == Kind.DIR:
            return 0 if self.parent is None and self.name else 2 + self.subdirectories
        return len(self.links) + (self.parent is not None) + self.unseen

    @property
    def is_given_up(self) -> bool:
        """Whether its head is no more, and it is no open file: what would be done to it could be kept nowhere."""
        return self.head.is_detached and (not self.opens or self.kind == Kind.DIR)

    def names(self) -> list[tuple[WorkNode, bytes]]:
        """(directory, name) of each name that this head knows of."""
        first = [] if self.parent is None else [(self.parent, self.name)]
        return [*first, *self.links]

    def lose(self, parent: WorkNode, name: bytes) -> None:
        """One of its names is gone."""
        names = self.names()
        names.remove((parent, name))
        if names:
            self.parent, self.name = names.pop(0)
            self.links = names
        else:
            self.parent = None
            self.name = self.name or b"?"

    def written_by(self, run: Run) -> None:
        """A run changes its bytes."""
        if run not in self.runs and len(self.runs) < MOST_RUNS:
            self.runs = (*self.runs, run)

    def drop_set_ids(self) -> None:
        """A file was written or got another owner: nobody may run it as its owner or group unasked."""
        if self.mode & 0o6000 and self.kind != Kind.DIR:
            self.mode &= ~0o6000 if self.mode & 0o010 else ~0o4000

    @property
    def attributes(self) -> Attributes:
        """What the journal keeps of the attributes."""
        return Attributes(self.mode, self.uid, self.gid, self.mtime, dict(self.xattrs))

    def set_attributes(self, attributes: Attributes) -> None:
        """The reverse of `attributes`."""
        self.mode, self.uid, self.gid = attributes.mode, attributes.uid, attributes.gid
        self.mtime, self.xattrs = attributes.mtime, dict(attributes.xattrs)

    def adopt(self, entry: Entry) -> None:
        """Be as a commit has it."""
        self.entry = entry
        self.mode, self.uid, self.gid = entry.mode, entry.uid, entry.gid
        self.mtime = entry.mtime
        self.ctime = self.ctime or entry.mtime
        self.atime = max(self.atime or entry.mtime, entry.mtime)
        more = entry.more
        self.target, self.rdev, self.link, self.xattrs = more.target, more.rdev, more.link, dict(more.xattrs)
        self.unseen = max(0, more.names - len(self.links) - (self.parent is not None))
        if self.kind == Kind.DIR:
            self.tree = entry.node
            self.count_directories()

    def count_directories(self) -> None:
        """Count the directories in it anew, over another `tree`."""
        own = sum(child.kind == Kind.DIR and not child.placed for child in self.children.values())
        gone = sum(removed.directory for removed in self.removed.values())
        self.subdirectories = (0 if self.tree is None else self.tree.directories) + own - gone

    def paths(self) -> list[tuple[bytes, ...] | None]:
        """Where it is in the branch under each of its names."""
        more = [(parent.path(), name) for parent, name in self.links]
        return [self.path(), *(None if above is None else (*above, name) for above, name in more)]

    def path(self) -> tuple[bytes, ...] | None:
        """Where it is in the branch; None once it is unlinked."""
        parts: list[bytes] = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return tuple(reversed(parts)) if node.name == b"" else None


def mark_above(where: WorkNode | None) -> None:
    """Something below `where` is changed."""
    while where is not None and not where.below:
        where.below = True
        where = where.parent


def need_place(node: WorkNode) -> None:
    """Refused(ESTALE) when a commit that was made elsewhere has removed it, or a directory above it: what is done to it
    would be in no commit. The kernel, which has not heard of that yet, then looks the path up again."""
    while node.parent is not None:
        node = node.parent
    if node.taken:
        raise Refused(errno.ESTALE)


def need_directory(node: WorkNode) -> None:
    """Refused(ENOTDIR) unless it is one."""
    if node.kind != Kind.DIR:
        raise Refused(errno.ENOTDIR)
