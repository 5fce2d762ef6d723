"""what a bucket costs: requests and dollars of vfsd, juicefs, rclone mount, s3fs and s3ql, as Amazon bills them

Each has a server of its own on this machine, behind a proxy that counts. Data is copied in through the mount, read by a
node that was just mounted and has kept nothing, then once more by the same; and a mount is left alone for a while. What
it asks for then is taken off from what was counted while it had something to do. The rest is multiplied up to 20,000
files of 100 KiB, one file of 2 GiB, and a day. Only requests are billed: bytes between a bucket and machines in its
region are free, and storage is as large as the data everywhere.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from scripts.benchmarks.dataset import Data, make_data
from scripts.benchmarks.peers import DEFAULT, Failed
from scripts.benchmarks.rig import columns, machine
from scripts.benchmarks.store import At, Bench, Cell
from scripts.benchmarks.store_peers import FILE_SYSTEMS

SOURCE = "Amazon S3 pricing, S3 Standard, US East (N. Virginia), aws.amazon.com/s3/pricing"
PER_1000 = {"PUT": 0.005, "COPY": 0.005, "POST": 0.005, "LIST": 0.005, "DELETE": 0.0}  # dollars
OTHERS = 0.0004  # dollars for 1,000 GET, HEAD and all other requests
DAY = 86_400
ROWS = ("cp-small", "cp-big", "epoch", "again")
IDLE = "idle"
TITLES = {
    "cp-small": "copy 20,000 files of 100 KiB in",
    "cp-big": "copy a file of 2 GiB in",
    "epoch": "read the 20,000 files, cold",
    "again": "the same again, warm",
    IDLE: "be mounted for a day, idle",
}


class Cost(msgspec.Struct, frozen=True):
    """What one thing took of one file system: requests by method, multiplied up; problem: why it is not known."""

    peer: str
    row: str
    factor: float
    requests: dict[str, float]
    problem: str = ""

    @property
    def dollars(self) -> float:
        """At list price."""
        return sum(count * PER_1000.get(method, OTHERS) / 1000 for method, count in self.requests.items())


class CostBench(Bench):
    """Counts, where scripts/bench store times."""

    def __init__(self, folder: Path, data: Data, asked: argparse.Namespace) -> None:
        super().__init__(folder, data, asked)
        self._scale: float = asked.scale
        self._idle_s: float = asked.idle
        self.costs: list[Cost] = []

    def count(self, name: str) -> None:
        """All that is counted of one file system."""
        with self._server(name, 0.0) as at:
            problem = at.peer.absent()
            self.notes.append(f"{name}: {problem or f'{at.peer.version()}, {at.peer.settings}'}")
            if problem:
                return
            for key in ROWS:
                self._cell(at, key, 0.0)
            idle = self._idle(at)
            cells = [cell for key in ROWS if (cell := self.cells.get((name, key, 0.0))) is not None]
            self.costs += [*(_cost(cell, 1 / self._scale, idle) for cell in cells), idle]

    def _idle(self, at: At) -> Cost:
        try:
            at.peer.begin(fresh=False)
            time.sleep(self._idle_s / 4)  # what mounting and reading left behind comes to its end
            at.proxy.reset()
            time.sleep(self._idle_s)
            counts, factor = at.proxy.counts(), DAY / self._idle_s
            requests = {method: factor * counts.requests(method) for method in counts.by}
            return Cost(at.name, IDLE, factor, requests)
        except Failed as error:
            self._abandon(at)
            return Cost(at.name, IDLE, 0, {}, str(error))

    def print_costs(self) -> None:
        """A block for each thing, a line for each file system."""
        print(machine())
        lines: list[list[str]] = []
        for key, title in TITLES.items():
            found = [cost for cost in self.costs if cost.row == key]
            lines += [[title, "", "", ""], *([f"  {cost.peer}", *_texts(cost)] for cost in found)]
        columns(("", "dollars", "requests", "of which"), lines)


def _cost(cell: Cell, factor: float, idle: Cost) -> Cost:
    """Of a row, without what the mount would have asked for anyway in that time."""
    days = (cell.seconds or 0.0) / DAY
    requests = {
        method: factor * max(0.0, cell.counts.requests(method) - days * idle.requests.get(method, 0.0))
        for method in cell.counts.by
    }
    return Cost(cell.peer, cell.row, factor, requests, cell.problem)


def _texts(cost: Cost) -> tuple[str, str, str]:
    if cost.problem:
        return cost.problem, "", ""
    most = sorted(((count, method) for method, count in cost.requests.items() if count), reverse=True)
    return (
        f"{cost.dollars:.4f}", f"{sum(count for count, _ in most):,.0f}",
        " ".join(f"{count:,.0f} {method}" for count, method in most),
    )  # fmt: skip


def _read_arguments() -> argparse.Namespace:
    reader = argparse.ArgumentParser(prog="scripts/bench costs", description=__doc__)
    reader.add_argument("--scale", type=float, default=0.1, help="of what is copied and read; default: %(default)s")
    reader.add_argument("--idle", type=float, default=60, help="seconds a mount is left alone; default: %(default)s")
    reader.add_argument("--peers", default=",".join(FILE_SYSTEMS), help="default: %(default)s")
    reader.add_argument("--limit", type=float, default=600, help="seconds a row may take; default: %(default)s")
    reader.add_argument("--json", type=Path, metavar="FILE", help="write all that was counted there")
    reader.add_argument(
        "--peers-in", type=Path, default=DEFAULT, help="made by scripts/bench peers; default: %(default)s"
    )
    asked = reader.parse_args()
    asked.peers, asked.rows, asked.latency = asked.peers.split(","), list(ROWS), [0.0]
    for unknown in {*asked.peers} - {*FILE_SYSTEMS}:
        reader.error(f"there is no {unknown}")
    return asked


def main() -> None:
    """Count, and print the table."""
    asked = _read_arguments()
    folder = Path(tempfile.mkdtemp(prefix="vfsd-bench-")).resolve()
    tempfile.tempdir = str(folder)  # of the servers too
    os.environ["TMPDIR"] = str(folder)
    try:
        bench = CostBench(folder, make_data(folder / "data", asked.scale), asked)
        for name in asked.peers:
            bench.count(name)
        bench.print_costs()
        print(f"at list price: {SOURCE}; counted at scale {asked.scale:g} and over {asked.idle:g} s, multiplied up")
        print("\n".join(bench.notes))
        if asked.json:
            asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(bench.costs)))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
