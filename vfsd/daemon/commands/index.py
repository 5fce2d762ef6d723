"""`vfsd index`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import counter, print_fields, print_json, print_line
from vfsd.daemon.session import opened_store, settings_for
from vfsd.index.index import Index, set_aside
from vfsd.model.commit import StoreFormat
from vfsd.model.errors import Damaged
from vfsd.pipeline.records import restore_jobs
from vfsd.repo.rebuild import RebuildResult
from vfsd.repo.rebuild import rebuild as rebuild_index
from vfsd.repo.repository import Repository
from vfsd.store.api import ObjectStore


@click.group()
def index() -> None:
    """Look after this node's index of the store.

    The index is a cache: it may be deleted while nothing is mounted, and everything is read from the store again.

    \b
    Example:
      vfsd index rebuild
    """


@index.command("rebuild", cls=FactsCommand)
@click.pass_context
def rebuild(context: click.Context) -> None:
    """Make the index anew from the store alone.

    Names what is damaged in the store, and then fails. An index file that cannot be used is kept under another name.

    \b
    Example:
      vfsd index rebuild
    """
    invocation = context.ensure_object(Invocation)
    settings = settings_for(invocation)
    with opened_store(settings) as (store, store_format):
        path = settings.index_path(store_format.id)
        aside = None
        try:
            found = _rebuild(store, store_format, path)
        except Damaged:  # of the file: what is damaged in the store is in the result
            aside = set_aside(path)
            found = _rebuild(store, store_format, path)
    if invocation.json:
        print_json({
            "path": path, "aside": aside, "packs": found.packs, "commits": found.commits, "blobs": found.blobs,
            "refs": found.refs, "problems": list(found.problems),
        })  # fmt: skip
    else:
        print_fields([
            ("index", path), ("old file", aside or ""), ("packs", str(found.packs)), ("commits", str(found.commits)),
            ("blobs", str(found.blobs)), ("refs", str(found.refs)),
        ])  # fmt: skip
        for problem in found.problems:
            print_line(f"damaged: {problem}")
    if found.problems:
        raise Damaged(f"{len(found.problems)} things in {settings.store} are damaged; the rest can be used")


def _rebuild(store: ObjectStore, store_format: StoreFormat, path: str) -> RebuildResult:
    index_file = Index(path)
    try:
        with counter() as report:
            repository = Repository(store, index_file, store_format)
            found = rebuild_index(repository, report)
            restore_jobs(repository)
            return found
    finally:
        index_file.close()
