"""pipelines: time to decide what is done, datums a second, one changed file of many, memory; other runners beside it

decide: a job over inputs whose datums were all done before, until it is known that nothing is to be run; by what
changed, and with every datum held against the ledger, as after an update of the glob. datums of `true`: a job of a
mounted node, each datum in a sandbox of its own, with its log and outputs stored. one changed: from the close of a file
in the mount until the output commit is there, the quiet period of the branch included. memory: at most, of a process
that forms, stores and merges datums that write a file each, without running commands.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from scripts.benchmarks import datums
from scripts.benchmarks.datums import Spent
from scripts.benchmarks.errands import ERRANDS
from scripts.benchmarks.peers import DEFAULT, Failed
from scripts.benchmarks.rig import QUIET_S, Rig, bare_rig, median, rig, table

INPUT = {"pfs": {"repo": "data", "glob": "/*/*"}}
MB = 1_000_000
TITLES = ("what", "datums", "seconds", "datums/s", "CPU s", "peak MB", "remarks")
Row = tuple[object, ...]


def alone(function: Callable[..., Any], *words: Any, **options: Any) -> Any:
    """What a function gives in a process of its own, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(function, words, options)


def decide(count: int) -> list[Row]:
    """Time to decide, one changed file, and the memory that it took to do them all at first."""
    with bare_rig() as node:
        alone(datums.make_input, node.folder, "data", count)
        alone(datums.make_pipeline, node.folder, "copy", INPUT, ["sh", "-c", 'cp "$data" /pfs/out/$PACH_DATUM_ID'])
        first: Spent = alone(datums.work, node.folder, "copy")
        changed: Spent = alone(datums.decide, node.folder, "copy", by_names=False)
        names: Spent = alone(datums.decide, node.folder, "copy", by_names=True)
        return [
            row("stored and merged, no commands", first),
            row("decide: all done, by what changed", changed),
            row("decide: all done, by the ledger", names),
            *one_changed(node, count),
        ]


def one_changed(node: Rig, count: int) -> list[Row]:
    """From close to output commit, a few times."""
    node.run("mount", node.mnt)
    ref = node.store / "refs" / "copy" / "main"
    times = []
    try:
        node.run("job", "wait", "--pipeline", "copy")
        for number in range(5):
            before = ref.stat().st_mtime_ns
            at = number * (count // 5)
            path = node.mnt / "data" / "main" / f"{at // datums.FOLDER * datums.FOLDER:07d}" / f"{at:07d}"
            path.write_bytes(b"changed\n")
            closed = time.time_ns()
            while ref.stat().st_mtime_ns == before:
                time.sleep(0.005)
            times.append((ref.stat().st_mtime_ns - closed) / 1e9)
            node.run("job", "wait", "--pipeline", "copy")
    finally:
        node.run("umount", node.mnt)
    said = f"median of {len(times)}, at most {max(times):.2f} s; {QUIET_S:g} s of it the quiet period"
    return [("one changed: close to output commit", f"{count:,}", f"{median(times):.2f}", "", "", "", said)]


def true(count: int, cores: int) -> Row:
    """A job of `true`."""
    with rig() as node:
        alone(datums.make_input, node.folder, "data", count)
        spec = {
            "pipeline": {"name": "true"}, "transform": {"cmd": ["true"]}, "input": INPUT,
            "parallelism_spec": {"constant": cores},
        }  # fmt: skip
        path = node.folder / "true.json"
        path.write_text(json.dumps(spec))
        node.run("pipeline", "create", "-f", path)
        node.run("job", "wait", "--pipeline", "true")
        job = node.facts("job", "list", "true")[0]
        seconds = _between(job["started"], job["finished"])
        sandbox = node.facts("status").get("sandbox")
        said = f"{cores} at a time, {'in a sandbox each' if sandbox == 'bubblewrap' else 'without a sandbox'}"
        return ("vfsd: datums of `true`", f"{count:,}", f"{seconds:.2f}", f"{count / seconds:,.0f}", "", "", said)


def _between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def beside(count: int, cores: int, limit: float) -> list[Row]:
    """The same by other programs."""
    rows: list[Row] = []
    for errand in ERRANDS:
        name = f"{errand.name}: runs of `true`"
        if why := errand.absent():
            rows.append((name, "", "", "", "", "", why))
            continue
        number = max(10, int(count * errand.share))
        with bare_rig() as node:
            try:
                seconds = errand.seconds(node.folder / "errands", number, cores, limit)
            except Failed as error:
                rows.append((name, f"{number:,}", "", "", "", "", str(error)))
                continue
        said = f"{errand.version()}; {errand.about}"
        rows.append((name, f"{number:,}", f"{seconds:.2f}", f"{number / seconds:,.0f}", "", "", said))
    return rows


def memory(count: int) -> Row:
    """A job of very many datums."""
    with bare_rig() as node:
        alone(datums.make_input, node.folder, "data", count)
        alone(datums.make_pipeline, node.folder, "copy", INPUT, ["true"])
        return row("memory: stored and merged, no commands", alone(datums.work, node.folder, "copy"))


def row(what: str, spent: Spent) -> Row:
    """A line of the table."""
    rate = f"{spent.datums / spent.seconds:,.0f}"
    return (
        what, f"{spent.datums:,}", f"{spent.seconds:.2f}", rate, f"{spent.cpu:.2f}", f"{spent.peak / MB:,.0f}",
        f"{spent.todo:,} to do",
    )  # fmt: skip


def main() -> None:
    """Measure, and print the table."""
    reader = argparse.ArgumentParser(prog="scripts/bench pipelines", description=__doc__)
    reader.add_argument("--done", type=int, default=100_000, help="datums that are all done; default: %(default)s")
    reader.add_argument("--true", type=int, default=10_000, help="datums of `true`; default: %(default)s")
    reader.add_argument("--many", type=int, default=1_000_000, help="datums for memory; default: %(default)s")
    reader.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="at a time; default: %(default)s")
    reader.add_argument("--limit", type=float, default=600, help="seconds for another program; default: %(default)s")
    reader.add_argument("--peers-in", type=Path, default=DEFAULT, help="where their commands are, besides the PATH")
    asked = reader.parse_args()
    os.environ["PATH"] = f"{asked.peers_in / 'bin'}:{os.environ['PATH']}"
    rows: list[Row] = []
    steps: tuple[tuple[int, Callable[[], list[Row]]], ...] = (
        (asked.done, lambda: decide(asked.done)),
        (asked.true, lambda: [true(asked.true, asked.cores), *beside(asked.true, asked.cores, asked.limit)]),
        (asked.many, lambda: [memory(asked.many)]),
    )
    for number, what in steps:
        if number:
            rows += what()
            print(f"{rows[-1][0]}: measured", file=sys.stderr, flush=True)
    table(TITLES, rows)


if __name__ == "__main__":
    main()
