"""kill -9 of the daemon and of everything below it, at random, under three chained pipelines whose input changes.

In the end all is as a run without trouble leaves it, also where it was sent, and no datum ran again that had been
written down as done.
VFSD_KILL_SECONDS: how long; 600 when not set.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import struct
import tempfile
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.mount.conftest import Mounted
from vfsd.index.index import Index
from vfsd.model.commit import decode
from vfsd.model.datum import DatumState
from vfsd.pipeline.ledger import DatumResult
from vfsd.pipeline.records import JobRecord

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("VFSD_KILL_SECONDS", "600"))
QUIET_END_S = 300.0  # for what is left to do when nobody kills any more
_RESULT = msgspec.msgpack.Decoder(DatumResult)


class Notes:
    """What datums say of themselves, through a fifo that they see: which began, in order."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notes"
        os.mkfifo(self.path)
        self.path.chmod(0o666)
        self.began: list[str] = []
        self._fd = os.open(self.path, os.O_RDWR)  # never at its end
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with open(self._fd, encoding="ascii", closefd=False) as lines:
            for line in lines:
                self.began.append(line.strip())

    def so_far(self) -> int:
        """How many began, once all that was said is read."""
        size = bytearray(4)
        while struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(size)))[0]:
            time.sleep(0.001)
        time.sleep(0.01)
        return len(self.began)


@pytest.fixture
def notes() -> Iterator[Notes]:
    """Not below /tmp, of which each datum has its own, and where nobody may go too."""
    with tempfile.TemporaryDirectory(dir="/srv" if os.geteuid() == 0 else Path.home()) as folder:
        os.chmod(folder, 0o755)
        yield Notes(Path(folder))


class Done:
    """Datums that were written down as done, and how many datums had begun by then."""

    def __init__(self, node: Mounted, notes: Notes) -> None:
        (path,) = (node.folder / "state").glob("*/index.sqlite")
        self._index = Index(str(path))
        self._notes = notes
        self.when: dict[str, int] = {}

    def look(self) -> None:
        """Take in what the index says of jobs in flight."""
        found = [
            datum
            for data in self._index.jobs(in_flight=True)
            for datum, result in self._index.datum_results(decode(data, JobRecord, "a job").id)
            if _RESULT.decode(result).state is DatumState.SUCCESS and datum not in self.when
        ]
        if found:
            begun = self._notes.so_far()
            self.when.update(dict.fromkeys(found, begun))

    def check(self) -> None:
        """None of them began again."""
        for number, datum in enumerate(self._notes.began):
            assert number < self.when.get(datum, number + 1), f"datum {datum} ran again after it was done"


def pipelines(node: Mounted, notes: Path | None, suffix: str = "") -> tuple[str, str, str]:
    """Three that feed one another; with `notes` their datums say when they begin, and take a while, and their outputs
    are sent to folders."""
    say = "" if notes is None else f'echo "$VFSD_DATUM_ID" > {notes}; sleep 0.$(($$ % 3)); '
    names = ("upper", "marked", "total")
    sources = ("data", "upper" + suffix, "marked" + suffix)
    scripts = (
        'tr a-z A-Z < "$data" > "/pfs/out/${data##*/}"',
        f'{{ cat "$upper{suffix}"; echo marked; }} > "/pfs/out/${{upper{suffix}##*/}}"',
        f"cat /pfs/marked{suffix}/* > /pfs/out/all",
    )
    for name, source, glob, script in zip(names, sources, ("/*", "/*", "/"), scripts, strict=True):
        spec: dict[str, Any] = {
            "pipeline": {"name": name + suffix},
            "input": {"pfs": {"repo": source, "glob": glob}},
            "transform": {"cmd": ["sh", "-ec", say + script]},
            "datum_tries": 1000,  # of what is killed each counts
        }
        if notes is not None:
            spec["egress"] = {"URL": f"file://{node.folder}/sent/{name}"}
        path = node.folder / f"{name}{suffix}.json"
        path.write_text(json.dumps(spec))
        node.run("pipeline", "create", "-f", path)
    return names[0] + suffix, names[1] + suffix, names[2] + suffix


def below(pid: int) -> list[int]:
    """All processes that come from one."""
    found = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                found += [int(child), *below(int(child))]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found


def change(node: Mounted, chance: random.Random, number: int) -> None:
    """Change some files; no state of the branch comes back, so no datum does."""
    top = node.path / "data/main"
    for _ in range(chance.randrange(1, 8)):
        (top / f"f{chance.randrange(40)}").write_text(f"text {number} {chance.random()}\n")
    if chance.random() < 0.3:
        (top / f"f{chance.randrange(40)}").unlink(missing_ok=True)
    (top / "number").write_text(f"{number}\n")
    node.run("commit", "data/main")


def trees(node: Mounted, names: tuple[str, str, str]) -> list[dict[str, bytes]]:
    return [
        {path.name: path.read_bytes() for path in (node.path / f"{name}/main").iterdir()} for name in names
    ]


def wait(node: Mounted, pipeline: str) -> None:
    until = time.monotonic() + QUIET_END_S
    while (done := node.run("job", "wait", "--pipeline", pipeline, check=False)).returncode:
        assert time.monotonic() < until, done.stderr


def test_kills_anywhere_lose_nothing_and_no_done_datum_runs_again(mounted: Mounted, notes: Notes) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}, {SECONDS:g} s")
    chance = random.Random(seed)
    killed = {"daemon": 0, "below": 0}
    mounted.umount()
    with (mounted.folder / "config.toml").open("a") as config:
        config.write(f'egress_folders = ["{mounted.folder}/sent"]\n')
    mounted.mount()
    disturbed = pipelines(mounted, notes.path)
    done = Done(mounted, notes)
    until = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < until:
        if chance.random() < 0.4:
            number += 1
            change(mounted, chance, number)
        for _ in range(chance.randrange(1, 5)):
            time.sleep(chance.uniform(0, 0.5))  # anywhere in the course of the jobs
            done.look()
            victims = below(mounted.pid)
            if victims and chance.random() < 0.8:
                try:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                    killed["below"] += 1
                except ProcessLookupError:
                    pass
        if chance.random() < 0.3:
            done.look()
            mounted.kill()
            killed["daemon"] += 1
            mounted.mount()
        done.check()
    wait(mounted, disturbed[2])
    done.look()
    done.check()
    jobs = mounted.facts("job", "list")
    print(
        f"killed {killed['daemon']} daemons and {killed['below']} processes below; {number} changes, {len(jobs)} jobs,"
        f" {len(notes.began)} datums begun, {len(set(notes.began))} of them different, {len(done.when)} seen as done"
    )
    assert notes.began and done.when and number, "nothing was tried"
    undisturbed = pipelines(mounted, None, "2")
    wait(mounted, undisturbed[2])
    made = trees(mounted, disturbed)
    assert made == trees(mounted, undisturbed)
    for name, tree in zip(disturbed, made, strict=True):
        sent = {path.name: path.read_bytes() for path in (mounted.folder / "sent" / name).iterdir()}
        assert sent | tree == sent, f"{name}: what was sent is not what was made"
    mounted.run("fsck")
