"""Records of jobs: in this node's index while a job is in flight and afterwards, in the store once it has ended.

    jobs/<pipeline>/<job id>           JobRecord, written once
    pipelines/<name>/job               Standing: the newest job of a pipeline, whichever node runs it
    datums/<job id>/<number>           results of a job in flight, in parts; deleted once it has ended
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from vfsd.model.commit import Provenance, decode, encode
from vfsd.model.entry import Ref
from vfsd.model.errors import Ambiguous, NotFound, Unavailable
from vfsd.model.ids import SHORT, CommitId, DatumId, JobId
from vfsd.model.job import DatumCounts, Job, JobState
from vfsd.model.names import from_key_part, key_part
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.registry import PipelineHead
from vfsd.repo.repository import Repository, new_global_id, now_ns
from vfsd.store.api import ETag, ObjectStore

PREFIX = "jobs/"
PARALLEL = 16  # records read from the store at once
Part = list[tuple[str, bytes]]  # datum id, result as the index has it
_PART = msgspec.msgpack.Decoder(Part)
_ID = re.compile(r"[0-9a-f]{1,32}")


class JobRecord(Job, frozen=True, kw_only=True):
    """A job, and what the next one needs of it.

    run: of the pipeline's head when the job was made, see PipelineHead. previous: the pipeline's job before it. base:
    the job that made the commit which the output branch stood at. ledger: the directory of its datums that are done,
    failed, recovered: of those that ended so, see vfsd.pipeline.ledger; None when there are none. again: all datums
    are run, also those that are done; redo: these are. blocked: jobs of pipelines that it reads from which had not
    succeeded, and are accounted for.
    """

    run: str = ""
    previous: JobId | None = None
    again: bool = False
    redo: tuple[DatumId, ...] = ()
    blocked: tuple[JobId, ...] = ()
    base: JobId | None = None
    ledger: Ref | None = None
    failed: Ref | None = None
    recovered: Ref | None = None

    @property
    def trees(self) -> tuple[tuple[str, Ref], ...]:
        """What it keeps, each with what it is called."""
        named = (("ledger", self.ledger), ("failed datums", self.failed), ("recovered datums", self.recovered))
        return tuple((name, ref) for name, ref in named if ref is not None)


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `pipelines/<name>/job`. epoch: in which it was written. parts: how many parts of results there
    are. record: of the pipeline's newest job, as it stands."""

    format: int = 1
    nonce: str
    epoch: int
    parts: int = 0
    record: JobRecord


def pipeline_of_standing(key: str) -> str | None:
    """The pipeline whose Standing has this key; None for every other key."""
    parts = key.split("/")
    return from_key_part(parts[1]) if len(parts) == 3 and parts[0] == "pipelines" and parts[2] == "job" else None


def read_standing(store: ObjectStore, pipeline: str) -> tuple[Standing, ETag] | None:
    """How a pipeline's newest job stands; None before its first one."""
    key = standing_key(pipeline)
    try:
        data, etag = store.get(key)
    except NotFound:
        return None
    return decode(data, Standing, key), etag


def results_of(store: ObjectStore, standing: Standing) -> Iterator[Part]:
    """The results of a job in flight that the store knows of, part by part. NotFound when it has ended meanwhile."""
    for number in range(standing.parts):
        yield _PART.decode(store.get(part_key(standing.record.id, number))[0])


def standing_key(pipeline: str) -> str:
    """Key of a Standing."""
    return f"pipelines/{key_part(pipeline)}/job"


def part_key(job: JobId, number: int) -> str:
    """Key of a part of a job's results."""
    return f"datums/{job}/{number:08d}"


def input_commits(
    spec: PipelineSpec, commit_of: Callable[[str, str], CommitId | None]
) -> tuple[Provenance, ...]:
    """What a job of a pipeline would read: a commit of each input that has one, in the order of the spec. commit_of:
    (repo, branch) → where that branch stands."""
    found = (
        Provenance(pfs.repo, pfs.branch, commit, pfs.name)
        for pfs in spec.pfs_inputs()
        if (commit := commit_of(pfs.repo, pfs.branch)) is not None
    )
    return tuple(dict.fromkeys(found))


def new_record(
    head: PipelineHead, repository: Repository, inputs: tuple[Provenance, ...], last: JobRecord | None,
    blocked: tuple[JobId, ...],
) -> JobRecord:
    """A job, not begun yet; its global id is that of the newest commit that it is over. `last`: the job before
    it. blocked: see JobRecord. NotFound when there is no such commit."""
    asked = last is None or last.run != head.run
    headers = [repository.commits.get(edge.commit).header for edge in inputs]
    newest = max(headers, key=lambda header: header.time, default=None)
    return JobRecord(
        id=JobId(secrets.token_hex(16)),
        pipeline=head.name,
        version=head.version,
        state=JobState.STARTING,
        global_id=new_global_id() if newest is None else newest.global_id,
        inputs=inputs,
        created=now_ns(),
        started=now_ns(),
        datums=DatumCounts(),
        run=head.run,
        previous=None if last is None else last.id,
        again=asked and head.again,
        redo=head.redo if asked else (),
        blocked=blocked,
    )


def next_inputs(
    repository: Repository, last: JobRecord | None, inputs: tuple[Provenance, ...]
) -> tuple[Provenance, ...]:
    """What the job after `last` reads when each commit of an input makes one: the inputs of `last`, the oldest commit
    that came since put in, and of the other inputs their next ones, where they have its global id. `inputs`: where the
    branches stand; these, where they do not go on from `last`."""
    had = {} if last is None else {(edge.repo, edge.branch, edge.name): edge for edge in last.inputs}
    before = [had.get((edge.repo, edge.branch, edge.name)) for edge in inputs]
    if None in before:
        return inputs
    following = []
    for number, (edge, old) in enumerate(zip(inputs, before, strict=True)):
        newer = None
        for commit in repository.commits.log(edge.commit):
            if old is not None and commit.id == old.commit:
                break
            if repository.drops.find(commit.id) is None:
                newer = commit
        else:
            return inputs  # the branch was moved to somewhere else
        if newer is not None:
            following.append((newer.header.time, number, newer))
    if not following:
        return inputs
    _, first, oldest = min(following, key=lambda one: one[:2])
    found = [old if old is not None else edge for edge, old in zip(inputs, before, strict=True)]
    for _, number, commit in following:
        if number == first or commit.header.global_id == oldest.header.global_id:
            found[number] = msgspec.structs.replace(inputs[number], commit=commit.id)
    return tuple(found)


def is_current(last: JobRecord | None, head: PipelineHead, inputs: tuple[Provenance, ...]) -> bool:
    """Whether a pipeline has nothing to do: none of its inputs has a commit, or its last job was over these, by the
    spec in force, and asked for no later than the last one was. What lasts goes on, unless it failed or was stopped."""
    if not inputs and head.spec.spout is None:
        return True
    if last is None or (last.inputs, last.version, last.run) != (inputs, head.version, head.run):
        return False
    return not head.spec.is_lasting or last.state is not JobState.SUCCESS


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
        key = _key(record.pipeline, record.id)
        self._store.put(key, data)
        try:
            self._repository.guard.keep_trees(ref for _, ref in record.trees)
        except Unavailable:
            self._store.delete(key)  # nothing may lead to trees that are not there
            raise
        self._index.put_job(record.id, record.pipeline, record.created, record.finished, data)

    def drop(self, job: JobId) -> None:
        """Forget a job in flight that came to nothing: another node went on without it."""
        self._index.forget_job(job)

    # Reading

    def has_ended(self, job: JobId) -> bool:
        """Whether this node knows how a job ended."""
        data = self._index.job(job)
        return data is not None and bool(_decoded(data).finished)

    def stored(self, pipeline: str, job: JobId) -> JobRecord | None:
        """A job that ended, as the store has it; this node knows it then too."""
        try:
            data, _ = self._store.get(_key(pipeline, job))
        except NotFound:
            return None
        record = _decoded(data)
        self._index.put_job(record.id, record.pipeline, record.created, record.finished, data)
        return record

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
        """The job whose id begins with `prefix`; NotFound, Ambiguous. Jobs of other nodes are looked for too."""
        if _ID.fullmatch(prefix) is None:
            raise NotFound(f"there is no job {prefix[:64]!r}: a job is named by the beginning of its id, in hex digits")
        found = self._with_prefix(prefix)
        if not any(record.finished for record in found.values()):
            ended = self.bring()
            found = self._with_prefix(prefix)
            found.update((record.id, record) for record in ended if record.id.startswith(prefix))
        if not found:
            raise NotFound(f"there is no job that begins with {prefix}")
        if len(found) > 1:
            raise Ambiguous(f"{len(found)} jobs begin with {prefix}: give more digits")
        return next(iter(found.values()))

    def _with_prefix(self, prefix: str) -> dict[JobId, JobRecord]:
        return {record.id: record for record in map(_decoded, self._index.jobs_with_prefix(prefix))}

    def all(self, pipeline: str | None = None) -> Iterator[JobRecord]:
        """Jobs that the index knows, newest first."""
        return map(_decoded, self._index.jobs(pipeline))

    def known(self, pipeline: str | None = None) -> list[JobRecord]:
        """Jobs of all nodes, newest first."""
        ended = self.bring(pipeline)
        if not ended:
            return list(self.all(pipeline))
        found = {record.id: record for record in (*self.all(pipeline), *ended)}
        return sorted(found.values(), key=lambda record: (-record.created, record.id))

    def newest(self, pipeline: str) -> JobRecord | None:
        """The newest job of a pipeline, whichever node runs it. One request."""
        found = read_standing(self._store, pipeline)
        if found is None:
            return next(iter(self.in_flight(pipeline)), None) or self.last(pipeline)
        return self._fresher(found[0].record)

    def again(self, record: JobRecord) -> JobRecord:
        """A job as it stands now."""
        data = self._index.job(record.id)
        if data is not None and (own := _decoded(data)).finished:
            return own
        newest = self.newest(record.pipeline)
        if newest is not None and newest.id == record.id:
            return newest
        return self.stored(record.pipeline, record.id) or record

    def bring(self, pipeline: str | None = None) -> list[JobRecord]:
        """Have this node know the jobs of all nodes, of one pipeline or of all, and what those in flight came to. What
        it gives back are those that ended and are not written down so: whoever ran them is about to, or died of it."""
        restore_jobs(self._repository, pipeline)
        ended = []
        folders = self._store.list_folders("pipelines/") if pipeline is None else [key_part(pipeline)]
        for folder in folders:
            found = read_standing(self._store, from_key_part(folder))
            if found is None:
                continue
            record = found[0].record
            if record.finished:
                if not self.has_ended(record.id):
                    ended.append(record)
            elif self._fresher(record) is record:
                self.note(record)
                try:
                    for part in results_of(self._store, found[0]):
                        self._index.add_datum_results(record.id, part)
                except NotFound:
                    self.stored(record.pipeline, record.id)  # it has ended just now
        return ended

    def _fresher(self, record: JobRecord) -> JobRecord:
        """A job as the store has it, or as this node does, when that is no older."""
        data = self._index.job(record.id)
        own = None if data is None else _decoded(data)
        if own is None or record.finished or (not own.finished and own.datums.done < record.datums.done):
            return record
        return own

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
    ended = set(index.ended_jobs(pipeline))
    keys = [stat.key for stat in store.list(prefix) if stat.key.rpartition("/")[2] not in ended]
    with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-jobs") as pool:
        for data, _ in pool.map(store.get, keys):
            record = _decoded(data)
            index.put_job(record.id, record.pipeline, record.created, record.finished, data)
    return len(keys)


def _decoded(data: bytes) -> JobRecord:
    return decode(data, JobRecord, "the record of a job")


def _key(pipeline: str, job: JobId) -> str:
    return f"{PREFIX}{key_part(pipeline)}/{job}"
