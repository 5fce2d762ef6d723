"""`vfsd fsck`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import click

from vfsd.cache.disk import DiskChunks
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, counter, name_facts, print_json, print_line, shown_size
from vfsd.daemon.session import Session, session
from vfsd.daemon.specs import SPEC, Spec
from vfsd.model.commit import decode
from vfsd.model.entry import Chunk, Ref
from vfsd.model.errors import Damaged
from vfsd.model.shown import shown_name
from vfsd.pipeline.records import JobRecord, Standing, pipeline_of_standing
from vfsd.pipeline.registry import PipelineHead, PipelineVersion
from vfsd.repo.affected import Affected, affected
from vfsd.repo.fsck import Findings, FsckResult
from vfsd.repo.fsck import fsck as check_store
from vfsd.repo.mending import Step
from vfsd.repo.repair import Repair
from vfsd.repo.tree_check import BadBlob, Problem


@click.command(cls=FactsCommand)
@click.argument("specs", type=SPEC, metavar="[SPEC...]", nargs=-1)
@click.option("--read-data", is_flag=True, help="Read every byte and compare it with the id that names it.")
@click.option("--repair", is_flag=True, help="Put right what can be put right, and check again.")
@click.option(
    "--rewind", is_flag=True, help="With --repair: move branches whose commit is lost to the newest that is whole."
)
@click.pass_obj
def fsck(invocation: Invocation, specs: tuple[Spec, ...], read_data: bool, repair: bool, rewind: bool) -> None:
    """Check that the store is whole.

    Follows all branches, tags and jobs as they stand now over commits and trees down to the bytes, each once. A line
    says what is wrong with what, and what to do. Without --read-data only the bytes of trees are read, and of files
    it is looked up whether their bytes are there. Changes nothing; may run while others write.

    When something is wrong, it says what --repair would do about it. That takes lost bytes from wherever they still
    are: other objects of the store, this node's index and its cache. So it is worth running on each node. What has no
    copy left is listed by paths, with the commits that have them. Whatever is replaced is kept in the store, below
    aside/. Branches are moved only by --rewind.

    A SPEC checks only a branch with its history, with @REV one commit, or what is at a path.

    Exit code 0: nothing is wrong, or not any more. 1: something is.

    \b
    Examples:
      vfsd fsck
      vfsd fsck --read-data texts/main@v1
      vfsd fsck --read-data --repair
    """
    if rewind and not repair:
        raise click.UsageError("--rewind goes with --repair")
    with session(invocation) as opened:
        run = _Run(invocation, opened, specs, read_data=read_data)
        started = time.monotonic()
        result, findings = run.check()
        again = result
        if result.problems:
            with _local(opened) as local:
                work = Repair(opened.repository, findings, local, run.step, dry_run=not repair, rewind=rewind)
                work.run()
            if repair and run.done:
                run.say("checked again")
                again, findings = run.check(again=True)
            run.tell_lost([blob for blob in work.lost if not repair or blob in _still(work.lost, findings)])
        run.end(result, again, time.monotonic() - started)


class _Run:
    """One run, and what it has to tell."""

    def __init__(
        self, invocation: Invocation, opened: Session, specs: tuple[Spec, ...], *, read_data: bool
    ) -> None:
        self._json = invocation.json
        self._opened = opened
        self._specs = [spec.where for spec in specs]
        self._read_data = read_data
        self._problems: list[Facts] = []
        self._left: list[Facts] = []
        self._steps: list[Facts] = []
        self._lost: list[Facts] = []
        self.done = 0

    def check(self, *, again: bool = False) -> tuple[FsckResult, Findings]:
        """Look at everything; what could be repaired of it."""
        findings = Findings()
        told = self._left if again else self._problems
        with counter() as report:
            result = check_store(
                self._opened.repository, lambda problem: self._problem(problem, told), specs=self._specs,
                read_data=self._read_data, others={"pipelines/": _pipeline_trees, "jobs/": _job_trees},
                progress=report, findings=findings,
            )  # fmt: skip
        return result, findings

    def _problem(self, problem: Problem, told: list[Facts]) -> None:
        where = problem.where.encode(errors="surrogateescape")
        told.append({**name_facts("where", where), "what": problem.what, "remedy": problem.remedy})
        self.say(f"{shown_name(where)}: {problem.what}: {problem.remedy}")

    def step(self, step: Step) -> None:
        """Something was repaired, would be, or cannot be."""
        self.done += step.done
        self._steps.append({"where": step.where, "what": step.what, "done": step.done})
        self.say(f"{'repair' if step.done else 'no repair'}: {step.where} {step.what}")

    def tell_lost(self, blobs: list[BadBlob]) -> None:
        """Which paths in which commits are hit by what is nowhere."""
        for one in affected(self._opened.repository, blobs):
            self._lost.append(_affected_facts(one))
            self.say(f"lost: {shown_name(one.path.encode(errors='surrogateescape'))} {_commits(one)}")

    def say(self, line: str) -> None:
        """At once, and before what is said at the end."""
        if not self._json:
            print_line(line)
            sys.stdout.flush()

    def end(self, result: FsckResult, again: FsckResult, seconds: float) -> None:
        """What came of it. Damaged when something is wrong still."""
        if self._json:
            print_json({
                **_facts(result, seconds), "problems": self._problems, "repairs": self._steps, "left": self._left,
                "lost": self._lost,
            })  # fmt: skip
        elif not again.problems:
            print_line(_summary(again, seconds, read_data=self._read_data))
        if again.problems:
            many = "1 thing is" if again.problems == 1 else f"{again.problems} things are"
            raise Damaged(f"{many} wrong in {self._opened.settings.store}")


@contextmanager
def _local(opened: Session) -> Iterator[Callable[[Chunk], bytes | None]]:
    """What this node has of chunks in its cache on disk."""
    repository, settings = opened.repository, opened.settings
    if repository.store.is_local:
        yield lambda chunk: None
        return
    folder = settings.cache_folder(repository.format.id)
    with closing(DiskChunks(repository.index, folder, settings.cache_disk)) as disk:
        yield disk.read


def _still(lost: list[BadBlob], findings: Findings) -> list[BadBlob]:
    ids = {blob.id for blob in findings.blobs}
    return [blob for blob in lost if blob.id in ids]


def _pipeline_trees(key: str, data: bytes) -> Iterator[tuple[str, Ref]]:
    if pipeline_of_standing(key) is not None:
        decode(data, Standing, key)
    else:
        decode(data, PipelineHead if key.endswith("/head") else PipelineVersion, key)
    return iter(())


def _job_trees(key: str, data: bytes) -> Iterator[tuple[str, Ref]]:
    record = decode(data, JobRecord, key)
    for name, ref in record.trees:
        yield f"{key} ({name})", ref


def _commits(one: Affected) -> str:
    return f"in {one.newest}" if one.commits == 1 else f"in {one.commits} commits, {one.oldest} to {one.newest}"


def _affected_facts(one: Affected) -> Facts:
    path = one.path.encode(errors="surrogateescape")
    return {**name_facts("path", path), "commits": one.commits, "oldest": one.oldest, "newest": one.newest}


def _facts(result: FsckResult, seconds: float) -> Facts:
    return {
        "refs": result.refs, "commits": result.commits, "nodes": result.nodes, "chunks": result.chunks,
        "bytes": result.bytes, "seconds": round(seconds, 3),
    }  # fmt: skip


def _summary(result: FsckResult, seconds: float, *, read_data: bool) -> str:
    chunks = "chunks" if read_data else "pointers to chunks"
    return (
        f"nothing is wrong: {result.refs} refs, {result.commits} commits, {result.nodes} tree nodes, {result.chunks}"
        f" {chunks}, {shown_size(result.bytes)} read in {seconds:.1f} s"
    )
