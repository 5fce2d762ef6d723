"""`vfsd pipeline`. These commands change what the store says of a pipeline; whoever runs pipelines follows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import click
import msgspec

from vfsd.daemon.commands.drawing import draw
from vfsd.daemon.commands.ticking import run_cron
from vfsd.daemon.commands.triggering import shown_trigger, trigger_facts
from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.output import (
    Facts,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    short,
    shown_time,
)
from vfsd.daemon.session import session
from vfsd.model.errors import InvalidArgument
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.rev import rfc3339
from vfsd.model.schedule import shown_second
from vfsd.model.shown import shown_text
from vfsd.model.spec_input import Input
from vfsd.model.spec_lasting import Service
from vfsd.model.spec_reader import parse_specs
from vfsd.model.spec_schema import spec_schema
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import PipelineHead, PipelineState, Registry
from vfsd.pipeline.ticks import next_tick
from vfsd.repo.ingest import local_errors
from vfsd.repo.repository import Repository, now_ns

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


pipeline.add_command(draw)
pipeline.add_command(run_cron)


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
        _change(invocation, specs, Registry(opened.repository).create, "created")


@pipeline.command("update", cls=FactsCommand)
@_FILE
@click.option("--reprocess", is_flag=True, help="Run all datums once more, also those that are done.")
@click.pass_obj
def update(invocation: Invocation, path: str, reprocess: bool) -> None:
    """Give pipelines new specs.

    A job that runs is ended. What the new command computes is computed anew for every datum; where command,
    environment and salt are the same, done datums are skipped. An equal spec changes nothing.

    \b
    Examples:
      vfsd pipeline update -f wordcount.json
      vfsd pipeline update -f wordcount.json --reprocess
    """
    specs = _read_specs(path)
    if reprocess:
        for spec in specs:
            if spec.salt:
                raise InvalidArgument(f"--reprocess: pipeline {spec.name} has a salt: change that in its spec instead")
        specs = tuple(msgspec.structs.replace(spec, reprocess=True) for spec in specs)
    with session(invocation) as opened:
        registry = Registry(opened.repository)
        for spec in specs:
            registry.get(spec.name)  # all of them are there before the first is changed
        _change(invocation, specs, registry.update, "updated")


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
            titles = ("pipeline", ">version", "kind", "state", "input", "last job", "its state", "created")
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
        ticks = _next_ticks(opened.repository, head)
        if invocation.json:
            print_json({
                **_facts(head, last), "ticks": [{"repo": repo, "next": moment} for repo, moment in ticks],
                "spec": head.spec.shown(),
            })  # fmt: skip
            return
        print_fields([
            ("pipeline", head.name),
            ("version", str(head.version)),
            ("kind", head.spec.kind),
            ("state", head.state.value),
            ("description", shown_text(head.spec.description)),
            ("input", _shown_input(head.spec)),
            ("output", _output(head.spec)),
            ("created", rfc3339(head.created)),
            ("updated", rfc3339(head.updated)),
            ("last job", f"{last.id}  {last.state.value}" if last else ""),
            *(("next tick", f"{repo}  {moment or 'never'}") for repo, moment in ticks),
        ])
        print_line()
        spec = msgspec.json.encode({key: value for key, value in head.spec.shown().items() if value})
        print_line(msgspec.json.format(spec, indent=2).decode())


@pipeline.command("schema")
def schema() -> None:
    """Print the JSON Schema of specs.

    An editor that has it completes field names and marks what is wrong while a spec is written. It needs no store.

    \b
    Example:
      vfsd pipeline schema > pipeline.schema.json
    """
    print_line(msgspec.json.format(msgspec.json.encode(spec_schema())).decode())


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


@pipeline.command("restart", cls=StoreCommand)
@click.argument("name", metavar="PIPELINE")
@click.pass_obj
def restart(invocation: Invocation, name: str) -> None:
    """End the job that runs, if any, and begin another.

    What its datums did is kept, and not done again. A stopped pipeline is to be started first.

    \b
    Example:
      vfsd pipeline restart wordcount
    """
    with session(invocation) as opened:
        registry = Registry(opened.repository)
        newest = JobRecords(opened.repository).newest(registry.get(name).name)
        stop = newest.id if newest is not None and not newest.finished else None
        registry.run(name, stop=stop)


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


def _change(
    invocation: Invocation, specs: tuple[PipelineSpec, ...], change: Callable[[PipelineSpec, int], PipelineHead],
    done: str,
) -> None:  # fmt: skip
    """Change one pipeline after the other, and say which are changed, also when one of them fails."""
    heads: list[tuple[PipelineHead, bool]] = []  # and whether it is another one now
    try:
        for spec in specs:
            now = now_ns()
            head = change(spec, now)
            heads.append((head, head.updated == now))
    finally:
        if heads:
            _print_changed(invocation, heads, done)


def _print_changed(invocation: Invocation, heads: list[tuple[PipelineHead, bool]], done: str) -> None:
    if invocation.json:
        print_json_list(_facts(head, None) for head, _ in heads)
        return
    for head, is_new in heads:
        what = f"{done} pipeline {head.name}" if is_new else f"pipeline {head.name} is as it was"
        print_line(f"{what}, version {head.version}: {_shown_input(head.spec)} -> {_output(head.spec)}")


def _shown_input(spec: PipelineSpec) -> str:
    return _shown(spec.input)


def _shown(one: Input) -> str:
    """An input in one line: `cross(texts/main:/*, labels/main:/)`."""
    if one.pfs is not None:
        trigger = f" on {shown_trigger(one.pfs.trigger)}" if one.pfs.trigger else ""
        return f"{one.pfs.repo}/{one.pfs.branch}:{shown_text(one.pfs.glob)}{trigger}"
    if one.cron is not None:
        return f"cron({one.cron.spec})"
    return f"{one.kind}({', '.join(map(_shown, one.parts))})" if one.kind else "nothing"


def _next_ticks(repository: Repository, head: PipelineHead) -> list[tuple[str, str | None]]:
    """The repo of each cron input, and when its next tick is due; None for never."""
    found: list[tuple[str, str | None]] = []
    for cron in head.spec.cron_inputs():
        ticked = repository.refs.head(cron.repo, DEFAULT_BRANCH).head.ticked
        moment = next_tick(cron, ticked) if head.state is PipelineState.RUNNING else None
        found.append((cron.repo, None if moment is None else shown_second(moment)))
    return found


def _output(spec: PipelineSpec) -> str:
    """Where it writes, and where it is reached."""
    ports = [] if spec.port is None else [port_text(spec.port)]
    branches = [] if spec.kind == "service" else [f"{spec.name}/{spec.output_branch}"]
    return " and ".join(branches + ports)


def port_text(port: Service) -> str:
    """An address and port as URLs have them."""
    ip, number = port.place
    return f"[{ip}]:{number}" if ":" in ip else f"{ip}:{number}"


def _facts(head: PipelineHead, last: JobRecord | None) -> Facts:
    schedules = {cron.repo: cron.spec for cron in head.spec.cron_inputs()}
    return {
        "id": head.name,
        "version": head.version,
        "kind": head.spec.kind,
        "state": head.state.value,
        "description": head.spec.description,
        "created": rfc3339(head.created),
        "updated": rfc3339(head.updated),
        "inputs": [
            {
                "repo": pfs.repo, "branch": pfs.branch, "name": pfs.name, "glob": pfs.glob,
                "schedule": schedules.get(pfs.repo), "trigger": trigger_facts(pfs.trigger),
            }
            for pfs in head.spec.pfs_inputs()
        ],
        "output": {"repo": head.name, "branch": head.spec.output_branch},
        "port": None if head.spec.port is None else port_text(head.spec.port),
        "job": None if last is None else {"id": last.id, "state": last.state.value, "reason": last.reason},
    }


def _row(head: PipelineHead, last: JobRecord | None) -> tuple[str, ...]:
    return (
        head.name, str(head.version), head.spec.kind, head.state.value, _shown_input(head.spec),
        short(last.id if last else None), last.state.value if last else "-", shown_time(head.created),
    )  # fmt: skip
