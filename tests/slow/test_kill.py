"""kill -9 of the daemon while files are copied in: whatever was closed is there afterwards."""

from __future__ import annotations

import itertools
import os
import random
import re
import select
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

pytestmark = pytest.mark.slow
FILES, ROUNDS = 10_000, 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of 10,000 small files."""
    top = tmp_path_factory.mktemp("source") / "tree"
    chance = random.Random(1)
    for number in range(FILES):
        if number % 100 == 0:
            (top / f"d{number // 100}").mkdir(parents=True)
        (top / f"d{number // 100}/f{number}").write_bytes(chance.randbytes(chance.choice([0, 10, 4096, 4096, 150_000])))
    return top


def test_every_closed_file_survives_kill_9_during_cp(mounted: Mounted, source: Path) -> None:
    chance = random.Random()
    for number in range(ROUNDS):
        delay = chance.uniform(0.05, 4)
        target = mounted.path / f"data/main/copy{number}"
        closed = _copy_and_kill(mounted, source, target, delay)
        mounted.mount()
        for path in closed:
            copied = target / path.relative_to(source)
            assert copied.read_bytes() == path.read_bytes(), f"round {number}, killed after {delay:.2f} s"
        print(f"round {number}: killed after {delay:.2f} s, {len(closed)} closed files, all there")
        if number % 5 == 4:
            shutil.rmtree(mounted.path / "data/main" / f"copy{number}")
            mounted.run("commit", "data/main")
            mounted.run("commit", "data/main")


def _copy_and_kill(mounted: Mounted, source: Path, target: Path, delay: float) -> list[Path]:
    """The files of `source` that were closed at the target when the daemon died: cp -v names them, and from the first
    one that cp complains of on they are not."""
    watched = os.pidfd_open(mounted.pid)
    timer = threading.Timer(delay, mounted.kill)
    timer.start()
    done = subprocess.run(["cp", "-rv", str(source), str(target)], capture_output=True, text=True, check=False)
    timer.join()
    select.select([watched], [], [], 30)
    os.close(watched)
    refused = set(re.findall("'([^']+)'", done.stderr))
    pairs = [re.findall("'([^']+)'", line) for line in done.stdout.splitlines()]
    copied = [(Path(one), other) for one, other in pairs if Path(one).is_file()]
    return [one for one, _ in itertools.takewhile(lambda pair: pair[1] not in refused, copied)]
