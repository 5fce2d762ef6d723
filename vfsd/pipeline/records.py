"""Records of jobs: in this node's index while a job is in flight and afterwards, in the store once it has ended.

    jobs/<pipeline>/<job id>           JobRecord, written once
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from vfsd.model.commit import decode, encode
from vfsd.model.entry import Ref
from vfsd.model.errors import Ambiguous, NotFound
from vfsd.model.ids import SHORT, CommitId, JobId
from vfsd.model.job import Job
from vfsd.model.names import key_part
from vfsd.pipeline.registry import PipelineHead
from vfsd.repo.repository import Repository

PREFIX = "jobs/"
PARALLEL = 16  # records read from the store at once
_ID = re.compile(r"[0-9a-f]{1,32}")


class JobRecord(Job, frozen=True, kw_only=True):
    """A job, and what the next one needs of it.

    run: of the pipeline's head when the job was made, see PipelineHead. base: the job that made the commit which the
    output branch stood at. ledger: the directory of its datums that are done, failed: of those that failed, see
    vfsd.pipeline.ledger; None when there are none.
    """

    run: str = ""
    base: JobId | None = None
    ledger: Ref | None = None
    failed: Ref | None = None

    @property
    def commits(self) -> tuple[CommitId, ...]:
        """The commits that it reads."""
        return tuple(edge.commit for edge in self.inputs)


def is_current(last: JobRecord | None, head: PipelineHead, commit: CommitId | None) -> bool:
    """Whether a pipeline has nothing to do: its input has no commit, or its last job was over that, by the spec in
    force, and asked for no later than the last one was."""
    if commit is None:
        return True
    return last is not None and (last.commits, last.version, last.run) == ((commit,), head.version, head.run)


class JobRecords:
    """The jobs of one store as this node knows them. Blocks; safe from any thread."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._index = repository.index
        self._store = repository.store

    # Writing

    def note(self, record: JobRecord) -> None:
        """Write down, on this node, how a job in flight stands."""
        self._index.put_job(record.id, record.pipeline, record.created, 0, encode(record))

    def finish(self, record: JobRecord) -> None:
        """Write down how a job ended; the results of its datums are in its ledger now. Unavailable when parts of that
        are being deleted, because the job had stored them too long ago."""
        data = encode(record)
        self._store.put(_key(record.pipeline, record.id), data)
        self._repository.guard.keep_trees(ref for ref in (record.ledger, record.failed) if ref is not None)
        self._index.put_job(record.id, record.pipeline, record.created, record.finished, data)

    # Reading

    def get(self, pipeline: str, job: JobId) -> JobRecord:
        """A job by its whole id; NotFound."""
        data = self._index.job(job)
        if data is None:
            try:
                data, _ = self._store.get(_key(pipeline, job))
            except NotFound:
                raise NotFound(f"there is no job {job[:SHORT]} of pipeline {pipeline}") from None
        return _decoded(data)

    def find(self, prefix: str) -> JobRecord:
        """The job whose id begins with `prefix`; NotFound, Ambiguous. Jobs that ended elsewhere are looked for too."""
        if _ID.fullmatch(prefix) is None:
            raise NotFound(f"there is no job {prefix[:64]!r}: a job is named by the beginning of its id, in hex digits")
        found = self._index.jobs_with_prefix(prefix)
        if not found and restore_jobs(self._repository):
            found = self._index.jobs_with_prefix(prefix)
        if not found:
            raise NotFound(f"there is no job that begins with {prefix}")
        if len(found) > 1:
            raise Ambiguous(f"{len(found)} jobs begin with {prefix}: give more digits")
        return _decoded(found[0])

    def all(self, pipeline: str | None = None) -> Iterator[JobRecord]:
        """Jobs that the index knows, newest first."""
        return map(_decoded, self._index.jobs(pipeline))

    def known(self, pipeline: str | None = None) -> list[JobRecord]:
        """Jobs, newest first. An index that knows none asks the store."""
        found = list(self.all(pipeline))
        if not found and restore_jobs(self._repository, pipeline):
            found = list(self.all(pipeline))
        return found

    def newest(self, pipeline: str) -> JobRecord | None:
        """The newest job of a pipeline, in flight or not."""
        return next(iter(self.in_flight(pipeline)), None) or self.last(pipeline)

    def in_flight(self, pipeline: str) -> list[JobRecord]:
        """Jobs of a pipeline that this node began and did not end, newest first."""
        return [_decoded(data) for data in self._index.jobs(pipeline, in_flight=True)]

    def last(self, pipeline: str) -> JobRecord | None:
        """The newest job that has ended. An index that knows none asks the store."""
        data = self._index.last_job(pipeline)
        if data is None and restore_jobs(self._repository, pipeline):
            data = self._index.last_job(pipeline)
        return None if data is None else _decoded(data)


def restore_jobs(repository: Repository, pipeline: str | None = None) -> int:
    """Bring the jobs that ended, of one pipeline or of all, from the store into the index; how many were new."""
    index, store = repository.index, repository.store
    prefix = PREFIX if pipeline is None else f"{PREFIX}{key_part(pipeline)}/"
    keys = [stat.key for stat in store.list(prefix) if index.job(stat.key.rpartition("/")[2]) is None]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-jobs") as pool:
        for data, _ in pool.map(store.get, keys):
            record = _decoded(data)
            index.put_job(record.id, record.pipeline, record.created, record.finished, data)
    return len(keys)


def _decoded(data: bytes) -> JobRecord:
    return decode(data, JobRecord, "the record of a job")


def _key(pipeline: str, job: JobId) -> str:
    return f"{PREFIX}{key_part(pipeline)}/{job}"
