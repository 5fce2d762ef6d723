"""`vfsd job`. What is in flight is read from this node's index, what has ended from there or from the store."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

import click

from vfsd.daemon import control
from vfsd.daemon.following import FOLLOW_S, Following
from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import (
    Facts,
    Table,
    counted,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    short,
    shown_time,
)
from vfsd.daemon.session import Session, session
from vfsd.model.datum import DatumState
from vfsd.model.errors import InvalidArgument, Refused, Unavailable, VfsdError
from vfsd.model.job import JobState
from vfsd.model.names import check_label
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_text
from vfsd.pipeline.lease import PREFIX as RUNNERS
from vfsd.pipeline.ledger import LedgerReader, find_datum, job_datums
from vfsd.pipeline.records import JobRecord, JobRecords, input_commits, is_current
from vfsd.pipeline.registry import PipelineState, Registry
from vfsd.repo.repository import now_ns

LOOK_S = 0.02  # seconds between two looks at whether the index has changed, which costs microseconds
ASK_S = 1.0  # seconds between two looks at the store, and at whether anything runs pipelines
_TITLES = ("job", "pipeline", "state", ">ran", ">skipped", ">failed", ">datums", "created", ">took", "reason")
_WIDEST = ("", "some-pipeline", max(JobState, key=len), "10000", "skipped", "failed", "datums", "", "1000.00 s", "")


@click.group()
def job() -> None:
    """List, inspect, await and stop jobs.

    A job is one run of a pipeline over one commit of its input. The beginning of an id names a job.

    \b
    Example:
      vfsd job list wordcount
    """


@job.command("list", cls=FactsCommand)
@click.argument("pipeline", metavar="[PIPELINE]", required=False)
@click.option("--watch", is_flag=True, help="Go on with a line for each job that is new or has changed.")
@click.pass_obj
def list_(invocation: Invocation, pipeline: str | None, watch: bool) -> None:
    """List the jobs of a pipeline, or of all, newest first.

    With --watch the command goes on until it is interrupted, the newest last; with --json each line is a job then.

    \b
    Examples:
      vfsd job list wordcount
      vfsd job list --watch
    """
    with session(invocation) as opened:
        records = JobRecords(opened.repository)
        if pipeline is not None and records.newest(check_label("pipeline", pipeline)) is None:
            Registry(opened.repository).get(pipeline)
        if watch:
            _watch(records, pipeline, invocation.json)
        found = records.known(pipeline)
        if invocation.json:
            print_json_list(map(job_facts, found))
        else:
            print_table(_TITLES, map(_row, found))


@job.command("inspect", cls=FactsCommand)
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def inspect(invocation: Invocation, job_id: str) -> None:
    """Show a job: what it read, what it made, and how its datums ended.

    \b
    Example:
      vfsd job inspect 3fa9
    """
    with session(invocation) as opened:
        record = JobRecords(opened.repository).find(job_id)
        if invocation.json:
            print_json(job_facts(record))
            return
        counts = record.datums
        print_fields([
            ("job", record.id),
            ("pipeline", f"{record.pipeline}, version {record.version}"),
            ("state", record.state.value),
            ("reason", shown_text(record.reason)),
            ("global id", record.global_id),
            *(("input", f"{edge.repo}/{edge.branch}@{edge.commit} as {edge.name}") for edge in record.inputs),
            ("output", record.output or ""),
            ("created", rfc3339(record.created)),
            ("finished", rfc3339(record.finished) if record.finished else ""),
            ("took", _took(record)),
            ("datums", f"{counts.total}: {counts.success} ran, {counts.skipped} skipped, {counts.failed} failed"),
        ])


@job.command("wait", cls=FactsCommand)
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--pipeline", metavar="PIPELINE", help="Until it and all that it reads from have nothing left to do.")
@click.pass_obj
def wait(invocation: Invocation, job_id: str | None, pipeline: str | None) -> None:
    """Wait for a job to end, or for a pipeline to have worked on all that was committed.

    Fails when the job, or a job of one of the pipelines, did not succeed; and when nothing runs pipelines here, so that
    waiting would be in vain.

    \b
    Examples:
      vfsd job wait 3fa9
      vfsd job wait --pipeline merge
    """
    if (job_id is None) == (pipeline is None):
        raise click.UsageError("name a JOB, or a pipeline by --pipeline")
    with session(invocation) as opened:
        waiting = _Waiting(opened)
        record = waiting.for_job(job_id) if job_id is not None else waiting.for_pipeline(str(pipeline))
        ok = record is None or record.state is JobState.SUCCESS
        if invocation.json:
            print_json({"id": None, "pipeline": pipeline, "state": None} if record is None else job_facts(record))
        elif record is None:
            print_line(f"pipeline {pipeline} has nothing to do: its input has no commits")
        elif ok:
            print_line(f"job {short(record.id)} of pipeline {record.pipeline}: success, {_shown_counts(record)}")
    if record is not None and not ok:
        raise VfsdError(f"job {short(record.id)} of pipeline {record.pipeline}: {record.state.value}: {record.reason}")


@job.command("logs", cls=StoreCommand)
@click.argument("job_id", metavar="JOB")
@click.option("--datum", metavar="DATUM", help="Of this datum alone, also when the job skipped it.")
@click.option("--follow", is_flag=True, help="Go on until the job has ended; running datums too.")
@click.pass_obj
def logs(invocation: Invocation, job_id: str, datum: str | None, follow: bool) -> None:
    """Write what the commands of a job printed to standard output.

    Of each datum that ran and printed something, behind a line that names it. Of a job in flight, those that ended and,
    as far as they are, those that run on this node; with --follow what comes then, too. Of a service or spout the last
    output, 512 KiB or more.

    \b
    Examples:
      vfsd job logs 3fa9
      vfsd job logs 3fa9 --datum 07c1
      vfsd job logs 3fa9 --follow
    """
    with session(invocation) as opened:
        record = JobRecords(opened.repository).find(job_id)
        if not record.finished:
            following = Following(opened, record, datum or "")
            while following.look() and follow:
                time.sleep(FOLLOW_S)
            return
        reader = LedgerReader(opened.repository)
        sys.stdout.flush()
        out = sys.stdout.buffer
        if datum is not None:
            for piece in reader.log(find_datum(opened.repository, record, datum).entry):
                out.write(piece)
        else:
            for one in job_datums(opened.repository, record):
                if one.state is not DatumState.SKIPPED:
                    for number, piece in enumerate(reader.log(one.entry)):
                        if not number:
                            out.write(f"==> {reader.shown(one.entry)} ({one.state.value}, {short(one.id)})\n".encode())
                        out.write(piece)
        out.flush()


@job.command("stop", cls=StoreCommand)
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def stop(invocation: Invocation, job_id: str) -> None:
    """End a job. What its datums did is kept, and not done again by the next.

    \b
    Example:
      vfsd job stop 3fa9
    """
    with session(invocation) as opened:
        record = JobRecords(opened.repository).find(job_id)
        if record.finished:
            when = shown_time(record.finished)
            raise Refused(errno.EINVAL, f"job {short(record.id)} has ended already, at {when}: {record.state.value}")
        Registry(opened.repository).stop_job(record.pipeline, record.id)


@job.command("rerun", cls=StoreCommand)
@click.argument("job_id", metavar="JOB")
@click.option("--failed", is_flag=True, help="Only those that are not done; without it, all datums run again.")
@click.option("--datum", "datums", metavar="DATUM", multiple=True, help="Only this one; may be given several times.")
@click.pass_obj
def rerun(invocation: Invocation, job_id: str, failed: bool, datums: tuple[str, ...]) -> None:
    """Run datums of a job again, in a new job of its pipeline.

    The new job is over what the input branches hold now, by the spec in force; a datum of JOB that is none any more is
    passed over. What the datums had written is replaced.

    \b
    Examples:
      vfsd job rerun 3fa9
      vfsd job rerun 3fa9 --failed
      vfsd job rerun 3fa9 --datum 07c1 --datum b2
    """
    if failed and datums:
        raise click.UsageError("give --failed or --datum")
    with session(invocation) as opened:
        record = JobRecords(opened.repository).find(job_id)
        if not record.finished:
            raise Refused(errno.EBUSY, f"job {short(record.id)} still runs: `vfsd job stop {short(record.id)}` ends it")
        redo = tuple(find_datum(opened.repository, record, prefix).id for prefix in datums)
        Registry(opened.repository).run(record.pipeline, again=not failed and not redo, redo=redo)


class _Waiting:
    """Waits for jobs by looking at the index, which whoever runs pipelines on this node writes."""

    def __init__(self, opened: Session) -> None:
        self._settings = opened.settings
        self._repository = opened.repository
        self._records = JobRecords(opened.repository)
        self._registry = Registry(opened.repository)

    def for_job(self, prefix: str) -> JobRecord:
        """The job once it has ended."""
        record = self._records.find(prefix)
        looks = self._looks()
        while not record.finished:
            next(looks)
            record = self._records.again(record)
        return record

    def for_pipeline(self, name: str) -> JobRecord | None:
        """The last job of a pipeline once there is nothing left to do for it, or one that keeps it from that by having
        failed; None when its input has no commits."""
        looks = self._looks()
        while True:
            done, record = self._standing(name)
            if done:
                return record
            next(looks)

    def _standing(self, name: str) -> tuple[bool, JobRecord | None]:
        head = self._registry.get(name)
        if head.spec.is_lasting:
            raise InvalidArgument(f"pipeline {name} is a {head.spec.kind}, which goes on until it is stopped")
        for repo in dict.fromkeys(pfs.repo for pfs in head.spec.pfs_inputs()):
            upstream = self._registry.find(repo)
            if upstream is not None and not upstream.spec.is_lasting:
                done, record = self._standing(repo)
                if not done or (record is not None and record.state is not JobState.SUCCESS and record.output is None):
                    return done, record
        inputs = input_commits(head.spec, lambda repo, branch: self._repository.refs.head(repo, branch).commit)
        newest = self._records.newest(name)
        works = newest is not None and not newest.finished
        if not works and is_current(newest, head, inputs):
            return True, newest if inputs else None
        if head.state is PipelineState.STOPPED and not works:
            raise InvalidArgument(f"pipeline {name} is stopped: `vfsd pipeline start {name}` starts it")
        return False, None

    def _looks(self) -> Iterator[None]:
        """Ends its turns when there may be something new; Unavailable when there will never be."""
        seen = self._repository.index.data_version()
        while True:
            here = control.ask(control.socket_path(self._settings.node_dir(self._repository.format.id)), "status")
            elsewhere = next(self._repository.store.list(RUNNERS), None)
            if elsewhere is None and (here is None or here["sandbox"] is None):
                raise Unavailable("nothing runs the pipelines of this store: `vfsd mount` does")
            until = time.monotonic() + ASK_S
            while (now := self._repository.index.data_version()) == seen and time.monotonic() < until:
                time.sleep(LOOK_S)
            seen = now
            yield


def _watch(records: JobRecords, pipeline: str | None, as_json: bool) -> NoReturn:
    seen: dict[str, JobRecord] = {}
    table = Table(_TITLES, _WIDEST)
    while True:
        changed = [record for record in reversed(records.known(pipeline)) if seen.get(record.id) != record]
        seen.update((record.id, record) for record in changed)
        if as_json:
            for record in changed:
                print_json(job_facts(record))
        else:
            table.print([_row(record) for record in changed])
        sys.stdout.flush()
        time.sleep(ASK_S)


def job_facts(record: JobRecord) -> Facts:
    """A job in JSON."""
    counts = record.datums
    return {
        "id": record.id,
        "pipeline": record.pipeline,
        "version": record.version,
        "state": record.state.value,
        "reason": record.reason,
        "global_id": record.global_id,
        "inputs": [
            {"repo": edge.repo, "branch": edge.branch, "commit": edge.commit, "name": edge.name}
            for edge in record.inputs
        ],
        "output": record.output,
        "created": rfc3339(record.created),
        "started": rfc3339(record.started) if record.started else None,
        "finished": rfc3339(record.finished) if record.finished else None,
        "datums": {
            "total": counts.total,
            "success": counts.success,
            "skipped": counts.skipped,
            "failed": counts.failed,
            "recovered": counts.recovered,
        },
    }


def _row(record: JobRecord) -> tuple[str, ...]:
    counts = record.datums
    return (
        short(record.id), record.pipeline, record.state.value, str(counts.success), str(counts.skipped),
        str(counts.failed), str(counts.total), shown_time(record.created), _took(record), shown_text(record.reason),
    )  # fmt: skip


def _shown_counts(record: JobRecord) -> str:
    counts = record.datums
    return f"{counted(counts.success, 'datum')} ran, {counts.skipped} skipped"


def _took(record: JobRecord) -> str:
    return f"{((record.finished or now_ns()) - record.created) / 1e9:.2f} s"
