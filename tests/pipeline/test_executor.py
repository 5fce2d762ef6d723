from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.pipeline.rooms import LIMIT_S, Bench, Maker, both, needs_sandbox
from vfsd.pipeline import executor
from vfsd.pipeline.executor import BoundedLog, DatumOutcome, PlainCommand, run_datum
from vfsd.pipeline.sandbox import DatumRun, Sandbox, Unsandboxed


class Place(Bench):
    """With a pipe by name through which the command says that it is up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        os.mkfifo(self.out / "up")
        (self.out / "up").chmod(0o666)

    async def is_up(self) -> None:
        """Wait until the command has written into `up`."""
        with trio.fail_after(60):
            await trio.to_thread.run_sync((self.out / "up").read_bytes, abandon_on_cancel=True)

    async def out_of_time(
        self, clock: trio.testing.MockClock, maker: Maker, run: DatumRun, *, grace_s: float
    ) -> DatumOutcome:
        """How the command ends when its time is over once it is up."""

        async def let_time_pass() -> None:
            await self.is_up()
            while True:  # its time may begin a little after it does
                clock.jump(TIME_S)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_time_pass)
            outcome = (await self.outcome(maker, run, timeout_s=TIME_S, grace_s=grace_s))[0]
            nursery.cancel_scope.cancel()
        return outcome


TIME_S = 1000


@pytest.fixture
def clock(mock_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Goes as clocks do, and can be set."""
    mock_clock.rate = 1
    return mock_clock


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def result(maker: Maker, place: Place, run: DatumRun, **how: Any) -> DatumOutcome:
    return (await place.outcome(maker, run, **how))[0]


@both
@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 0", 0, ""),
        ("exit 3", 3, "exit code 3"),
        ("kill -SEGV $$", 139, "ended by SIGSEGV"),
        ("kill -KILL $$", 137, "ended by SIGKILL"),
        ("exit 255", 255, "exit code 255"),
    ],
)
async def test_an_outcome_says_how_the_command_ended(
    maker: Maker, place: Place, script: str, code: int, reason: str
) -> None:
    outcome = await result(maker, place, place.run(script))
    assert (outcome.exit_code, outcome.reason, outcome.timed_out) == (code, reason, False)
    assert outcome.ok == (code == 0)
    assert outcome.signal == (code - 128 if reason.startswith("ended") else None)


@both
async def test_a_program_that_is_not_there_is_named(maker: Maker, place: Place) -> None:
    outcome = await result(maker, place, place.command("no-such-program", "x"))
    assert outcome.exit_code == 127
    assert outcome.reason == "no-such-program: not found"


async def test_a_command_that_cannot_be_started_is_an_outcome(place: Place) -> None:
    command = PlainCommand((b"/no/such/file",), {}, b"/", b"")
    with BoundedLog(os.fspath(place.log)) as log:
        outcome = await run_datum(command, log, timeout_s=LIMIT_S)
    assert outcome.exit_code is None
    assert outcome.reason == "it could not be started: /no/such/file: No such file or directory"


async def test_a_log_that_cannot_be_written_is_an_outcome(place: Place) -> None:
    outcome = await result(Unsandboxed, place, place.run("echo hello"), log="/dev/full")
    assert outcome.exit_code == 0
    assert outcome.reason == "its log /dev/full cannot be written: No space left on device"


@both
async def test_output_and_errors_are_in_the_log_in_order(maker: Maker, place: Place) -> None:
    await result(maker, place, place.run("echo one; echo two >&2; echo three"))
    assert place.log.read_text() == "one\ntwo\nthree\n"


async def test_a_long_log_keeps_its_beginning_and_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOG_HEAD", 1000)
    monkeypatch.setattr(executor, "LOG_TAIL", 500)
    await result(Unsandboxed, place, place.run("seq 1 100000"))
    everything = "".join(f"{number}\n" for number in range(1, 100001))
    note = f"\n[vfsd: {len(everything) - 1500} bytes of output are left out here]\n"
    assert place.log.read_text() == everything[:1000] + note + everything[-500:]
    assert place.cut == len(everything) - 1500


async def test_a_log_that_just_fits_is_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOG_HEAD", 1000)
    monkeypatch.setattr(executor, "LOG_TAIL", 500)
    await result(Unsandboxed, place, place.run("head -c 1500 /dev/zero"))
    assert place.log.read_bytes() == b"\0" * 1500
    assert place.cut == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 100])
def test_masked_words_are_not_in_the_log_however_the_output_is_cut(place: Place, size: int) -> None:
    output = b"abc abcd sesame, open sesame! sesam open sesame!open sesam"
    with BoundedLog(os.fspath(place.log), (b"open sesame!", b"abcd")) as log:
        for at in range(0, len(output), size):
            log.write(output[at : at + size])
    assert place.log.read_bytes() == b"abc *** sesame, *** sesam ***open sesam"


@both
async def test_a_command_that_takes_too_long_is_ended_with_all_its_processes(
    maker: Maker, place: Place, clock: trio.testing.MockClock
) -> None:
    script = "trap '' TERM; (trap '' TERM; SLEEP) & SLEEP & echo > $VFSD_OUT/up; SLEEP; SLEEP"
    outcome = await place.out_of_time(clock, maker, place.run(script), grace_s=0.2)
    assert outcome.timed_out
    assert outcome.reason == "timed out after 1000 s"
    assert place.left() == []


@both
async def test_a_command_gets_the_chance_to_end_itself(
    maker: Maker, place: Place, clock: trio.testing.MockClock
) -> None:
    script = "trap 'echo bye > $VFSD_OUT/bye; kill $!; exit 0' TERM; SLEEP & echo up > $VFSD_OUT/up; wait"
    outcome = await place.out_of_time(clock, maker, place.run(script), grace_s=1e9)
    assert outcome.timed_out
    assert (place.out / "bye").read_text() == "bye\n"
    assert place.left() == []


@both
async def test_cancelling_ends_the_command_before_it_returns(maker: Maker, place: Place) -> None:
    async with trio.open_nursery() as nursery:
        run = place.run("echo up > $VFSD_OUT/up; SLEEP")
        nursery.start_soon(partial(result, maker, place, run, timeout_s=None))
        await place.is_up()
        nursery.cancel_scope.cancel()
    assert place.left() == []


@both
async def test_what_a_command_leaves_behind_is_ended(maker: Maker, place: Place) -> None:
    outcome = await result(maker, place, place.run("SLEEP & SLEEP > /dev/null 2>&1 & exit 0"))
    assert outcome.ok
    assert place.left() == []


@needs_sandbox
async def test_not_even_a_session_of_its_own_survives_the_sandbox(place: Place) -> None:
    script = "setsid sh -c 'echo up > $VFSD_OUT/up; SLEEP' & cat $VFSD_OUT/up"
    assert (await result(Sandbox, place, place.run(script))).ok
    assert place.left() == []


@both
async def test_a_command_outlives_the_threads_that_trio_lends(
    maker: Maker, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)
    assert (await result(maker, place, place.run("sleep 0.3"))).ok


def own_children() -> set[int]:
    """This process's children, zombies too; servers of other tests may be among them."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(state[1]) == os.getpid():
            found.add(int(folder.name))
    return found


@both
async def test_many_commands_run_at_a_time_and_leave_no_descriptor(maker: Maker, place: Place) -> None:
    async def one(number: int) -> None:
        log = place.log.with_suffix(f".{number}")
        with BoundedLog(os.fspath(log)) as written:
            assert (await run_datum(command, written, timeout_s=LIMIT_S)).ok
        assert log.read_text() == "x\n"

    assert (await result(maker, place, place.run("echo x"))).ok
    before, children = len(os.listdir("/proc/self/fd")), own_children()
    async with place.room(maker) as room:
        command = room.prepare(place.run("echo x"))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
    assert len(os.listdir("/proc/self/fd")) <= before
    assert own_children() <= children


PROGRAM = """
import ctypes, os, trio
from pathlib import Path
from typing import Any
from tests.pipeline.rooms import Bench, Sandbox
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to this process
bench = Bench.__new__(Bench)
root = Path({place!r})
bench.__dict__.update(root=root, mount=root / "mount", job=root / "job", out=root / "job/out",
                      scratch=root / "job/scratch", log=root / "log", mark={mark!r})
trio.run(lambda: bench.outcome(Sandbox, bench.run({script!r}), timeout_s=None))
"""


@needs_sandbox
async def test_a_sandbox_dies_with_the_process_that_made_it(place: Place) -> None:
    program = PROGRAM.format(
        place=os.fspath(place.root), mark=place.mark, script="echo up > $VFSD_OUT/up; SLEEP"
    )
    daemon = subprocess.Popen([sys.executable, "-c", program])
    try:
        await place.is_up()
        while not (found := place.running()):
            await trio.sleep(0.01)  # between two programs a process has no words
        running = [os.pidfd_open(pid) for pid in found]
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    for pidfd in running:
        assert select.select([pidfd], [], [], 60)[0], "it still runs"
        os.close(pidfd)


@needs_sandbox
def test_a_sandbox_leaves_no_process_for_others_to_reap(place: Place) -> None:
    program = PROGRAM.format(place=os.fspath(place.root), mark=place.mark, script="SLEEP & exit 0") + (
        "try:\n"
        "    print(os.waitpid(-1, 0))\n"
        "except ChildProcessError:\n"
        "    print('none')\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "none\n"
