"""Stores large files from their beginning on while they are written, where the store is far.

A commit of a large file takes as long as its bytes take to the store. So a new file that is written in order has what
there is of it cut and sent in steps, in threads, by the writer that the branch's next commit goes on with. A commit
then finds those chunks stored, and cuts the rest. Nothing depends on it: what is stored and never committed is garbage
that `vfsd gc` removes, and what cannot be stored now is left to the commit, which says so if it cannot either.
"""

from __future__ import annotations

import logging
import os
from collections import deque

import trio

from vfsd.model.entry import Chunk
from vfsd.model.errors import VfsdError
from vfsd.repo.repository import Repository
from vfsd.repo.writer import BlobWriter
from vfsd.worktree.staged import StagedFile

log = logging.getLogger(__name__)
IDLE_S = 5.0  # seconds without growth after which a writer is not kept


class _Branch:
    """What grows on one branch. lock: held while a step is done. writer: that of the next commit, when it has begun."""

    def __init__(self) -> None:
        self.files: deque[StagedFile] = deque()
        self.woken = trio.Event()
        self.lock = trio.Lock()
        self.writer: BlobWriter | None = None


class Early:
    """Of one node. Runs in the event loop, steps in threads."""

    def __init__(self, repository: Repository, nursery: trio.Nursery) -> None:
        self._repository = repository
        self._nursery = nursery
        self._branches: dict[int, _Branch] = {}

    def grew(self, file: StagedFile) -> None:
        """There is more of a file."""
        branch = self._branches.get(file.branch)
        if branch is None:
            branch = self._branches[file.branch] = _Branch()
            self._nursery.start_soon(self._run, file.branch, branch)
        branch.files.append(file)
        branch.woken.set()

    async def take(self, number: int) -> BlobWriter:
        """The writer that a commit of this branch is to go on with, and to close: what it has sent so far has come."""
        branch = self._branches.get(number)
        if branch is not None:
            async with branch.lock:
                if branch.writer is not None:
                    try:
                        await trio.to_thread.run_sync(branch.writer.wait)
                    except Exception as error:
                        _left(error)
                        await self._end(branch, flush=False)
                writer, branch.writer = branch.writer, None
            if writer is not None:
                return writer
        return self._repository.writer()

    async def _run(self, number: int, branch: _Branch) -> None:
        """Until nothing has grown for some time."""
        try:
            while True:
                with trio.move_on_after(IDLE_S):
                    await branch.woken.wait()
                async with branch.lock:
                    if not branch.files:
                        await self._end(branch, flush=True)
                        if not branch.files:
                            return
                    await self._step(branch, branch.files.popleft())
                    if not branch.files:
                        branch.woken = trio.Event()
        finally:
            if self._branches.get(number) is branch:
                del self._branches[number]
            with trio.CancelScope(shield=True):
                await self._end(branch, flush=False)

    async def _step(self, branch: _Branch, file: StagedFile) -> None:
        beginning, fd = file.beginning, -1
        if beginning is None:
            return
        chunks: list[Chunk] = []
        try:
            fd = file.duplicate()
            if fd < 0:
                return
            start, end = beginning.begin_step(file.size)
            writer = branch.writer = branch.writer or self._repository.writer()
            chunker = self._repository.chunker

            def read(offset: int, size: int) -> bytes:
                trio.from_thread.check_cancelled()
                return os.pread(fd, size, offset)

            chunks = await trio.to_thread.run_sync(chunker.cut_on, read, start, end, writer)
        except Exception as error:
            # Also what nobody foresaw: the filesystem beside must not end with it.
            _left(error)
            await self._end(branch, flush=False)
        finally:
            if fd >= 0:
                os.close(fd)
        beginning.end_step(chunks)
        if chunks:
            beginning.wrote(file.size, file.size)

    async def _end(self, branch: _Branch, *, flush: bool) -> None:
        """Let a writer go that no commit took; flush: what it has is worth storing."""
        writer, branch.writer = branch.writer, None
        if writer is None:
            return

        def end() -> None:
            try:
                if flush:
                    writer.flush()
            except Exception as error:
                _left(error)
            finally:
                writer.close()

        await trio.to_thread.run_sync(end)


def _left(error: Exception) -> None:
    """A commit has to do what could not be done early. It tells of the error if it meets it, too."""
    foreseen = isinstance(error, VfsdError | OSError)
    log.log(logging.INFO if foreseen else logging.WARNING, "left to a commit: %s", error, exc_info=not foreseen)
