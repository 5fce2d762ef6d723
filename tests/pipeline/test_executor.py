from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from vfsd.model.ids import DatumId, GlobalId, JobId
from vfsd.model.pipeline_spec import Transform
from vfsd.pipeline import executor
from vfsd.pipeline.executor import DatumCommand, DatumOutcome, run_datum
from vfsd.pipeline.sandbox import DatumRun, Sandbox, Unsandboxed, sandbox_works

WHY_NOT = sandbox_works()
BOTH = [
    pytest.param(Sandbox([]), id="sandbox", marks=pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}")),
    pytest.param(Unsandboxed(), id="unsandboxed"),
]
Maker = Sandbox | Unsandboxed
both = pytest.mark.parametrize("maker", BOTH)


class Place:
    """Directories of one datum, and a pipe by name through which its command says that it is up."""

    def __init__(self, root: Path) -> None:
        self.out = root / "out"
        self.log = root / "log"
        self.scratch = root / "scratch"
        self.out.mkdir()
        self.scratch.mkdir()
        os.mkfifo(self.out / "up")
        self.mark = f"98765.{os.getpid()}{id(self)}"  # an argument that no other process has

    def command(self, maker: Maker, *cmd: str) -> DatumCommand:
        run = DatumRun(
            transform=Transform(cmd), inputs=(), out=os.fsencode(self.out), scratch=os.fsencode(self.scratch),
            job=JobId("1"), datum=DatumId("2"), output=GlobalId("3"),
        )  # fmt: skip
        return maker.prepare(run)

    def script(self, maker: Maker, text: str) -> DatumCommand:
        return self.command(maker, "sh", "-c", text.replace("SLEEP", f"sleep {self.mark}"), self.mark)

    async def is_up(self) -> None:
        """Wait until the command has written into `up`."""
        with trio.fail_after(30):
            await trio.to_thread.run_sync((self.out / "up").read_bytes, abandon_on_cancel=True)

    def left(self) -> list[int]:
        """Processes of the command that still run."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                argv = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.mark.encode() in argv and int(name) != os.getpid():
                found.append(int(name))
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def result(command: DatumCommand, place: Place, timeout_s: float | None = 30, grace_s: float = 5) -> DatumOutcome:
    return await run_datum(command, timeout_s=timeout_s, log_path=os.fspath(place.log), grace_s=grace_s)


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
    outcome = await result(place.script(maker, script), place)
    assert (outcome.exit_code, outcome.reason, outcome.timed_out) == (code, reason, False)
    assert outcome.ok == (code == 0)
    assert outcome.signal == (code - 128 if reason.startswith("ended") else None)


@both
async def test_a_program_that_is_not_there_is_named(maker: Maker, place: Place) -> None:
    outcome = await result(place.command(maker, "no-such-program", "x"), place)
    assert outcome.exit_code == 127
    assert outcome.reason == "no-such-program: not found"


async def test_a_command_that_cannot_be_started_is_an_outcome(place: Place) -> None:
    command = DatumCommand((b"/no/such/file",), {}, b"/", b"", sandboxed=False)
    outcome = await result(command, place)
    assert outcome.exit_code is None
    assert outcome.reason == "/no/such/file could not be started: No such file or directory"


async def test_a_log_that_cannot_be_written_is_an_outcome(place: Place) -> None:
    command = place.script(Unsandboxed(), "echo hello")
    outcome = await run_datum(command, timeout_s=30, log_path="/dev/full")
    assert outcome.exit_code == 0
    assert outcome.reason == "its log /dev/full cannot be written: No space left on device"


@both
async def test_output_and_errors_are_in_the_log_in_order(maker: Maker, place: Place) -> None:
    await result(place.script(maker, "echo one; echo two >&2; echo three"), place)
    assert place.log.read_text() == "one\ntwo\nthree\n"


async def test_a_long_log_keeps_its_beginning_and_its_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOG_HEAD", 1000)
    monkeypatch.setattr(executor, "LOG_TAIL", 500)
    outcome = await result(place.script(Unsandboxed(), "seq 1 100000"), place)
    everything = "".join(f"{number}\n" for number in range(1, 100001))
    note = f"\n[vfsd: {len(everything) - 1500} bytes of output are left out here]\n"
    assert place.log.read_text() == everything[:1000] + note + everything[-500:]
    assert outcome.log_cut == len(everything) - 1500


async def test_a_log_that_just_fits_is_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "LOG_HEAD", 1000)
    monkeypatch.setattr(executor, "LOG_TAIL", 500)
    outcome = await result(place.script(Unsandboxed(), "head -c 1500 /dev/zero"), place)
    assert place.log.read_bytes() == b"\0" * 1500
    assert outcome.log_cut == 0


@both
async def test_a_command_that_takes_too_long_is_ended_with_all_its_processes(maker: Maker, place: Place) -> None:
    script = "trap '' TERM; (trap '' TERM; SLEEP) & SLEEP & echo > $VFSD_OUT/began; SLEEP; SLEEP"
    outcome = await result(place.script(maker, script), place, timeout_s=1, grace_s=0.2)
    assert (place.out / "began").exists()
    assert outcome.timed_out
    assert outcome.reason == "timed out after 1 s"
    assert place.left() == []


@both
async def test_a_command_gets_the_chance_to_end_itself(maker: Maker, place: Place) -> None:
    script = "trap 'echo bye > $VFSD_OUT/bye; kill $!; exit 0' TERM; SLEEP & echo up > $VFSD_OUT/up; wait"
    outcome = await result(place.script(maker, f"cat $VFSD_OUT/up & {script}"), place, timeout_s=1, grace_s=20)
    assert outcome.timed_out
    assert outcome.duration_s < 15
    assert (place.out / "bye").read_text() == "bye\n"
    assert place.left() == []


@both
async def test_cancelling_ends_the_command_before_it_returns(maker: Maker, place: Place) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(result, place.script(maker, "echo up > $VFSD_OUT/up; SLEEP"), place, None))
        await place.is_up()
        nursery.cancel_scope.cancel()
    assert place.left() == []


@both
async def test_what_a_command_leaves_behind_is_ended(maker: Maker, place: Place) -> None:
    outcome = await result(place.script(maker, "SLEEP & SLEEP > /dev/null 2>&1 & exit 0"), place)
    assert outcome.ok
    assert place.left() == []


@pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}")
async def test_not_even_a_session_of_its_own_survives_the_sandbox(place: Place) -> None:
    script = "setsid sh -c 'echo up > $VFSD_OUT/up; SLEEP' & cat $VFSD_OUT/up"
    assert (await result(place.script(Sandbox([]), script), place)).ok
    assert place.left() == []


@both
async def test_a_command_outlives_the_threads_that_trio_lends(
    maker: Maker, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio._core._thread_cache.IDLE_TIMEOUT", 0.01)
    assert (await result(place.script(maker, "sleep 0.3"), place)).ok


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
        assert (await run_datum(command, timeout_s=60, log_path=os.fspath(log))).ok
        assert log.read_text() == "x\n"

    command = place.script(maker, "echo x")
    assert (await result(command, place)).ok
    before, children = len(os.listdir("/proc/self/fd")), own_children()
    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    assert len(os.listdir("/proc/self/fd")) == before
    assert own_children() <= children


@pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}")
async def test_a_sandbox_dies_with_the_process_that_made_it(place: Place) -> None:
    command = place.script(Sandbox([]), "echo up > $VFSD_OUT/up; SLEEP")
    program = (
        "import sys, trio, functools\n"
        "from vfsd.pipeline.executor import DatumCommand, run_datum\n"
        f"command = DatumCommand({command.argv!r}, {command.env!r}, {command.cwd!r}, b'', True)\n"
        f"trio.run(functools.partial(run_datum, command, timeout_s=None, log_path={os.fspath(place.log)!r}))\n"
    )
    daemon = subprocess.Popen([sys.executable, "-c", program])
    try:
        await place.is_up()
        running = [os.pidfd_open(pid) for pid in place.left()]
        assert running
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait()
    for pidfd in running:
        assert select.select([pidfd], [], [], 30)[0], "it still runs"
        os.close(pidfd)


@pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}")
def test_a_sandbox_leaves_no_process_for_others_to_reap(place: Place) -> None:
    command = place.script(Sandbox([]), "SLEEP & exit 0")
    program = (
        "import ctypes, os, trio, functools\n"
        "from vfsd.pipeline.executor import DatumCommand, run_datum\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come to this process\n"
        f"command = DatumCommand({command.argv!r}, {command.env!r}, {command.cwd!r}, b'', True)\n"
        f"run = functools.partial(run_datum, command, timeout_s=None, log_path={os.fspath(place.log)!r})\n"
        "assert all(trio.run(run).ok for _ in range(5))\n"
        "try:\n"
        "    print(os.waitpid(-1, 0))\n"
        "except ChildProcessError:\n"
        "    print('none')\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout == "none\n"
