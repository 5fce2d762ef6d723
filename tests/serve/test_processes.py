"""Which job a process belongs to, and what is told of its command; on real processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfsd.serve.processes import Job, Processes, shown_command, words

STARTS = """
import subprocess, sys
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
child.kill(); child.wait()
"""


@contextmanager
def started(script: Path) -> Iterator[tuple[int, int]]:
    """A script in a session of its own, and a child of it in another one: their process numbers."""
    script.write_text(STARTS)
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate(b"")


def job_of(pid: int, own: int = 0) -> Job | None:
    found = Processes(own).find(pid, 0.0)
    assert found is not None
    return found.job


@pytest.mark.parametrize("name, same", [("torchrun", True), ("launch.py", False)])
def test_workers_of_a_known_launcher_belong_to_its_job(tmp_path: Path, name: str, same: bool) -> None:
    with started(tmp_path / name) as (parent, child):
        assert (job_of(parent) == job_of(child)) == same
        assert job_of(parent) != job_of(threading.get_native_id())


def test_what_the_daemon_starts_belongs_to_no_job(tmp_path: Path) -> None:
    with started(tmp_path / "daemon.py") as (parent, child):
        assert job_of(parent, own=parent) is None
        assert job_of(child, own=parent) is None


def test_a_thread_belongs_to_the_job_of_its_process() -> None:
    found: list[Job | None] = []
    thread = threading.Thread(target=lambda: found.append(job_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [job_of(threading.main_thread().native_id or 0)]


def test_a_process_that_is_gone_is_not_found() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    assert Processes(0).find(process.pid, 0.0) is None
    assert words(process.pid) == []


@pytest.mark.parametrize(
    "command, shown",
    [
        (["python3", "-u", "/home/me/train.py", "--token=secret"], "python3 train.py"),
        (["python", "-m", "torch.distributed.run", "train.py"], "python -m torch.distributed.run"),
        (["python", "-W", "ignore", "train.py"], "python train.py"),
        (["python", "-c", "secret()"], "python -c"),
        (["perl", "-ne", "print if /secret/"], "perl -c"),
        (["node", "--eval", "secret()"], "node -c"),
        (["bash", "-e", "run.sh", "secret"], "bash run.sh"),
        (["bash", "-lc", "echo secret"], "bash -c"),
        (["bash"], "bash"),
        (["php", "echo $secret;"], "php ..."),
        (["curl", "-H", "Authorization: secret"], "curl"),
        (["postgres: secret"], "postgres:"),
        ([], ""),
    ],
)
def test_only_a_program_and_its_script_are_told(command: list[str], shown: str) -> None:
    assert shown_command(command) == shown
