"""A node for a benchmark: a store in a temporary directory, mounted, and a table printed with the machine beside it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

QUIET_S = 1.0


class Rig:
    """A node and the commands of vfsd over it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mnt = folder / "mnt"
        self.mnt.mkdir()
        self.store = folder / "store"
        self.environ = {
            **os.environ,
            "VFSD_STORE": f"file://{self.store}",
            "VFSD_STATE_DIR": str(folder / "state"),
            "VFSD_CACHE_DIR": str(folder / "cache"),
        }

    def run(self, *words: str | Path) -> str:
        """Run a command of vfsd; what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "vfsd", *map(str, words)], env=self.environ, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"vfsd {' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def facts(self, *words: str | Path) -> Any:
        """What a command prints with --json."""
        return json.loads(self.run("--json", *words))

    def stored(self) -> int:
        """Bytes in the store."""
        return sum(entry.stat().st_size for entry in self.store.rglob("*") if entry.is_file())


@contextmanager
def rig() -> Iterator[Rig]:
    """A mounted node, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="vfsd-bench-"))
    found = Rig(folder)
    try:
        found.run("init")
        found.run("mount", found.mnt)
        yield found
    finally:
        subprocess.run(
            [sys.executable, "-m", "vfsd", "umount", str(found.mnt)], env=found.environ, capture_output=True,
            check=False,
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)


def machine() -> str:
    """The machine in one line."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns, the machine above them."""
    print(machine())
    cells = [list(titles), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(titles))]
    for row in cells:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *rest]))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
