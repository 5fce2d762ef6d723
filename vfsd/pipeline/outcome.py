"""What a job starts from and what it leaves: the ledger, the output commit, the record. Blocks; no processes here.

The order is what makes a crash harmless: results of datums first, then the commit in one atomic step, the record last.
A job whose commit is there and whose record is not is finished by `completed`; one whose record is lost for good costs
the next job that it does everything again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from vfsd.model.datum import DatumState
from vfsd.model.entry import Entry, Ref, directory, same
from vfsd.model.errors import Conflict, NotFound
from vfsd.model.ids import SHORT, CommitId, DatumId, JobId
from vfsd.model.job import JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.formation import Done, Formation, same_datums
from vfsd.pipeline.ledger import DatumResult, LedgerReader, datum_results, edited, encode_result, names
from vfsd.pipeline.merge import Merger, Output
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import Registry
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.diff import changed_names
from vfsd.repo.directory import lookup
from vfsd.repo.refs import Head
from vfsd.repo.repository import Committed, Repository, empty_root, now_ns
from vfsd.repo.writer import BlobWriter

Results = Iterable[tuple[DatumId, DatumResult]]


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
        before = self._root_before(spec, base)
        known = set(names(repository, ledger)) if before is None else set()
        count = 0 if base is None else base.datums.total
        (edge,) = record.inputs
        root = repository.commits.get(edge.commit).root
        formation = Formation(repository.nodes, spec, edge.commit, root, Done(known, before, count, spare, finished))
        return Start(output, empty_root() if made is None or base is None else made.root, base, formation)

    def _finished(self, job: JobId) -> set[DatumId]:
        """The datums that this job did before it was interrupted. What they stored may be garbage meanwhile, or gone:
        such are done again."""
        index, guard = self._repository.index, self._repository.guard
        guard.refresh()
        results = list(datum_results(self._repository, job))
        lost = [id_ for id_, result in results if not guard.is_sound([result.entry])]
        if lost:
            index.forget_datum_results(job, lost)
        done = {id_ for id_, result in results if result.state is DatumState.SUCCESS}
        return done.difference(lost)

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

    def _root_before(self, spec: PipelineSpec, base: JobRecord | None) -> Entry | None:
        """The input tree whose datums, cut in the same way, are just those of the base's ledger."""
        if base is None:
            return None
        (edge,) = base.inputs
        try:
            if same_datums(spec, self._registry.spec(spec.name, base.version)):
                self._repository.drops.check(edge.commit)
                return self._repository.commits.get(edge.commit).root
        except NotFound:
            pass
        return None

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
        self, spec: PipelineSpec, record: JobRecord, start: Start, pending: Results, writer: BlobWriter,
        given_up: Callable[[], bool],
    ) -> tuple[JobRecord, Committed]:
        """Merge what the datums wrote and make the output commit; the record with the ledger in it.

        pending: results that the index does not have. given_up: asked last before the commit. AlreadyExists names
        datums that write the same path; Conflict when somebody else moved the branch or the commit was given up.
        """
        repository = self._repository
        ledger = self._ledger(record, start, start.formation.removed, pending, writer)
        base = None if start.base is None else start.base.id
        record = msgspec.structs.replace(record, state=JobState.FINISHING, ledger=ledger, base=base)
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
            job=record.id, head=start.output, allow_same=True,
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
        return Merger(nodes, writer, shown).merge(start.root, removed, written())

    def success(self, record: JobRecord, output: CommitId) -> JobRecord:
        """Write down a job whose output commit is made."""
        record = msgspec.structs.replace(record, state=JobState.SUCCESS, output=output, finished=now_ns(), reason="")
        self._records.finish(record)
        return record

    def failure(
        self, record: JobRecord, start: Start | None, *, complete: bool, pending: Results, writer: BlobWriter
    ) -> JobRecord:
        """Write down a job that ended without an output commit, and what its datums came to all the same.

        complete: all its datums were formed, so that those in the ledger that are none any more are known.
        """
        self.remember(record.id, list(pending), writer)
        removed = start.formation.removed if start is not None and complete else []
        ledger = self._ledger(record, start, removed, (), writer)
        failed = self._entries(record.id, (), DatumState.FAILED)
        record = msgspec.structs.replace(
            record,
            base=None if start is None or start.base is None else start.base.id,
            ledger=ledger,
            failed=edited(self._repository, writer, None, failed),
            finished=now_ns(),
        )
        writer.flush()
        self._records.finish(record)
        return record

    def abandoned(self, record: JobRecord, reason: str) -> JobRecord:
        """Write down a job in flight that cannot go on; what it did is kept."""
        writer = self._repository.writer()
        try:
            record = msgspec.structs.replace(record, state=JobState.KILLED, reason=reason)
            return self.failure(record, None, complete=False, pending=(), writer=writer)
        finally:
            writer.close()

    def completed(self, record: JobRecord, spec: PipelineSpec) -> JobRecord | None:
        """Write down a job in flight whose output commit is there, as only a crash leaves it; None for another."""
        repository = self._repository
        try:
            head = repository.refs.head(spec.name, spec.output_branch).commit
        except NotFound:
            return None
        if head is None:
            return None
        made = repository.commits.get(head)
        if made.header.job != record.id:
            return None
        ledger = record.ledger
        if ledger is not None and not ledger.place.container:  # it is within the commit
            place = next((made.place(blob) for blob in made.hints.blobs if blob.id == ledger.id), ledger.place)
            ledger = msgspec.structs.replace(ledger, place=place)
        repository.guard.refresh()
        if ledger is not None and not repository.guard.is_sound([directory(b"", ledger)]):
            ledger = None  # parts of it are being deleted: the next job does everything again
        return self.success(msgspec.structs.replace(record, ledger=ledger), head)

    def _ledger(
        self, record: JobRecord, start: Start | None, removed: Iterable[bytes], pending: Results, writer: BlobWriter
    ) -> Ref | None:
        gone: Iterable[tuple[bytes, Entry | None]] = ((name, None) for name in removed)
        carried = [] if start is None else sorted(start.formation.carried.items())
        done = self._entries(record.id, pending, DatumState.SUCCESS)
        changes = heapq.merge(gone, carried, done, key=lambda change: change[0])
        return edited(self._repository, writer, None if start is None else start.ledger, changes)

    def _entries(self, job: JobId, pending: Results, state: DatumState) -> Iterator[tuple[bytes, Entry]]:
        """The directories of the datums that ended so, in order of ids."""
        return ((datum.encode(), result.entry) for datum, result in self._results(job, pending, state))

    def _results(self, job: JobId, pending: Results, state: DatumState) -> Iterator[tuple[DatumId, DatumResult]]:
        """The datums that ended so, in order of ids."""
        both = heapq.merge(
            datum_results(self._repository, job), sorted(pending, key=lambda item: item[0]), key=lambda item: item[0]
        )
        return ((datum, result) for datum, result in both if result.state is state)
