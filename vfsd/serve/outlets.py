"""Output branches of spouts: a spout's own processes may write to them in the mount, and nobody else.

Who asks is told by the kernel with every request; whose process that is, by its parents in /proc. What such a process
has open when it is killed was not finished, and is taken back.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from vfsd.model.errors import Refused, VfsdError
from vfsd.model.ids import JobId
from vfsd.serve.fuse.handles import OpenFile
from vfsd.serve.loads import Loads
from vfsd.serve.processes import descends, is_killed
from vfsd.serve.view import Node
from vfsd.worktree.adopt import Stale
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.node import WorkNode
from vfsd.worktree.torn import forsake

_log = logging.getLogger(__name__)


class Outlets:
    """Those that are open. In the event loop. on_stale: tells the kernel."""

    def __init__(self, live: LiveBranches, loads: Loads, on_stale: Callable[[Stale], None]) -> None:
        self._live = live
        self._loads = loads
        self._on_stale = on_stale
        self._ancestors: dict[tuple[str, str], Callable[[], int]] = {}  # (repo, branch) → process whose children write
        self._finished: set[int] = set()  # inodes that a writer has closed while another one was at it

    async def open(
        self, repo: str, branch: str, job: JobId, owner: tuple[int, int], ancestor: Callable[[], int]
    ) -> None:
        """Let the children of the process that `ancestor` gives, as `owner`'s (user, group), write to a branch; its
        commits are the job's. NotFound when there is no such branch."""
        live = await self._loads.run(lambda: self._live.get(repo, branch))
        live.job = job
        root = live.tree.root
        if (root.uid, root.gid) != owner:
            root.uid, root.gid = owner
            self._on_stale(Stale([], [root.ino]))
        self._ancestors[repo, branch] = ancestor

    async def close(self, repo: str, branch: str) -> None:
        """Let nobody write any more, and commit what is closed."""
        del self._ancestors[repo, branch]
        live = self._live.known(repo, branch)
        if live is None:
            return
        try:
            await self._live.commit(live)
        except VfsdError as error:
            _log.warning("%s: its last files are not committed yet: %s", live.name, error)

    def admits(self, node: WorkNode, thread: int) -> bool:
        """Whether a thread may write there."""
        ancestor = self._ancestors.get((node.head.row.repo, node.head.row.branch))
        return ancestor is not None and (pid := ancestor()) > 0 and descends(thread, pid)

    def is_unfinished(self, file: OpenFile, thread: int) -> bool:
        """Whether a thread that closes a descriptor has not finished a file there: because it is being killed, or
        because nothing is in it yet. A shell that redirects closes one before the first byte; a file that is to have
        none is finished when its last descriptor is gone."""
        node = file.node
        if not isinstance(node, WorkNode) or not self._is_outlet(node):
            return False
        file.is_torn = is_killed(thread)
        return file.is_torn or not node.size

    def released(self, file: OpenFile, node: WorkNode) -> None:
        """Somebody who had a file open to write is about to be gone."""
        if not file.is_torn and not self._is_outlet(node):
            return
        if node.writers > 1:
            if not file.is_torn:
                self._finished.add(node.ino)
        elif node.ino in self._finished:
            self._finished.remove(node.ino)  # what another one has closed is acknowledged, and in the same bytes
        elif file.is_torn:
            with contextlib.suppress(Refused):  # the branch is gone, and the file with it
                stale = forsake(node.head, node)
                if stale.names or stale.inodes:
                    self._on_stale(stale)

    def _is_outlet(self, node: Node) -> bool:
        return isinstance(node, WorkNode) and (node.head.row.repo, node.head.row.branch) in self._ancestors
