"""Jobs: one run of a pipeline over one set of input commits, as it is kept and listed.

What happens within a job is decided in vfsd.pipeline.job_state; this is what is left of it.
"""

from __future__ import annotations

import enum

import msgspec

from vfsd.model.commit import Provenance
from vfsd.model.datum import DatumState
from vfsd.model.ids import CommitId, GlobalId, JobId


class JobState(enum.StrEnum):
    """Pachyderm's job states. The last four are final."""

    CREATED = "created"  # known, nothing done yet
    STARTING = "starting"  # datums are being formed, none runs yet
    RUNNING = "running"
    EGRESSING = "egressing"  # outputs are being copied out of vfsd
    FINISHING = "finishing"  # outputs are being merged into the output commit
    SUCCESS = "success"
    FAILURE = "failure"
    KILLED = "killed"  # stopped by somebody or by its time limit
    UNRUNNABLE = "unrunnable"  # a job that it needs did not succeed

    @property
    def final(self) -> bool:
        """Whether the job will not change any more."""
        return self in {JobState.SUCCESS, JobState.FAILURE, JobState.KILLED, JobState.UNRUNNABLE}


class DatumCounts(msgspec.Struct, frozen=True):
    """How many datums of a job are done with, by state. total: all known so far, those that still wait included."""

    total: int = 0
    success: int = 0
    skipped: int = 0
    failed: int = 0
    recovered: int = 0

    @property
    def done(self) -> int:
        """Datums in a final state."""
        return self.success + self.skipped + self.failed + self.recovered

    def plus(self, state: DatumState, number: int = 1) -> DatumCounts:
        """With `number` more datums in the final `state`; they are in `total` already."""
        return msgspec.structs.replace(self, **{state.value: getattr(self, state.value) + number})


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job's record, one JSON object in the store.

    version: of the pipeline, counted from 1. inputs: the commits it reads. output: the commit it made, None without
    one. created, started, finished: ns since 1970, 0 for not yet. reason: one line on how it ended, empty for success.
    """

    format: int = 1
    id: JobId
    pipeline: str
    version: int
    state: JobState
    global_id: GlobalId
    inputs: tuple[Provenance, ...]
    output: CommitId | None = None
    created: int
    started: int = 0
    finished: int = 0
    datums: DatumCounts = DatumCounts()
    reason: str = ""
