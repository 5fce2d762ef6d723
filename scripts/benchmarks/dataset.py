"""What scripts/bench store works on, and what it does with it: seeded random bytes, and a Row for each line.

Three sets lie on the local disk: one big file, small files, and many tiny ones to be listed. What is read is compared
with them by its hash. Mounting, cold caches, latency and counting are the business of scripts/benchmarks/store.py.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import xxhash

from scripts.benchmarks.peers import Failed, last_line

BLOCK = 1 << 20
SMALL_SIZE = 100 << 10
TINY_SIZE = 64
IN_A_FOLDER = 1000
RANDOM_SIZE = 128 << 10
READERS = 4
SEED = 1


@dataclass(frozen=True)
class Data:
    """folder: has the sets, `big`, `small/` and `many/`. size: bytes of the big file. small, many: numbers of files.
    reads: how many of the big file's pieces of RANDOM_SIZE bytes are read. sums: what the bytes of a set hash to."""

    folder: Path
    size: int
    small: int
    many: int
    reads: int
    sums: dict[str, int]

    def names(self, top: str, count: int) -> list[str]:
        """Paths of a set's files, in order."""
        return [f"{top}/{number // IN_A_FOLDER:03d}/file{number:06d}" for number in range(count)]

    def bytes_in(self, name: str) -> int:
        """Of a set."""
        return {"big": self.size, "small": self.small * SMALL_SIZE, "many": self.many * TINY_SIZE}[name]

    def small_names(self) -> list[str]:
        """The small files, in order."""
        return self.names("small", self.small)

    def places(self) -> list[int]:
        """Where in the big file is read."""
        chance = random.Random(SEED)
        return [chance.randrange(self.size - RANDOM_SIZE) // 4096 * 4096 for _ in range(self.reads)]


@dataclass(frozen=True)
class Row:
    """A line of the table. needs: the set it reads, or writes when it `stores` it. amount: how many of `unit` are
    done. run: seconds that it took; gets the directory to work in. action: the same for plain requests, see
    scripts/benchmarks/plain.py; empty where they have none. after: the row that it follows on the same mount; empty: it
    has a fresh node."""

    title: str
    needs: str
    amount: float
    unit: str
    run: Callable[[Path, Data], float]
    action: str = ""
    stores: bool = False
    after: str = ""


def make_data(folder: Path, scale: float) -> Data:
    """Write the sets."""
    size = max(4, round(2048 * scale)) * BLOCK
    small, many, reads = max(8, round(20_000 * scale)), max(10, round(100_000 * scale)), max(10, round(1000 * scale))
    data = Data(folder, size, small, many, reads, {})
    chance = random.Random(SEED)
    folder.mkdir()
    with (folder / "big").open("wb") as file:
        for _ in range(size // BLOCK):
            file.write(chance.randbytes(BLOCK))
    for names, length in ((data.small_names(), SMALL_SIZE), (data.names("many", many), TINY_SIZE)):
        for parent in {os.path.dirname(name) for name in names}:
            (folder / parent).mkdir(parents=True)
        for name in names:
            (folder / name).write_bytes(chance.randbytes(length))
    data.sums["big"] = _stream(folder / "big")[1]
    data.sums["small"] = _whole(f"{folder}/{name}" for name in data.small_names())[1]
    data.sums["pieces"] = _pieces(folder / "big", data.places())[1]
    return data


def rows(data: Data) -> dict[str, Row]:
    """All rows, in the order of the table."""
    size, mb, small = _human(data.size), data.size / 1e6, f"{data.small:,} files of 100 KiB"
    files = float(data.small)
    return {
        "cp-big": Row(f"cp {size} in, until stored", "big", mb, "MB/s", _cp_big, "put-big", stores=True),
        "cp-small": Row(f"cp -r {small} in, until stored", "small", files, "/s", _cp_small, "put-files", stores=True),
        "first": Row("first byte of a small file", "small", 1, "/s", _first, "first"),
        "seq": Row(f"read {size}, sequentially", "big", mb, "MB/s", _seq, "seq"),
        "epoch": Row(f"read {small}, in order", "small", files, "/s", _epoch, "epoch"),
        "again": Row("the same again, warm", "small", files, "/s", _epoch, after="epoch"),
        "shuffled": Row(f"read {small}, shuffled", "small", files, "/s", _shuffled),
        "readers": Row(f"the same by {READERS} readers", "small", files, "/s", _readers),
        "find": Row(f"find -ls, {data.many:,} files", "many", data.many, "/s", _find, "list"),
        "random": Row(f"{data.reads:,} reads of 128 KiB in {size}", "big", data.reads, "/s", _random, "random"),
    }


def _human(size: int) -> str:
    return f"{size >> 30} GiB" if size % (1 << 30) == 0 else f"{size >> 20} MiB"


# Writing


def _cp_big(where: Path, data: Data) -> float:
    return _cp(data.folder / "big", where / "big")


def _cp_small(where: Path, data: Data) -> float:
    return _cp("-r", data.folder / "small", where / "small")


def _cp(*words: str | Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(["cp", *words], capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        raise Failed(f"cp ended with {done.returncode}: {last_line(done.stderr)}")
    return took


def copy_in(where: Path, data: Data, name: str, *, processes: int) -> None:
    """Copy a set with several processes at once, where nobody looks at the time."""
    source = data.folder / name
    if source.is_file():
        _cp(source, where / name)
        return
    (where / name).mkdir(exist_ok=True)
    waiting = sorted(source.iterdir())
    share = math.ceil(len(waiting) / processes)
    running = [
        subprocess.Popen(["cp", "-r", *waiting[at : at + share], where / name], stderr=subprocess.DEVNULL)
        for at in range(0, len(waiting), share)
    ]
    if [one for one in running if one.wait()]:
        raise Failed(f"copying {name} in failed")


# Reading


def _first(where: Path, data: Data) -> float:
    start = time.perf_counter()
    with (where / data.small_names()[data.small // 2]).open("rb", buffering=0) as file:
        found = file.read(1)
    took = time.perf_counter() - start
    if len(found) != 1:
        raise Failed("no byte came")
    return took


def _seq(where: Path, data: Data) -> float:
    took, found = _stream(where / "big")
    _compare(found, data.sums["big"])
    return took


def _epoch(where: Path, data: Data) -> float:
    took, found = _whole(f"{where}/{name}" for name in data.small_names())
    _compare(found, data.sums["small"])
    return took


def _shuffled(where: Path, data: Data) -> float:
    took, found = _whole(f"{where}/{name}" for name in _shuffle(data))
    _compare(found, data.sums["small"])
    return took


def _readers(where: Path, data: Data) -> float:
    names = _shuffle(data)
    with multiprocessing.get_context("fork").Pool(READERS) as pool:
        pool.map(_nothing, range(READERS), 1)  # all are there
        start = time.perf_counter()
        found = pool.starmap(_share, [(where, names[at::READERS]) for at in range(READERS)], 1)
        took = time.perf_counter() - start
    _compare(sum(found), data.sums["small"])
    return took


def _nothing(_: int) -> None:
    """Show that this process has begun."""


def _share(where: Path, names: list[str]) -> int:
    return _whole(f"{where}/{name}" for name in names)[1]


def _shuffle(data: Data) -> list[str]:
    names = data.small_names()
    random.Random(SEED).shuffle(names)
    return names


def _find(where: Path, data: Data) -> float:
    start = time.perf_counter()
    done = subprocess.run(["find", where / "many", "-ls"], capture_output=True, check=False)
    took = time.perf_counter() - start
    files = sum(b" -" in line[:40] for line in done.stdout.splitlines())
    if done.returncode or files != data.many:
        raise Failed(f"find saw {files:,} files of {data.many:,}: {last_line(done.stderr.decode())}")
    return took


def _random(where: Path, data: Data) -> float:
    took, found = _pieces(where / "big", data.places())
    _compare(found, data.sums["pieces"])
    return took


def _compare(found: int, expected: int) -> None:
    if found != expected:
        raise Failed("the bytes are not those that were written")


def _stream(path: Path) -> tuple[float, int]:
    """Seconds and hash of one file, read from beginning to end."""
    digest, buffer = xxhash.xxh3_64(), memoryview(bytearray(BLOCK))
    start = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    while count := os.readv(descriptor, [buffer]):
        digest.update(buffer[:count])
    os.close(descriptor)
    return time.perf_counter() - start, digest.intdigest()


def _whole(paths: Iterable[str]) -> tuple[float, int]:
    """Seconds of whole files one after another, and the sum of their hashes."""
    found = 0
    start = time.perf_counter()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        content = os.read(descriptor, SMALL_SIZE + 1)
        while more := os.read(descriptor, SMALL_SIZE + 1):
            content += more
        os.close(descriptor)
        found += xxhash.xxh3_64_intdigest(content)
    return time.perf_counter() - start, found


def _pieces(path: Path, places: list[int]) -> tuple[float, int]:
    """Seconds of pieces of one file, and the sum of their hashes."""
    found = 0
    start = time.perf_counter()
    descriptor = os.open(path, os.O_RDONLY)
    for at in places:
        found += xxhash.xxh3_64_intdigest(os.pread(descriptor, RANDOM_SIZE, at))
    os.close(descriptor)
    return time.perf_counter() - start, found
