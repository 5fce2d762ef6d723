"""What scripts/bench versions keeps: a seeded dataset, and the next version of it, with some of its bytes edited.

Edits are runs of bytes at random places of random files, a third each inserted, overwritten with new bytes, and
deleted; their lengths are log-normal. Nothing here knows who keeps the versions.
"""

from __future__ import annotations

import math
import os
import random
from array import array
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import xxhash

SPREAD = 1.0  # sigma of the lengths' logarithms: nine runs of ten are within a factor of 5 of the median
MB = 1_000_000
_ROW = "%d,station-%d,%d.%d,%d,%d,ok\n"
_COLUMNS = 6
_SHORTEST = 31  # bytes of a row
_ROWS = 1000  # made at once
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Shape:
    """title: as the table has it. large: files of a tenth of the dataset each; else of 1 MB."""

    title: str
    large: bool

    def files(self, size: int) -> tuple[int, int]:
        """How many files, and the bytes of each."""
        return (10, size // 10) if self.large else (max(1, size // MB), MB)


SHAPES = {"large": Shape("large files", large=True), "small": Shape("small files", large=False)}


@dataclass(frozen=True)
class Case:
    """One dataset and how it is edited. size: bytes, of all files. content: a key of CONTENTS. run: bytes that an edit
    has on average. share: of the bytes, edited in each version."""

    shape: str
    content: str
    size: int
    run: int
    share: float

    def title(self) -> str:
        """In a few words."""
        count, each = SHAPES[self.shape].files(self.size)
        files = f"{count} file{'s' * (count > 1)} of {each / MB:g} MB"
        return f"{files}, {CONTENTS[self.content]}, runs of {self.run / 1024:g} KiB"


CONTENTS = {"random": "random bytes", "csv": "CSV"}


@dataclass
class Changes:
    """Bytes of edits, and the number of runs."""

    inserted: int = 0
    overwritten: int = 0
    deleted: int = 0
    runs: int = 0

    @property
    def edited(self) -> int:
        """Bytes that were edited in any way."""
        return self.inserted + self.overwritten + self.deleted

    @property
    def new(self) -> int:
        """Bytes that were not there before."""
        return self.inserted + self.overwritten


class Dataset:
    """The files of a case in a folder, version 1 at first. sums: what each file hashes to."""

    def __init__(self, folder: Path, case: Case) -> None:
        self._folder = folder
        self._case = case
        self._chance = random.Random(f"edits {case}")
        self.changes = Changes()
        self.sums = sums(folder)

    def edit(self) -> None:
        """Make the next version."""
        names = sorted(self.sums)
        left = round(self._case.share * sum((self._folder / name).stat().st_size for name in names))
        runs: dict[str, list[int]] = defaultdict(list)
        while left > 0:
            middle = math.log(self._case.run) - SPREAD**2 / 2
            length = min(left, math.ceil(self._chance.lognormvariate(middle, SPREAD)))
            runs[self._chance.choice(names)].append(length)
            left -= length
        for name in sorted(runs):
            self.sums[name] = self._edit(self._folder / name, runs[name])

    def _edit(self, path: Path, lengths: list[int]) -> int:
        """Replace a file by one with edits of these lengths; what it hashes to."""
        old = memoryview(path.read_bytes())
        lengths = [min(length, len(old) // 2) for length in lengths]
        places = sorted((self._chance.randrange(len(old) - length + 1), length) for length in lengths)
        parts: list[bytes | memoryview] = []
        done = 0
        for place, length in places:
            at = max(place, done)
            parts.append(old[done:at])
            done = at + self._one(parts, min(length, len(old) - at))
        parts.append(old[done:])
        new = b"".join(parts)
        beside = path.with_name(path.name + ".new")
        beside.write_bytes(new)
        os.replace(beside, path)  # who has linked the old one keeps it
        return xxhash.xxh3_64_intdigest(new)

    def _one(self, parts: list[bytes | memoryview], length: int) -> int:
        """One edit; the old bytes that it takes the place of."""
        self.changes.runs += 1
        what = self._chance.choice(("insert", "overwrite", "delete"))
        if what != "delete":
            parts.append(make_bytes(self._chance, self._case.content, length))
        match what:
            case "insert":
                self.changes.inserted += length
                return 0
            case "overwrite":
                self.changes.overwritten += length
            case _:
                self.changes.deleted += length
        return length


def make_files(folder: Path, case: Case) -> None:
    """Write version 1."""
    chance = random.Random(f"files {case.shape} {case.content} {case.size}")
    folder.mkdir()
    count, each = SHAPES[case.shape].files(case.size)
    for number in range(count):
        with (folder / f"file{number:05d}").open("wb") as file:
            for at in range(0, each, _AT_ONCE):
                file.write(make_bytes(chance, case.content, min(_AT_ONCE, each - at)))


def make_bytes(chance: random.Random, content: str, size: int) -> bytes:
    """Bytes that never were before; of CSV, lines from the beginning of one."""
    if content == "random":
        return chance.randbytes(size)
    parts = []
    have = 0
    while have < size:
        parts.append(_lines(chance, min(_ROWS, (size - have) // _SHORTEST + 1)))
        have += len(parts[-1])
    return b"".join(parts)[:size]


def _lines(chance: random.Random, rows: int) -> bytes:
    """Readings of stations, a second apart: time, station, a value with its fraction, two counts, a state."""
    values: list[int] = [0] * (rows * _COLUMNS)
    start = chance.randrange(1_500_000_000, 1_800_000_000)
    values[0::_COLUMNS] = range(start, start + rows)
    values[1::_COLUMNS] = chance.randbytes(rows)
    values[2::_COLUMNS] = chance.randbytes(rows)
    for column in range(3, _COLUMNS):
        values[column::_COLUMNS] = array("H", chance.randbytes(2 * rows))
    return (_ROW * rows % tuple(values)).encode()


def sums(folder: Path) -> dict[str, int]:
    """What each file in a folder hashes to."""
    return {path.name: _sum(path) for path in sorted(folder.iterdir())}


def _sum(path: Path) -> int:
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while data := file.read(_AT_ONCE):
            digest.update(data)
    return digest.intdigest()
