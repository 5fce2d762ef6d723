"""`vfsd compact`."""

from __future__ import annotations

import click
import msgspec

from vfsd.daemon.durations import DURATION, shown
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, counter, print_fields, print_json, print_line, shown_size, shown_text
from vfsd.daemon.session import session
from vfsd.model.errors import Damaged, NotFound
from vfsd.pipeline.reachable import job_trees
from vfsd.repo.compact import CompactResult
from vfsd.repo.compact import compact as compact_store
from vfsd.repo.condemning import GRACE_S, Amount
from vfsd.repo.gather import Scattered, gather, scattered
from vfsd.repo.repository import Repository


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
    one that comes later than --grace. No commit changes, and old pointers are led on by small maps. It also gathers the
    trees of branches that hundreds of small commits have scattered over as many objects, so that other nodes read them
    by few requests. It may run while others read and write, and it may be interrupted.

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
            trees = _scattered(repository)
            gathered = [gather(repository, one.head) if rewrite else 0 for one in trees]
        if invocation.json:
            print_json(_facts(result, trees, gathered, rewrite=rewrite))
        else:
            _print(result, trees, gathered, grace, rewrite=rewrite)
        if result.problems:
            raise Damaged(f"{len(result.problems)} objects in {opened.settings.store} could not be rewritten")


def _scattered(repository: Repository) -> list[Scattered]:
    found = []
    for repo, branch, _ in list(repository.refs.branches()):
        try:
            one = scattered(repository, repository.refs.head(repo, branch))
        except NotFound:
            continue  # deleted just now
        if one is not None:
            found.append(one)
    return found


def _print(
    result: CompactResult, trees: list[Scattered], gathered: list[int], grace: float, *, rewrite: bool
) -> None:
    then = "rewritten" if rewrite else "rewritten by `vfsd compact --rewrite`"
    after = f"rewritten by `vfsd compact --rewrite` in {shown(grace)}"
    needed = f"{shown_size(result.live)} needed" + (f": {after}" if rewrite else "")
    print_fields([
        ("sparse", _shown(result.sparse, needed)),
        ("waiting", _shown(result.waiting, f"rewritten by `vfsd compact --rewrite` in {shown(result.next or 0)}")),
        ("due", _shown(result.rewritten, f"{then}, which gives {shown_size(result.freed)} back")),
        *(("scattered", _shown_tree(one, count)) for one, count in zip(trees, gathered, strict=True)),
    ])  # fmt: skip
    for problem in result.problems:
        print_line(shown_text(problem))
    if not (result.sparse.objects or result.waiting.objects or result.rewritten.objects or trees):
        print_line("nothing to compact")


def _shown_tree(one: Scattered, gathered: int) -> str:
    return f"{_name(one)} by {one.commits} small commits" + (f": {gathered} tree nodes gathered" if gathered else "")


def _name(one: Scattered) -> str:
    return f"{one.head.repo}/{one.head.branch}"


def _shown(amount: Amount, what: str) -> str:
    kinds = ((amount.packs, "pack", "packs"), (amount.commits, "commit", "commits"))
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in kinds if count]
    return f"{', '.join(parts)}, {shown_size(amount.bytes)}: {what}" if parts else ""


def _facts(result: CompactResult, trees: list[Scattered], gathered: list[int], *, rewrite: bool) -> Facts:
    return {
        "rewrite": rewrite, "sparse": msgspec.structs.asdict(result.sparse), "live": result.live,
        "waiting": msgspec.structs.asdict(result.waiting), "due": msgspec.structs.asdict(result.rewritten),
        "freed": result.freed, "next_s": None if result.next is None else round(result.next, 3),
        "scattered": [
            {"id": _name(one), "commits": one.commits, "gathered": count}
            for one, count in zip(trees, gathered, strict=True)
        ],
        "problems": list(result.problems),
    }  # fmt: skip
