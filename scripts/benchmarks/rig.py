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
def bare_rig() -> Iterator[Rig]:
    """A node with an empty store, not mounted, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="vfsd-bench-"))
    found = Rig(folder)
    try:
        found.run("init")
        yield found
    finally:
        subprocess.run(
            [sys.executable, "-m", "vfsd", "umount", str(found.mnt)], env=found.environ, capture_output=True,
            check=False,
        )  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def rig() -> Iterator[Rig]:
    """A mounted node, gone afterwards."""
    with bare_rig() as found:
        found.run("mount", found.mnt)
        yield found


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


def disk(folder: Path) -> str:
    """The filesystem that a folder is on, as in "ext4 on /dev/vda"."""
    inside = [(point, kind) for point, kind in _mounts() if folder.is_relative_to(point)]
    return max(inside, key=lambda one: len(one[0]))[1]


def mounted(point: Path) -> bool:
    """Whether something is mounted there; asks the kernel's table, not the mount, which may hang."""
    return any(Path(one) == point for one, _ in _mounts())


def _mounts() -> Iterator[tuple[str, str]]:
    """Mount point, and filesystem with its source; format: proc(5), /proc/pid/mountinfo."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].encode().decode("unicode_escape")
        kind, source, *_ = right.split()
        yield point, f"{kind} on {source}"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns, the machine above them."""
    print(machine())
    columns(titles, rows)


def columns(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns."""
    cells = [list(titles), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[at]) for row in cells) for at in range(len(titles))]
    for row in cells:
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        print("  ".join([row[0].ljust(widths[0]), *rest]).rstrip())


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return statistics.median(values)
