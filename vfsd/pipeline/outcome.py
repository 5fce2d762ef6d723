"""What a job starts from and what it leaves: the ledger, the output commit, the record. Blocks; no processes here.

The order is what makes a crash harmless: results of datums first, then the commit in one atomic step, the record last.
A job whose commit is there and whose record is not is finished by `completed`; one whose record is lost for good costs
the next job that it does everything again.
"""

from __future__ import annotations

import heapq
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from vfsd.model.commit import Provenance
from vfsd.model.datum import Datum, DatumNamer, DatumState
from vfsd.model.entry import Entry, Ref, directory, same
from vfsd.model.errors import Conflict, InvalidArgument, NotFound
from vfsd.model.ids import SHORT, CommitId, DatumId, JobId
from vfsd.model.job import JobState
from vfsd.model.pipeline_spec import PipelineSpec, code_identity
from vfsd.pipeline.formation import Done, Formation, Roots, Work, same_datums
from vfsd.pipeline.lease import Tenure
from vfsd.pipeline.ledger import (
    DatumResult,
    DatumStats,
    LedgerReader,
    datum_result,
    datum_results,
    edited,
    encode_result,
    names,
)
from vfsd.pipeline.merge import Merger, Output
from vfsd.pipeline.partial import keep_partial
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import PipelineHead, Registry
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.diff import changed_names
from vfsd.repo.directory import lookup
from vfsd.repo.refs import Head
from vfsd.repo.repository import Committed, Repository, empty_root, now_ns
from vfsd.repo.writer import BlobWriter

Results = Iterable[tuple[DatumId, DatumResult]]

_log = logging.getLogger(__name__)


class Start(msgspec.Struct, frozen=True):
    """What a job starts from.

    output: the head of the output branch, and root the tree there. base: the job that made it, None when there is no
    commit yet or its job's record is lost. formation: of the job's datums.
    """

    output: Head
    root: Entry
    base: JobRecord | None
    formation: Formation

    @property
    def ledger(self) -> Ref | None:
        """The ledger that the output stands on."""
        return None if self.base is None else self.base.ledger


class Outcomes:
    """Starts and ends the jobs of one store."""

    def __init__(self, repository: Repository, author: str) -> None:
        self._repository = repository
        self._author = author
        self._records = JobRecords(repository)
        self._registry = Registry(repository)

    # Before

    def last(self, spec: PipelineSpec) -> JobRecord | None:
        """The pipeline's newest job that has ended, as far as this node can tell: perhaps another one ran it."""
        found = [self._records.last(spec.name)]
        try:
            found.append(self._base(spec.name, self._repository.refs.head(spec.name, spec.output_branch).commit)[0])
        except NotFound:
            pass  # the output branch is gone, which the next job will say
        return max((record for record in found if record is not None), key=lambda record: record.created, default=None)

    def before(self, record: JobRecord, spec: PipelineSpec) -> JobRecord | None:
        """The pipeline's job before a certain one."""
        if record.previous is not None:
            try:
                return self._records.get(spec.name, record.previous)
            except NotFound:
                pass  # it is lost: what the output branch stands on is left
        return self.last(spec)

    def start(self, spec: PipelineSpec, record: JobRecord, last: JobRecord | None) -> Start:
        """Where a job starts from. `last`: the pipeline's newest job that has ended. NotFound when an input commit or
        the output branch is gone."""
        repository = self._repository
        output = repository.refs.head(spec.name, spec.output_branch)
        base, made = self._base(spec.name, output.commit)
        ledger = None if base is None else base.ledger
        spare: dict[bytes, Entry] = {}
        if last is not None and (base is None or last.id != base.id):
            differing = changed_names(repository.nodes, ledger, last.ledger)
            spare = {name: entry for name, _, entry in differing if entry is not None}
        finished = self._finished(record.id)
        again = record.again or spec.reprocess_spec == "every_job"
        redo = {datum.encode() for datum in record.redo}
        before = None if again or redo else self._trees_before(spec, base)
        known = set(names(repository, ledger)) if before is None else set()
        count = 0 if base is None else base.datums.total
        commits = commits_read(spec, record)
        done = Done(known, before, count, {} if again else spare, finished, again, redo)
        formation = Formation(repository.nodes, spec, commits, self._roots(commits), done)
        return Start(output, empty_root() if made is None or base is None else made.root, base, formation)

    def _finished(self, job: JobId) -> set[DatumId]:
        """The datums that this job did before it was interrupted. What they stored may be garbage meanwhile, or gone:
        such are done again."""
        index, guard = self._repository.index, self._repository.guard
        guard.refresh()
        done: set[DatumId] = set()
        lost: list[DatumId] = []
        for id_, result in datum_results(self._repository, job):  # one at a time: there may be a million
            if not guard.is_sound([result.entry]):
                lost.append(id_)
            elif result.state is DatumState.SUCCESS:
                done.add(id_)
        if lost:
            index.forget_datum_results(job, lost)
        return done

    def _base(self, pipeline: str, commit: CommitId | None) -> tuple[JobRecord | None, CommitObject | None]:
        if commit is None:
            return None, None
        made = self._repository.commits.get(commit)
        if made.header.pipeline != pipeline or made.header.job is None:
            return None, made
        try:
            return self._records.get(pipeline, made.header.job), made
        except NotFound:
            return None, made

    def _trees_before(self, spec: PipelineSpec, base: JobRecord | None) -> Roots | None:
        """The input trees whose datums, cut in the same way, are just those of the base's ledger."""
        if base is None or base.datums.recovered:
            return None
        try:
            then = self._registry.spec(spec.name, base.version)
            if not same_datums(spec, then):
                return None
            commits = commits_read(then, base)
            for commit in filter(None, commits):
                self._repository.drops.check(commit)
            return self._roots(commits)
        except NotFound:
            return None

    def _roots(self, commits: tuple[CommitId | None, ...]) -> Roots:
        get = self._repository.commits.get
        return tuple(None if commit is None else get(commit).root for commit in commits)

    def only_datum(self, spec: PipelineSpec, record: JobRecord) -> Work:
        """The one datum of a job whose command goes on for ever: all of its inputs' commits that its glob matches.
        InvalidArgument when there are others or none."""
        if spec.spout is not None:
            return Work(Datum(DatumNamer(spec.name, code_identity(spec)).id(()), ()), ())
        commits = commits_read(spec, record)
        nothing = Done(set(), None, 0, {}, frozenset())
        formation = Formation(self._repository.nodes, spec, commits, self._roots(commits), nothing)
        found: list[Work] = []
        more = True
        while more and len(found) < 2:
            batch = formation.batch()
            found, more = found + batch.work, batch.more
        if len(found) != 1:
            number = "several" if found else "none"
            raise InvalidArgument(f"a service has just one datum, and here are {number}: the glob / gives one")
        return found[0]

    # Meanwhile

    def remember(self, job: JobId, results: Sequence[tuple[DatumId, DatumResult]], writer: BlobWriter) -> None:
        """Make results durable, first in the store, then in the index: a restart takes them for done."""
        if results:
            writer.flush()
            self._repository.index.add_datum_results(
                job, [(datum, encode_result(result)) for datum, result in results]
            )

    # Afterwards

    def commit(
        self, spec: PipelineSpec, record: JobRecord, start: Start, pending: Results, writer: BlobWriter, tenure: Tenure,
        given_up: Callable[[], bool],
    ) -> tuple[JobRecord, Committed]:
        """Merge what the datums wrote and make the output commit; the record with the ledger in it.

        pending: results that the index does not have. given_up: asked last before the commit. AlreadyExists names
        datums that write the same path; Conflict when somebody else moved the branch or the commit was given up;
        Unavailable when another node has the pipeline now.
        """
        repository = self._repository
        ledger = self._ledger(record, start, start.formation.removed, pending, writer)
        recovered = self._ended(record.id, pending, DatumState.RECOVERED, writer)
        base = None if start.base is None else start.base.id
        record = msgspec.structs.replace(
            record, state=JobState.FINISHING, ledger=ledger, base=base, recovered=recovered
        )
        tenure.note(record)
        self._records.note(record)
        root = self._merged(record, start, ledger, pending, writer)

        def change(found: Entry, _: BlobWriter) -> Entry:
            if given_up():
                raise Conflict("the job was stopped")
            if start.base is not None and not same(found, start.root):
                raise Conflict(f"{spec.name}/{spec.output_branch} was moved by somebody else while the job ran")
            return root

        committed = repository.commit(
            spec.name, spec.output_branch, change, writer=writer, message=f"job {record.id[:SHORT]}",
            author=self._author, global_id=record.global_id, provenance=record.inputs, pipeline=spec.name,
            job=record.id, head=start.output, allow_same=True, admit=tenure.admit,
        )  # fmt: skip
        assert committed is not None
        return record, committed

    def _merged(
        self, record: JobRecord, start: Start, ledger: Ref | None, pending: Results, writer: BlobWriter
    ) -> Entry:
        nodes = self._repository.nodes
        reader = LedgerReader(self._repository)

        def read(datums: Iterable[Entry]) -> Iterator[Output]:
            for datum in datums:
                if (out := reader.output(datum)) is not None:
                    yield Output(DatumId(datum.name.decode()), out)

        def written() -> Iterator[Output]:
            for datum, result in self._results(record.id, pending, DatumState.SUCCESS):
                if result.out is not None:
                    yield Output(datum, result.out, result.files)
            yield from read(start.formation.carried.values())

        def shown(datum: DatumId) -> str:
            writer.flush()  # what it read may be known to the writer alone
            entry = lookup(nodes, ledger, datum.encode())
            return f"datum {datum[:SHORT]}" if entry is None else reader.shown(entry)

        gone = (lookup(nodes, start.ledger, name) for name in start.formation.removed)
        removed = read(entry for entry in gone if entry is not None)
        return Merger(nodes, writer, shown, writer.flush).merge(start.root, removed, written())

    def committed(self, record: JobRecord, tenure: Tenure | None) -> JobRecord:
        """Write down how a job ended whose output commit is made."""
        return self._finish(msgspec.structs.replace(record, finished=now_ns()), tenure)

    def failure(
        self, record: JobRecord, start: Start | None, tenure: Tenure | None, *, complete: bool, pending: Results,
        writer: BlobWriter,
    ) -> JobRecord:
        """Write down a job that ended without an output commit, and what its datums came to all the same.

        complete: all its datums were formed, so that those in the ledger that are none any more are known.
        """
        self.remember(record.id, list(pending), writer)
        removed = start.formation.removed if start is not None and complete else []
        ledger = self._ledger(record, start, removed, (), writer)
        record = msgspec.structs.replace(
            record,
            base=None if start is None or start.base is None else start.base.id,
            ledger=ledger,
            failed=self._ended(record.id, (), DatumState.FAILED, writer),
            recovered=self._ended(record.id, (), DatumState.RECOVERED, writer),
            finished=now_ns(),
        )
        writer.flush()
        if tenure is not None:
            tenure.note(record)  # from here on nobody else goes on with it
            reader = LedgerReader(self._repository)
            written = (
                Output(datum, out)
                for state in (DatumState.SUCCESS, DatumState.FAILED)
                for datum, result in self._results(record.id, (), state)
                if (out := result.out or reader.output(result.entry)) is not None
            )
            try:
                keep_partial(self._repository, record, self._author, written, writer)
            except NotFound as error:
                _log.warning("pipeline %s: its partial output cannot be kept: %s", record.pipeline, error)
        self._records.finish(record)
        return record

    def _finish(self, record: JobRecord, tenure: Tenure | None) -> JobRecord:
        """The standing first: that another node has the pipeline now shows there."""
        if tenure is not None:
            tenure.note(record)
        self._records.finish(record)
        return record

    def lasting_ended(
        self, record: JobRecord, datum: Datum | None, stats: DatumStats, log: bytes | None, tenure: Tenure
    ) -> JobRecord:
        """Write down how a job ended whose command had no end of its own. datum: None when it did not come to that.
        log: a local path."""
        writer = self._repository.writer()
        try:
            if datum is not None:
                result = datum_result(self._repository, writer, datum, stats, log, None)
                changes = [(datum.id.encode(), result.entry)]
                ledger = edited(self._repository, writer, None, changes)
                record = msgspec.structs.replace(record, ledger=ledger)
            writer.flush()
            return self._finish(msgspec.structs.replace(record, finished=now_ns()), tenure)
        finally:
            writer.close()

    def unrunnable(
        self, head: PipelineHead, inputs: tuple[Provenance, ...], last: JobRecord | None,
        blocked: tuple[JobRecord, ...], tenure: Tenure,
    ) -> JobRecord:
        """Write down that a pipeline cannot work on what others should have made, because their jobs did not succeed.
        What earlier jobs did is kept for the next."""
        cause = blocked[-1]
        return self._finish(
            JobRecord(
                id=JobId(secrets.token_hex(16)), pipeline=head.name, version=head.version, state=JobState.UNRUNNABLE,
                global_id=cause.global_id, inputs=inputs, created=now_ns(), finished=now_ns(),
                reason=f"job {cause.id[:SHORT]} of pipeline {cause.pipeline}: {cause.state.value}", run=head.run,
                previous=None if last is None else last.id, blocked=tuple(record.id for record in blocked),
                base=None if last is None else last.base, ledger=None if last is None else last.ledger,
            ),
            tenure,
        )  # fmt: skip

    def abandoned(self, record: JobRecord, reason: str, tenure: Tenure | None) -> JobRecord:
        """Write down a job in flight that cannot go on; what it did is kept. No tenure: its pipeline is gone."""
        record = msgspec.structs.replace(record, state=JobState.KILLED, reason=reason)
        if record.output is not None:
            return self.committed(record, tenure)
        writer = self._repository.writer()
        try:
            return self.failure(record, None, tenure, complete=False, pending=(), writer=writer)
        finally:
            writer.close()

    def settled(self, record: JobRecord) -> JobRecord:
        """A job that ended, of which only the standing may be written: the rest of what its end leaves."""
        if self._records.has_ended(record.id):
            return record
        self._repository.guard.refresh()
        if not all(self._sound(root) for _, root in record.trees):
            record = msgspec.structs.replace(record, ledger=None, failed=None, recovered=None)
        self._records.finish(record)
        return record

    def completed(self, record: JobRecord, tenure: Tenure) -> JobRecord | None:
        """Write down a job in flight whose output commit is there, as only a crash leaves it; None for another. One
        whose output is to go elsewhere too is not at its end: it is given back with its output."""
        repository = self._repository
        try:
            spec = self._registry.spec(record.pipeline, record.version)
            if spec.is_lasting:
                return None  # its commits are no end of it
            head = repository.refs.head(spec.name, spec.output_branch).commit
        except NotFound:
            return None
        if head is None:
            return None
        made = repository.commits.get(head)
        if made.header.job != record.id:
            return None
        self._repository.guard.refresh()
        ledger, recovered = self._durable(record.ledger, made), self._durable(record.recovered, made)
        state = JobState.SUCCESS if spec.egress is None else JobState.EGRESSING
        record = msgspec.structs.replace(
            record, state=state, output=head, ledger=ledger, recovered=recovered, reason=""
        )
        return self.committed(record, tenure) if spec.egress is None else record

    def _durable(self, root: Ref | None, made: CommitObject) -> Ref | None:
        """A tree as a job wrote it down before it made its commit. None where parts of it are being deleted: then the
        next job does everything again."""
        if root is not None and not root.place.container:  # it is within the commit
            place = next((made.place(blob) for blob in made.hints.blobs if blob.id == root.id), root.place)
            root = msgspec.structs.replace(root, place=place)
        return root if self._sound(root) else None

    def _sound(self, root: Ref | None) -> bool:
        return root is None or self._repository.guard.is_sound([directory(b"", root)])

    def _ledger(
        self, record: JobRecord, start: Start | None, removed: Iterable[bytes], pending: Results, writer: BlobWriter
    ) -> Ref | None:
        gone: Iterable[tuple[bytes, Entry | None]] = ((name, None) for name in removed)
        carried = [] if start is None else sorted(start.formation.carried.items())
        done = self._entries(record.id, pending, DatumState.SUCCESS)
        changes = heapq.merge(gone, carried, done, key=lambda change: change[0])
        return edited(self._repository, writer, None if start is None else start.ledger, changes)

    def _ended(self, job: JobId, pending: Results, state: DatumState, writer: BlobWriter) -> Ref | None:
        """The directory of the datums that ended so."""
        return edited(self._repository, writer, None, self._entries(job, pending, state))

    def _entries(self, job: JobId, pending: Results, state: DatumState) -> Iterator[tuple[bytes, Entry]]:
        """The directories of the datums that ended so, in order of ids."""
        return ((datum.encode(), result.entry) for datum, result in self._results(job, pending, state))

    def _results(self, job: JobId, pending: Results, state: DatumState) -> Iterator[tuple[DatumId, DatumResult]]:
        """The datums that ended so, in order of ids."""
        both = heapq.merge(
            datum_results(self._repository, job), sorted(pending, key=lambda item: item[0]), key=lambda item: item[0]
        )
        return ((datum, result) for datum, result in both if result.state is state)


def commits_read(spec: PipelineSpec, record: JobRecord) -> tuple[CommitId | None, ...]:
    """The commit that a job read for each of its spec's inputs; None for a branch that had none."""
    read = {(edge.repo, edge.branch): edge.commit for edge in record.inputs}
    return tuple(read.get((pfs.repo, pfs.branch)) for pfs in spec.pfs_inputs())
