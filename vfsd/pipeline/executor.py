"""Runs one try of a datum as a process: its input, its log, its time limit, and its end with all that it started.

When `run_datum` is over, however it ends, no process of the command is left: in a sandbox they die with its pid
namespace, without one with their process group (a program that makes itself a new session there can get away).

The commands read and write a mount that this very process may be serving, so nothing here touches their files, and
the program that is started first is always one on a local disk: exec waits for the file it loads, and Python holds its
interpreter lock meanwhile. What a datum should see is `vfsd.pipeline.sandbox`'s to say.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import trio

GRACE_S = 5.0  # from SIGTERM to SIGKILL
LOG_HEAD = LOG_TAIL = 512 * 1024  # bytes of output that are kept from its beginning and from its end
FIRST_SHELL = b"vfsd"  # the name under which the shell that starts a command complains
_READ = 64 * 1024
_START = 1024  # bytes of output that are looked at for a complaint
_DRAIN_S = 1.0  # for output that is still in the pipe when all processes are gone
_COMPLAINT = re.compile(rb"(?:bwrap: (?P<bwrap>.*)|" + FIRST_SHELL + rb": (?:line )?\d+: (?:exec: )?(?P<shell>.*))")

# A process that is to die with its parent dies with the thread that started it (prctl(2), PR_SET_PDEATHSIG), and the
# threads of trio come and go. This one stays.
_SPAWNER = ThreadPoolExecutor(1, "vfsd-spawn")


class DatumCommand(msgspec.Struct, frozen=True):
    """A process to be.

    argv[0]: an absolute path on a local disk. cwd: not in a mount. sandboxed: argv is bwrap's, whose only child is the
    first process of the sandbox, and ends last there.
    """

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]
    cwd: bytes
    stdin: bytes
    sandboxed: bool


class DatumOutcome(msgspec.Struct, frozen=True):
    """How a try ended.

    exit_code: as a shell has it, 128 + n after signal n; None when it never ran. duration_s: seconds. reason: one
    line, empty for success. log_cut: bytes of output that were not kept.
    """

    exit_code: int | None
    duration_s: float
    timed_out: bool
    reason: str
    log_cut: int = 0

    @property
    def ok(self) -> bool:
        """Whether the command ran and did its work."""
        return not self.reason

    @property
    def signal(self) -> int | None:
        """The signal that ended it, as far as the exit code tells."""
        code = self.exit_code or 0
        return code - 128 if 128 < code <= 128 + signal.SIGRTMAX else None


async def run_datum(
    command: DatumCommand, *, timeout_s: float | None, log_path: str | bytes, grace_s: float = GRACE_S
) -> DatumOutcome:
    """Run `command` to its end, standard output and error into the file `log_path`, which is made or overwritten.

    After `timeout_s` seconds, or when cancelled, it gets SIGTERM and `grace_s` seconds later SIGKILL. Nothing but
    Cancelled is raised: a command that fails, or cannot be started, or whose log cannot be written, is an outcome.
    """
    began = trio.current_time()
    with _BoundedLog(log_path) as log:
        try:
            process, output = await _start(command)
        except OSError as error:
            why = f"{os.fsdecode(command.argv[0])} could not be started: {error.strerror}"
            return DatumOutcome(None, trio.current_time() - began, False, why)
        async with output, contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(process.end, grace_s)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, output, log)
                with trio.move_on_after(math.inf if timeout_s is None else timeout_s) as limit:
                    await process.exited()
                await process.end(grace_s)
                nursery.cancel_scope.deadline = trio.current_time() + _DRAIN_S
    timed_out = limit.cancelled_caught
    reason = f"timed out after {timeout_s:g} s" if timed_out else _reason(process.exit_code, log)
    return DatumOutcome(process.exit_code, trio.current_time() - began, timed_out, reason, log.cut)


def _reason(code: int, log: _BoundedLog) -> str:
    if code == 0:
        return log.error
    if log.complaint:
        return log.complaint
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(code - 128).name}"
    return f"exit code {code}"


class _Running:
    """A started process that leads its process group. Its exit is seen before it is reaped, so that neither its id nor
    its group's can belong to anybody else while signals are sent."""

    def __init__(self, popen: subprocess.Popen[bytes], sandboxed: bool) -> None:
        self._popen = popen
        self._sandboxed = sandboxed
        self._pidfd = os.pidfd_open(popen.pid)
        self.exit_code = 0

    async def exited(self) -> None:
        await trio.lowlevel.wait_readable(self._pidfd)

    async def end(self, grace_s: float) -> None:
        """Make sure that nothing runs any more, then reap. Not to be cancelled; again is as good as once."""
        if self._popen.returncode is not None:
            return
        with trio.CancelScope(shield=True):
            if os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                self._signal(signal.SIGTERM)
                with trio.move_on_after(grace_s) as waiting:
                    await self.exited()
                if waiting.cancelled_caught:
                    self._signal(signal.SIGKILL)
                    await self.exited()
        self._signal_group(signal.SIGKILL)
        code = self._popen.wait()
        self.exit_code = code if code >= 0 else 128 - code
        os.close(self._pidfd)

    def _signal(self, number: signal.Signals) -> None:
        """SIGTERM to the processes in the sandbox, for bwrap itself would take them down at once; SIGKILL to the first
        of them, with which the kernel ends all others before bwrap can end."""
        if not self._sandboxed:
            self._signal_group(number)
            return
        first = list(_children(self._popen.pid))
        inside = [pid for child in first for pid in _descendants(child)] if number == signal.SIGTERM else first
        for pid in inside or [self._popen.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as children:
                yield from map(int, children.read().split())


def _descendants(pid: int) -> Iterator[int]:
    """Parents first, so that a program that minds SIGTERM hears of it before its children are gone."""
    for child in _children(pid):
        yield child
        yield from _descendants(child)


async def _start(command: DatumCommand) -> tuple[_Running, trio.lowlevel.FdStream]:
    """The process, and what it writes. OSError."""
    with contextlib.ExitStack() as ours:
        if command.stdin:
            # A file and not a pipe: nobody has to feed it, and a program may read it twice.
            stdin = os.memfd_create("stdin")
            ours.callback(os.close, stdin)
            with open(stdin, "wb", closefd=False) as writer:
                writer.write(command.stdin)
            os.lseek(stdin, 0, os.SEEK_SET)
        else:
            stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            ours.callback(os.close, stdin)
        readable, writable = os.pipe()
        output = trio.lowlevel.FdStream(readable)
        ours.callback(os.close, writable)
        try:
            return await _spawn(command, stdin, writable), output
        except BaseException:
            await output.aclose()
            raise


async def _spawn(command: DatumCommand, stdin: int, output: int) -> _Running:
    """Fork and exec, which wait, in the spawning thread. Not to be cancelled half-way."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command.argv, env=command.env, cwd=command.cwd, stdin=stdin, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip

    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    future = _SPAWNER.submit(start)
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    with trio.CancelScope(shield=True):
        await done.wait()
    popen = future.result()
    try:
        return _Running(popen, command.sandboxed)
    except OSError:  # no descriptor is left to watch it by
        popen.kill()
        popen.wait()
        raise


async def _pump(output: trio.lowlevel.FdStream, log: _BoundedLog) -> None:
    while data := await output.receive_some(_READ):
        log.write(data)


class _BoundedLog:
    """A log file of the first LOG_HEAD and the last LOG_TAIL bytes; the head can be read while it grows.

    error: one line about the first write that failed, after which no more is written; else empty. cut: bytes that were
    not kept.
    """

    def __init__(self, path: str | bytes) -> None:
        self.error = ""
        self.cut = 0
        self._path = path
        self._fd = -1
        self._room = LOG_HEAD
        self._start = b""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0

    def __enter__(self) -> _BoundedLog:
        with self._noting_errors():
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        tail = b"".join(self._tail)
        over = max(0, len(tail) - LOG_TAIL)
        self.cut += over
        if self.cut:
            self._append(f"\n[vfsd: {self.cut} bytes of output are left out here]\n".encode())
        self._append(tail[over:])
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def complaint(self) -> str:
        """What bwrap, or the shell that starts the command, said about not being able to; else empty."""
        found = _COMPLAINT.match(self._start)
        if found is None:
            return ""
        about = "the sandbox: " if found["bwrap"] else ""
        return about + (found["bwrap"] or found["shell"]).decode(errors="replace")

    def write(self, data: bytes) -> None:
        """Add output."""
        if len(self._start) < _START:
            self._start += data[:_START]
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        self._append(head)
        if rest:
            self._tail.append(rest)
            self._tail_size += len(rest)
            while self._tail_size - len(self._tail[0]) >= LOG_TAIL:
                gone = len(self._tail.popleft())
                self._tail_size -= gone
                self.cut += gone

    def _append(self, data: bytes) -> None:
        with self._noting_errors():
            while data and not self.error:
                data = data[os.write(self._fd, data) :]

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = f"its log {os.fsdecode(self._path)} cannot be written: {error.strerror}"
