"""Makes a directory of a branch like a local directory, one commit at a time. Blocks.

The branch itself says what is done, so nothing is kept between runs. Nothing in the local directory is ever changed.
"""

from __future__ import annotations

import errno
import logging
import math
import os
from collections.abc import Iterable
from contextlib import closing

import msgspec

from vfsd.model.entry import Entry, Kind, directory
from vfsd.model.errors import NotFound, Refused
from vfsd.model.location import Location
from vfsd.repo.closed import obstacle
from vfsd.repo.compare import Comparison, Limits, Look
from vfsd.repo.ingest import Ingest, local_errors
from vfsd.repo.refs import check_writable
from vfsd.repo.repository import Committed, Repository, empty_root, now_ns
from vfsd.repo.tree import Path, Sub, apply, find, show
from vfsd.repo.writer import BlobWriter

BATCH = 50_000  # changed names in one commit: what keeps memory bounded when a large directory comes in
NAMED = 3  # paths in a commit's message

log = logging.getLogger(__name__)


class Round(msgspec.Struct, frozen=True):
    """One look and its commit. obstacles: paths in the local directory that are left out, and why. rest: what
    another round has to look at."""

    committed: Committed | None
    obstacles: dict[Path, str]
    rest: Look


class Mirror:
    """The directory `top` (a real path) and the directory of a branch at `where` that is to be like it.

    delete: whether what is not in `top` goes from the branch. author: of the commits. deadline: of time.monotonic(); a
    round that has not looked at everything by then commits what it has. Close it when done: it holds `top` open.
    """

    def __init__(self, repository: Repository, top: bytes, where: Location, *, delete: bool, author: str) -> None:
        """NotFound, AccessDenied: of `top`."""
        self.top = top
        self.deadline = math.inf
        self._repository = repository
        self._where = where
        self._delete = delete
        self._author = author
        with local_errors(top):
            self._held = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)  # so that no other gets its number

    def close(self) -> None:
        """Let go of the local directory."""
        os.close(self._held)

    def once(self) -> Round:
        """Look at everything, in as many commits as it takes; the last round, with the obstacles of all."""
        look = Look(whole=True)
        obstacles: dict[Path, str] = {}
        while True:
            done = self.round(look)
            obstacles |= done.obstacles
            look = done.rest
            if not look:
                return msgspec.structs.replace(done, obstacles=obstacles)

    def round(self, look: Look) -> Round:
        """Look, and make one commit of what differs. NotFound when `is_gone`, or the branch is; ReadOnly when that is a
        pipeline's; Refused when a file is in the destination's place; whatever the store raises."""
        repository, where = self._repository, self._where
        self._check_top()
        head = repository.refs.head(where.repo, where.branch)
        check_writable(head)
        root = empty_root() if head.commit is None else repository.commits.get(head.commit).root
        committed = None
        with closing(repository.writer()) as writer:
            comparison = Comparison(
                self.top, Ingest(repository.chunker, writer, repository.nodes, only_closed=True), repository.nodes,
                delete=self._delete, limits=Limits(BATCH, self.deadline),
            )  # fmt: skip
            with local_errors(self.top):
                sub = comparison.run(self.destination(root), look)
            self._check_top()  # what was not found because the directory went was not removed
            if sub is not None:
                writer.embeddable()  # what is too much for a commit object is stored now: applying reads it
                message = _summary(where.path, comparison)
                committed = repository.commit(
                    where.repo, where.branch, lambda root, sink: self._apply(root, sink, sub), writer=writer,
                    message=message, author=self._author, head=head,
                )  # fmt: skip
        if committed is not None:
            log.info("%s/%s: commit %s: %s", where.repo, where.branch, committed.commit.id[:12], message)
        return Round(committed, comparison.obstacles, comparison.rest)

    def destination(self, root: Entry) -> Entry | None:
        """The directory that is to be like `top` in the tree `root`; None when it is not there yet. Refused."""
        try:
            entry = find(self._repository.nodes, root, self._where.path)
        except NotFound:
            return None
        if entry.kind != Kind.DIR:
            raise Refused(errno.ENOTDIR, f"{self._where} is a file, which a directory may not replace: remove it first")
        return entry

    def settled(self, paths: Iterable[Path]) -> list[Path]:
        """Those of `paths` that no obstacle is left for."""
        return [path for path in paths if not obstacle(os.path.join(self.top, *path))]

    def is_gone(self) -> bool:
        """Whether the local directory is not there any more; another one in its place is another directory."""
        try:
            return not os.path.samestat(os.stat(self.top), os.fstat(self._held))
        except OSError:
            return True

    def _check_top(self) -> None:
        if self.is_gone():
            raise NotFound(f"{os.fsdecode(self.top)} is gone: start again when the directory is there")

    def _apply(self, root: Entry, sink: BlobWriter, sub: Sub) -> Entry:
        path = self._where.path
        for depth in reversed(range(len(path))):
            there = self._is_there(root, path[:depth])
            attributes = None if there else directory(b"", None, uid=os.geteuid(), gid=os.getegid(), mtime=now_ns())
            sub = Sub({path[depth]: sub}, attributes)
        return apply(self._repository.nodes, sink, root, sub)

    def _is_there(self, root: Entry, path: Path) -> bool:
        try:
            find(self._repository.nodes, root, path)
        except NotFound:
            return False
        return True


def _summary(destination: Path, comparison: Comparison) -> str:
    """A commit's message: what it touches."""
    named = comparison.first[:NAMED]
    text = ", ".join(("" if there else "- ") + show((*destination, *path)) for path, there in named)
    more = comparison.changed - len(named)
    return f"{text} and {more} more" if more else text or show(destination)
