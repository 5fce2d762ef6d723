"""What bubblewrap leaves when it is killed before its child has begun."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.pipeline.rooms import Bench, ends, needs_sandbox
from tests.pipeline.workshop import Workshop
from vfsd.pipeline.executor import BoundedLog, run_datum
from vfsd.pipeline.sandbox import Sandbox

pytestmark = needs_sandbox
HELD = ("--unshare-user", "--uid", "0", "--gid", "0")  # with --userns-block-fd, bwrap stops behind its clone(2)


def child_in(info: bytes) -> int:
    """The process that bwrap's --info-fd tells of."""
    child = json.loads(info)["child-pid"]
    assert isinstance(child, int)
    return child


def lives(watched: int) -> bool:
    """Whether the process of a pidfd does."""
    return not select.select([watched], [], [], 0)[0]


@contextmanager
def left_behind(view: Path) -> Iterator[int]:
    """A descriptor of the child of a killed bwrap that was to make `view`."""
    gate, never = os.pipe()
    told, tell = os.pipe()
    words = ["bwrap", "--die-with-parent", "--unshare-pid", "--as-pid-1", "--userns-block-fd", str(gate), "--info-fd"]
    words += [str(tell), *HELD, "--dev-bind", "/", "/", "--tmpfs", str(view), "true"]
    with subprocess.Popen(words, pass_fds=(gate, tell)) as bwrap:
        os.close(tell)
        with open(told, "rb") as info:
            watched = os.pidfd_open(child_in(info.read()))
        bwrap.kill()
    try:
        yield watched
    finally:
        if lives(watched):
            signal.pidfd_send_signal(watched, signal.SIGKILL)
        for fd in (watched, gate, never):
            os.close(fd)


async def test_a_daemon_ends_what_a_killed_one_left_of_its_sandboxes_and_nothing_else(shop: Workshop) -> None:
    view = shop.folder / f"scratch-{shop.node}" / "job.view"
    bystander = ["sh", "-c", "read x", "--tmpfs", str(view)]
    with (
        left_behind(view) as ours,
        left_behind(shop.folder / "scratch-other" / "job.view") as others,
        subprocess.Popen(bystander, stdin=subprocess.PIPE) as looking,
    ):
        assert lives(ours)
        async with shop.service():
            assert select.select([ours], [], [], 60)[0]
        assert lives(others)
        assert looking.poll() is None


async def test_a_sandbox_that_is_killed_while_it_is_made_fails_its_datum_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path)
    gate, info, slow = (tmp_path / name for name in ("gate", "info", "bin/bwrap"))
    os.mkfifo(gate)
    os.mkfifo(info)
    slow.parent.mkdir()
    how = f"--userns-block-fd 9 --info-fd 8 {' '.join(HELD)}"
    slow.write_text(f'#!/bin/sh\nexec {shutil.which("bwrap")} {how} "$@" 9<>{gate} 8>{info}\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    children = []

    def kill_bwrap() -> None:
        child = child_in(info.read_bytes())
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
        os.kill(int(status["PPid"]), signal.SIGKILL)
        children.append(child)

    with trio.fail_after(120):
        async with bench.room(Sandbox) as room, trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, kill_bwrap)
            with BoundedLog(os.fspath(bench.log)) as log:
                outcome = await run_datum(room.prepare(bench.run("true")), log, timeout_s=None)
    assert outcome.reason == "it could not be started: the sandbox: it ended without a word"
    assert ends(children[0])
