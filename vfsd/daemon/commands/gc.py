"""`vfsd gc`."""

from __future__ import annotations

import click
import msgspec

from vfsd.daemon.durations import DURATION, shown
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, counter, print_fields, print_json, print_line, shown_size
from vfsd.daemon.session import session
from vfsd.pipeline.reachable import job_trees
from vfsd.repo.condemning import GRACE_S, Amount
from vfsd.repo.gc import GcResult, collect


@click.command(cls=FactsCommand)
@click.option("--delete", is_flag=True, help="Condemn what is unreachable, and delete what was condemned before.")
@click.option(
    "--grace", type=DURATION, default=f"{GRACE_S / 3600:.0f}h", metavar="TIME", show_default=True,
    help="How old something unreachable must be to be condemned, and how long it is kept then.",
)  # fmt: skip
@click.pass_obj
def gc(invocation: Invocation, delete: bool, grace: float) -> None:
    """Delete what no branch, tag or job leads to.

    Without --delete it only looks, and says what it would do. Deleting takes two runs: one condemns what is
    unreachable, and one that comes later than --grace deletes it. Until then a branch that was deleted by mistake
    can be made again with `vfsd branch create --from`. So `vfsd gc --delete` once a day is all that is needed. It may
    run while others read and write, on any node, and it may be interrupted.

    History is reachable: what old commits hold stays until `vfsd drop`, `vfsd squash` or `vfsd retention` lets go of
    it.

    \b
    Examples:
      vfsd gc
      vfsd gc --delete
      vfsd gc --delete --grace 2d
    """
    with session(invocation) as opened:
        repository = opened.repository
        with counter() as report:
            result = collect(
                repository, job_trees(repository), delete=delete, author=opened.settings.author, grace_s=grace,
                progress=report,
            )  # fmt: skip
    if invocation.json:
        print_json(_facts(result, delete=delete))
        return
    then = "deleted" if delete else "deleted by `vfsd gc --delete`"
    after = f"deleted by `vfsd gc --delete` in {shown(grace)}"
    soon = f"deleted by `vfsd gc --delete` in {shown(result.next or 0)}"
    print_fields([
        ("reachable", _shown(result.reachable)),
        ("too young", _shown(result.young, f"less than {shown(grace)} old, or needed by what is")),
        ("unreachable", _shown(result.condemned, f"condemned: {after}" if delete else "not condemned yet")),
        ("condemned", _shown(result.waiting, soon)),
        ("due", _shown(result.deleted, then)),
        ("uploads", _shown_others(result.uploads, "abandoned", delete=delete)),
        ("records", _shown_others(result.records, "of commits that are gone", delete=delete)),
        *(("at work", f"{who}: nothing is condemned that is younger than its work") for who in result.held),
    ])  # fmt: skip
    if result.lost:
        print_line(f"{result.lost} chunks are not where pointers say: `vfsd fsck` names the files")


def _shown(amount: Amount, what: str = "") -> str:
    kinds = ((amount.packs, "pack", "packs"), (amount.commits, "commit", "commits"), (amount.maps, "map", "maps"))
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in kinds if count]
    if not parts:
        return "" if what else "nothing"
    return f"{', '.join(parts)}, {shown_size(amount.bytes)}" + (f": {what}" if what else "")


def _shown_others(count: int, what: str, *, delete: bool) -> str:
    if not count:
        return ""
    return f"{count} {what}: {'removed' if delete else 'removed by `vfsd gc --delete`'}"


def _facts(result: GcResult, *, delete: bool) -> Facts:
    facts: Facts = {
        "delete": delete, "kept": result.kept, "uploads": result.uploads, "records": result.records,
        "lost": result.lost,
    }  # fmt: skip
    amounts = {
        "reachable": result.reachable, "young": result.young, "unreachable": result.condemned,
        "condemned": result.waiting, "due": result.deleted,
    }  # fmt: skip
    next_s = None if result.next is None else round(result.next, 3)
    parts = {name: msgspec.structs.asdict(amount) for name, amount in amounts.items()}
    return {**facts, **parts, "next_s": next_s, "held": list(result.held)}
