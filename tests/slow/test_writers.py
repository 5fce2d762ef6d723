"""Eight processes make, rename and remove files in one directory while commits go on; nothing is lost or mixed up."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.slow.model import EXCHANGE, rename

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("VFSD_TEST_SECONDS", "30"))
SEED = int(os.environ.get("VFSD_TEST_SEED", "0"))
WRITERS = 8
NAMES = 200  # of each writer
SIZES = [0, 1, 100, 4096, 20_000, 150_000, 400_000]


def write_until(folder: str, number: int, seconds: float, record_path: str) -> None:
    """One writer: works on names of its own in the directory of all, and writes down, elsewhere, what is to be there:
    name → SHA-256 of the content and the mtime."""
    dice = random.Random(SEED * WRITERS + number)
    record: dict[str, str] = {}
    end = time.monotonic() + seconds
    operations = 0
    while time.monotonic() < end:
        name = f"{number}-{dice.randrange(NAMES)}"
        act = dice.random()
        if act < 0.5 or not record:
            record[name] = _make(f"{folder}/{name}", dice)
        elif act < 0.65:
            gone = dice.choice(sorted(record))
            os.unlink(f"{folder}/{gone}")
            del record[gone]
        elif act < 0.9 and name not in record:
            old = dice.choice(sorted(record))
            os.rename(f"{folder}/{old}", f"{folder}/{name}")
            record[name] = record.pop(old)
        elif len(record) > 1:
            one, other = dice.sample(sorted(record), 2)
            if act < 0.95:
                rename(os.fsencode(f"{folder}/{one}"), os.fsencode(f"{folder}/{other}"), EXCHANGE)
                record[one], record[other] = record[other], record[one]
            else:
                os.rename(f"{folder}/{one}", f"{folder}/{other}")
                record[other] = record.pop(one)
        operations += 1
    Path(record_path).write_text(json.dumps({"operations": operations, "record": record}))


def _make(path: str, dice: random.Random) -> str:
    """Write a file, in place or beside and renamed over; what `seen` says of it."""
    data = dice.randbytes(dice.choice(SIZES))
    beside = f"{path}.new" if dice.random() < 0.5 else path
    with open(beside, "wb") as file:
        file.writelines(data[start : start + 50_000] for start in range(0, len(data), 50_000))
    if beside != path:
        os.rename(beside, path)
    return seen(Path(path), data)


def seen(path: Path, data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()} {path.stat().st_mtime_ns}"


def found_in(folder: Path) -> dict[str, str]:
    return {path.name: seen(path, path.read_bytes()) for path in folder.iterdir()}


def test_eight_writers_in_one_directory_lose_nothing_while_commits_go_on(node: Mounted) -> None:
    (node.folder / "config.toml").write_text("quiet_s = 0.1\nmax_wait_s = 0.5\n")
    node.mount()
    (node.path / "data").mkdir()
    folder = node.path / "data/main/shared"
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    records = [node.folder / f"record-{number}" for number in range(WRITERS)]
    writers = [
        context.Process(target=write_until, args=(str(folder), number, SECONDS, str(path)))
        for number, path in enumerate(records)
    ]
    for writer in writers:
        writer.start()
    try:
        checks = 0
        while any(writer.is_alive() for writer in writers):
            node.run("fsck", "--read-data")  # beside writers, it has to find nothing either
            checks += 1
    finally:
        for writer in writers:
            writer.join()
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    told = [json.loads(path.read_text()) for path in records]
    wanted = {name: digest for one in told for name, digest in one["record"].items()}
    assert found_in(folder) == wanted
    made = node.facts("commit", "data/main")["id"]
    assert found_in(node.path / f"data/main@{made}/shared") == wanted
    node.umount()
    summary = node.run("fsck", "--read-data").stdout.strip()
    node.mount()
    assert found_in(folder) == wanted
    commits = node.facts("log", "data/main")
    assert len(commits) > SECONDS / 5
    operations = sum(one["operations"] for one in told)
    print(f"{operations} operations in {SECONDS:.0f} s, {len(wanted)} files, {checks} checks meanwhile: {summary}")
