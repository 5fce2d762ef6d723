"""files as programs use them: the local disk, vfsd, juicefs, rclone mount and s3ql beside one another

Each cell is a process of its own on a system that was just mounted: what came before is written out, and, as root, the
kernel's caches are dropped. Files that are copied in are read once before, so that they come from memory. Times
include every close, and no fsync but where the row says so. Bytes are random and never repeat. What a system writes
out behind the program's back is not waited for; what it does so early enough to get in the way counts.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from scripts.benchmarks.child import in_child
from scripts.benchmarks.peers import DEFAULT, SYSTEMS, Failed, Local
from scripts.benchmarks.rig import disk, median, table
from scripts.benchmarks.workload import BLOCK, FOLDERS, Load, Row, rows, sources

UNSTEADY = 1.5
DROP = Path("/proc/sys/vm/drop_caches")


class Bench:
    """The systems in their folders, and the measuring of one cell."""

    def __init__(self, folder: Path, load: Load, names: list[str], asked: argparse.Namespace) -> None:
        self.folder = folder
        self.load = load
        self.limit: float = asked.limit
        self.programs = asked.peers.absolute() / "bin"
        self.profile: Path | None = asked.profile and asked.profile.absolute()
        self.systems = {name: self._fresh(name) for name in names}

    def _fresh(self, name: str) -> Local:
        return SYSTEMS[name](self.folder / name, self.programs, self.limit)

    def close(self) -> None:
        """End and remove all."""
        for system in self.systems.values():
            system.remove()

    def cell(self, name: str, key: str, row: Row) -> float:
        """Seconds of one row on one system. After a failure the system is made anew, for the next row."""
        system = self.systems[name]
        try:
            system.mount()
            if row.prepare:
                try:
                    in_child(row.prepare, system.where, self.load, self.limit)
                except Failed as error:
                    raise Failed(f"while preparing: {error}") from None
                system.unmount()
                system.mount()
            self._calm()
            with self._profiled(system, key):
                took = in_child(row.run, system.where, self.load, self.limit)
            system.unmount()
        except Failed:
            system.remove()
            self.systems[name] = self._fresh(name)
            raise
        return took

    def _calm(self) -> None:
        """Write out what is dirty, drop what is cached, and have in memory what is copied in."""
        os.sync()
        if os.access(DROP, os.W_OK):
            DROP.write_text("3")
        for path in (self.load.big, self.load.tar, *sorted(self.load.tree.rglob("*"))):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(BLOCK):
                        pass

    @contextmanager
    def _profiled(self, system: Local, key: str) -> Iterator[None]:
        if not self.profile or system.name != "vfsd":
            yield
            return
        self.profile.mkdir(parents=True, exist_ok=True)
        spy = subprocess.Popen(
            ["py-spy", "record", "--pid", str(system.pid()), "--output", self.profile / f"{key}.svg", "--nonblocking"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
        finally:
            spy.send_signal(signal.SIGINT)  # it writes its picture, then
            spy.wait(60)


def _shown(key: str, picked: dict[str, Row], found: dict[tuple[str, str], float | str], names: list[str]) -> list[str]:
    """A line of the table: each system, then vfsd's rate over those of the best peer and of the local disk."""
    row, fuse = picked[key], [name for name in names if name != "local"]
    took = {name: value for name in names if isinstance(value := found[name, key], float)}
    best = min((name for name in fuse if name in took), key=took.__getitem__, default=None)
    line = [row.title]
    for name in names:
        if name in took:
            rate = f"{row.amount / took[name]:,.0f} {row.unit}".replace(" /s", "/s")
            line.append(f"{rate}, {took[name]:.2f} s {'*' if name == best else ' '}")
        else:
            line.append(f"{found[name, key]}  ")
    peers = [took[name] for name in fuse if name in took and name != "vfsd"]
    ours, local = took.get("vfsd"), took.get("local")
    line.append(f"{min(peers) / ours:.2f}" if peers and ours else "")
    line.append(f"{local / ours:.2f}" if local and ours else "")
    return line


def _read_arguments() -> argparse.Namespace:
    reader = argparse.ArgumentParser(prog="scripts/bench posix", description=__doc__)
    every = ",".join(rows(Load(0, 0, 0, Path(), Path(), Path(), 0)))
    reader.add_argument("--rows", default=every, help="default: %(default)s")
    reader.add_argument("--systems", default=",".join(SYSTEMS), help="default: %(default)s")
    reader.add_argument("--peers", type=Path, default=DEFAULT, help="made by scripts/bench peers; default: %(default)s")
    here = Path(tempfile.gettempdir())
    reader.add_argument("--folder", type=Path, default=here, help="on the disk to use; default: %(default)s")
    reader.add_argument("--mib", type=int, default=1024, help="the big file; default: %(default)s")
    reader.add_argument("--small-mib", type=int, default=64, help="written in 4 KiB blocks; default: %(default)s")
    reader.add_argument("--files", type=int, default=10_000, help="small files; default: %(default)s")
    reader.add_argument("--rounds", type=int, default=1, help="the table has medians; default: %(default)s")
    reader.add_argument("--limit", type=float, default=300, help="seconds a step may take; default: %(default)s")
    reader.add_argument("--profile", type=Path, metavar="FOLDER", help="py-spy's picture of vfsd's daemon for each row")
    asked = reader.parse_args()
    asked.rows, asked.systems = asked.rows.split(","), asked.systems.split(",")
    for unknown in {*asked.rows} - {*every.split(",")} | {*asked.systems} - {*SYSTEMS}:
        reader.error(f"there is no {unknown}")
    if asked.profile and not shutil.which("py-spy"):
        reader.error("--profile needs py-spy in the environment that vfsd runs in")
    return asked


def _measure(bench: Bench, asked: argparse.Namespace) -> None:
    picked = {key: row for key, row in rows(bench.load).items() if key in asked.rows}
    notes = [_caption(asked, bench.load)]
    absent = {name for name, system in bench.systems.items() if system.absent()}
    for name, system in bench.systems.items():
        notes.append(f"{name}: {system.absent() or f'{system.version()}, {system.settings}'}")
    found: dict[tuple[str, str], float | str] = {(name, key): "absent" for name in absent for key in picked}
    for key, row in picked.items():
        times: dict[str, list[float]] = {name: [] for name in asked.systems if name not in absent}
        for _ in range(asked.rounds):
            for name in [name for name in times if (name, key) not in found]:
                try:
                    times[name].append(bench.cell(name, key, row))
                    print(f"{key} {name} {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
                except Failed as error:
                    found[name, key] = "failed"
                    notes.append(f"{name} failed, {row.title}: {error}")
                    print(notes[-1], file=sys.stderr, flush=True)
        seen = {name: took for name, took in times.items() if (name, key) not in found}
        found.update({(name, key): median(took) for name, took in seen.items()})
        notes += [
            f"unsteady: {row.title}, {name}: {min(took):.2f} to {max(took):.2f} s"
            for name, took in seen.items()
            if max(took) > UNSTEADY * min(took)
        ]
    titles = ["* the best FUSE system", *asked.systems, "vfsd/best peer", "vfsd/local"]
    table(titles, [_shown(key, picked, found, asked.systems) for key in picked])
    print("\n".join(notes))


def _caption(asked: argparse.Namespace, load: Load) -> str:
    cold = "kernel caches dropped" if os.access(DROP, os.W_OK) else "kernel caches not dropped (needs root)"
    runs = f"medians of {asked.rounds} rounds" if asked.rounds > 1 else "one round, so nothing is known of the spread"
    return (
        f"{runs} on {disk(asked.folder.resolve())}; each cell on a fresh mount, {cold}, the systems' own disk caches "
        f"kept; close included, fsync only where named; small files in {FOLDERS} directories; the tree is Python's "
        f"standard library, {sum(p.stat().st_size for p in load.tree.rglob('*') if p.is_file()) / 1e6:.0f} MB"
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
    bench = None
    try:
        load = sources(folder / "source", asked.mib << 20, asked.small_mib << 20, asked.files)
        bench = Bench(folder, load, asked.systems, asked)
        _measure(bench, asked)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if bench:
            bench.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
