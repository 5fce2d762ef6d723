"""Which bytes of a file a commit may hold, and which of them the journal keeps.

`node.file` is what users see. While it is written, `node.closed` is what was closed last and is in no commit yet: of
small files, and of any that is cut to nothing or being committed. Others are left out of commits until they are closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from vfsd.model.entry import Entry
from vfsd.repo.chunklist import content_of
from vfsd.worktree.node import WorkNode
from vfsd.worktree.records import Attributes, FileRecord, LinkRecord
from vfsd.worktree.staged import StagedFile

if TYPE_CHECKING:
    from vfsd.worktree.worktree import Worktree


def empty(tree: Worktree) -> StagedFile:
    """The bytes of a new file."""
    return StagedFile(tree.staging, branch=tree.row.id)


def writable(tree: Worktree, node: WorkNode) -> StagedFile:
    """The file's bytes, to be changed; NotCached when they must be copied first, because a commit reads them."""
    file = node.file
    if file is None:
        node.closed_mtime = node.mtime
        base = content_of(node.entry) if node.entry is not None and node.entry.size else None
        file = node.file = StagedFile(tree.staging, base, tree.row.id)
    elif file.frozen or (file.is_closed and file.is_small):
        old, file = file, file.successor()
        node.file = file
        _keep_closed(node, old)
    return file


def replace(node: WorkNode, file: StagedFile) -> None:
    """Begin anew with `file`: nothing of the old bytes is in it."""
    old, node.file = node.file, file
    if old is not None:
        _keep_closed(node, old)
    else:
        node.closed_mtime = node.mtime


def _keep_closed(node: WorkNode, old: StagedFile) -> None:
    """`old` is not written any more: a commit may hold it if it was closed so; else nobody needs it."""
    assert node.file is not None
    if not old.is_closed:
        node.file.is_journalled = old.is_journalled  # the journal knows the file, though not these bytes
        old.drop()
        return
    if node.closed is not None:
        node.closed.drop()
    node.closed, node.closed_mtime = old, node.mtime


def close(tree: Worktree, node: WorkNode) -> None:
    """Nobody is writing: what there is now is the version that a commit may hold."""
    assert node.file is not None
    record(tree, node)
    node.file.closed_version = node.file.version
    if node.closed is not None:
        node.closed.drop()
        node.closed = None


def record(tree: Worktree, node: WorkNode) -> None:
    """Record a file's whole state, unless the journal has it already."""
    path, file = node.path(), node.file
    if path is None or file is None or tree.replaying or tree.is_detached:
        return
    stored = file.store()
    state = (file.version, node.attributes)
    if file.recorded and file.recorded_state == state:
        return
    made = 0 if node.entry else node.made
    runs = _runs(tree, node)
    file.recorded = tree.record(
        FileRecord(path, node.attributes, file.size, file.base, file.base_limit, stored, made, runs)
    )
    file.recorded_state = state
    file.is_journalled = True


def attributes(node: WorkNode) -> Attributes:
    """Of the bytes that a crash would leave: what is being written, and is not in the journal, has another mtime."""
    file, at = node.file, node.attributes
    if not node.writers or file is None or file.is_closed or file.is_journalled:
        return at
    return msgspec.structs.replace(at, mtime=node.closed_mtime)


def _runs(tree: Worktree, node: WorkNode) -> tuple[int, ...]:
    """Numbers of the runs that wrote a file; the journal knows them, and what they had read, when this returns."""
    for run in node.runs:
        news = tree.noted.news(run)
        if news is not None:
            tree.record(news)
    return tuple(run.number for run in node.runs)


def may_be(node: WorkNode, entry: Entry) -> bool:
    """Whether a committed entry of the same link number is a name of `node`. Of a file that is as committed the bytes
    tell: two nodes that wrote through different names at once have made two files of it."""
    return bool(node.changed) or not node.placed or node.entry is None or node.entry.digest == entry.digest


def record_new(tree: Worktree, node: WorkNode) -> None:
    """Record a file that `is_new`: records that name it follow."""
    if is_new(node):
        record(tree, node)


def is_new(node: WorkNode) -> bool:
    """Whether neither the journal nor a commit has anything of a file."""
    file = node.file
    return file is not None and not file.is_journalled and node.closed is None and node.entry is None


def record_again(tree: Worktree, node: WorkNode, upto: int) -> None:
    """Records up to `upto` are about to go, and the commit leaves out what is being written to a file: record anew what
    was flushed of it, and its names when the commit has none of them."""
    file = node.file
    if file is None or not file.is_journalled or file.recorded > upto:
        return
    file.recorded_state = None
    record(tree, node)
    first, *more = node.paths()
    if node.closed is None and node.entry is None and first is not None:
        for path in more:
            if path is not None:
                tree.record(LinkRecord(first, path))
