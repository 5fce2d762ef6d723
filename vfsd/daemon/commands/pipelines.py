"""`vfsd pipeline`. These commands change what the store says of a pipeline; whoever runs pipelines follows it."""

from __future__ import annotations

import os
import sys

import click
import msgspec

from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import (
    Facts,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    short,
    shown_text,
    shown_time,
)
from vfsd.daemon.session import session
from vfsd.model.errors import InvalidArgument
from vfsd.model.pipeline_spec import PipelineSpec, parse_specs
from vfsd.model.rev import rfc3339
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import PipelineHead, PipelineState, Registry
from vfsd.repo.ingest import local_errors
from vfsd.repo.repository import now_ns

_FILE = click.option(
    "-f", "--file", "path", metavar="FILE", required=True, type=click.Path(),
    help="The spec, or several: JSON or YAML; - for standard input.",
)  # fmt: skip


@click.group()
def pipeline() -> None:
    """Create, change, list and delete pipelines.

    A pipeline runs a command over each piece of a branch, and keeps what it wrote in a repo of its own name.

    \b
    Example:
      vfsd pipeline create -f wordcount.json
    """


@pipeline.command("create", cls=FactsCommand)
@_FILE
@click.pass_obj
def create(invocation: Invocation, path: str) -> None:
    """Create pipelines with their output repos.

    Work begins at once where the input branch has a commit. Users cannot write to the output branch.

    \b
    Examples:
      vfsd pipeline create -f wordcount.json
      vfsd pipeline create -f - < all.yaml
    """
    specs = _read_specs(path)
    with session(invocation) as opened:
        registry = Registry(opened.repository)
        made = [registry.create(spec, now_ns()) for spec in specs]
        _print_changed(invocation, made, "created")


@pipeline.command("update", cls=FactsCommand)
@_FILE
@click.pass_obj
def update(invocation: Invocation, path: str) -> None:
    """Give pipelines new specs.

    A job that runs is ended. What the new command computes is computed anew for every datum; where command,
    environment and salt are the same, done datums are skipped. An equal spec changes nothing.

    \b
    Example:
      vfsd pipeline update -f wordcount.json
    """
    specs = _read_specs(path)
    with session(invocation) as opened:
        registry = Registry(opened.repository)
        for spec in specs:
            registry.get(spec.name)  # all of them are there before the first is changed
        made = [registry.update(spec, now_ns()) for spec in specs]
        _print_changed(invocation, made, "updated")


@pipeline.command("list", cls=FactsCommand)
@click.pass_obj
def list_(invocation: Invocation) -> None:
    """List all pipelines, newest first, with how their last jobs stand.

    \b
    Example:
      vfsd pipeline list
    """
    with session(invocation) as opened:
        records = JobRecords(opened.repository)
        heads = sorted(Registry(opened.repository).all(), key=lambda head: (-head.created, head.name))
        found = [(head, records.newest(head.name)) for head in heads]
        if invocation.json:
            print_json_list(_facts(*item) for item in found)
        else:
            titles = ("pipeline", ">version", "state", "input", "last job", "its state", "created")
            print_table(titles, (_row(*item) for item in found))


@pipeline.command("inspect", cls=FactsCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def inspect(invocation: Invocation, name: str) -> None:
    """Show a pipeline, its spec and its last job.

    \b
    Example:
      vfsd pipeline inspect wordcount
    """
    with session(invocation) as opened:
        head = Registry(opened.repository).get(name)
        last = JobRecords(opened.repository).newest(name)
        if invocation.json:
            print_json({**_facts(head, last), "spec": msgspec.to_builtins(head.spec)})
            return
        print_fields([
            ("pipeline", head.name),
            ("version", str(head.version)),
            ("state", head.state.value),
            ("description", shown_text(head.spec.description)),
            ("input", _shown_input(head.spec)),
            ("output", _output(head.spec)),
            ("created", rfc3339(head.created)),
            ("updated", rfc3339(head.updated)),
            ("last job", f"{last.id}  {last.state.value}" if last else ""),
        ])
        print_line()
        spec = msgspec.json.encode({key: value for key, value in msgspec.to_builtins(head.spec).items() if value})
        print_line(msgspec.json.format(spec, indent=2).decode())


@pipeline.command("delete", cls=StoreCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def delete(invocation: Invocation, name: str) -> None:
    """Delete a pipeline; what it wrote stays.

    Its output becomes ordinary data that users may change; `vfsd repo delete` deletes that too. A job that runs is
    ended. Refused while another pipeline reads the output.

    \b
    Example:
      vfsd pipeline delete wordcount
    """
    with session(invocation) as opened:
        Registry(opened.repository).delete(name)


@pipeline.command("start", cls=StoreCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def start(invocation: Invocation, name: str) -> None:
    """Let a stopped pipeline work again, on the newest commit of its input.

    \b
    Example:
      vfsd pipeline start wordcount
    """
    with session(invocation) as opened:
        Registry(opened.repository).set_state(name, PipelineState.RUNNING)


@pipeline.command("stop", cls=StoreCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def stop(invocation: Invocation, name: str) -> None:
    """Let a pipeline begin no more jobs.

    One that runs goes on to its end; `vfsd job stop` ends it.

    \b
    Example:
      vfsd pipeline stop wordcount
    """
    with session(invocation) as opened:
        Registry(opened.repository).set_state(name, PipelineState.STOPPED)


@pipeline.command("run", cls=StoreCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def run(invocation: Invocation, name: str) -> None:
    """Ask for a job over the newest commit of the input, also when there was one already.

    Done datums are skipped, failed ones tried again. Where nothing runs pipelines now, the job waits until something
    does.

    \b
    Example:
      vfsd pipeline run wordcount
    """
    with session(invocation) as opened:
        Registry(opened.repository).run(name)


def _read_specs(path: str) -> tuple[PipelineSpec, ...]:
    """The specs of a file; its warnings go to standard error."""
    where = "standard input" if path == "-" else path
    try:
        if path == "-":
            text = sys.stdin.buffer.read().decode()
        else:
            with local_errors(os.fsencode(path)), open(path, encoding="utf-8", newline="") as file:
                text = file.read()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{where}: byte {error.start} is not UTF-8") from None
    parsed = parse_specs(text, where)
    for warning in parsed.warnings:
        click.echo(f"vfsd: warning: {shown_text(warning)}", err=True)
    return parsed.specs


def _print_changed(invocation: Invocation, heads: list[PipelineHead], done: str) -> None:
    if invocation.json:
        print_json_list(_facts(head, None) for head in heads)
        return
    for head in heads:
        way = f"{_shown_input(head.spec)} -> {_output(head.spec)}"
        print_line(f"{done} pipeline {head.name}, version {head.version}: {way}")


def _shown_input(spec: PipelineSpec) -> str:
    pfs = spec.input.pfs
    return f"{pfs.repo}/{pfs.branch}:{shown_text(pfs.glob)}"


def _output(spec: PipelineSpec) -> str:
    return f"{spec.name}/{spec.output_branch}"


def _facts(head: PipelineHead, last: JobRecord | None) -> Facts:
    pfs = head.spec.input.pfs
    return {
        "id": head.name,
        "version": head.version,
        "state": head.state.value,
        "description": head.spec.description,
        "created": rfc3339(head.created),
        "updated": rfc3339(head.updated),
        "input": {"repo": pfs.repo, "branch": pfs.branch, "name": pfs.name, "glob": pfs.glob},
        "output": {"repo": head.name, "branch": head.spec.output_branch},
        "job": None if last is None else {"id": last.id, "state": last.state.value, "reason": last.reason},
    }


def _row(head: PipelineHead, last: JobRecord | None) -> tuple[str, ...]:
    return (
        head.name, str(head.version), head.state.value, _shown_input(head.spec), short(last.id if last else None),
        last.state.value if last else "-", shown_time(head.created),
    )  # fmt: skip
