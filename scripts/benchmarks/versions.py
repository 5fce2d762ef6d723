"""what many versions of a dataset cost in stored bytes: vfsd, DVC, restic and plain copies beside one another

Each version has 1 % of its bytes edited: runs at random places in random files, a third each inserted, overwritten and
deleted, their lengths log-normal (sigma 1) around the mean that --runs gives. Each program keeps version after version
of its own copy of the same dataset, edited in the same way; files that are edited are written anew, as most programs
do. Dirty pages are written out before each step; times include starting the program. Afterwards versions are had
again, the first and the last among them, and every file of them is compared by its hash.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import msgspec

from scripts.benchmarks.edits import CONTENTS, MB, SHAPES, Case, Changes, Dataset, make_files, sums
from scripts.benchmarks.keepers import KEEPERS
from scripts.benchmarks.peers import DEFAULT, Failed
from scripts.benchmarks.rig import disk, median, table


class Cell(msgspec.Struct, frozen=True):
    """One program on one case. stored, objects, seconds: for each version, cumulative but for the seconds. local: bytes
    beside the store in the end. changes: of all versions. checked: versions that were had again and compared."""

    keeper: str
    case: Case
    stored: list[int]
    objects: list[int]
    seconds: list[float]
    local: int
    changes: Changes
    checked: list[int]

    @property
    def growth(self) -> int:
        """Bytes that all versions after the first added."""
        return self.stored[-1] - self.stored[0]


class Bench:
    """Measures one program on one case after another. cells: what was found. notes: what else is to be said."""

    def __init__(self, folder: Path, asked: argparse.Namespace) -> None:
        self._folder = folder
        self._asked = asked
        self._programs: Path = asked.peers_in.absolute() / "bin"
        self.cells: list[Cell] = []
        self.notes: list[str] = []

    def measure(self, cases: list[Case]) -> None:
        """All programs that are there, on all cases."""
        there = [name for name in self._asked.peers if self._is_there(name)]
        for (_shape, _content), group in itertools.groupby(cases, lambda case: (case.shape, case.content)):
            first = self._folder / "first"
            for case in group:
                if not first.exists():
                    make_files(first, case)
                for name in there:
                    try:
                        self._one(name, case, first)
                    except Failed as error:
                        self._note(f"{name} failed, {case.title()}: {error}")
            shutil.rmtree(first)

    def _is_there(self, name: str) -> bool:
        keeper = KEEPERS[name](self._folder / name, self._programs, self._asked.limit)
        absent = keeper.absent()
        self.notes.append(f"{name}: {absent or f'{keeper.version()}, {keeper.settings}'}")
        keeper.remove()
        return not absent

    def _one(self, name: str, case: Case, first: Path) -> None:
        keeper = KEEPERS[name](self._folder / name, self._programs, self._asked.limit)
        try:
            shutil.copytree(first, keeper.data)
            dataset = Dataset(keeper.data, case)
            keeper.make()
            stored, objects, seconds, expected = [], [], [], []
            for number in range(1, self._asked.versions + 1):
                if number > 1:
                    dataset.edit()
                keeper.begin(number)
                os.sync()
                start = time.perf_counter()
                keeper.keep(number)
                seconds.append(time.perf_counter() - start)
                size, count = keeper.stored()
                stored.append(size)
                objects.append(count)
                expected.append(dict(dataset.sums))
            local = keeper.local()
            kept = keeper.kept(self._asked.versions)
            checked = sorted({kept[round(share)] for share in _evenly(self._asked.check, len(kept) - 1)})
            for number in checked:
                if sums(keeper.restore(number)) != expected[number - 1]:
                    raise Failed(f"version {number} is not as it was")
        finally:
            keeper.remove()
        cell = Cell(name, case, stored, objects, seconds, local, dataset.changes, checked)
        self.cells.append(cell)
        said = f"{cell.growth / cell.changes.edited:.2f} x the edits, {sum(seconds):.0f} s"
        print(f"{case.title()}: {name} {said}", file=sys.stderr, flush=True)

    def _note(self, text: str) -> None:
        self.notes.append(text)
        print(text, file=sys.stderr, flush=True)

    def lines(self) -> tuple[list[str], list[list[str]]]:
        """Titles and lines of the table: a block for each case, a line in it for each program."""
        titles = [
            "MB", "edited", "of it new", "version 1", f"all {self._asked.versions}", "growth", "/ edited", "/ new",
            "objects", "beside", "s, version 1", "s a version", "compared",
        ]  # fmt: skip
        found = []
        for case, group in itertools.groupby(self.cells, lambda cell: cell.case):
            found.append([case.title(), *[""] * (len(titles) - 1)])
            found += [_texts(cell) for cell in group]
        return titles, found


def _evenly(count: int, last: int) -> Iterator[float]:
    """`count` numbers from 0 to `last`; of one alone it is `last`."""
    for number in range(count):
        yield last - last * number / max(1, count - 1)


def _texts(cell: Cell) -> list[str]:
    edited, new = cell.changes.edited, cell.changes.new
    sizes = (edited, new, cell.stored[0], cell.stored[-1], cell.growth)
    return [
        f"  {cell.keeper}", *(f"{size / MB:,.1f}" for size in sizes), f"{cell.growth / edited:.2f}",
        f"{cell.growth / max(1, new):.2f}", f"{cell.objects[-1]:,}", f"{cell.local / MB:,.1f}",
        f"{cell.seconds[0]:.2f}", f"{median(cell.seconds[1:]):.2f}", f"{len(cell.checked)}",
    ]  # fmt: skip


def _read_arguments() -> argparse.Namespace:
    reader = argparse.ArgumentParser(prog="scripts/bench versions", description=__doc__)
    reader.add_argument("--versions", type=int, default=10, help="the first included; default: %(default)s")
    reader.add_argument("--mb", type=int, default=200, help="of 1,000,000 bytes; default: %(default)s")
    reader.add_argument("--share", type=float, default=1.0, help="per cent of the bytes; default: %(default)s")
    reader.add_argument("--shapes", default=",".join(SHAPES), help="10 files, files of 1 MB; default: %(default)s")
    reader.add_argument("--contents", default=",".join(CONTENTS), help="csv shrinks to a third; default: %(default)s")
    reader.add_argument("--runs", default="64,1", help="KiB of an edit on average; default: %(default)s")
    reader.add_argument("--peers", default=",".join(KEEPERS), help="default: %(default)s")
    reader.add_argument("--check", type=int, default=5, help="versions that are had again; default: %(default)s")
    reader.add_argument("--limit", type=float, default=300, help="seconds a step may take; default: %(default)s")
    reader.add_argument("--json", type=Path, metavar="FILE", help="write all that was counted there")
    reader.add_argument(
        "--peers-in", type=Path, default=DEFAULT, help="made by scripts/bench peers; default: %(default)s"
    )
    here = Path(tempfile.gettempdir())
    reader.add_argument("--folder", type=Path, default=here, help="on the disk to use; default: %(default)s")
    asked = reader.parse_args()
    for name, known in (("shapes", SHAPES), ("contents", CONTENTS), ("peers", KEEPERS)):
        setattr(asked, name, getattr(asked, name).split(","))
        for unknown in {*getattr(asked, name)} - {*known}:
            reader.error(f"there is no {unknown}")
    try:
        asked.runs = [round(float(word) * 1024) for word in asked.runs.split(",")]
    except (ValueError, OverflowError):
        reader.error(f"--runs {asked.runs}: not numbers of KiB")
    if min(asked.versions - 1, asked.mb, asked.check, *asked.runs) < 1 or not 0.01 <= asked.share <= 100:
        reader.error("two versions, 1 MB, one version to compare, runs of a byte and 0.01 per cent are the least")
    if not asked.folder.is_dir():
        reader.error(f"{asked.folder} is no directory")
    needed, free = asked.mb * MB * (asked.versions + 4), shutil.disk_usage(asked.folder).free
    if needed > free:
        reader.error(f"{needed / 1e9:.0f} GB may be needed in {asked.folder}, and {free / 1e9:.0f} GB are free")
    return asked


def _caption(asked: argparse.Namespace) -> str:
    return (
        f"{asked.versions} versions, {asked.share:g} % of the bytes edited in each, a third each inserted, overwritten "
        f"and deleted; new: the first two. One round, on {disk(asked.folder.resolve())}; s a version: median without "
        f"the first; beside: what can be made again from the store; compared: versions had again, each file by its hash"
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
    try:
        bench = Bench(folder, asked)
        every = itertools.product(asked.shapes, asked.contents, asked.runs)
        size, share = asked.mb * MB, asked.share / 100
        bench.measure([Case(shape, content, size, run, share) for shape, content, run in every])
        titles, lines = bench.lines()
        table(titles, lines)
        print("\n".join([_caption(asked), *bench.notes]))
        if asked.json:
            asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(bench.cells)))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
