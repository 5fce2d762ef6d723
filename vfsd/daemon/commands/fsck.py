"""`vfsd fsck`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, counter, name_facts, print_json, print_line, shown_name, shown_size
from vfsd.daemon.session import session
from vfsd.daemon.specs import SPEC, Spec
from vfsd.model.commit import decode
from vfsd.model.entry import Ref
from vfsd.model.errors import Damaged
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.registry import PipelineHead, PipelineVersion
from vfsd.repo.fsck import FsckResult
from vfsd.repo.fsck import fsck as check_store
from vfsd.repo.tree_check import Problem


@click.command(cls=FactsCommand)
@click.argument("specs", type=SPEC, metavar="[SPEC...]", nargs=-1)
@click.option("--read-data", is_flag=True, help="Read every byte and compare it with the id that names it.")
@click.pass_obj
def fsck(invocation: Invocation, specs: tuple[Spec, ...], read_data: bool) -> None:
    """Check that the store is whole.

    Follows all branches, tags and jobs as they stand now over commits and trees down to the bytes, each once. A line
    says what is wrong with what, and what to do. Without --read-data only the bytes of trees are read, and of files
    it is looked up whether their bytes are there. Changes nothing; may run while others write.

    A SPEC checks only a branch with its history, with @REV one commit, or what is at a path.

    \b
    Examples:
      vfsd fsck
      vfsd fsck --read-data texts/main@v1
    """
    found: list[Facts] = []

    def tell(problem: Problem) -> None:
        where = problem.where.encode(errors="surrogateescape")
        if invocation.json:
            found.append({**name_facts("where", where), "what": problem.what, "remedy": problem.remedy})
        else:
            print_line(f"{shown_name(where)}: {problem.what}: {problem.remedy}")
            sys.stdout.flush()  # at once, and before what is said at the end

    with session(invocation) as opened:
        started = time.monotonic()
        with counter() as report:
            result = check_store(
                opened.repository, tell, specs=[spec.where for spec in specs], read_data=read_data,
                others={"pipelines/": _pipeline_trees, "jobs/": _job_trees}, progress=report,
            )  # fmt: skip
        seconds = time.monotonic() - started
        if invocation.json:
            print_json(_facts(result, seconds, found))
        elif not result.problems:
            print_line(_summary(result, seconds, read_data=read_data))
        if result.problems:
            many = "1 thing is" if result.problems == 1 else f"{result.problems} things are"
            raise Damaged(f"{many} wrong in {opened.settings.store}")


def _pipeline_trees(key: str, data: bytes) -> Iterator[tuple[str, Ref]]:
    decode(data, PipelineHead if key.endswith("/head") else PipelineVersion, key)
    return iter(())


def _job_trees(key: str, data: bytes) -> Iterator[tuple[str, Ref]]:
    record = decode(data, JobRecord, key)
    for name, ref in (("ledger", record.ledger), ("failed", record.failed)):
        if ref is not None:
            yield f"{key} ({name})", ref


def _facts(result: FsckResult, seconds: float, problems: list[Facts]) -> Facts:
    return {
        "refs": result.refs, "commits": result.commits, "nodes": result.nodes, "chunks": result.chunks,
        "bytes": result.bytes, "seconds": round(seconds, 3), "problems": problems,
    }  # fmt: skip


def _summary(result: FsckResult, seconds: float, *, read_data: bool) -> str:
    chunks = "chunks" if read_data else "pointers to chunks"
    return (
        f"nothing is wrong: {result.refs} refs, {result.commits} commits, {result.nodes} tree nodes, {result.chunks}"
        f" {chunks}, {shown_size(result.bytes)} read in {seconds:.1f} s"
    )
