"""What scripts/bench posix does on each file system, and how long it took: one Row for each line of its table.

Times include every close, and no fsync but where the row says so. Each row looks afterwards whether all of it was done,
and raises Failed if not. Mounting, cold caches and time limits are the business of scripts/benchmarks/posix.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.peers import Failed, last_line

BLOCK = 1 << 20
SMALL_BLOCK = 4096
SMALL_FILE = 1024
FOLDERS = 100
POOL = 16 * BLOCK


@dataclass(frozen=True)
class Load:
    """How much is done. size, small: bytes of the big file and of the one written in 4 KiB blocks; files: number of
    small files; big, tree, tar: what is copied in, on the local disk; inside: files in the tree."""

    size: int
    small: int
    files: int
    big: Path
    tree: Path
    tar: Path
    inside: int

    def names(self) -> list[str]:
        """The small files, spread over FOLDERS directories."""
        return [f"{number % FOLDERS:02d}/file{number:06d}" for number in range(self.files)]


@dataclass(frozen=True)
class Row:
    """A line of the table. prepare: what must be there before, not timed; run: seconds that it took; both get the
    directory to work in. amount: how many of `unit` were done."""

    title: str
    amount: float
    unit: str
    prepare: Callable[[Path, Load], None] | None
    run: Callable[[Path, Load], float]


def sources(folder: Path, size: int, small: int, files: int) -> Load:
    """What is copied in: a file of random bytes, and the Python standard library's own modules as tree and archive."""
    folder.mkdir()
    big, tree, tar = folder / "big", folder / "tree", folder / "tree.tar"
    with big.open("wb") as file:
        for _ in range(size // BLOCK):
            file.write(os.urandom(BLOCK))
    left = shutil.ignore_patterns("__pycache__", "site-packages", "dist-packages", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), tree, ignore=left)
    with tarfile.open(tar, "w") as archive:
        archive.add(tree, "tree")
    inside = sum(len(names) for _, _, names in os.walk(tree))
    return Load(size, small, files, big, tree, tar, inside)


def human(size: int) -> str:
    """Bytes as GiB or MiB."""
    return f"{size >> 30} GiB" if size % (1 << 30) == 0 else f"{size >> 20} MiB"


def rows(load: Load) -> dict[str, Row]:
    """All rows, in the order of the table."""
    mb, small = load.size / 1e6, load.small / 1e6
    big, files, inside = human(load.size), f"{load.files:,} files", f"{load.inside:,} files"
    return {
        "write": Row(f"write {big}, 1 MiB blocks", mb, "MB/s", None, _write),
        "fsync": Row(f"write {big} + fsync", mb, "MB/s", None, _write_fsync),
        "read": Row(f"read {big}, cold", mb, "MB/s", _have_big, _read),
        "cp": Row(f"cp {big} in", mb, "MB/s", None, _cp),
        "write4k": Row(f"write {human(load.small)}, 4 KiB blocks", small, "MB/s", None, _write_4k),
        "create": Row(f"create {files} of 1 KiB", load.files, "/s", _have_folders, _create),
        "stat": Row(f"stat {files}, cold", load.files, "/s", _have_files, _stat),
        "stat2": Row(f"stat {files}, again", load.files, "/s", _have_files, _stat_again),
        "rename": Row(f"rename {files}", load.files, "/s", _have_files, _rename),
        "unlink": Row(f"unlink {files}", load.files, "/s", _have_files, _unlink),
        "cp-r": Row(f"cp -r, {inside}", load.inside, "/s", _have_no_tree, _cp_r),
        "rm-r": Row(f"rm -r, {inside}", load.inside, "/s", _have_tree, _rm_r),
        "tar": Row(f"tar x, {inside}", load.inside, "/s", _have_no_tree, _tar_x),
    }


def _write(where: Path, load: Load) -> float:
    return _writing(where / "written", load.size, BLOCK, sync=False)


def _write_fsync(where: Path, load: Load) -> float:
    return _writing(where / "written", load.size, BLOCK, sync=True)


def _write_4k(where: Path, load: Load) -> float:
    return _writing(where / "written", load.small, SMALL_BLOCK, sync=False)


def _writing(path: Path, size: int, block: int, *, sync: bool) -> float:
    """Seconds from open to close; the file is gone afterwards."""
    blocks = _blocks(size, block)
    next(blocks)  # makes its random bytes
    start = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    for data in blocks:
        if os.write(descriptor, data) != len(data):
            raise Failed("a write was short")
    if sync:
        os.fsync(descriptor)
    os.close(descriptor)
    took = time.perf_counter() - start
    path.unlink()
    return took


def _blocks(size: int, block: int) -> Iterator[memoryview]:
    """First an empty one, then `size` bytes. Each time round the pool a byte in every 4 KiB is another: no chunk
    repeats, and making it takes microseconds."""
    pool = bytearray(os.urandom(POOL))
    view = memoryview(pool)
    yield view[:0]
    stamps = block // SMALL_BLOCK
    for at in range(0, size, block):
        lap, start = divmod(at, POOL)
        pool[start : start + block : SMALL_BLOCK] = bytes([lap & 255]) * stamps
        yield view[start : start + block]


def _read(where: Path, load: Load) -> float:
    buffer = bytearray(BLOCK)
    start = time.perf_counter()
    descriptor = os.open(where / "big", os.O_RDONLY)
    seen = 0
    while count := os.readv(descriptor, [buffer]):
        seen += count
    os.close(descriptor)
    took = time.perf_counter() - start
    if seen != load.size:
        raise Failed(f"{seen} bytes instead of {load.size}")
    (where / "big").unlink()
    return took


def _cp(where: Path, load: Load) -> float:
    took = _command("cp", load.big, where / "copied")
    if (where / "copied").stat().st_size != load.size:
        raise Failed("the copy has another size")
    (where / "copied").unlink()
    return took


def _create(where: Path, load: Load) -> float:
    data = [os.urandom(SMALL_FILE) for _ in range(load.files)]
    paths = [f"{where}/files/{name}" for name in load.names()]
    start = time.perf_counter()
    for path, content in zip(paths, data, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, content)
        os.close(descriptor)
    took = time.perf_counter() - start
    _must_hold(where / "files", load.files)
    return took


def _stat(where: Path, load: Load) -> float:
    paths = [f"{where}/files/{name}" for name in load.names()]
    start = time.perf_counter()
    sizes = {os.stat(path).st_size for path in paths}
    took = time.perf_counter() - start
    if sizes != {SMALL_FILE}:
        raise Failed(f"files of {sorted(sizes)} bytes")
    return took


def _stat_again(where: Path, load: Load) -> float:
    _stat(where, load)
    return _stat(where, load)


def _rename(where: Path, load: Load) -> float:
    paths = [f"{where}/files/{name}" for name in load.names()]
    start = time.perf_counter()
    for path in paths:
        os.rename(path, path + ".new")
    took = time.perf_counter() - start
    _must_hold(where / "files", load.files, ".new")
    return took


def _unlink(where: Path, load: Load) -> float:
    paths = [f"{where}/files/{name}" for name in load.names()]
    start = time.perf_counter()
    for path in paths:
        os.unlink(path)
    took = time.perf_counter() - start
    _must_hold(where / "files", 0)
    return took


def _cp_r(where: Path, load: Load) -> float:
    took = _command("cp", "-r", load.tree, where / "tree")
    _must_hold(where / "tree", load.inside)
    return took


def _rm_r(where: Path, load: Load) -> float:
    """With -v: what it says it removed shows that all was there, which looking before would have made warm."""
    start = time.perf_counter()
    done = subprocess.run(
        ["rm", "-r", "-v", where / "tree"], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"},
        check=False,
    )  # fmt: skip
    took = time.perf_counter() - start
    removed = sum(line.startswith("removed '") for line in done.stdout.splitlines())
    if done.returncode or removed != load.inside or (where / "tree").exists():
        raise Failed(f"rm removed {removed} files of {load.inside}: {last_line(done.stderr)}")
    return took


def _tar_x(where: Path, load: Load) -> float:
    took = _command("tar", "-x", "-f", load.tar, "-C", where)
    _must_hold(where / "tree", load.inside)
    return took


def _must_hold(top: Path, count: int, ending: str = "") -> None:
    """A row that did less than it says must not get a time for it."""
    held = sum(name.endswith(ending) for _, _, names in os.walk(top) for name in names)
    if held != count:
        raise Failed(f"{held:,} files afterwards instead of {count:,}")


def _command(*words: str | Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]  # the first is the cause, tar's last is a summary
        raise Failed(f"{words[0]} ended with {done.returncode}: {said[0]} ({len(said)} lines)")
    return took


def _have_big(where: Path, load: Load) -> None:
    _command("cp", load.big, where / "big")


def _have_folders(where: Path, _load: Load) -> None:
    shutil.rmtree(where / "files", ignore_errors=True)
    for number in range(FOLDERS):
        (where / "files" / f"{number:02d}").mkdir(parents=True)


def _have_files(where: Path, load: Load) -> None:
    """The files of an earlier row serve if they are all there under their own names."""
    with suppress(OSError, Failed):
        _stat(where, load)
        return
    _have_folders(where, load)
    _create(where, load)


def _have_no_tree(where: Path, _load: Load) -> None:
    shutil.rmtree(where / "tree", ignore_errors=True)


def _have_tree(where: Path, load: Load) -> None:
    if not (where / "tree").exists():
        _cp_r(where, load)
