"""an S3 server read and filled: vfsd, juicefs, rclone mount, s3fs and s3ql beside one another and beside plain requests

A server of its own for each, on this machine, behind a proxy that delays every request and counts it. What is read is
read on a node that was just mounted and has kept nothing, but where the row says warm; as root, the kernel's caches are
dropped first, and the server's files are in memory again. Mounting is neither timed nor counted. What is copied in
counts until the server holds all of it. Bytes are random, from a seed, and what is read is compared.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import msgspec

from scripts.benchmarks.dataset import BLOCK, IN_A_FOLDER, TINY_SIZE, Data, Row, make_data, rows
from scripts.benchmarks.peers import DEFAULT, Failed, TooLong
from scripts.benchmarks.rig import columns, disk, machine
from scripts.benchmarks.store_peers import FILE_SYSTEMS, LIMITS, Peer, make_peer
from tests.proxy import Counts, Options, Proxy, proxy_to
from tests.servers import seaweedfs

DROP = Path("/proc/sys/vm/drop_caches")
PREPARING_S = 1800.0  # a step that is not timed may take
PEERS = (*FILE_SYSTEMS, *LIMITS)
MB = 1e6
MEMORY = "2GiB"  # of a server: with much less it is what is measured


class Cell(msgspec.Struct, frozen=True):
    """One row of one peer at one latency. seconds None: it was not done, `problem` says why. counts: what the proxy
    saw, also of a row that was given up."""

    peer: str
    row: str
    latency_ms: float
    seconds: float | None
    problem: str
    counts: Counts


@dataclass
class At:
    """A peer at its server. held: the sets that are in it; last: the row that was done last."""

    name: str
    peer: Peer
    proxy: Proxy
    held: set[str]
    last: str = ""


class Bench:
    """Measures one peer after the other. cells: what was found, by peer, row and latency."""

    def __init__(self, folder: Path, data: Data, asked: argparse.Namespace) -> None:
        self._folder = folder
        self.data = data
        self._rows: dict[str, Row] = rows(data)
        self._asked = asked
        self.cells: dict[tuple[str, str, float], Cell] = {}
        self.notes: list[str] = []

    def measure(self, name: str) -> None:
        """All cells of one peer. Each latency has an empty server for what is copied in; the last one is read from."""
        latencies: list[float] = self._asked.latency
        picked = {key: self._rows[key] for key in self._rows if key in self._asked.rows}
        order = sorted(latencies, reverse=True) if any(row.stores for row in picked.values()) else latencies[:1]
        for latency in order:
            with self._server(name, latency) as at:
                if latency == order[0]:
                    problem = at.peer.absent()
                    self.notes.append(f"{name}: {problem or f'{at.peer.version()}, {at.peer.settings}'}")
                    if problem:
                        return
                for key in [key for key, row in picked.items() if row.stores]:
                    self._cell(at, key, latency)
                reads = [key for key, row in picked.items() if not row.stores]
                for each, key in itertools.product(latencies if latency == order[-1] else [], reads):
                    self._cell(at, key, each)

    @contextmanager
    def _server(self, name: str, latency: float) -> Iterator[At]:
        with seaweedfs(MEMORY) as server, proxy_to(server.endpoint) as proxy:
            folder, programs = self._folder / f"{name}-{latency:g}", self._asked.peers_in.absolute() / "bin"
            peer = make_peer(name, folder, programs, PREPARING_S, proxy.endpoint, server.endpoint)
            try:
                yield At(name, peer, proxy, set())
            finally:
                peer.remove()

    def _cell(self, at: At, key: str, latency: float) -> None:
        row, problem, seconds, counts = self._rows[key], "", None, Counts()
        try:
            self._prepare(at, row)
            at.proxy.set(Options(latency_ms=latency))
            at.proxy.reset()
            try:
                seconds = at.peer.measure(row, self.data, self._asked.limit)
            finally:
                counts = at.proxy.counts()
                at.proxy.set(Options())
            if seconds is None:
                return
            if row.stores and counts.of().up < self.data.bytes_in(row.needs):
                raise Failed("the server does not have it all")
            at.last = key
            if row.stores:
                at.held.add(row.needs)
        except Failed as error:
            seconds, problem = None, f"over {self._asked.limit:g} s" if isinstance(error, TooLong) else "failed"
            self._note(f"{at.name}, {row.title}, at {latency:g} ms: {error}")
            self._abandon(at)
        self.cells[at.name, key, latency] = Cell(at.name, key, latency, seconds, problem, counts)
        said = problem or f"{seconds:.2f} s"
        print(f"{key} {at.name} at {latency:g} ms: {said}, {_requests(counts)}", file=sys.stderr, flush=True)

    def _prepare(self, at: At, row: Row) -> None:
        """Have in the server what the row needs, the node as it needs it, and nothing in the way."""
        try:
            self._have(at, row)
        except TooLong as error:
            raise Failed(f"while preparing: {error}") from None
        os.sync()
        if not row.after:
            self._drop_caches(row)

    def _have(self, at: At, row: Row) -> None:
        if not row.stores and row.needs not in at.held:
            at.peer.fill(self.data, row.needs)
            at.held.add(row.needs)
        if row.after and at.last != row.after:
            self._have(at, self._rows[row.after])
            at.peer.measure(self._rows[row.after], self.data, PREPARING_S)
        at.peer.begin(fresh=not row.after)

    def _drop_caches(self, row: Row) -> None:
        """Forget what the kernel has cached, but for what the server and cp read."""
        if os.access(DROP, os.W_OK):
            DROP.write_text("3")
        used = [*self._folder.glob("vfsd-tests-*/**/*")]  # the server's, whose folder is a temporary one
        if row.stores:
            used += [self.data.folder / row.needs, *(self.data.folder / row.needs).rglob("*")]
        for path in used:
            with suppress(OSError):  # a server at work renames and removes
                if path.is_file():
                    with path.open("rb", buffering=0) as file:
                        while file.read(BLOCK):
                            pass

    def _abandon(self, at: At) -> None:
        at.last = ""
        try:
            at.peer.abandon()
        except Failed as error:
            self._note(f"{at.name}, after that: {error}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)

    def show(self) -> None:
        """Print what was found, a table for each latency: a block in it for each row, a line for each peer."""
        print(machine())
        for latency in self._asked.latency:
            lines: list[list[str]] = []
            for key, row in self._rows.items():
                cells = {name: cell for name in self._asked.peers if (cell := self.cells.get((name, key, latency)))}
                if cells:
                    lines.append([row.title, "", "", "", ""])
                    lines += [[f"  {name}", *_texts(row, cell)] for name, cell in cells.items()]
                    lines += [[f"  vfsd: {said}", "", "", "", ""] for said in _compared(cells)]
            columns((f"{latency:g} ms a request", "s", "rate", "requests", "MB moved"), lines)
            print()


def _compared(cells: dict[str, Cell]) -> Iterator[str]:
    """How many times as fast as the best of the peers, and of the plain requests, vfsd is."""
    took = {name: cell.seconds for name, cell in cells.items() if cell.seconds}
    ours = took.pop("vfsd", None)
    for names in (FILE_SYSTEMS, LIMITS):
        others = {name: seconds for name, seconds in took.items() if name in names}
        if ours and others:
            best = min(others, key=others.__getitem__)
            yield f"{others[best] / ours:.2f} x {best}"


def _texts(row: Row, cell: Cell) -> list[str]:
    """Seconds, rate, requests, bytes of a cell."""
    moved = cell.counts.of()
    took = cell.problem or f"{cell.seconds:.2f}"
    rate = row.amount / cell.seconds if cell.seconds else 0.0
    said = f"{rate:,.{0 if rate > 20 else 1}f} {row.unit}".replace(" /s", "/s") if rate else ""
    return [took, said, _requests(cell.counts), f"{(moved.up + moved.down) / MB:,.1f}"]


def _requests(counts: Counts) -> str:
    """How many of each method, the most frequent first."""
    by = sorted(((counts.requests(method), method) for method in counts.by), reverse=True)
    return " ".join(f"{count:,} {method}" for count, method in by if count) or "none"


def _read_arguments() -> argparse.Namespace:
    reader = argparse.ArgumentParser(prog="scripts/bench store", description=__doc__)
    every = ",".join(rows(Data(Path(), 0, 0, 0, 0, {})))
    reader.add_argument("--scale", type=float, default=1.0, help="of all sizes and numbers; default: %(default)s")
    reader.add_argument("--rows", default=every, help="default: %(default)s")
    reader.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    reader.add_argument("--latency", default="0,20", help="of a request, in ms; default: %(default)s")
    reader.add_argument("--limit", type=float, default=600, help="seconds a row may take; default: %(default)s")
    reader.add_argument("--json", type=Path, metavar="FILE", help="write all that was counted there")
    reader.add_argument(
        "--peers-in", type=Path, default=DEFAULT, help="made by scripts/bench peers; default: %(default)s"
    )
    here = Path(tempfile.gettempdir())
    reader.add_argument("--folder", type=Path, default=here, help="on the disk to use; default: %(default)s")
    asked = reader.parse_args()
    asked.rows, asked.peers = asked.rows.split(","), asked.peers.split(",")
    asked.latency = sorted({float(each) for each in asked.latency.split(",")})
    for unknown in {*asked.rows} - {*every.split(",")} | {*asked.peers} - {*PEERS}:
        reader.error(f"there is no {unknown}")
    return asked


def _caption(asked: argparse.Namespace, data: Data) -> str:
    cold = "kernel caches dropped" if os.access(DROP, os.W_OK) else "kernel caches not dropped (needs root)"
    return (
        f"a SeaweedFS for each on this machine, its files in memory, on {disk(asked.folder.resolve())}; {cold}; random "
        f"bytes from a seed; {IN_A_FOLDER:,} files in a directory; {data.many:,} files of {TINY_SIZE} bytes to "
        f"be listed; one round, so nothing is known of the spread"
    )


def _ended(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Measure, and print the table."""
    asked = _read_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _ended)
    asked.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="vfsd-bench-", dir=asked.folder)).resolve()
    tempfile.tempdir = str(folder)  # of the servers too
    os.environ["TMPDIR"] = str(folder)  # and of what peers put aside
    try:
        bench = Bench(folder, make_data(folder / "data", asked.scale), asked)
        for name in asked.peers:
            bench.measure(name)
        bench.show()
        print("\n".join([_caption(asked, bench.data), *bench.notes]))
        if asked.json:
            asked.json.write_bytes(msgspec.json.format(msgspec.json.encode([*bench.cells.values()])))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
