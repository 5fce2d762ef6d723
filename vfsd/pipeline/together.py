"""Inputs that come from one commit on several ways are read together: a job does not see one side of a diamond as of a
newer commit than the other, while the other is still to come. Blocks.

What an input stands on follows from the provenance of its commit. Two inputs agree when every branch that both stand
on, they stand on at the same commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import msgspec

from vfsd.model.commit import Provenance
from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId
from vfsd.repo.repository import Repository

FAR = 64  # commits that are looked at on the way back to where the others are

Inputs = tuple[Provenance, ...]
Branch = tuple[str, str]
View = dict[Branch, frozenset[CommitId]]


class Agreement(msgspec.Struct, frozen=True):
    """Whether inputs agree. behind: those that stand on something older than others do; none when all agree. common:
    the newest inputs that do, if there are any that go on from the last job's."""

    behind: Inputs
    common: Inputs | None = None


def agreement(repository: Repository, inputs: Inputs, last: Inputs) -> Agreement:
    """How inputs stand to each other. last: what the last job read; empty before the first."""
    return _Looking(repository).agreement(inputs, last)


class _Looking:
    def __init__(self, repository: Repository) -> None:
        self._commits = repository.commits
        self._views: dict[tuple[Branch, CommitId], View] = {}

    def agreement(self, inputs: Inputs, last: Inputs) -> Agreement:
        apart = _apart(map(self._view, inputs))
        if not apart:
            return Agreement(())
        newest = {branch: max(commits, key=self._time) for branch, commits in apart.items()}
        behind = tuple(edge for edge in inputs if not _stands(self._view(edge), newest))
        return Agreement(behind, self._common(inputs, last))

    def _common(self, inputs: Inputs, last: Inputs) -> Inputs | None:
        """As in a merge: whoever stands on something newer than another goes back, until all agree."""
        ways = [self._back(edge) for edge in inputs]
        found = list(inputs)
        while apart := _apart(map(self._view, found)):
            oldest = {branch: min(commits, key=self._time) for branch, commits in apart.items()}
            for number, edge in enumerate(found):
                if not _stands(self._view(edge), oldest):
                    before = next(ways[number], None)
                    if before is None:
                        return None
                    found[number] = before
        common = tuple(found)
        return common if common != last and self._goes_on(common, last) else None

    def _back(self, edge: Provenance) -> Iterator[Provenance]:
        """The commits before an input's, the newest first."""
        for commit in islice(self._commits.log(edge.commit), 1, FAR):
            yield msgspec.structs.replace(edge, commit=commit.id)

    def _goes_on(self, inputs: Inputs, last: Inputs) -> bool:
        had = {(edge.repo, edge.branch): edge.commit for edge in last}
        pairs = ((edge.commit, had.get((edge.repo, edge.branch))) for edge in inputs)
        return all(old is None or self._commits.leads_to(commit, old) for commit, old in pairs)

    def _view(self, edge: Provenance) -> View:
        """The branches that an input stands on, itself among them, and at which commits."""
        own = (edge.repo, edge.branch)
        known = self._views.get((own, edge.commit))
        if known is None:
            known = {own: frozenset({edge.commit})}
            for source in self._sources(edge.commit):
                for branch, commits in self._view(source).items():
                    known[branch] = known.get(branch, frozenset()) | commits
            self._views[own, edge.commit] = known
        return known

    def _sources(self, commit: CommitId) -> Inputs:
        """What a pipeline read to make a commit."""
        try:
            header = self._commits.get(commit).header
        except NotFound:
            return ()  # it is gone, and with it what it was made of
        return tuple(edge for edge in header.provenance if not edge.kind) if header.pipeline else ()

    def _time(self, commit: CommitId) -> int:
        try:
            return self._commits.get(commit).header.time
        except NotFound:
            return 0


def _apart(views: Iterable[View]) -> View:
    """The branches that are stood on at several commits, with these."""
    found: View = {}
    for view in views:
        for branch, commits in view.items():
            found[branch] = found.get(branch, frozenset()) | commits
    return {branch: commits for branch, commits in found.items() if len(commits) > 1}


def _stands(view: View, where: dict[Branch, CommitId]) -> bool:
    """Whether whoever has this view stands there, on those of the branches that it stands on at all."""
    return all(view.get(branch, frozenset({commit})) == {commit} for branch, commit in where.items())
