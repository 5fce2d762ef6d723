"""From a head's changes to a commit's tree, in three steps.

`freeze` (event loop, no I/O) says what has changed, as values; `store` (any thread) turns staged bytes into chunks;
`thaw` (event loop) tells the head what the commit now holds. Changes that came in between stay changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import msgspec

from vfsd.model.entry import Entry, Extra, Kind, Ref, directory, special_digest, symlink_digest
from vfsd.model.errors import NotFound, Refused
from vfsd.model.shown import shown_name
from vfsd.repo.chunker import NOTHING, BlobSink, Chunker
from vfsd.repo.chunklist import Content, content_of
from vfsd.repo.content import ChunkSource, read_content
from vfsd.repo.diff import Changed
from vfsd.repo.nodes import NodeSource
from vfsd.repo.tree import Change, Path, Sub, apply, find
from vfsd.worktree.disk import nothing
from vfsd.worktree.node import WorkNode
from vfsd.worktree.records import Attributes
from vfsd.worktree.runs import Run
from vfsd.worktree.staged import StagedFile
from vfsd.worktree.versions import record_again
from vfsd.worktree.worktree import Worktree


class FrozenFile(msgspec.Struct):
    """Everything a commit needs of one inode that is not a directory. content None: that of `file`."""

    kind: int
    attributes: Attributes
    target: bytes
    rdev: int
    link: int
    names: int
    content: Content | None
    file: StagedFile | None


class FrozenDirectory(msgspec.Struct):
    """A directory with changes in it. attributes: they count if `changed`, or when the branch has no such directory any
    more. whole: it replaces what has its name, over `tree`; otherwise its changes are made to what the head of the
    branch has there."""

    attributes: Attributes
    changed: bool
    items: dict[bytes, FrozenFile | FrozenDirectory | None]
    whole: bool
    tree: Ref | None


class Frozen(msgspec.Struct):
    """One freeze. nodes: inodes in it with the number of their last change; paths: where each of them was. removed:
    directory, its path, name, number of the change. upto: last journal record it holds. skipped: inodes whose current
    bytes are left out because they are being written. wrote: files with a run that wrote each."""

    root: FrozenDirectory
    nodes: list[tuple[WorkNode, int, StagedFile | None]]
    paths: list[list[Path | None]]
    removed: list[tuple[WorkNode, Path | None, bytes, int]]
    upto: int
    skipped: list[WorkNode]
    wrote: list[tuple[Run, Path]] = []


def freeze(tree: Worktree) -> Frozen | None:
    """What a commit made now would hold; None for nothing. Files that are being written are left out, or go in as
    they were closed last."""
    frozen = Frozen(FrozenDirectory(tree.root.attributes, False, {}, False, None), [], [], [], tree.last_record, [])
    frozen.root = _directory(tree.root, frozen)
    if not frozen.nodes and not frozen.removed:
        return None
    return frozen


def _directory(node: WorkNode, frozen: Frozen, *, replaces: bool = False) -> FrozenDirectory:
    items: dict[bytes, FrozenFile | FrozenDirectory | None] = {}
    for name, removed in node.removed.items():
        items[name] = None
        frozen.removed.append((node, node.path(), name, removed.number))
    for name, child in node.children.items():
        if child.kind == Kind.DIR:
            if child.changed or child.below:
                items[name] = _directory(child, frozen, replaces=name in node.removed)
        elif child.changed:
            item = _file(child, frozen)
            if item is not None:
                items[name] = item
    if node.changed:
        frozen.nodes.append((node, node.changed, None))
        frozen.paths.append(node.paths())
    # One that was just made takes in what others put into one of its name meanwhile.
    whole = not node.placed and (replaces or node.tree is not None)
    return FrozenDirectory(node.attributes, bool(node.changed), items, whole, node.tree)


def _file(node: WorkNode, frozen: Frozen) -> FrozenFile | None:
    file, entry, at = node.file, node.entry, node.attributes
    is_written = node.writers > 0 and file is not None and not file.is_closed
    if is_written:
        frozen.skipped.append(node)
        file = node.closed
        if file is None and entry is None:
            return None
        at = msgspec.structs.replace(at, mtime=node.closed_mtime)  # that of the bytes which go in
    frozen.nodes.append((node, 0 if is_written else node.changed, file))
    frozen.paths.append(node.paths())
    if file is not None:
        file.frozen += 1
        if node.runs and (path := node.path()) is not None:
            frozen.wrote += ((run, path) for run in node.runs)
    content = content_of(entry) if file is None and entry is not None else None
    link, names = (node.link, node.nlink) if node.nlink > 1 else (0, 0)
    return FrozenFile(node.kind, at, node.target, node.rdev, link, names, content, file)


class Storer:
    """Turns a freeze into changes of a tree; every staged file is cut and stored once. check: called before each read,
    and may raise to have this end."""

    def __init__(
        self, chunker: Chunker, sink: BlobSink, nodes: NodeSource, chunks: ChunkSource,
        check: Callable[[], None] = nothing,
    ) -> None:
        self._chunker = chunker
        self._sink = sink
        self._nodes = nodes
        self._chunks = chunks
        self._check = check
        self._contents: dict[int, Content] = {}

    def changes(self, frozen: Frozen) -> Sub:
        """The changes to the root."""
        found = self._change(b"", frozen.root)
        assert isinstance(found, Sub)
        return found

    def _change(self, name: bytes, item: FrozenFile | FrozenDirectory | None) -> Change:
        if item is None:
            return None
        if isinstance(item, FrozenFile):
            return self._entry(name, item)
        attributes = _attributes(name, item.attributes)
        changes = {below: self._change(below, each) for below, each in item.items.items()}
        sub = Sub(changes, attributes if item.changed else None, like=attributes)
        if not item.whole:
            return sub
        return apply(self._nodes, self._sink, directory(name, item.tree), sub)

    def _entry(self, name: bytes, item: FrozenFile) -> Entry:
        content = self._content(item)
        at = item.attributes
        extra = Extra(item.target, item.rdev, item.link, at.xattrs, names=item.names)
        if item.kind == Kind.FILE:
            digest = content.digest
        elif item.kind == Kind.SYMLINK:
            digest = symlink_digest(item.target)
        else:
            digest = special_digest(item.kind, item.rdev)
        size = len(item.target) if item.kind == Kind.SYMLINK else content.size
        return Entry(
            name, item.kind, at.mode, at.uid, at.gid, at.mtime, size, digest, content.chunks, content.node,
            None if extra == Extra() else extra,
        )

    def _content(self, item: FrozenFile) -> Content:
        file = item.file
        if file is None:
            return item.content or NOTHING
        found = self._contents.get(id(file))
        if found is None:
            found = self._contents[id(file)] = self._cut(file)
        return found

    def _cut(self, file: StagedFile) -> Content:
        def read_base(content: Content, offset: int, size: int) -> bytes:
            return read_content(self._nodes, self._chunks, content, offset, size)

        def read(offset: int, size: int) -> bytes:
            self._check()
            return file.read(offset, size, read_base)

        if file.base is None:
            begun = file.beginning.chunks(self._sink) if file.beginning is not None else ()
            return self._chunker.cut_reader(read, file.size, self._sink, self._nodes, begun)
        dirty = file.extents.ranges()
        if file.base_limit < min(file.size, file.base.size):
            # Cut off and extended again: zeros stand where the base had bytes.
            dirty = sorted([*dirty, (file.base_limit, min(file.size, file.base.size))])
        return self._chunker.recut(file.base, dirty, read, file.size, self._sink, self._nodes)


def _attributes(name: bytes, at: Attributes) -> Entry:
    extra = Extra(xattrs=at.xattrs) if at.xattrs else None
    return directory(name, None, mode=at.mode, uid=at.uid, gid=at.gid, mtime=at.mtime, extra=extra)


def as_before(nodes: NodeSource, root: Entry, frozen: Frozen, changes: Sequence[Changed]) -> list[Changed]:
    """What is in the commit with the tree `root` as in the one before, so that no diff, `changes`, names it, though the
    head had changes of it: a file that was replaced by an equal one. It is to be adopted too. Blocks."""
    told = {path for path, _, _ in changes}
    found: list[Changed] = []
    for path in itertools.chain.from_iterable(frozen.paths):
        if path and path not in told:
            try:
                entry = find(nodes, root, path)
            except (NotFound, Refused):
                continue  # the commit has it not: what others did there took it away
            found.append((path, entry, entry))
    return found


def thaw(tree: Worktree, frozen: Frozen, *, committed: bool) -> None:
    """End a freeze. When it was `committed`, what has not changed since, nor moved with a directory, is as in the
    commit; the caller then adopts the commit's tree, what is `as_before` in it too."""
    for (node, number, file), paths in zip(frozen.nodes, frozen.paths, strict=True):
        if file is not None:
            file.thawed()
        if not committed:
            continue
        if set(paths) <= set(node.paths()):  # names that were come across meanwhile change nothing
            node.placed = True
            if node.changed == number and node.file is file:  # else it is being written anew
                node.changed = 0
                node.runs = ()
                if file is not None:
                    file.discard()
                    node.file = None
            if file is not None and node.closed is file:
                file.discard()
                node.closed = None
    if committed:
        tree.staging.settled(tree.row.id, frozen.upto)
        for parent, path, name, number in frozen.removed:
            removed = parent.removed.get(name)
            if removed is not None and removed.number == number and parent.path() == path:
                del parent.removed[name]
        _settle_below(tree.root)


def forget_unused(tree: Worktree, frozen: Frozen) -> None:
    """After a commit was adopted: what the kernel forgot while it was changed is of no more use."""
    for node, _, _ in frozen.nodes:
        if not node.lookups:
            tree.forget(node)


def keep_records(tree: Worktree, frozen: Frozen) -> None:
    """The records up to `frozen.upto` are about to go: record anew what they hold of files that were left out."""
    tree.noted.clear()
    for node in frozen.skipped:
        record_again(tree, node, frozen.upto)


def _settle_below(node: WorkNode) -> bool:
    """Find out again which directories have changes below them; whether this one is, or has, one."""
    if node.below:
        node.below = False
        for child in node.children.values():
            if (child.below or child.changed) and _settle_below(child):
                node.below = True
    return bool(node.below or node.changed or node.removed)


def summary(frozen: Frozen) -> str:
    """A message for a commit that nobody gave one: what it touches, what is gone last, as programs clean up behind
    themselves what no commit ever had."""
    items = frozen.root.items
    there = (name for name, item in items.items() if item is not None)
    gone = (b"- " + name for name, item in items.items() if item is None)
    names = list(itertools.islice(itertools.chain(there, gone), 3))
    text = ", ".join(shown_name(name) for name in names)
    more = len(items) - len(names)
    return f"{text} and {more} more" if more > 0 else text
