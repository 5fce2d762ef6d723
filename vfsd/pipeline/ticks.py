"""The ticks of cron inputs: empty files named by their times, on a branch of the pipeline's own.

The head of that branch says until when ticks are made (BranchHead.ticked), and the compare-and-swap that brings a tick
moves that too. So no tick is made twice, and none is left out: not by a restart, not by two nodes, not by a clock that
is set. Ticks that nobody made when they were due are made up for, all in one commit; with `overwrite`, the last alone.
"""

from __future__ import annotations

from itertools import islice

import msgspec

from vfsd.model.commit import BranchHead
from vfsd.model.entry import EMPTY_FILE, Entry, Kind, directory
from vfsd.model.errors import AlreadyExists, NotFound
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.model.schedule import between, parse_schedule, shown_second
from vfsd.model.spec_input import CronInput
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.directory import lookup
from vfsd.repo.refs import Head
from vfsd.repo.repository import Repository
from vfsd.repo.tree import apply, change_set
from vfsd.repo.writer import BlobWriter

MOST = 10_000  # ticks in one commit


class _AllMade(Exception):
    """No tick is due any more."""


def next_tick(cron: CronInput, ticked: int) -> int | None:
    """When the next tick is due; None for never. ticked: until when they are made."""
    return parse_schedule(cron.spec, ticked).after(ticked)


def due_ticks(cron: CronInput, ticked: int, now: int) -> tuple[int, ...]:
    """The ticks to make at `now`, in order, at most MOST; the last one is until when they are made then."""
    schedule = parse_schedule(cron.spec, ticked)
    if cron.overwrite:
        last = schedule.until(now)
        return () if last is None or last <= ticked else (last,)
    return tuple(islice(between(schedule, ticked, now), MOST))


def make_ticks(repository: Repository, pipeline: str, cron: CronInput, now: int, author: str) -> Head:
    """Make the ticks that are due, up to MOST of them; the head of their branch as it is then. Blocks. NotFound when
    the branch is not the pipeline's any more; whatever the store raises."""
    found = repository.refs.head(cron.repo, DEFAULT_BRANCH)
    times = due_ticks(cron, found.head.ticked, now)

    def look(head: Head) -> None:
        nonlocal found, times
        if head.head.pipeline != pipeline:
            raise NotFound(f"{cron.repo}/{DEFAULT_BRANCH} has the ticks of pipeline {pipeline} no more")
        found, times = head, due_ticks(cron, head.head.ticked, now)
        if not times:
            raise _AllMade

    def mark(head: BranchHead) -> BranchHead:
        return msgspec.structs.replace(head, ticked=times[-1])

    if not times:
        return found
    writer = repository.writer()
    try:
        made = repository.commit(
            cron.repo, DEFAULT_BRANCH, lambda root, sink: _with_ticks(repository, root, times, cron.overwrite, sink),
            writer=writer, message=_message(times), author=author, pipeline=pipeline, head=found, allow_same=True,
            admit=look, mark=mark,
        )  # fmt: skip
    except _AllMade:
        return found  # another node was faster
    finally:
        writer.close()
    assert made is not None
    return made.head


def make_tick_now(repository: Repository, pipeline: str, cron: CronInput, now: int, author: str) -> CommitObject:
    """Make a tick that no schedule asks for. Blocks. AlreadyExists when there is one of this second."""

    def change(root: Entry, writer: BlobWriter) -> Entry:
        name = shown_second(now)
        if lookup(repository.nodes, root.node, name.encode()) is not None:
            raise AlreadyExists(f"{cron.repo}/{DEFAULT_BRANCH} has a tick {name}")
        return _with_ticks(repository, root, (now,), cron.overwrite, writer)

    writer = repository.writer()
    try:
        made = repository.commit(
            cron.repo, DEFAULT_BRANCH, change, writer=writer, message=_message((now,)), author=author,
            pipeline=pipeline,
        )  # fmt: skip
    finally:
        writer.close()
    assert made is not None
    return made.commit


def _with_ticks(
    repository: Repository, root: Entry, times: tuple[int, ...], overwrite: bool, writer: BlobWriter
) -> Entry:
    if overwrite:
        empty = directory(root.name, None)
        root = msgspec.structs.replace(root, node=None, size=empty.size, digest=empty.digest)
    names = ((shown_second(moment).encode(), moment) for moment in times)
    entries = (Entry(name, Kind.FILE, 0o644, root.uid, root.gid, moment, 0, EMPTY_FILE) for name, moment in names)
    return apply(repository.nodes, writer, root, change_set(((entry.name,), entry) for entry in entries))


def _message(times: tuple[int, ...]) -> str:
    last = shown_second(times[-1])
    return f"tick {last}" if len(times) == 1 else f"{len(times)} ticks until {last}"
