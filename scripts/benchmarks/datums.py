"""Jobs of many datums without their processes, for scripts/bench pipelines: what vfsd itself does for a datum, alone.

Each function works on the store of a rig in a process of its own, so that its time and memory are its own: forming,
storing outputs and results, merging and the commits are those of a real job; only the command is not run, its output
is written by the function.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from vfsd.index.index import Index
from vfsd.model.datum import Datum, DatumState
from vfsd.model.entry import Entry, Kind, directory
from vfsd.model.errors import NotFound
from vfsd.model.ids import DatumId
from vfsd.model.job import JobState
from vfsd.model.spec_reader import parse_specs
from vfsd.pipeline.lease import Tenure
from vfsd.pipeline.ledger import DatumResult, DatumStats, datum_result
from vfsd.pipeline.outcome import Outcomes
from vfsd.pipeline.records import JobRecord, JobRecords, input_commits, new_record
from vfsd.pipeline.registry import PipelineHead, Registry
from vfsd.pipeline.runner import KEEP_DATUMS
from vfsd.repo.directory import DirectoryBuilder
from vfsd.repo.repository import Repository, now_ns, read_format
from vfsd.repo.writer import BlobWriter
from vfsd.store.local import LocalStore

FOLDER = 1000  # files in each directory of an input


class Spent(msgspec.Struct, frozen=True):
    """What a function took. seconds: of the part that counts. cpu: seconds of processor time in it, which load on the
    machine changes little. peak: bytes of memory that its process had at most.
    datums: how many there were. todo: how many of them were not done already."""

    seconds: float
    cpu: float
    peak: int
    datums: int
    todo: int


@contextmanager
def opened(folder: Path) -> Iterator[Repository]:
    """The store of a rig, with an index of its own."""
    store = LocalStore(str(folder / "store"))
    found = Repository(store, Index(str(folder / "bench.sqlite")), read_format(store))
    try:
        yield found
    finally:
        found.close()


def make_input(folder: Path, repo: str, count: int) -> None:
    """A repo of `count` small files, `FOLDER` in each directory, all different."""
    with opened(folder) as repository:
        repository.refs.create_repo(repo, now_ns())
        repository.refs.create_branch(repo, "main", None, now_ns())

        def change(root: Entry, writer: BlobWriter) -> Entry:
            top = DirectoryBuilder(writer)
            for first in range(0, count, FOLDER):
                inner = DirectoryBuilder(writer)
                for number in range(first, min(first + FOLDER, count)):
                    content = repository.chunker.cut_bytes(b"%d\n" % number, writer, repository.nodes)
                    inner.add(
                        Entry(
                            b"%07d" % number, Kind.FILE, 0o644, 0, 0, 1, content.size, content.digest, content.chunks,
                            content.node,
                        )
                    )  # fmt: skip
                top.add(directory(b"%07d" % first, inner.finish(), mtime=1))
            return directory(b"", top.finish(), mtime=1)

        writer = repository.writer()
        repository.commit(repo, "main", change, writer=writer, message="", author="bench")
        writer.close()


def make_pipeline(folder: Path, name: str, given: Any, cmd: list[str]) -> None:
    """A pipeline with this input and command."""
    text = msgspec.json.encode({"pipeline": {"name": name}, "transform": {"cmd": cmd}, "input": given}).decode()
    with opened(folder) as repository:
        Registry(repository).create(parse_specs(text, "bench").specs[0], now_ns())


def work(folder: Path, name: str) -> Spent:
    """A job of all datums that are not done: each gives one file with its own name. Returns once it is committed."""
    with opened(folder) as repository:
        head = Registry(repository).get(name)
        outcomes, records = Outcomes(repository, "bench"), JobRecords(repository)
        out = folder / "out"
        out.mkdir(exist_ok=True)
        start = _now()
        tenure = Tenure(repository, repository.refs.head(name, head.spec.output_branch))
        tenure.take_over()
        last = outcomes.last(head.spec)
        record = _record(repository, head, last)
        tenure.note(record)
        records.note(record)
        writer = repository.writer()
        begun = outcomes.start(head.spec, record, last)
        pending: list[tuple[DatumId, DatumResult]] = []
        todo = skipped = 0
        more = True
        while more:
            batch = begun.formation.batch()
            more = batch.more
            skipped += batch.skipped
            for one in batch.work:
                pending.append((one.datum.id, _done(repository, writer, record, one.datum, out)))
                todo += 1
                if len(pending) == KEEP_DATUMS:
                    outcomes.remember(record.id, pending, writer)
                    pending = []
        counts = msgspec.structs.replace(record.datums, total=todo + skipped, success=todo, skipped=skipped)
        record = msgspec.structs.replace(record, datums=counts)
        record, made = outcomes.commit(head.spec, record, begun, pending, writer, tenure, lambda: False)
        outcomes.committed(
            msgspec.structs.replace(record, state=JobState.SUCCESS, output=made.commit.id, reason=""), tenure
        )
        writer.close()
        return _spent(start, todo + skipped, todo)


def decide(folder: Path, name: str, *, by_names: bool) -> Spent:
    """What of a pipeline's datums is to be done. by_names: hold every one against the ledger, instead of comparing the
    inputs with those of the last job."""
    with opened(folder) as repository:
        head = Registry(repository).get(name)
        outcomes = Outcomes(repository, "bench")
        if by_names:
            outcomes._trees_before = lambda *_: None  # type: ignore[method-assign]  # as after an update of the glob
        last = outcomes.last(head.spec)
        record = _record(repository, head, last)
        start = _now()
        formation = outcomes.start(head.spec, record, last).formation
        todo = skipped = 0
        more = True
        while more:
            batch = formation.batch()
            todo, skipped, more = todo + len(batch.work), skipped + batch.skipped, batch.more
        return _spent(start, todo + skipped, todo)


def _record(repository: Repository, head: PipelineHead, last: JobRecord | None) -> JobRecord:
    def commit_of(repo: str, branch: str) -> Any:
        try:
            return repository.refs.head(repo, branch).commit
        except NotFound:
            return None

    return new_record(head, repository, input_commits(head.spec, commit_of), last, ())


def _done(repository: Repository, writer: BlobWriter, record: JobRecord, datum: Datum, out: Path) -> DatumResult:
    file = out / datum.id
    file.write_bytes(datum.inputs[0].path)
    now = now_ns()
    stats = DatumStats(record.id, DatumState.SUCCESS, 1, now, now, 0, "")
    try:
        return datum_result(repository, writer, datum, stats, None, os.fsencode(out))
    finally:
        file.unlink()


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _spent(start: tuple[float, float], datums: int, todo: int) -> Spent:
    seconds, cpu = (now - then for now, then in zip(_now(), start, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Spent(seconds, cpu, peak, datums, todo)
