"""What a commit, or a file or directory in one, was made from: one step."""

from __future__ import annotations

from collections.abc import Iterator

from vfsd.lineage.graph import INPUT, DatumSource, Point, Step, order
from vfsd.lineage.sources import brought, files_in, files_of_directory, is_dropped, known_commit
from vfsd.model.ids import CommitId
from vfsd.model.observation import READ, READ_CHANGED, Source, paths_in, touches
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository
from vfsd.repo.tree import find


def check(repository: Repository, commit: CommitObject, path: tuple[bytes, ...]) -> None:
    """NotFound when there is nothing at `path`; of a commit without contents only the whole can be asked about."""
    repository.drops.refresh()
    if path:
        find(repository.nodes, commit.root, path)


class Upstream:
    """Steps from what was made to what was read for it. to_files: answer in files where that can be told; else in
    commits. by_file: of a directory, or a whole commit, go on from each file in it by itself."""

    def __init__(
        self, repository: Repository, datums: DatumSource | None, *, to_files: bool, by_file: bool = False
    ) -> None:
        self._repository = repository
        self._datums = datums
        self._to_files = to_files
        self._by_file = by_file

    def __call__(self, point: Point) -> Iterator[Step]:
        """The steps from a point. A commit that the store has lost ends its way there."""
        commit = known_commit(self._repository, point.commit)
        if commit is None:
            return
        if not self._to_files or is_dropped(self._repository, commit):
            yield from self._commits(commit)
            return
        if self._by_file and (files := files_of_directory(self._repository, point)) is not None:
            yield from files
            return
        told = False
        for step in self._through_datums(commit, point):
            told = True
            yield step
        if told:
            return
        if commit.header.pipeline or not point.path:
            yield from self._commits(commit)
        else:
            yield from self._through_writers(commit, point)

    def _commits(self, commit: CommitObject, *, told_only: bool = False) -> Iterator[Step]:
        """The commits that a commit was made from. told_only: not those that were only seen to be read."""
        header = commit.header
        by = header.pipeline or self._repository.observations.get(commit).commands
        edges = sorted(header.provenance, key=lambda edge: (edge.repo, edge.branch, edge.commit))
        for edge in edges:
            if not (told_only and edge.kind):
                yield Step(Point(edge.repo, edge.branch, edge.commit), edge.kind, by)

    def _through_datums(self, commit: CommitObject, point: Point) -> Iterator[Step]:
        if self._datums is None or not commit.header.provenance:
            return
        header = commit.header
        origins: set[bytes] = set()
        found: set[Point] = set()
        for _, entry in files_in(self._repository, commit, point.path):
            origin = entry.more.origin
            if origin and origin not in origins:
                origins.add(origin)
                found.update(self._datums.inputs(header.repo, header.branch, commit.id, origin))
        for read in sorted(found, key=order):
            yield Step(read, INPUT, header.pipeline)

    def _through_writers(self, commit: CommitObject, point: Point) -> Iterator[Step]:
        """What the processes had read that wrote what is there, whenever that was."""
        given: set[Point] = set()
        for by_whom, paths in brought(self._repository, commit, point.path):
            for step in self._seen(by_whom, paths):
                if step.point not in given:
                    given.add(step.point)
                    yield step

    def _seen(self, commit: CommitObject, paths: list[tuple[bytes, ...]]) -> Iterator[Step]:
        observation = self._repository.observations.get(commit)
        told = {edge.commit for edge in commit.header.provenance if not edge.kind}
        found = False
        for job in observation.jobs:
            for writer in job.writers:
                if any(touches(writer.wrote, path) for path in paths):
                    found = True
                    for source in job.sources:
                        yield from self._read(source, writer.command, told)
        if not found:
            lost = bool(commit.header.lineage) and not observation.jobs
            yield from self._commits(commit, told_only=not lost)

    def _read(self, source: Source, by: str, told: set[CommitId]) -> Iterator[Step]:
        if not source.commit:
            return  # of a branch without commits, nothing that could be named
        kind = READ_CHANGED if source.changed else INPUT if source.commit in told else READ
        for path in paths_in(source.folders):
            yield Step(Point(source.repo, source.branch, CommitId(source.commit), path), kind, by)
