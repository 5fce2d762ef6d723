"""Loads small files before they are opened: a reader that takes a directory's files in their order gets those behind.

Files lie in the store in the order of their paths, so what is loaded ahead comes in large pieces, over the ends of
directories as well.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from vfsd.model.entry import Chunk, Entry, Kind, Ref
from vfsd.model.errors import NotCached
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.directory import entries
from vfsd.repo.nodes import NodeSource
from vfsd.serve.readahead import Readahead, Reader
from vfsd.serve.view import SnapNode
from vfsd.worktree.node import WorkNode

SMALL = 4 << 20  # bytes of the largest file that is read on such a trail
FIRST, LAST = 4 << 20, 64 << 20  # bytes ahead
NEAR = 32  # names further on that are still the same trail: several readers take turns, or some files are left out
RUN = 3  # files in a row that make a trail
TRAILS = 64  # directories that are watched at once
MOST = 8192  # files ahead


class Trail:
    """One directory's reading. name: the last one that went on; coming: names behind it; ahead: bytes behind it that
    were loaded. is_looking: a part of the tree is being loaded to look further ahead."""

    __slots__ = ("ahead", "coming", "is_looking", "name", "run", "window")

    def __init__(self, coming: list[bytes]) -> None:
        self.coming = coming
        self.run = 1
        self.ahead = 0
        self.window = 0
        self.name = b""
        self.is_looking = False


class Trails:
    """Sees which files are read, and has Readahead load the next ones."""

    def __init__(self, nodes: NodeSource, readahead: Readahead) -> None:
        self._nodes = nodes
        self._readahead = readahead
        self._trails: OrderedDict[int, Trail] = OrderedDict()
        self._last: Trail | None = None  # that went on

    def after_read(self, node: SnapNode | WorkNode, size: int, *, waited: bool) -> None:
        """A committed file was read to its end. waited: its bytes had to be loaded."""
        where = _where(node)
        if where is None:
            return
        directory, name = where
        trail = self._trails.get(directory.ino)
        before = self._last if trail is None and self._last is not None and not self._last.coming else None
        if trail is None and before is None and not waited:
            return
        try:
            if before is not None:
                self._go_on(self._begin(directory, name, before), directory, name, size)
            elif trail is None or name not in trail.coming:
                self._begin(directory, name)
            else:
                self._go_on(trail, directory, name, size)
        except NotCached as miss:
            self._readahead.prepare(miss, lambda _: None)  # a part of the tree

    def _begin(self, directory: SnapNode | WorkNode, name: bytes, before: Trail | None = None) -> Trail:
        """A new trail; one that goes on in another directory where `before` has come to the end of its own."""
        trail = self._trails[directory.ino] = Trail([name, *self._names_behind(directory, name)])
        if before is not None:
            trail.run, trail.ahead, trail.window = before.run, before.ahead, before.window
        else:
            del trail.coming[0]
        self._trails.move_to_end(directory.ino)
        if len(self._trails) > TRAILS:
            self._trails.popitem(last=False)
        return trail

    def _names_behind(self, directory: SnapNode | WorkNode, name: bytes) -> list[bytes]:
        behind = islice(entries(self._nodes, _tree(directory), name), NEAR)
        return [entry.name for entry in behind if entry.kind == Kind.FILE]

    def _go_on(self, trail: Trail, directory: SnapNode | WorkNode, name: bytes, size: int) -> None:
        self._last = trail
        trail.name = name
        del trail.coming[: trail.coming.index(name) + 1]
        if len(trail.coming) < NEAR // 2:
            trail.coming = self._names_behind(directory, name)
        trail.run += 1
        trail.ahead = max(0, trail.ahead - size)
        if trail.run >= RUN and trail.ahead <= trail.window // 2:
            trail.window = min(max(FIRST, trail.window * 2), LAST)
            self._load_ahead(trail, directory)

    def _load_ahead(self, trail: Trail, directory: SnapNode | WorkNode) -> None:
        wanted: list[Chunk] = []
        misses: list[NotCached] = []
        passed = 0
        try:
            for entry in islice(files_behind(self._nodes, directory, trail.name), MOST):
                if passed >= trail.window:
                    break
                passed += entry.size
                if passed > trail.ahead and entry.size <= SMALL:
                    try:
                        wanted += [chunk for _, chunk in iter_chunks(self._nodes, content_of(entry))]
                    except NotCached as miss:
                        misses.append(miss)
        except NotCached as miss:
            misses.append(miss)
        if misses:
            # Lists of chunks, or a part of the tree: all of them are loaded first, so that chunks come by large runs.
            if not trail.is_looking:
                trail.is_looking = True
                walk = NotCached(misses[0].key, lambda: [miss.load() for miss in misses])
                self._readahead.prepare(walk, lambda here: self._look_again(trail, directory, here=here))
            return
        trail.ahead = max(trail.ahead, passed)
        self._readahead.load(Reader(), wanted)

    def _look_again(self, trail: Trail, directory: SnapNode | WorkNode, *, here: bool) -> None:
        trail.is_looking = False
        if here:
            self._load_ahead(trail, directory)


def files_behind(nodes: NodeSource, directory: SnapNode | WorkNode, name: bytes) -> Iterator[Entry]:
    """The committed files behind `name` in the order of their paths, on past the end of the directory."""
    while True:
        for entry in entries(nodes, _tree(directory), name):
            yield from _files(nodes, entry)
        where = _where(directory)
        if where is None:
            return
        directory, name = where


def _files(nodes: NodeSource, entry: Entry) -> Iterator[Entry]:
    if entry.kind == Kind.FILE:
        yield entry
    elif entry.kind == Kind.DIR:
        for below in entries(nodes, entry.node):
            yield from _files(nodes, below)


def _where(node: SnapNode | WorkNode) -> tuple[SnapNode | WorkNode, bytes] | None:
    """Directory and name of a node; None of a root, and of what has no name any more."""
    if isinstance(node, WorkNode):
        return None if node.parent is None else (node.parent, node.name)
    return node.above[0] if node.above else None


def _tree(directory: SnapNode | WorkNode) -> Ref | None:
    return directory.tree if isinstance(directory, WorkNode) else directory.entry.node
