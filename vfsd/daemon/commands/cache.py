"""`vfsd cache`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import click

from vfsd.cache.bulk import BulkFetch, Fetched
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.cache.inspection import empty, holding
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import counted, print_fields, print_json, print_line, progress, shown_size
from vfsd.daemon.session import Session, session
from vfsd.daemon.specs import SPEC, Spec, entry_at
from vfsd.model.entry import Chunk, count_below
from vfsd.model.errors import Damaged, NoSpace
from vfsd.repo.tree import chunks_below


@click.group()
def cache() -> None:
    """Look after the data that this node keeps on its disk.

    Where the store is far, data that was read is kept on the local disk, up to `cache_disk` bytes of it. It may be
    dropped at any time.

    \b
    Example:
      vfsd cache status
    """


@cache.command("status", cls=FactsCommand)
@click.pass_obj
def status(invocation: Invocation) -> None:
    """Show what the cache holds, and of what use it is.

    \b
    Example:
      vfsd cache status
    """
    with session(invocation) as opened:
        folder = _folder(opened)
        if folder is None:
            _say_local(
                invocation, opened, folder=None, used=0, limit=0, segments=0, blocks=0, free=None, hit_rate=None
            )
            return
        found = holding(opened.repository.index, folder)
        limit = opened.settings.cache_disk
        if invocation.json:
            print_json({
                "folder": folder, "used": found.used, "limit": limit, "segments": found.segments,
                "blocks": found.blocks, "free": found.free, "hit_rate": found.hit_rate,
            })  # fmt: skip
            return
        rate = "" if found.hit_rate is None else f"{found.hit_rate:.1%} of the bytes that were not in memory"
        print_fields([
            ("folder", folder),
            ("used", f"{shown_size(found.used)} of {shown_size(limit)}"),
            ("free", f"{shown_size(found.free)} on this disk"),
            ("segments", str(found.segments)),
            ("blocks", str(found.blocks)),
            ("hit rate", rate),
        ])


@cache.command("warm", cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.pass_obj
def warm(invocation: Invocation, spec: Spec) -> None:
    """Bring everything at SPEC into the cache.

    Reads what is not there yet with few large requests. It stays longer than what is merely read. Refuses what is
    larger than the cache.

    \b
    Examples:
      vfsd cache warm images/main@v3
      vfsd cache warm images/main/train
    """
    with session(invocation) as opened:
        entry = entry_at(opened.repository, spec.where)
        folder = _folder(opened)
        if folder is None:
            _say_local(invocation, opened, chunks=0, size=0, brought=0, requests=0)
            return
        with (
            closing(_cache(opened, folder)) as chunks,
            closing(BulkFetch(chunks)) as fetcher,
            progress("warm", lambda: max(entry.size, count_below(entry))) as report,
        ):
            room = chunks.room
            if entry.size > room:
                raise NoSpace(
                    f"{spec.text} holds {shown_size(entry.size)}, and the cache has room for {shown_size(room)}:"
                    " name a part of it, or raise cache_disk"
                )
            tally = _Tally()
            found = fetcher.fetch(tally.count(chunks_below(opened.repository.nodes, entry)), warm=True, progress=report)
        if invocation.json:
            print_json({
                "chunks": tally.chunks, "size": tally.size, "brought": found.size, "requests": found.requests,
            })  # fmt: skip
        else:
            print_line(_summary(spec, tally, found))
        if found.problems:
            raise Damaged(f"not all of {spec.text} can be had: {found.problems[0]}")


@cache.command("drop", cls=FactsCommand)
@click.pass_obj
def drop(invocation: Invocation) -> None:
    """Empty the cache.

    May be done while the store is mounted: what is read afterwards comes from the store again.

    \b
    Example:
      vfsd cache drop
    """
    with session(invocation) as opened:
        folder = _folder(opened)
        if folder is None:
            _say_local(invocation, opened, used=0, segments=0, blocks=0)
            return
        found = empty(opened.repository.index, folder)
        if invocation.json:
            print_json({"used": found.used, "segments": found.segments, "blocks": found.blocks})
        else:
            print_line(f"dropped {shown_size(found.used)} in {counted(found.segments, 'segment')}")


class _Tally:
    """What went through."""

    def __init__(self) -> None:
        self.chunks = 0
        self.size = 0

    def count(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self.chunks += 1
            self.size += chunk.size
            yield chunk


def _folder(opened: Session) -> str | None:
    """The cache's folder; None where the store's own files are as near."""
    repository = opened.repository
    return None if repository.store.is_local else opened.settings.cache_folder(repository.format.id)


def _say_local(invocation: Invocation, opened: Session, **facts: object) -> None:
    if invocation.json:
        print_json(facts)
    else:
        print_line(f"{opened.repository.store.url} is on this machine: its own files are read, and nothing is cached")


def _cache(opened: Session, folder: str) -> ChunkCache:
    repository = opened.repository
    return ChunkCache(
        repository.store, repository.index, folder, memory_limit=0, disk_limit=opened.settings.cache_disk
    )


def _summary(spec: Spec, tally: _Tally, found: Fetched) -> str:
    text = f"{spec.text}: {shown_size(tally.size)} in {counted(tally.chunks, 'chunk')} are in the cache"
    if found.requests:
        return f"{text}; {shown_size(found.size)} came now, with {counted(found.requests, 'request')}"
    return f"{text} already"
