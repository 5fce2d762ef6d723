"""What something was made from (upstream) and what was made from it (downstream), any number of steps away.

Between commits this is the provenance in their headers. Between files it goes through datums (an output file carries
the id of the datum that wrote it, its entry's `origin`, and a DatumSource knows what that datum read), and through what
was seen of the processes that wrote a commit (model.observation). Where neither can tell, the answer is about whole
commits. Answers are streamed, depth first; what is remembered is a few words for each point that was met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from vfsd.model.ids import CommitId
from vfsd.model.observation import READ_CHANGED, Path
from vfsd.repo.commit_object import CommitObject

INPUT = ""  # kind of a step that whoever made the commit told of


class Point(msgspec.Struct, frozen=True):
    """A commit of a branch, or with a path a file or directory in it."""

    repo: str
    branch: str
    commit: CommitId
    path: Path = ()


class Step(msgspec.Struct, frozen=True):
    """A point one step on. kind: how that is known, as of model.commit.Provenance. by: the pipeline, or the program
    with its script, that read the one and wrote the other; empty when nobody noted it."""

    point: Point
    kind: str = INPUT
    by: str = ""

    @property
    def is_uncommitted(self) -> bool:
        """Whether what was read had changes that the commit does not hold."""
        return self.kind == READ_CHANGED


class Visit(msgspec.Struct, frozen=True):
    """A point met on a walk, after the one that it is a step from. level: steps from the beginning. last: no other step
    from the same point follows. repeated: its steps were given before, and are left out here."""

    step: Step
    level: int
    last: bool
    repeated: bool

    @property
    def point(self) -> Point:
        """Where this is."""
        return self.step.point


class DatumSource(Protocol):
    """Who knows what datums read and wrote."""

    def inputs(self, repo: str, branch: str, commit: CommitId, origin: bytes) -> Sequence[Point]:
        """The files and directories that the datum `origin` (32 bytes) read when its outputs came into `commit`, an
        output commit on `repo`/`branch`; none when that is not known."""
        ...

    def outputs(self, commit: CommitObject, read: Point) -> Iterator[Path] | None:
        """Each file in an output commit whose datum read what is at `read`, or something above or below it; None when
        that is not known."""
        ...


class Steps(Protocol):
    """What lies one step beyond a point; vfsd.lineage.upstream and .downstream."""

    def __call__(self, point: Point) -> Iterator[Step]:
        """The steps, each point once."""
        ...


def walk(start: Point, steps: Steps, depth: int | None = None) -> Iterator[Visit]:
    """Everything that steps lead to from `start`, itself first; with `depth`, at most so many steps away.

    What is met again is marked and not followed once more: a graph of many ways would be a tree of exponential size.
    Only where a limit had cut it short, and now there is more room, it is.
    """
    walked: dict[int, tuple[int, bool]] = {}  # hash of a point → level at which it was followed, whether it led on
    first = _Level(iter([Step(start)]))
    levels = [first]
    while levels:
        level = len(levels) - 1
        step, last = levels[-1].take()
        if step is None:
            levels.pop()
            continue
        key = hash(step.point)
        before = walked.get(key)
        if before is not None and (depth is None or before[0] <= level):
            yield Visit(step, level, last, repeated=before[1])
            continue
        yield Visit(step, level, last, repeated=False)
        if depth is None or level < depth:
            below = _Level(steps(step.point))
            walked[key] = (level, below.next is not None)
            levels.append(below)


class _Level:
    """The steps from one point, with a look ahead at the next one."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self.next = next(steps, None)

    def take(self) -> tuple[Step | None, bool]:
        """The next step, and whether it is the last."""
        step = self.next
        if step is not None:
            self.next = next(self._steps, None)
        return step, self.next is None


def order(point: Point) -> tuple[str, str, str, Path]:
    """In which order the steps from one point are given."""
    return (point.repo, point.branch, point.commit, point.path)
