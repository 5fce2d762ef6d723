"""What one branch gives to datums: the matches of a glob in the tree before and in the tree now, as pieces.

Only directories that can hold a match are walked. Where two trees are compared, equal subtrees are not even read; where
what both have in common is wanted, they are walked once.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from vfsd.model.entry import Entry, Kind, Ref
from vfsd.model.glob import Glob, Match, Position
from vfsd.model.spec_input import PfsInput
from vfsd.repo.diff import changed_names
from vfsd.repo.directory import entries
from vfsd.repo.nodes import NodeSource

Found = tuple[bytes, Entry]
Pair = tuple[bytes, Entry | None, Entry | None]


class Piece(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A file or directory that is a datum or part of one. Equal pieces have equal contents.

    leaf: number of its input among PipelineSpec.pfs_inputs(). path: as `/d/e`, `/` for the root. digest: of the
    contents, for a directory those below. size: bytes of the file, or of all files below. target: of a symbolic link,
    empty for everything else. join_on, group_by: the input's templates filled with what the glob captured.
    """

    leaf: int
    path: bytes
    is_dir: bool
    digest: bytes
    size: int
    target: bytes = b""
    join_on: bytes = b""
    group_by: bytes = b""


Combo = tuple[Piece, ...]  # the pieces of a datum, in the order of the spec
Change = tuple[Combo, bool]  # True: it is a datum now and was none before; False: the other way round


class Leaf:
    """The pieces of one pfs or cron input. old, new: roots of its trees before and now, None for no tree."""

    def __init__(self, nodes: NodeSource, number: int, pfs: PfsInput, old: Entry | None, new: Entry | None) -> None:
        self._nodes = nodes
        self._number = number
        self._glob = Glob(pfs.glob)
        self._join_on, self._group_by = pfs.join_on, pfs.group_by
        self._roots = (old, new)
        self.outer = pfs.outer_join

    def all(self, new: bool) -> Iterator[Combo]:
        """Every piece of the tree now, or else before, a directory ahead of what is in it."""
        root = self._roots[new]
        if root is not None:
            for path, entry in _matches(self._nodes, self._glob, root):
                yield (self._piece(path, entry),)

    def common(self) -> Iterator[Combo]:
        """The pieces that both trees have, with equal contents."""
        old, new = self._roots
        if old is not None and new is not None:
            for path, entry in _common_matches(self._nodes, self._glob, old, new):
                yield (self._piece(path, entry),)

    def changes(self) -> Iterator[Change]:
        """The pieces that only one of the trees has."""
        for path, old, new in changed_matches(self._nodes, self._glob, *self._roots):
            if old is not None and new is not None and _content(old) == _content(new):
                continue  # only times or owners are others
            if old is not None:
                yield (self._piece(path, old),), False
            if new is not None:
                yield (self._piece(path, new),), True

    def _piece(self, path: bytes, entry: Entry) -> Piece:
        is_dir = entry.kind == Kind.DIR
        target = entry.more.target if entry.kind == Kind.SYMLINK else b""
        if not self._join_on and not self._group_by:
            return Piece(self._number, path, is_dir, entry.digest, entry.size, target)
        match = Match(self._glob, path)
        return Piece(
            self._number, path, is_dir, entry.digest, entry.size, target,
            match.replace(self._join_on) if self._join_on else b"",
            match.replace(self._group_by) if self._group_by else b"",
        )  # fmt: skip


def _content(entry: Entry) -> tuple[bool, bytes]:
    return (entry.kind == Kind.DIR, entry.digest)


def _node(entry: Entry | None) -> Ref | None:
    return entry.node if entry is not None and entry.kind == Kind.DIR else None


def changed_matches(nodes: NodeSource, glob: Glob, old: Entry | None, new: Entry | None) -> Iterator[Pair]:
    """(path, old entry, new entry) of the matches that are not the same in two trees, a directory ahead of what is in
    it; None where there is none."""
    position = glob.root
    if position.matches:
        yield b"/", old, new
    yield from _changed_below(nodes, position, b"", _node(old), _node(new))


def _changed_below(
    nodes: NodeSource, position: Position, directory: bytes, old: Ref | None, new: Ref | None
) -> Iterator[Pair]:
    inside = position.below
    if inside is None:
        return
    for name, one, other in changed_names(nodes, old, new):
        if not name.startswith(inside.prefix):
            continue
        there = inside.behind(name.decode(errors="surrogateescape"))
        path = directory + b"/" + name
        if there.matches:
            yield path, one, other
        yield from _changed_below(nodes, there, path, _node(one), _node(other))


def _matches(nodes: NodeSource, glob: Glob, root: Entry) -> Iterator[Found]:
    position = glob.root
    if position.matches:
        yield b"/", root
    yield from _matches_below(nodes, position, b"/", root.node)


def _matches_below(nodes: NodeSource, position: Position, folder: bytes, ref: Ref | None) -> Iterator[Found]:
    """folder: the directory's path with a `/` behind."""
    inside = position.below
    if inside is None:
        return
    behind = inside.behind
    for entry in _beginning_with(nodes, ref, inside.prefix):
        there = behind(entry.name.decode(errors="surrogateescape"))
        if there.matches:
            yield folder + entry.name, entry
        if entry.kind == Kind.DIR and there.below is not None:
            yield from _matches_below(nodes, there, b"%s%s/" % (folder, entry.name), entry.node)


def _beginning_with(nodes: NodeSource, ref: Ref | None, prefix: bytes) -> Iterator[Entry]:
    if not prefix:
        yield from entries(nodes, ref)
        return
    for entry in entries(nodes, ref, after=prefix[:-1] + bytes((prefix[-1] - 1,))):  # no name has a NUL in it
        if entry.name.startswith(prefix):
            yield entry
        elif entry.name > prefix:
            return


def _common_matches(nodes: NodeSource, glob: Glob, old: Entry, new: Entry) -> Iterator[Found]:
    position = glob.root
    if position.matches and _content(old) == _content(new):
        yield b"/", new
    yield from _common_below(nodes, position, b"/", old.node, new.node)


def _common_below(
    nodes: NodeSource, position: Position, folder: bytes, old: Ref | None, new: Ref | None
) -> Iterator[Found]:
    inside = position.below
    if inside is None or old is None or new is None:
        return
    if old.id == new.id:
        yield from _matches_below(nodes, position, folder, new)
        return
    others = _beginning_with(nodes, old, inside.prefix)
    other = next(others, None)
    for entry in _beginning_with(nodes, new, inside.prefix):
        while other is not None and other.name < entry.name:
            other = next(others, None)
        if other is None:
            return
        if other.name != entry.name:
            continue
        there = inside.behind(entry.name.decode(errors="surrogateescape"))
        if there.matches and _content(other) == _content(entry):
            yield folder + entry.name, entry
        if entry.kind == other.kind == Kind.DIR:
            yield from _common_below(nodes, there, b"%s%s/" % (folder, entry.name), other.node, entry.node)
