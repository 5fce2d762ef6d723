"""`vfsd init`."""

from __future__ import annotations

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import print_fields, print_json, print_line
from vfsd.daemon.session import settings_for
from vfsd.model.rev import rfc3339
from vfsd.repo.repository import init_store
from vfsd.store.open import open_store
from vfsd.store.probe import probe_conditional_writes


@click.command(cls=FactsCommand)
@click.pass_obj
def init(invocation: Invocation) -> None:
    """Make a store.

    In a directory, or in a bucket that is there. Finds out whether the store keeps the conditions that several nodes
    need to share it, and says so. A store that is there already is left as it is, and that is an error.

    \b
    Examples:
      vfsd init
      vfsd --store file:///srv/data init
      VFSD_S3_ENDPOINT=http://127.0.0.1:8333 vfsd --store s3://bucket/prefix init
    """
    settings = settings_for(invocation)
    store = open_store(settings.store, settings.s3)
    try:
        made = init_store(store)
        # The store's format says only whether; asking again says why.
        problems = () if made.shared else probe_conditional_writes(store).problems
        if invocation.json:
            print_json({
                "id": made.id, "store": store.url, "created": rfc3339(made.created), "shared": made.shared,
                "problems": list(problems),
            })  # fmt: skip
            return
        print_line(f"made the store {store.url}")
        print_fields([("id", made.id), ("may be shared between nodes", "yes" if made.shared else "no")])
        for problem in problems:
            print_line(f"only one node may use it: {problem}")
    finally:
        store.close()
