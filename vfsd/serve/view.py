"""The namespace and its rules, whatever protocol asks:

    /                            repos; mkdir makes a repo with branch main
    /<repo>/                     branches; mkdir makes a branch
    /<repo>/<branch>/…           the live branch, read and write
    /<repo>/<branch>@<rev>/…     a snapshot, read only; not listed, made by looking it up
    /@<global-id>/<repo>/…       every repo as it stood at that moment

Runs in the event loop's thread and never blocks: NotCached says what is to be loaded first (see model.errors).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vfsd.model.entry import Entry, Kind
from vfsd.model.errors import NotCached, NotFound, ReadOnly, Refused, VfsdError
from vfsd.model.ids import CommitId, GlobalId, is_global_id
from vfsd.model.location import Location, split_branch
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.rev import parse_rev
from vfsd.repo.chunklist import Content, content_of
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.content import ChunkSource, read_pieces
from vfsd.repo.directory import entries, lookup
from vfsd.repo.global_view import as_of_global
from vfsd.repo.repository import Repository, empty_root, now_ns
from vfsd.serve.names import Names
from vfsd.worktree.links import inode_number
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.node import WorkNode
from vfsd.worktree.worktree import MAX_NAME

if TYPE_CHECKING:
    from vfsd.serve.outlets import Outlets

MAX_SNAPSHOTS = 4096  # resolved revs remembered


class Folder:
    """A directory of the namespace itself: the root, a repo, or a global id."""

    __slots__ = ("gid", "ino", "lookups", "opens", "repo")

    def __init__(self, ino: int, repo: str = "", gid: str = "") -> None:
        self.ino = ino
        self.repo = repo
        self.gid = gid
        self.lookups = 0
        self.opens = 0


class SnapNode:
    """An inode of a snapshot: an entry that never changes. `children` holds those that the kernel knows; `above` where
    it stands itself, several times when it is a hard-linked file. The root, `top`, knows these by their numbers."""

    __slots__ = ("above", "children", "commit", "entry", "ino", "linked", "lookups", "opens", "top")

    def __init__(self, ino: int, entry: Entry, top: SnapNode | None, commit: str) -> None:
        self.ino = ino
        self.entry = entry
        self.top = top or self
        self.commit = commit
        self.above: list[tuple[SnapNode, bytes]] = []
        self.children: dict[bytes, SnapNode] = {}
        self.linked: dict[int, SnapNode] = {}
        self.lookups = 0
        self.opens = 0


Node = Folder | SnapNode | WorkNode


class View:
    """The namespace over one repository and its live branches."""

    def __init__(
        self, repository: Repository, names: Names, live: LiveBranches, chunks: ChunkSource, numbers: Iterator[int],
        *, read_only: bool, staging_folder: str, facts: dict[bytes, bytes],
    ) -> None:
        """staging_folder: its disk is what statfs speaks of. facts: extended attributes of the root."""
        self.repository = repository
        self.names = names
        self.live = live
        self.root = Folder(1)
        self.read_only = read_only
        self.staging_folder = staging_folder
        self.facts = facts
        self.outlets: Outlets | None = None  # branches that some processes may write to
        self.started = now_ns()
        self._chunks = chunks
        self._numbers = numbers
        self._repos: dict[str, Folder] = {}
        self._globals: dict[str, Folder] = {}
        self._snapshots: dict[CommitId | None, SnapNode] = {}
        self._resolved: dict[tuple[str, str, str], CommitId | None] = {}  # only what can never change
        self._answers: dict[object, tuple[CommitId | None] | VfsdError] = {}  # loads waiting to be picked up

    # Looking

    def lookup(self, parent: Node, name: bytes) -> Node | None:
        """The node under a name, or None."""
        if len(name) > MAX_NAME:
            raise Refused(errno.ENAMETOOLONG)
        if isinstance(parent, WorkNode):
            return parent.head.lookup(parent, name)
        if isinstance(parent, SnapNode):
            return self._snapshot_child(parent, name)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        try:
            if parent is self.root:
                return self._global(text[1:]) if text.startswith("@") else self.repo(text)
            if parent.gid:
                return self._snapshot(self._ask(("global", parent.gid, text), parent.gid, text))
            return self._branch(parent.repo, text)
        except NotFound:
            return None

    def repo(self, repo: str) -> Folder:
        """A repo's directory."""
        self.names.need_repo(repo)
        found = self._repos.get(repo)
        if found is None:
            found = self._repos[repo] = Folder(next(self._numbers), repo=repo)
        return found

    def known_repo(self, repo: str) -> Folder | None:
        """A repo's directory when the kernel may know it."""
        return self._repos.get(repo)

    def _global(self, gid: str) -> Folder | None:
        if not is_global_id(gid):
            return None
        found = self._globals.get(gid)
        if found is None:
            self._ask(("gid", gid), gid, "")
            found = self._globals[gid] = Folder(next(self._numbers), gid=gid)
        return found

    def _branch(self, repo: str, text: str) -> Node:
        branch, rev = split_branch(text)
        if rev is not None:
            return self._snapshot(self._resolve(repo, branch, rev))
        self.names.need_branch(repo, branch)
        return self.live.get(repo, branch).tree.root

    def _resolve(self, repo: str, branch: str, rev: str) -> CommitId | None:
        key = (repo, branch, rev)
        if key in self._resolved:
            return self._resolved[key]
        commit = self._ask(("rev", *key), *key)
        if len(rev) == 64 and len(self._resolved) < MAX_SNAPSHOTS:
            self._resolved[key] = commit
        return commit

    def _ask(self, key: object, *words: str) -> CommitId | None:
        """Pick up the answer to a question that blocks, or have it asked."""
        answer = self._answers.pop(key, None)
        if answer is None:
            raise NotCached(key, lambda: self._answer(key, words))
        if isinstance(answer, VfsdError):
            raise answer
        return answer[0]

    def _answer(self, key: object, words: tuple[str, ...]) -> None:
        """Blocks: find the commit that is asked for."""
        commit: CommitObject | None = None
        try:
            if len(words) == 1:
                self.names.refresh(words[0])
            elif len(words) == 3:
                repo, branch, rev = words
                commit = self.repository.resolve(Location(repo, branch, parse_rev(rev), (), rev))
            else:
                gid, repo = words
                commit = as_of_global(self.repository, GlobalId(gid), repo or None)
            self._answers[key] = (None if commit is None else commit.id,)
        except VfsdError as error:
            self._answers[key] = NotFound(str(error)) if error.exit_code == 2 else error

    def _snapshot(self, commit: CommitId | None) -> SnapNode:
        found = self._snapshots.get(commit)
        if found is None:
            root = empty_root()
            if commit is not None:
                cached = self.repository.commits.cached(commit)
                if cached is None:
                    raise NotCached(("commit", commit), lambda: self.repository.commits.get(commit))
                root = cached.root
            found = self._snapshots[commit] = SnapNode(next(self._numbers), root, None, commit or "")
        return found

    def _snapshot_child(self, parent: SnapNode, name: bytes) -> SnapNode | None:
        found = parent.children.get(name)
        if found is None:
            if parent.entry.kind != Kind.DIR:
                raise Refused(errno.ENOTDIR)
            entry = lookup(self.repository.inline, parent.entry.node, name)
            return None if entry is None else self._new_snap(parent, entry)
        return found

    def materialise(self, parent: Node, entry: Entry) -> Node:
        """The node of a committed entry of `parent` that has none yet."""
        if isinstance(parent, WorkNode):
            return parent.head.materialise(parent, entry)
        assert isinstance(parent, SnapNode)
        return self._new_snap(parent, entry)

    def _new_snap(self, parent: SnapNode, entry: Entry) -> SnapNode:
        link, linked = entry.more.link, parent.top.linked
        node = linked.get(link) if link else None
        if node is None or node.entry.digest != entry.digest:
            number = inode_number(parent.commit.encode(), link) if link and node is None else next(self._numbers)
            node = SnapNode(number, entry, parent.top, parent.commit)
            if link:
                linked[link] = node
        node.above.append((parent, entry.name))
        parent.children[entry.name] = node
        return node

    def listing(self, node: Node, after: bytes | None) -> Iterator[tuple[bytes, Node | Entry | None]]:
        """(name, node or entry) behind `after`, in order; None for a node that looking up the name gives."""
        if isinstance(node, WorkNode):
            yield from node.head.listing(node, after)
        elif isinstance(node, SnapNode):
            for entry in entries(self.repository.inline, node.entry.node, after):
                yield entry.name, node.children.get(entry.name, entry)
        else:
            # Asked of the store each time: the watcher may be a moment behind a command that has returned.
            self._ask(("list", node.repo), node.repo)
            listed = self.names.branches(node.repo) if node.repo else self.names.repos()
            for name in sorted(text.encode() for text in listed):
                if after is None or name > after:
                    yield name, None

    def forget(self, node: Node) -> bool:
        """The kernel does not know the node any more; whether nobody else does."""
        if isinstance(node, WorkNode):
            node.head.forget(node)
        elif isinstance(node, SnapNode):
            self._forget_snapshot(node)
        elif node.gid:
            self._globals.pop(node.gid, None)
        return not node.opens

    def _forget_snapshot(self, node: SnapNode) -> None:
        unused = [node]
        while unused:
            node = unused.pop()
            if node.lookups or node.opens or node.children:
                continue
            if node is node.top:
                self._snapshots.pop(CommitId(node.commit) if node.commit else None, None)
            node.top.linked.pop(node.entry.more.link, None)
            for parent, name in node.above:
                parent.children.pop(name, None)
                unused.append(parent)
            node.above.clear()

    # Reading

    def read(self, node: SnapNode | WorkNode, offset: int, size: int) -> Sequence[bytes | memoryview]:
        """Up to `size` bytes of a file, in pieces."""
        content = self.committed(node)
        if content is not None:
            return read_pieces(self.repository.inline, self._chunks, content, offset, size)
        assert isinstance(node, WorkNode)
        return (node.head.read(node, offset, size),)

    def committed(self, node: SnapNode | WorkNode) -> Content | None:
        """What a commit has of a file, if that is what the file is now."""
        if isinstance(node, WorkNode) and node.file is not None:
            return None
        return None if node.entry is None else content_of(node.entry)

    def xattrs(self, node: Node) -> dict[bytes, bytes]:
        """Extended attributes: a file's own, the daemon's facts on the root, the commit on a snapshot's root."""
        if isinstance(node, WorkNode):
            return node.xattrs
        if isinstance(node, Folder):
            return self.facts if node is self.root else {}
        if node is node.top:
            return {b"user.vfsd.commit": node.commit.encode(), **node.entry.more.xattrs}
        return node.entry.more.xattrs

    # Writing

    def writable(self, node: Node, caller: int) -> WorkNode:
        """The node when its content may be changed by a thread; ReadOnly or Refused(EPERM) when it may not."""
        if isinstance(node, SnapNode):
            raise ReadOnly("a snapshot cannot be changed")
        if isinstance(node, Folder):
            if node.gid:
                raise ReadOnly("a snapshot cannot be changed")
            raise Refused(errno.EPERM, "only repos and branches can be made here")
        if self.read_only:
            raise ReadOnly("mounted read-only")
        if node.head.read_only and not (self.outlets is not None and self.outlets.admits(node, caller)):
            raise ReadOnly(node.head.read_only)
        return node

    def make_folder(self, parent: Folder, name: str) -> None:
        """Make a repo with its default branch, or a branch. Blocks."""
        if self.read_only:
            raise ReadOnly("mounted read-only")
        if parent.gid or "@" in name:
            raise ReadOnly("a snapshot cannot be made: commit, and it is there")
        now = now_ns()
        refs = self.repository.refs
        if parent is self.root:
            refs.create_repo(name, now)
            refs.create_branch(name, DEFAULT_BRANCH, None, now)
        else:
            refs.create_branch(parent.repo, name, None, now)
