"""one changed file in a directory of 1,000 and of 100,000: time beyond the quiet period, and bytes, of its commit"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from scripts.benchmarks.rig import QUIET_S, Rig, median, rig, table

RUNS = 10


def main() -> None:
    """Print the table; arguments: numbers of files."""
    sizes = [int(word) for word in sys.argv[1:]] or [1_000, 100_000]
    with rig() as node:
        rows = [_measure(node, size) for size in sizes]
    table(("files in the directory", "put s", "commit ms, median", "max", "bytes written, median", "max"), rows)


def _measure(node: Rig, size: int) -> tuple[object, ...]:
    source = node.folder / f"source{size}"
    source.mkdir()
    for number in range(size):
        (source / f"file{number:07d}").write_bytes(os.urandom(4096))
    repo = f"r{size}"
    node.run("repo", "create", repo)
    start = time.monotonic()
    node.run("put", source, f"{repo}/main/files")
    put = time.monotonic() - start
    ref = node.store / "refs" / repo / "main"
    times, written = [], []
    for number in range(RUNS):
        before, old = node.stored(), ref.stat().st_mtime_ns
        path = node.mnt / repo / "main/files" / f"file{number * (size // RUNS):07d}"
        path.write_bytes(os.urandom(4096))
        closed = time.time_ns()
        _wait(ref, old)
        times.append((ref.stat().st_mtime_ns - closed) / 1e6 - QUIET_S * 1000)
        written.append(node.stored() - before)
    return (
        f"{size:,}", f"{put:.1f}", f"{median(times):.1f}", f"{max(times):.1f}", f"{median(written):,.0f}",
        f"{max(written):,}",
    )  # fmt: skip


def _wait(ref: Path, old: int) -> None:
    while ref.stat().st_mtime_ns == old:
        time.sleep(0.005)


if __name__ == "__main__":
    main()
