"""Takes back what a killed process had written to a file and not finished: no commit is to hold half of it."""

from __future__ import annotations

from vfsd.repo.chunklist import content_of
from vfsd.worktree import versions
from vfsd.worktree.adopt import Stale
from vfsd.worktree.node import WorkNode
from vfsd.worktree.staged import StagedFile
from vfsd.worktree.worktree import Worktree


def forsake(tree: Worktree, node: WorkNode) -> Stale:
    """Let a file whose last writer was killed be what it was before it was opened, and a new one be gone; what the
    kernel may hold of it. A large one that was closed, is in no commit yet and was then changed in place stays as it
    is: what it was is nowhere any more."""
    file = node.file
    if file is None or file.is_closed or (node.closed is None and file.closed_version >= 0):
        return Stale([], [])
    if node.closed is None and node.entry is None:
        names = node.names()
        for parent, name in names:
            tree.unlink(parent, name)
        return Stale([(parent.ino, name) for parent, name in names], [])
    is_journalled = file.is_journalled
    file.drop()
    node.file, node.closed = node.closed, None
    node.mtime = node.closed_mtime
    if is_journalled:  # the journal has to know that it is as before
        if node.file is None:
            base = content_of(node.entry) if node.entry is not None and node.entry.size else None
            node.file = StagedFile(tree.staging, base, tree.row.id)
        node.file.recorded_state = None
        versions.close(tree, node)
    return Stale([], [node.ino])
