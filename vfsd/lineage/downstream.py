"""What was made from a commit, or from a file or directory in one: one step; and who depends on a repo."""

from __future__ import annotations

from collections.abc import Iterator

from vfsd.lineage.graph import INPUT, DatumSource, Point, Step, order
from vfsd.lineage.sources import entry_in, files_of_directory, is_dropped, known_commit, point_of
from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId
from vfsd.model.observation import READ, READ_CHANGED, ObservedJob, Path, paths_in, touches
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository

Used = tuple[CommitId, CommitId | None]  # a commit that others were made from, and the one after it in its branch


class Downstream:
    """Steps from what was read to what was made from it, in branches that are there today.

    A file or directory is followed wherever its branch had the same content at the same path: whoever read it there
    read this. Reads the history of all branches as far as the index does not know it.
    """

    def __init__(self, repository: Repository, datums: DatumSource | None, *, by_file: bool = False) -> None:
        """by_file: of a directory, or a whole commit, go on from each file in it by itself."""
        self._repository = repository
        self._by_file = by_file
        self._datums = datums
        self._branches = {(repo, branch) for repo, branch, _ in repository.refs.branches()}
        repository.commits.sync(heads(repository, self._branches))
        self._used: dict[tuple[str, str], list[Used]] = {}

    def __call__(self, point: Point) -> Iterator[Step]:
        """The steps from a point."""
        if self._by_file and (files := files_of_directory(self._repository, point)) is not None:
            yield from files
            return
        if not point.path:
            found = (self._whole(commit, point.commit) for commit in self._made_from(point.commit))
            yield from sorted(found, key=lambda step: order(step.point))
            return
        given: set[tuple[str, str, Path, str]] = set()
        for version, before in self._versions(point):
            read = Point(point.repo, point.branch, version, point.path)
            for commit in self._made_from(version):
                for step in self._written_from(commit, read, changed=before):
                    made = step.point
                    # A pipeline makes its files anew in each commit: the one that is asked for, or the newest, will do.
                    key = (made.repo, made.branch, made.path, "" if commit.header.pipeline else made.commit)
                    if key not in given:
                        given.add(key)
                        yield step

    def _made_from(self, commit: CommitId) -> list[CommitObject]:
        found = (known_commit(self._repository, made) for made in self._repository.index.downstream(commit))
        kept = [one for one in found if one and (one.header.repo, one.header.branch) in self._branches]
        return sorted(kept, key=lambda one: (one.header.repo, one.header.branch, one.id))

    def _versions(self, point: Point) -> Iterator[tuple[CommitId, bool]]:
        """(commit, False) of those with the same content at the path, that of the point first; (commit, True) of the
        one before the first of them: what was read there uncommitted may have been this."""
        yield point.commit, False
        commit = known_commit(self._repository, point.commit)
        wanted = None if commit is None or is_dropped(self._repository, commit) else self._content(commit, point.path)
        if commit is None or wanted is None:
            return
        for used, after in self._history(commit):
            if used == point.commit:
                continue
            if self._content_of(used, point.path) == wanted:
                yield used, False
            elif after is not None and self._content_of(after, point.path) == wanted:
                yield used, True

    def _history(self, commit: CommitObject) -> list[Used]:
        """The commits of a branch that something was made from, the newest first."""
        where = (commit.header.repo, commit.header.branch)
        if where not in self._used:
            starts = heads(self._repository, {where}) if where in self._branches else []
            found: list[Used] = []
            after = None
            for one in self._repository.commits.log(starts[0] if starts else commit.id):
                if self._repository.index.downstream(one.id):
                    found.append((one.id, after))
                after = one.id
            self._used[where] = found
        return self._used[where]

    def _content_of(self, commit: CommitId, path: Path) -> bytes | None:
        found = known_commit(self._repository, commit)
        return None if found is None or is_dropped(self._repository, found) else self._content(found, path)

    def _content(self, commit: CommitObject, path: Path) -> bytes | None:
        entry = entry_in(self._repository, commit, path)
        return None if entry is None else entry.digest

    def _whole(self, commit: CommitObject, read: CommitId) -> Step:
        kinds = [edge.kind for edge in commit.header.provenance if edge.commit == read]
        commands = (writer.command for job in self._jobs(commit, read) for writer in job.writers)
        by = commit.header.pipeline or ", ".join(dict.fromkeys(commands))
        return Step(point_of(commit), min(kinds, default=INPUT), by)

    def _jobs(self, commit: CommitObject, read: CommitId) -> Iterator[ObservedJob]:
        for job in self._repository.observations.get(commit).jobs:
            if any(source.commit == read for source in job.sources):
                yield job

    def _written_from(self, commit: CommitObject, read: Point, *, changed: bool) -> Iterator[Step]:
        """The files of `commit` that were made from what is at `read`; the whole commit where that cannot be told.
        changed: only what was read uncommitted there counts."""
        header = commit.header
        told = {edge.kind for edge in header.provenance if edge.commit == read.commit}
        if header.pipeline and not changed:
            files = None
            if self._datums is not None and not is_dropped(self._repository, commit):
                files = self._datums.outputs(commit, read)
            if files is None:
                yield self._whole(commit, read.commit)
                return
            for path in files:
                yield Step(point_of(commit, path), INPUT, header.pipeline)
            return
        seen = False
        for job in self._jobs(commit, read.commit):
            seen = True
            for source in job.sources:
                if source.commit != read.commit or source.changed != changed or not touches(source.folders, read.path):
                    continue
                kind = READ_CHANGED if changed else INPUT if INPUT in told else READ
                for writer in job.writers:
                    for path in paths_in(writer.wrote):
                        yield Step(point_of(commit, path), kind, writer.command)
        if not seen and not changed and told:
            yield self._whole(commit, read.commit)


def dependents(repository: Repository, repo: str) -> Iterator[CommitObject]:
    """Commits of other repos that were made from commits of `repo` directly, by what was said when they were made;
    streamed, newest first in each branch."""
    for owner, branch, _ in list(repository.refs.branches()):
        if owner == repo:
            continue
        for head in heads(repository, {(owner, branch)}):
            for commit in repository.commits.log(head):
                if any(edge.repo == repo and not edge.kind for edge in commit.header.provenance):
                    yield commit


def heads(repository: Repository, branches: set[tuple[str, str]]) -> list[CommitId]:
    """Where branches stand; those without commits left out."""
    found = []
    for repo, branch in sorted(branches):
        try:
            head = repository.refs.head(repo, branch).commit
        except NotFound:
            continue  # deleted just now
        if head is not None:
            found.append(head)
    return found
