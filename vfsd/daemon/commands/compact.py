"""`vfsd compact`."""

from __future__ import annotations

import click
import msgspec

from vfsd.daemon.durations import DURATION, shown
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, counter, print_fields, print_json, print_line, shown_size
from vfsd.daemon.session import session
from vfsd.model.errors import Damaged
from vfsd.model.shown import shown_text
from vfsd.pipeline.reachable import job_trees
from vfsd.repo.compact import CompactResult
from vfsd.repo.compact import compact as compact_store
from vfsd.repo.condemning import GRACE_S, Amount


@click.command(cls=FactsCommand)
@click.option("--rewrite", is_flag=True, help="Condemn what is not needed, and rewrite what was condemned before.")
@click.option(
    "--below", type=click.IntRange(1, 100), default=50, metavar="PERCENT", show_default=True,
    help="Rewrite packs of which a smaller part is needed.",
)  # fmt: skip
@click.option(
    "--grace", type=DURATION, default=f"{GRACE_S / 3600:.0f}h", metavar="TIME", show_default=True,
    help="How old a pack must be, and how long what is not needed in it is kept.",
)  # fmt: skip
@click.pass_obj
def compact(invocation: Invocation, rewrite: bool, below: int, grace: float) -> None:
    """Rewrite packs of which little is needed.

    Without --rewrite it only looks, and says what it would do. `vfsd gc` deletes whole packs; this gives back the room
    of what is not needed in others. Like gc it takes two runs: what is not needed is condemned by one, and gone after
    one that comes later than --grace. No commit changes, and old pointers are led on by small maps. It may run while
    others read and write, and it may be interrupted.

    \b
    Examples:
      vfsd compact
      vfsd compact --rewrite
      vfsd compact --rewrite --below 80
    """
    with session(invocation) as opened:
        repository = opened.repository
        with counter() as report:
            result = compact_store(
                repository, job_trees(repository), rewrite=rewrite, author=opened.settings.author, below=below / 100,
                grace_s=grace, progress=report,
            )  # fmt: skip
        if invocation.json:
            print_json(_facts(result, rewrite=rewrite))
        else:
            _print(result, grace, rewrite=rewrite)
        if result.problems:
            raise Damaged(f"{len(result.problems)} objects in {opened.settings.store} could not be rewritten")


def _print(result: CompactResult, grace: float, *, rewrite: bool) -> None:
    then = "rewritten" if rewrite else "rewritten by `vfsd compact --rewrite`"
    after = f"rewritten by `vfsd compact --rewrite` in {shown(grace)}"
    needed = f"{shown_size(result.live)} needed" + (f": {after}" if rewrite else "")
    print_fields([
        ("sparse", _shown(result.sparse, needed)),
        ("waiting", _shown(result.waiting, f"rewritten by `vfsd compact --rewrite` in {shown(result.next or 0)}")),
        ("due", _shown(result.rewritten, f"{then}, which gives {shown_size(result.freed)} back")),
    ])  # fmt: skip
    for problem in result.problems:
        print_line(shown_text(problem))
    if not (result.sparse.objects or result.waiting.objects or result.rewritten.objects):
        print_line("nothing to compact")


def _shown(amount: Amount, what: str) -> str:
    kinds = ((amount.packs, "pack", "packs"), (amount.commits, "commit", "commits"))
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in kinds if count]
    return f"{', '.join(parts)}, {shown_size(amount.bytes)}: {what}" if parts else ""


def _facts(result: CompactResult, *, rewrite: bool) -> Facts:
    return {
        "rewrite": rewrite, "sparse": msgspec.structs.asdict(result.sparse), "live": result.live,
        "waiting": msgspec.structs.asdict(result.waiting), "due": msgspec.structs.asdict(result.rewritten),
        "freed": result.freed, "next_s": None if result.next is None else round(result.next, 3),
        "problems": list(result.problems),
    }  # fmt: skip
