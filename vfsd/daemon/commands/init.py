"""`vfsd init`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import print_fields, print_json, print_line, shown_size
from vfsd.daemon.session import settings_for
from vfsd.daemon.sizes import SIZE
from vfsd.model.commit import CHUNK_SIZE
from vfsd.model.rev import rfc3339
from vfsd.repo.repository import init_store
from vfsd.store.open import open_store
from vfsd.store.probe import probe_conditional_writes


@click.command(cls=FactsCommand)
@click.option(
    "--chunk-size", type=SIZE, default=CHUNK_SIZE,
    help=f"Of the pieces that bytes are stored in, on average; 4KiB to 4MiB.  [default: {CHUNK_SIZE >> 10}KiB]",
)
@click.pass_obj
def init(invocation: Invocation, chunk_size: int) -> None:
    """Make a store.

    In a directory, or in a bucket that is there. Finds out whether the store keeps the conditions that several nodes
    need to share it, and says so. A store that is there already is left as it is, and that is an error.

    The chunk size is fixed when a store is made. Small chunks let an edited file share more with the version before;
    large ones cost less for each byte that is read and written.

    \b
    Examples:
      vfsd init
      vfsd --store file:///srv/data init
      VFSD_S3_ENDPOINT=http://127.0.0.1:8333 vfsd --store s3://bucket/prefix init
    """
    settings = settings_for(invocation)
    store = open_store(settings.store, settings.s3)
    try:
        made = init_store(store, chunk_size)
        # The store's format says only whether; asking again says why.
        problems = () if made.shared else probe_conditional_writes(store).problems
        if invocation.json:
            print_json({
                "id": made.id, "store": store.url, "created": rfc3339(made.created), "shared": made.shared,
                "chunk_size": made.chunk_avg, "problems": list(problems),
            })  # fmt: skip
            return
        print_line(f"made the store {store.url}")
        print_fields([
            ("id", made.id),
            ("chunks", f"{shown_size(made.chunk_avg)} on average"),
            ("may be shared between nodes", "yes" if made.shared else "no"),
        ])
        for problem in problems:
            print_line(f"only one node may use it: {problem}")
    finally:
        store.close()
