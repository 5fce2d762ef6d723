"""Four processes make, link, write, rename and remove files of several names in one directory, over commits and three
kill -9 of the daemon, with a kernel that forgets: each finds its files as it left them, names of one inode still names
of one inode."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_links import forget
from tests.slow.model import EXCHANGE, rename
from tests.slow.trees import look

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("VFSD_TEST_SECONDS", "60"))
SEED = int(os.environ.get("VFSD_TEST_SEED", "0"))
WORKERS, KILLS = 4, 3
NAMES = 60  # of each worker
SIZES = [0, 1, 100, 5000, 140_000, 300_000]
GONE = {errno.ENOTCONN, errno.ECONNABORTED}  # what calls say when the daemon has died

Seen = dict[str, tuple[list[str], int, str]]  # name → all names of its inode, st_nlink, content in brief


class Files:
    """What one worker's files should be: name → inode, inode → content."""

    def __init__(self, names: dict[str, int], contents: dict[int, bytes]) -> None:
        self.names = dict(names)
        self.contents = dict(contents)

    def copy(self) -> Files:
        return Files(self.names, self.contents)

    def make(self, name: str, data: bytes) -> None:
        """Another inode under this name."""
        inode = max(self.contents, default=0) + 1
        self.names[name], self.contents[inode] = inode, data

    def seen(self) -> Seen:
        found: Seen = {}
        for name, inode in self.names.items():
            others = sorted(other for other, one in self.names.items() if one == inode)
            found[name] = (others, len(others), brief(self.contents[inode]))
        return found


def brief(data: bytes) -> str:
    return f"{len(data)} bytes, {hashlib.sha256(data).hexdigest()}"


def found_in(folder: str, worker: int) -> Seen:
    """A worker's files as they are there."""
    tree = look(os.fsencode(folder), b"%d-" % worker)
    groups: dict[tuple[bytes, ...], list[str]] = {}
    for where, thing in tree.items():
        groups.setdefault(thing.group, []).append(os.fsdecode(where[0]))
    return {
        os.fsdecode(where[0]): (sorted(groups[thing.group]), thing.links, brief(thing.content))
        for where, thing in tree.items()
    }


class Worker:
    """Works on files whose names begin with its number."""

    def __init__(self, folder: str, number: int, seconds: float) -> None:
        self.folder = folder
        self.number = number
        self.dice = random.Random(SEED * WORKERS + number)
        self.end = time.monotonic() + seconds
        self.files = Files({}, {})
        self.operations = self.deaths = 0

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def run(self) -> None:
        while time.monotonic() < self.end:
            self.operations += 1
            after = self.files.copy()
            act, tell = self.choose()
            tell(after)
            try:
                act()
            except OSError as error:
                if error.errno not in GONE:
                    raise
                self.deaths += 1
                self.settle(after)
            else:
                self.files = after

    def choose(self) -> tuple[Callable[[], object], Callable[[Files], None]]:
        """An operation: what does it, and what it does to what should be."""
        dice = self.dice
        name = f"{self.number}-{dice.randrange(NAMES)}"
        kind = dice.choice(["save", "link", "link", "link", "unlink", "append", "append", "rename", "exchange"])
        known = sorted(self.files.names)
        if kind == "save" or len(known) < 2:
            return self._save(name, bytes([dice.randrange(256)]) * dice.choice(SIZES))
        one, other = dice.sample(known, 2)
        here, there = self.path(one), self.path(other)
        if kind == "unlink":
            return lambda: os.unlink(here), lambda files: files.names.pop(one) and None
        if kind == "append":
            return self._append(one, bytes([dice.randrange(256)]) * dice.choice(SIZES[1:4]))
        if kind == "exchange":
            def exchanged(files: Files) -> None:
                files.names[one], files.names[other] = files.names[other], files.names[one]

            return lambda: rename(os.fsencode(here), os.fsencode(there), EXCHANGE), exchanged
        if kind == "link" and name not in known:
            return lambda: os.link(here, self.path(name)), lambda files: files.names.update({name: files.names[one]})

        def renamed(files: Files) -> None:
            if files.names.get(name) != files.names[one]:  # of one inode, rename(2) does nothing
                files.names[name] = files.names.pop(one)

        return lambda: os.rename(here, self.path(name)), renamed

    def _save(self, name: str, data: bytes) -> tuple[Callable[[], object], Callable[[Files], None]]:
        """Beside, and renamed over."""

        def act() -> None:
            beside = self.path(f".{name}")
            with open(beside, "wb") as file:
                file.write(data)
            os.rename(beside, self.path(name))

        return act, lambda files: files.make(name, data)

    def _append(self, name: str, data: bytes) -> tuple[Callable[[], object], Callable[[Files], None]]:
        def act() -> None:
            fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)

        def appended(files: Files) -> None:
            files.contents[files.names[name]] += data

        return act, appended

    def settle(self, after: Files) -> None:
        """The daemon has died in an operation: it was done, or it was not."""
        while True:
            try:
                os.statvfs(self.folder)
                break
            except OSError:
                time.sleep(0.02)
        found = found_in(self.folder, self.number)
        for files in (self.files, after):
            if files.seen() == found:
                self.files = files
                return
        wanted = self.files.seen()
        wrong = {name: (found.get(name), wanted.get(name)) for name in {*found, *wanted}}
        wrong = {name: pair for name, pair in wrong.items() if pair[0] != pair[1]}
        raise AssertionError(f"worker {self.number}, after the daemon died: {wrong}")


def work(folder: str, number: int, seconds: float, record: str) -> None:
    worker = Worker(folder, number, seconds)
    worker.run()
    facts = {"operations": worker.operations, "deaths": worker.deaths, "seen": worker.files.seen()}
    Path(record).write_text(json.dumps(facts))


def test_hard_links_outlive_kills_and_commits(node: Mounted) -> None:
    (node.folder / "config.toml").write_text("quiet_s = 0.1\nmax_wait_s = 0.5\n")
    node.mount()
    (node.path / "data").mkdir()
    folder = node.path / "data/main/shared"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    records = [node.folder / f"record-{number}" for number in range(WORKERS)]
    workers = [
        context.Process(target=work, args=(str(folder), number, SECONDS, str(path)))
        for number, path in enumerate(records)
    ]
    for worker in workers:
        worker.start()
    try:
        for _ in range(KILLS):
            end = time.monotonic() + SECONDS / (KILLS + 1)
            while time.monotonic() < end:
                forget(node)
                time.sleep(0.2)
            node.kill()
            node.mount()
    finally:
        for worker in workers:
            worker.join()
    assert [worker.exitcode for worker in workers] == [0] * WORKERS
    told = [json.loads(path.read_text()) for path in records]
    made = node.facts("commit", "data/main")["id"]
    places = [folder, node.path / f"data/main@{made}/shared"]
    for again in (False, True):
        if again:
            node.umount()
            node.mount()
        for place in places:
            for number, one in enumerate(told):
                wanted = {name: tuple(facts) for name, facts in one["seen"].items()}
                assert found_in(str(place), number) == wanted, place
    summary = node.run("fsck", "--read-data").stdout.strip()
    operations, deaths = sum(one["operations"] for one in told), sum(one["deaths"] for one in told)
    names, inodes = zip(*(
        (len(one["seen"]), len({names[0] for names, *_ in one["seen"].values()})) for one in told
    ), strict=True)
    commits = len(node.facts("log", "data/main"))
    print(
        f"{operations} operations in {SECONDS:.0f} s, {deaths} of them met a kill; {sum(names)} names of {sum(inodes)} "
        f"inodes, {commits} commits: {summary}"
    )
