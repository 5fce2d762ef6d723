"""Who wrote what is in no commit yet, and what that job had read: from the first open to the commit, through a crash.

A job is the processes that one command started; `Reads` is what it has read through the mount so far. A `Run` is one
program of a job: inodes name the runs that wrote them, journal records too, and a commit keeps both. Bounded: where too
many files of a directory were read, the directory stands for them, then the one above it, at last the commit.

Single-threaded, as the heads are. Who belongs to which job is for vfsd.serve.observer to find out.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence

import msgspec

from vfsd.model.commit import Provenance
from vfsd.model.ids import CommitId
from vfsd.model.observation import (
    READ,
    READ_CHANGED,
    Folder,
    Observation,
    ObservedJob,
    Path,
    Source,
    Writer,
    encode_observation,
    folders_of,
)
from vfsd.worktree.records import ReadPart, RunRecord

MAX_FILES = 10_000  # names that are kept of what one job read
MAX_SOURCES = 256  # commits that are kept of what one job read, and in one commit's header
MAX_WROTE = 10_000  # paths of one run in one commit
_numbers = itertools.count(time.time_ns())  # of runs: none is used twice in a journal


class SourceKey(msgspec.Struct, frozen=True):
    """Which commit was read; see model.observation.Source."""

    repo: str
    branch: str
    commit: str
    changed: bool


class ReadFolder:
    """Names that were read in one directory of a source. whole: too many, here or below; names are not kept then."""

    __slots__ = ("names", "path", "source", "whole")

    def __init__(self, source: SourceKey, path: Path) -> None:
        self.source = source
        self.path = path
        self.names: set[bytes] = set()
        self.whole = False


class Reads:
    """What one job has read so far. `log` has every name in order, so that a journal is told what is new; when names
    were let go of, it begins anew with another `epoch`."""

    def __init__(self, number: int | None = None, *, limit: int = MAX_FILES) -> None:
        self.folders: dict[SourceKey, dict[Path, ReadFolder]] = {}
        self.log: list[tuple[ReadFolder, bytes]] = []
        self.epoch = 0
        self.partial = False
        self.number = next(_numbers) if number is None else number
        self._limit = limit
        self._absorbed: dict[int, tuple[int, int]] = {}  # number of other reads that are in here → their state then

    def folder(self, source: SourceKey, path: Path) -> ReadFolder:
        """The one to add names to: of the directory itself, or of one above it that stands for everything below."""
        known = self.folders.get(source)
        if known is None:
            if len(self.folders) >= MAX_SOURCES:
                self._forget_oldest()
            known = self.folders[source] = {}
        found = known.get(path)
        if found is not None:
            return found
        for depth in range(len(path)):
            above = known.get(path[:depth])
            if above is not None and above.whole:
                return above
        found = known[path] = ReadFolder(source, path)
        return found

    def add(self, folder: ReadFolder, name: bytes) -> None:
        """A file of a directory was read."""
        if folder.whole or name in folder.names:
            return
        folder.names.add(name)
        self.log.append((folder, name))
        if len(self.log) > self._limit:
            self._fold()

    def add_whole(self, folder: ReadFolder) -> None:
        """Something in or below a directory was read."""
        if not folder.whole:
            self._make_whole(folder)
            self.log.append((folder, b""))

    @property
    def state(self) -> tuple[int, int]:
        """Another one whenever something was added."""
        return (self.epoch, len(self.log))

    def absorb(self, other: Reads) -> None:
        """A file was read that another job wrote and that is in no commit yet: what that job had read led to it."""
        if other is self or self._absorbed.get(other.number) == other.state:
            return
        if len(self._absorbed) >= MAX_SOURCES:
            self._absorbed.clear()  # they are looked at again, at most
        self._absorbed[other.number] = other.state
        for source, folders in list(other.folders.items()):
            for folder in list(folders.values()):
                into = self.folder(source, folder.path)
                if folder.whole:
                    self.add_whole(into)
                for name in sorted(folder.names):
                    self.add(into, name)
        self.partial |= other.partial

    def _forget_oldest(self) -> None:
        for folder in self.folders.pop(next(iter(self.folders))).values():
            folder.whole = True  # whoever still holds it adds nothing more
        self.partial = True
        self._rewrite_log()

    def _make_whole(self, folder: ReadFolder) -> None:
        known = self.folders[folder.source]
        folder.whole = True
        folder.names = set()
        depth = len(folder.path)
        for path in [path for path in known if len(path) > depth and path[:depth] == folder.path]:
            known[path].whole = True  # whoever still holds it adds nothing more
            known[path].names = set()
            del known[path]
        known[folder.path] = folder

    def _fold(self) -> None:
        """Let directories stand for their files, those with the most names first, until half of the room is free; where
        that is not enough, the directories above them."""
        every = [folder for folders in self.folders.values() for folder in folders.values()]
        left = sum(len(folder.names) or 1 for folder in every)
        for folder in sorted(every, key=lambda folder: -len(folder.names)):
            if left <= self._limit // 2 or len(folder.names) < 2:
                break
            left -= len(folder.names) - 1
            self._make_whole(folder)
        while left > self._limit // 2 and self._fold_deepest():
            left = sum(len(folder.names) or 1 for folders in self.folders.values() for folder in folders.values())
        self._rewrite_log()

    def _fold_deepest(self) -> bool:
        """Have the parents of the deepest directories stand for them; False when only roots are left."""
        depth = max(len(path) for folders in self.folders.values() for path in folders)
        if not depth:
            return False
        for source, folders in self.folders.items():
            for path in [path for path in folders if len(path) == depth]:
                if path in folders:
                    self._make_whole(folders.get(path[:-1]) or ReadFolder(source, path[:-1]))
        return True

    def _rewrite_log(self) -> None:
        self.epoch += 1
        self.log = [
            (folder, name)
            for folders in self.folders.values()
            for folder in folders.values()
            for name in (sorted(folder.names) if not folder.whole else (b"",))
        ]

    # As values

    def since(self, position: int) -> tuple[ReadPart, ...]:
        """What the log has from `position` on, for a journal record."""
        found: dict[tuple[SourceKey, Path], list[bytes]] = {}
        for folder, name in self.log[position:]:
            found.setdefault((folder.source, folder.path), []).append(name)
        return tuple(
            ReadPart(source.repo, source.branch, source.commit, source.changed, path, tuple(names))
            for (source, path), names in found.items()
        )

    def take_in(self, parts: Iterable[ReadPart]) -> None:
        """The reverse of `since`."""
        for part in parts:
            folder = self.folder(SourceKey(part.repo, part.branch, part.commit, part.changed), part.path)
            for name in part.names:
                if name:
                    self.add(folder, name)
                else:
                    self.add_whole(folder)

    def sources(self, written: frozenset[tuple[str, str, Path]]) -> tuple[Source, ...]:
        """As a commit has it; without `written`, (repo, branch, path) of what is only older versions of what the
        commit holds."""
        found = []
        for key, folders in sorted(self.folders.items(), key=lambda item: msgspec.structs.astuple(item[0])):
            kept = []
            for path, folder in sorted(folders.items()):
                names = [name for name in folder.names if (key.repo, key.branch, (*path, name)) not in written]
                if names or folder.whole:
                    kept.append(Folder(path, tuple(sorted(names))))
            if kept:
                found.append(Source(key.repo, key.branch, key.commit, key.changed, tuple(kept)))
        return tuple(found)


class Run:
    """A program of a job that writes. command: what it is called; job: what the job's first process is called."""

    __slots__ = ("command", "job", "number", "reads")

    def __init__(self, command: str, job: str, reads: Reads, number: int | None = None) -> None:
        self.command = command
        self.job = job
        self.reads = reads
        self.number = next(_numbers) if number is None else number

    def record(self, position: int) -> RunRecord:
        """What a journal has to know, of the reads from `position` of their log on."""
        reads = self.reads
        return RunRecord(self.number, self.command, self.job, reads.number, reads.partial, reads.since(position))


class Noted:
    """What the journal of one branch knows of runs and their reads."""

    def __init__(self) -> None:
        self._runs: set[int] = set()
        self._reads: dict[int, tuple[int, int]] = {}  # number → state

    def clear(self) -> None:
        """The records so far are about to go."""
        self._runs.clear()
        self._reads.clear()

    def news(self, run: Run) -> RunRecord | None:
        """What is to be recorded before a record that names `run`; None when the journal knows it all."""
        reads = run.reads
        known = self._reads.get(reads.number)
        if known == reads.state and run.number in self._runs:
            return None
        self._runs.add(run.number)
        self._reads[reads.number] = reads.state
        return run.record(known[1] if known is not None and known[0] == reads.epoch else 0)


class Restored:
    """The runs that the records of one branch's journal tell of."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._reads: dict[int, Reads] = {}

    def take_in(self, record: RunRecord) -> None:
        """A record is replayed."""
        reads = self._reads.get(record.reads)
        if reads is None:
            reads = self._reads[record.reads] = Reads(record.reads)
        reads.partial |= record.partial
        reads.take_in(record.parts)
        if record.run not in self._runs:
            self._runs[record.run] = Run(record.command, record.job, reads, record.run)

    def runs(self, numbers: Iterable[int]) -> tuple[Run, ...]:
        """Those of these numbers."""
        return tuple(self._runs[number] for number in numbers if number in self._runs)


class Observed(msgspec.Struct, frozen=True):
    """What a commit says of how it came about. provenance: goes into its header. data: its lineage object."""

    provenance: tuple[Provenance, ...] = ()
    data: bytes = b""


NOTHING_SEEN = Observed()


def observed(repo: str, branch: str, wrote: Sequence[tuple[Run, Path]]) -> Observed:
    """What is to be said of a commit of `repo`/`branch` that holds the files `wrote`, each with a run that wrote it."""
    by_reads: dict[int, dict[int, Run]] = {}
    paths: dict[int, list[Path]] = {}
    for run, path in wrote:
        if run.reads.log:
            by_reads.setdefault(id(run.reads), {})[run.number] = run
            paths.setdefault(run.number, []).append(path)
    jobs = []
    for runs in by_reads.values():
        first = next(iter(runs.values()))
        written = frozenset((repo, branch, path) for number in runs for path in paths[number])
        sources = first.reads.sources(written)
        if sources:
            writers = [Writer(run.command, _bounded(paths[run.number])) for run in runs.values()]
            jobs.append(ObservedJob(first.job, first.reads.partial, sources, tuple(writers)))
    if not jobs:
        return NOTHING_SEEN
    edges: dict[tuple[str, str, str, str], Provenance] = {}
    for job in jobs:
        for source in job.sources:
            if source.commit:
                kind = READ_CHANGED if source.changed else READ
                edge = Provenance(source.repo, source.branch, CommitId(source.commit), kind=kind)
                edges[edge.repo, edge.branch, edge.commit, kind] = edge
    kept = tuple(edge for _, edge in sorted(edges.items())[:MAX_SOURCES])
    return Observed(kept, encode_observation(Observation(tuple(jobs))))


def _bounded(paths: list[Path]) -> tuple[Folder, ...]:
    """Directories stand for what was written in them, at last the root, where there are too many files."""
    if len(paths) <= MAX_WROTE:
        return folders_of(paths)
    depth = max(map(len, paths)) - 1
    while depth:
        folders = sorted({path[:-1][:depth] for path in paths})
        if len(folders) <= MAX_WROTE:
            return tuple(Folder(path) for path in folders)
        depth -= 1
    return (Folder(()),)
