"""What a daemon tells of as OpenLineage events: its jobs as they begin and end, and commits whose writers were seen."""

from __future__ import annotations

import logging

from vfsd.daemon.event_sender import EventSender
from vfsd.lineage.openlineage import ABORT, COMPLETE, FAIL, START, commit_events, run_event
from vfsd.model.errors import VfsdError
from vfsd.model.ids import SHORT
from vfsd.model.job import JobState
from vfsd.pipeline.records import JobRecord
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository, now_ns

_log = logging.getLogger(__name__)
_ENDS = {JobState.SUCCESS: COMPLETE, JobState.KILLED: ABORT}


class LineageEvents:
    """The events of one store, whose URL is their namespace."""

    def __init__(self, sender: EventSender, repository: Repository) -> None:
        self._sender = sender
        self._repository = repository
        self._namespace = repository.store.url

    def close(self) -> None:
        """Send what waits, and end."""
        self._sender.close()

    def began(self, record: JobRecord) -> None:
        """A job begins, or goes on after an interruption."""
        self._tell(START, record, now_ns())

    def ended(self, record: JobRecord) -> None:
        """A job has ended."""
        self._tell(_ENDS.get(record.state, FAIL), record, record.finished or now_ns())

    def _tell(self, kind: str, record: JobRecord, time: int) -> None:
        made = None if record.output is None else self._repository.commits.cached(record.output)
        outputs = [] if made is None else [(f"{made.header.repo}/{made.header.branch}", made.id)]
        error = record.reason if kind == FAIL else ""
        self._sender.send(run_event(
            kind, self._namespace, record.pipeline, record.id, time, record.inputs, outputs, is_pipeline=True,
            error=error,
        ))  # fmt: skip

    def committed(self, commit: CommitObject) -> None:
        """A commit was made whose writers had been seen to read something. Blocks."""
        try:
            observation = self._repository.observations.get(commit)
        except VfsdError as error:
            _log.warning("no OpenLineage event of commit %s: %s", commit.id[:SHORT], error)
            return
        for event in commit_events(self._namespace, commit, observation.commands):
            self._sender.send(event)
