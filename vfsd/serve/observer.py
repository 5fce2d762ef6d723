"""Watches which process opens what, so that a commit can say what its writers had read: lineage without discipline.

Called within requests of the kernel, while the caller waits; costs a few lookups in dicts when the caller and the
directory were met before. What belongs together is for serve.processes to say, what is kept and how much of it for
worktree.runs. Nothing here fails a request: what cannot be seen is not recorded.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections import OrderedDict
from typing import Protocol

from vfsd.model.ids import CommitId
from vfsd.model.observation import Path
from vfsd.repo.commits import Commits
from vfsd.serve.processes import Job, Known, Processes
from vfsd.serve.view import SnapNode
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.node import WorkNode
from vfsd.worktree.runs import NOTHING_SEEN, Observed, ReadFolder, Reads, Run, SourceKey, observed

_log = logging.getLogger(__name__)
MOST_JOBS = 4096  # that are remembered
LOOKED_AT = 2  # jobs that each new one has looked at, whether they have ended
MOST_FOLDERS = 20_000  # directories found quickly, of one job
MOST_MEMBERS = 16  # processes by which a job is known to live
LOOKS = 4
MOST_RUNS = 64  # programs of one job that are told apart


class Opened(Protocol):
    """An open file. caller: the thread that opened it; run: what is written through it is of, None if not known."""

    node: SnapNode | WorkNode
    caller: int
    run: Run | None


class SeenJob:
    """A job and what it has read."""

    __slots__ = ("command", "folders", "job", "members", "reads", "runs")

    def __init__(self, job: Job, command: str) -> None:
        self.job = job
        self.command = command
        self.reads = Reads()
        self.runs: dict[str, Run] = {}
        self.members: list[int] = []
        self.folders: dict[int, ReadFolder] = {}  # inode number of a directory → where its names are kept

    def run(self, command: str) -> Run:
        """The program of this job that is called so."""
        found = self.runs.get(command)
        if found is None:
            if len(self.runs) >= MOST_RUNS:
                return next(reversed(self.runs.values()))
            found = self.runs[command] = Run(command, self.command, self.reads)
        return found

    def lives(self) -> bool:
        """Whether a process of it may be there still."""
        whole = -self.job.group if self.job.group else self.job.session
        return _is_there(whole) or any(map(_is_there, self.members))


class _Caller:
    """A thread that opened something lately. looks: how often it is still looked at, when it closes something, what
    it is called: a copy of a shell opens and closes files before it runs its program."""

    __slots__ = ("job", "known", "looks", "run", "until")

    def __init__(self, known: Known, job: SeenJob | None) -> None:
        self.known = known
        self.job = job
        self.run: Run | None = None
        self.until = known.until
        self.looks = LOOKS if known.process.flags else 0


class Observer:
    """What this mount sees. For the event loop alone."""

    def __init__(self, live: LiveBranches, commits: Commits, *, own: int) -> None:
        """own: the daemon's process."""
        self._live = live
        self._commits = commits
        self._processes = Processes(own)
        self._callers: dict[int, _Caller] = {}
        self._jobs: OrderedDict[tuple[int, int], SeenJob] = OrderedDict()
        self._snapshots: dict[str, SourceKey] = {}
        self._told: set[type[Exception]] = set()

    def read(self, pid: int, node: SnapNode | WorkNode) -> None:
        """A thread opens a file to read it."""
        try:
            self._read(pid, node)
        except Exception as error:
            self._failed(error)

    def told(self, pid: int, source: SourceKey, path: Path, *, whole: bool) -> None:
        """A process reads a file of a commit past the mount; with `whole` all that is below a directory."""
        try:
            caller = self._caller(pid)
            if caller is None or caller.job is None:
                return
            reads = caller.job.reads
            if whole:
                reads.add_whole(reads.folder(source, path))
            else:
                reads.add(reads.folder(source, path[:-1]), path[-1])
        except Exception as error:
            self._failed(error)

    def seen_of(self, pid: int, repo: str, branch: str, path: Path) -> Observed:
        """What is to be said of a commit in which a process writes to `path` past the mount."""
        run = self.written_by(pid)
        return NOTHING_SEEN if run is None else observed(repo, branch, [(run, path)])

    def _caller(self, pid: int) -> _Caller | None:
        now = time.monotonic()
        caller = self._callers.get(pid)
        return self._look_at(pid, now) if caller is None or now >= caller.until else caller

    def written_by(self, pid: int) -> Run | None:
        """The run that a thread's writes are of, which opens a file to write; None where it belongs to none."""
        try:
            return self._written_by(pid)
        except Exception as error:
            self._failed(error)
            return None

    def closes(self, file: Opened) -> None:
        """A file is closed: what was written through it is of the program that the caller is by now. A shell opens
        files for the programs that it becomes."""
        try:
            self._closes(file)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        """The request goes on all the same; the log has the first failure of each kind."""
        if type(error) not in self._told:
            self._told.add(type(error))
            _log.error("who opened a file was not recorded", exc_info=error)

    def _read(self, pid: int, node: SnapNode | WorkNode) -> None:
        caller = self._callers.get(pid)
        now = time.monotonic()
        if caller is None or now >= caller.until:
            caller = self._look_at(pid, now)
            if caller is None:
                return
        job = caller.job
        if job is None:
            return
        if type(node) is SnapNode:
            above = node.above
            if not above:
                return
            parent, name = above[0]
            folder = job.folders.get(parent.ino)
            if folder is None:
                folder = self._snapshot_folder(job, parent)
            if folder is not None and not folder.whole:
                job.reads.add(folder, name)
        else:
            self._read_live(job, node)  # type: ignore[arg-type]

    def _written_by(self, pid: int) -> Run | None:
        caller = self._caller(pid)
        if caller is None or caller.job is None:
            return None
        if caller.run is None:
            caller.run = caller.job.run(self._processes.command(pid, caller.known))
        return caller.run

    def _closes(self, file: Opened) -> None:
        caller = self._callers.get(file.caller)
        if file.run is None or caller is None or caller.job is None or not caller.looks:
            return
        caller.looks -= 1
        found = self._processes.find(file.caller, math.inf)  # whatever is known
        if found is None or found.process.flags:
            return
        caller.looks = 0
        caller.job.command = self._command(caller.job.job) or caller.job.command
        caller.run = new = caller.job.run(self._processes.command(file.caller, found))
        node, old, file.run = file.node, file.run, new
        if isinstance(node, WorkNode):
            node.runs = tuple(dict.fromkeys(new if run is old else run for run in node.runs))

    def _command(self, job: Job) -> str:
        first = self._processes.find(job.first, math.inf)
        return "" if first is None else self._processes.command(job.first, first)

    def _look_at(self, pid: int, now: float) -> _Caller | None:
        if not pid:
            return None  # in another pid namespace, or the kernel itself
        known = self._processes.find(pid, now)
        if known is None:
            return None
        old = self._callers.get(pid)
        if old is not None and old.known is known:
            old.until = known.until
            return old
        if len(self._callers) >= MOST_JOBS:
            self._callers = {key: caller for key, caller in self._callers.items() if now < caller.until}
        caller = self._callers[pid] = _Caller(known, None if known.job is None else self._seen_job(known.job, pid))
        return caller

    def _seen_job(self, job: Job, pid: int) -> SeenJob:
        key = (job.session, job.group)
        found = self._jobs.get(key)
        if found is None or (job.start and found.job.start and found.job.start != job.start):
            found = self._jobs[key] = SeenJob(job, self._command(job))
            self._forget_ended()
        if pid not in found.members:
            found.members = [*found.members[-MOST_MEMBERS + 1 :], pid]
        return found

    def _forget_ended(self) -> None:
        """Look at a few jobs, the longest not looked at first: those that have ended go, of too many also others."""
        for _ in range(min(LOOKED_AT, len(self._jobs) - 1)):
            key, job = self._jobs.popitem(last=False)
            if job.lives():
                self._jobs[key] = job
        while len(self._jobs) > MOST_JOBS:
            self._jobs.popitem(last=False)

    def _snapshot_folder(self, job: SeenJob, parent: SnapNode) -> ReadFolder | None:
        source = self._snapshots.get(parent.commit)
        if source is None:
            commit = self._commits.cached(CommitId(parent.commit))
            if commit is None:
                return None
            if len(self._snapshots) >= MOST_JOBS:
                self._snapshots.clear()
            source = SourceKey(commit.header.repo, commit.header.branch, commit.id, changed=False)
            self._snapshots[parent.commit] = source
        path: list[bytes] = []
        node = parent
        while node.above:
            node, name = node.above[0]
            path.append(name)
        return self._keep(job, parent.ino, job.reads.folder(source, tuple(reversed(path))))

    def _read_live(self, job: SeenJob, node: WorkNode) -> None:
        parent = node.parent
        row = node.head.row
        live = self._live.known(row.repo, row.branch)
        if parent is None or live is None:
            return
        changed = node.file is not None or not node.placed
        if changed:
            others = [run for run in node.runs if run.reads is not job.reads]
            if node.runs and not others:
                return  # what it wrote itself
            for run in others:
                job.reads.absorb(run.reads)
        commit = live.head.commit or ""
        folder = None if changed else job.folders.get(parent.ino)
        if folder is None or folder.source.commit != commit:
            path = parent.path()
            if path is None:
                return
            folder = job.reads.folder(SourceKey(row.repo, row.branch, commit, changed), path)
            if not changed:
                self._keep(job, parent.ino, folder)
        if not folder.whole:
            job.reads.add(folder, node.name)

    def _keep(self, job: SeenJob, number: int, folder: ReadFolder) -> ReadFolder:
        if len(job.folders) >= MOST_FOLDERS:
            job.folders.clear()
        job.folders[number] = folder
        return folder


def _is_there(pid: int) -> bool:
    """Whether a process is there; with a negative number, any of that process group."""
    with contextlib.suppress(ProcessLookupError):
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True
        return True
    return False


