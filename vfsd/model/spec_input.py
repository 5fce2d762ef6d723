"""What a pipeline reads, as its spec says it: branches cut by globs, and how the pieces are put together.

Values only; vfsd.model.spec_check_input says which of them make sense, vfsd.pipeline.formation what they mean.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.trigger import Trigger

COMBINATIONS = ("cross", "union", "join", "group")  # inputs that are made of inputs


class PfsInput(msgspec.Struct, frozen=True, kw_only=True):
    """Files of a branch, cut into datums by a glob. name: where they stand below /pfs; the repo's when not given.
    branch: when not given the default one, or with a trigger one of the pipeline's own.

    join_on, group_by: templates over the glob's captures, see Match.replace; empty for none. outer_join: in a join,
    this input's datums are kept also where other inputs have none of their key. empty_files: the command sees files
    of no bytes in their places. trigger: moves the branch.
    """

    repo: str
    glob: str
    branch: str = ""
    name: str = ""
    join_on: str = ""
    group_by: str = ""
    outer_join: bool = False
    empty_files: bool = False
    trigger: Trigger | None = None


class CronInput(msgspec.Struct, frozen=True, kw_only=True):
    """A clock: each tick writes an empty file, named by its time, into a repo of its own.

    spec: when, see vfsd.model.schedule. repo: `<pipeline>_<name>` when not given. overwrite: a tick takes the earlier
    ones away. start: an RFC 3339 time from which ticks are counted; empty for when the schedule was given.
    """

    name: str
    spec: str
    repo: str = ""
    overwrite: bool = False
    start: str = ""

    def pfs(self, pipeline: str) -> PfsInput:
        """The ticks of `pipeline` as files: each is a datum."""
        repo = self.repo or f"{pipeline}_{self.name}"
        return PfsInput(repo=repo, glob="/*", branch=DEFAULT_BRANCH, name=self.name)


class Input(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a pipeline reads: just one of these is given.

    cross: each datum of one with each of the others. union: the datums of all. join: cross, within equal `join_on`
    keys. group: all files of equal `group_by` keys make one datum.
    """

    pfs: PfsInput | None = None
    cross: tuple[Input, ...] = ()
    union: tuple[Input, ...] = ()
    join: tuple[Input, ...] = ()
    group: tuple[Input, ...] = ()
    cron: CronInput | None = None

    @property
    def kind(self) -> str:
        """The name of the field that is given: pfs, cron, or one of COMBINATIONS; empty for a spout's."""
        return next((name for name in self.__struct_fields__ if getattr(self, name)), "")

    @property
    def parts(self) -> tuple[Input, ...]:
        """The inputs that it is made of; none for pfs and cron."""
        return self.cross or self.union or self.join or self.group

    def leaves(self, pipeline: str) -> Iterator[PfsInput]:
        """The branches that are read, in the order of the spec, a cron input's ticks among them."""
        if self.pfs is not None:
            yield self.pfs
        if self.cron is not None:
            yield self.cron.pfs(pipeline)
        for part in self.parts:
            yield from part.leaves(pipeline)

    def crons(self) -> Iterator[CronInput]:
        """The cron inputs, in the order of the spec."""
        if self.cron is not None:
            yield self.cron
        for part in self.parts:
            yield from part.crons()
