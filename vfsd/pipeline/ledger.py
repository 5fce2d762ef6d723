"""What a pipeline remembers of its datums: a tree of its own, kept by content like everything else.

    <datum id, 64 hex digits>/     a directory for each datum; its mtime is when the datum ended
        inputs                     JSON: a list of model.datum.DatumInput, bytes in base64
        log                        what its command wrote to standard output and error
        out/                       what it wrote to /pfs/out; of a datum that failed if that is not too much
        stats                      JSON: DatumStats

A job's ledger holds those of its datums that are done, whichever job did them; its `failed` and `recovered` trees those
that ended so.
Because a ledger is a tree, two of them are compared at the cost of what differs, which is what merging outputs costs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

import msgspec

from vfsd.cache.stream import streamed
from vfsd.model.datum import Datum, DatumInput, DatumState
from vfsd.model.entry import Entry, Kind, Ref, directory
from vfsd.model.errors import Ambiguous, Damaged, NotFound
from vfsd.model.ids import SHORT, DatumId, JobId
from vfsd.pipeline.outputs import Collector
from vfsd.pipeline.records import JobRecord
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.directory import DirectoryBuilder, edit, entries, lookup
from vfsd.repo.ingest import Ingest
from vfsd.repo.repository import Repository
from vfsd.repo.tree import chunks_below
from vfsd.repo.writer import BlobWriter
from vfsd.store.blob import read_chunk

EDIT = 5_000  # datums entered at once: bounds memory
FEW = 16  # names in an output that a result carries along
T = TypeVar("T")

_ENCODE = msgspec.json.Encoder().encode
_INPUTS = msgspec.json.Decoder(tuple[DatumInput, ...])


class DatumStats(msgspec.Struct, frozen=True):
    """How a datum ended, and in which job. started, finished: ns since 1970, of the last attempt. exit_code: None when
    no command ran. reason: one line, empty for success."""

    job: JobId
    state: DatumState
    attempts: int
    started: int
    finished: int
    exit_code: int | None
    reason: str


_STATS = msgspec.json.Decoder(DatumStats)


class DatumResult(msgspec.Struct, array_like=True, frozen=True):
    """A datum that ended while its job is in flight: its state, and its directory in the ledger.

    out: what it wrote, None for a datum that failed; files: what is in there, None where that is much. Both are in the
    ledger too: they are here so that merging many small outputs need not read them one by one.
    """

    state: DatumState
    entry: Entry
    out: Entry | None = None
    files: list[Entry] | None = None


_RESULT = msgspec.msgpack.Decoder(DatumResult)


# Writing


def datum_result(
    repository: Repository, writer: BlobWriter, datum: Datum, stats: DatumStats, log: bytes | None, out: bytes | None,
    seen: tuple[bytes, bytes] = (b"/pfs", b"/pfs/out"),
) -> DatumResult:
    """Store what a try came to. log, out: local paths; None for none of it. seen: see vfsd.pipeline.outputs, which also
    says what is raised. Blocks."""
    nodes = repository.nodes
    written: Entry | None = None
    files: list[Entry] | None = None
    builder = DirectoryBuilder(writer)
    builder.add(_file(repository, writer, b"inputs", _ENCODE(datum.inputs), stats.finished))
    if log is not None and os.path.exists(log):
        builder.add(Ingest(repository.chunker, writer, nodes).path(log, b"log"))
    if out is not None:
        written = Collector(repository, writer, datum, seen).collect(out)
        files = list(islice(entries(nodes, written.node), FEW + 1))
        builder.add(written)
    builder.add(_file(repository, writer, b"stats", _ENCODE(stats), stats.finished))
    entry = directory(datum.id.encode(), builder.finish(), mtime=stats.finished)
    if stats.state is not DatumState.SUCCESS:
        return DatumResult(stats.state, entry)
    return DatumResult(stats.state, entry, written, files if files is None or len(files) <= FEW else None)


def _file(repository: Repository, writer: BlobWriter, name: bytes, data: bytes, mtime: int) -> Entry:
    content = repository.chunker.cut_bytes(data, writer, repository.nodes)
    return Entry(name, Kind.FILE, 0o644, 0, 0, mtime, content.size, content.digest, content.chunks, content.node)


def edited(
    repository: Repository, writer: BlobWriter, ledger: Ref | None, changes: Iterable[tuple[bytes, Entry | None]]
) -> Ref | None:
    """A ledger with datums entered, or with None taken out. `changes` may be any number; in order of names is quick."""
    part: dict[bytes, Entry | None] = {}
    for name, entry in changes:
        part[name] = entry
        if len(part) == EDIT:
            ledger = edit(repository.nodes, writer, ledger, part)
            writer.flush()  # so that the next edit finds the nodes of this one, also when memory has let them go
            part = {}
    return edit(repository.nodes, writer, ledger, part)


def encode_result(result: DatumResult) -> bytes:
    """For the index; only once everything that the entry points to is durable."""
    return msgspec.msgpack.encode(result)


def datum_results(repository: Repository, job: JobId) -> Iterator[tuple[DatumId, DatumResult]]:
    """The datums of a job in flight that are known to have ended, in order of ids; streamed."""
    for datum, data in repository.index.datum_results(job):
        yield DatumId(datum), _RESULT.decode(data)


# Reading


class LedgerDatum(msgspec.Struct, frozen=True):
    """A datum of a job: its directory in the ledger, and what state it has in that job."""

    id: DatumId
    state: DatumState
    entry: Entry

    @property
    def finished(self) -> int:
        """When it ended, ns since 1970; of a skipped one, when it was done."""
        return self.entry.mtime


def names(repository: Repository, ledger: Ref | None) -> Iterator[bytes]:
    """Ids of the datums of a ledger, as its names are, in order."""
    return (entry.name for entry in entries(repository.nodes, ledger))


def job_datums(repository: Repository, record: JobRecord) -> Iterator[LedgerDatum]:
    """The datums of a job that ended, those that failed or recovered first, then in order of ids; streamed.

    Of a job in flight, and of one that was stopped, as far as they are known.
    """
    if not record.finished:
        for datum, result in datum_results(repository, record.id):
            yield LedgerDatum(datum, result.state, result.entry)
        return
    for root, state in _trees(record):
        for entry in entries(repository.nodes, root):
            yield _of_job(record, entry, state)


def _trees(record: JobRecord) -> tuple[tuple[Ref | None, DatumState], ...]:
    return (
        (record.failed, DatumState.FAILED), (record.recovered, DatumState.RECOVERED),
        (record.ledger, DatumState.SUCCESS),
    )  # fmt: skip


def _of_job(record: JobRecord, entry: Entry, state: DatumState) -> LedgerDatum:
    if state is DatumState.SUCCESS and entry.mtime < record.created:
        state = DatumState.SKIPPED
    return LedgerDatum(DatumId(entry.name.decode()), state, entry)


def find_datum(repository: Repository, record: JobRecord, prefix: str) -> LedgerDatum:
    """The datum of a job whose id begins with `prefix`; NotFound, Ambiguous."""
    found = [datum for datum in _datums_from(repository, record, prefix) if datum.id.startswith(prefix)]
    if not found:
        raise NotFound(f"job {record.id[:SHORT]} has no datum that begins with {prefix[:64]!r}")
    if len(found) > 1:
        raise Ambiguous(f"several datums of job {record.id[:SHORT]} begin with {prefix!r}: give more digits")
    return found[0]


def _datums_from(repository: Repository, record: JobRecord, prefix: str) -> Iterator[LedgerDatum]:
    """The datums of a job, of each tree the first two that do not sort before `prefix`."""
    if not record.finished:
        yield from job_datums(repository, record)
        return
    for root, state in _trees(record):
        name = prefix.encode(errors="surrogateescape")
        exact = lookup(repository.nodes, root, name)
        first = [] if exact is None else [exact]
        for entry in islice(chain(first, entries(repository.nodes, root, after=name)), 2):
            yield _of_job(record, entry, state)


class LedgerReader:
    """What ledgers say of one datum. Blocks."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._nodes = repository.nodes

    def inputs(self, datum: Entry) -> tuple[DatumInput, ...]:
        """What a datum read, as of the job that ran it."""
        return self._decoded(_INPUTS, datum, b"inputs")

    def stats(self, datum: Entry) -> DatumStats:
        """How a datum ended."""
        return self._decoded(_STATS, datum, b"stats")

    def output(self, datum: Entry) -> Entry | None:
        """The directory of what a datum wrote; None when none of it is kept."""
        return lookup(self._nodes, datum.node, b"out")

    def log(self, datum: Entry) -> Iterator[bytes]:
        """What a datum's command printed, in pieces."""
        entry = lookup(self._nodes, datum.node, b"log")
        if entry is not None:
            yield from self._pieces(entry)

    def shown(self, datum: Entry) -> str:
        """A datum as messages name it, by its inputs."""
        return str(Datum(DatumId(datum.name.decode()), self.inputs(datum)))

    def _pieces(self, entry: Entry) -> Iterator[bytes]:
        if len(entry.chunks) == 1:
            yield read_chunk(self._repository.store, entry.chunks[0])
            return
        coming = chunks_below(self._nodes, entry)
        with streamed(self._repository.store, self._repository.index, coming) as read:
            for _, chunk in iter_chunks(self._nodes, content_of(entry)):
                yield bytes(read(chunk))

    def _decoded(self, decoder: msgspec.json.Decoder[T], datum: Entry, name: bytes) -> T:
        where = f"{name.decode()} of datum {datum.name.decode()[:12]}"
        entry = lookup(self._nodes, datum.node, name)
        if entry is None:
            raise Damaged(f"{where} is not in its ledger")
        try:
            return decoder.decode(b"".join(self._pieces(entry)))
        except msgspec.MsgspecError as error:
            raise Damaged(f"{where} cannot be read: {error}") from None
