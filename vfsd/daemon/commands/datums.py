"""`vfsd datum`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import (
    Facts,
    counted,
    name_facts,
    print_fields,
    print_json,
    print_json_list,
    print_table,
    short,
    shown_size,
    shown_time,
)
from vfsd.daemon.session import session
from vfsd.model.datum import DatumInput
from vfsd.model.entry import count_below
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_name, shown_text
from vfsd.pipeline.ledger import LedgerDatum, LedgerReader, find_datum, job_datums
from vfsd.pipeline.records import JobRecords


@click.group()
def datum() -> None:
    """List and inspect the datums of a job.

    A datum is one match of a pipeline's glob: what one run of its command works on.

    \b
    Example:
      vfsd datum list 3fa9
    """


@datum.command("list", cls=FactsCommand)
@click.argument("job_id", metavar="JOB")
@click.pass_obj
def list_(invocation: Invocation, job_id: str) -> None:
    """List the datums of a job, those first that ended last.

    Of a job in flight, and of one that was stopped, as far as they are known.

    \b
    Example:
      vfsd datum list 3fa9
    """
    with session(invocation) as opened:
        record = JobRecords(opened.repository).find(job_id)
        reader = LedgerReader(opened.repository)
        found = sorted(job_datums(opened.repository, record), key=lambda one: (-one.finished, one.id))
        if invocation.json:
            print_json_list(_facts(reader, one) for one in found)
        else:
            rows = ((short(one.id), one.state.value, shown_time(one.finished), _shown(reader, one)) for one in found)
            print_table(("datum", "state", "finished", "inputs"), rows)


@datum.command("inspect", cls=FactsCommand)
@click.argument("job_id", metavar="JOB")
@click.argument("datum_id", metavar="DATUM")
@click.pass_obj
def inspect(invocation: Invocation, job_id: str, datum_id: str) -> None:
    """Show a datum: what it read, which job ran it and how that ended.

    \b
    Example:
      vfsd datum inspect 3fa9 07c1
    """
    with session(invocation) as opened:
        record = JobRecords(opened.repository).find(job_id)
        found = find_datum(opened.repository, record, datum_id)
        reader = LedgerReader(opened.repository)
        stats = reader.stats(found.entry)
        output = reader.output(found.entry)
        if invocation.json:
            print_json({
                **_facts(reader, found),
                "job": stats.job,
                "started": rfc3339(stats.started),
                "attempts": stats.attempts,
                "exit_code": stats.exit_code,
                "reason": stats.reason,
                "output": None if output is None else {"files": count_below(output), "size": output.size},
            })
            return
        print_fields([
            ("datum", found.id),
            ("state", found.state.value),
            ("reason", shown_text(stats.reason)),
            ("run by job", stats.job),
            ("attempts", str(stats.attempts)),
            ("exit code", "" if stats.exit_code is None else str(stats.exit_code)),
            ("started", rfc3339(stats.started)),
            ("finished", rfc3339(stats.finished)),
            *(("read", _shown_input(one)) for one in reader.inputs(found.entry)),
            ("wrote", "" if output is None else f"{counted(count_below(output), 'file')}, {shown_size(output.size)}"),
        ])


def _facts(reader: LedgerReader, one: LedgerDatum) -> Facts:
    return {
        "id": one.id,
        "state": one.state.value,
        "finished": rfc3339(one.finished),
        "inputs": [
            {
                "name": read.name, "repo": read.repo, "branch": read.branch, "commit": read.commit,
                **name_facts("path", read.path), "size": read.size, "digest": read.digest.hex(),
            }
            for read in reader.inputs(one.entry)
        ],
    }  # fmt: skip


def _shown(reader: LedgerReader, one: LedgerDatum) -> str:
    return " + ".join(f"{read.name}:{shown_name(read.path)}" for read in reader.inputs(one.entry))


def _shown_input(one: DatumInput) -> str:
    return f"{one.repo}/{one.branch}@{one.commit}{shown_name(one.path)} as {one.name} ({shown_size(one.size)})"
