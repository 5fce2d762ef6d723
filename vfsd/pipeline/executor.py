"""Runs one command of a datum: its input, its log, its time limit, and its end with all that it started.

When `run_datum` is over, however it ends, no process of the command is left: in a sandbox they die with its pid
namespace, without one with their process group (a program that makes itself a new session there can get away).

The commands read and write a mount that this very process may be serving, so nothing here touches their files, and
the program that is started first is always one on a local disk: exec waits for the file it loads, and Python holds its
interpreter lock meanwhile. What a datum should see is `vfsd.pipeline.sandbox`'s to say.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol, Self

import msgspec
import trio

from vfsd.pipeline.spawner import spawn

GRACE_S = 5.0  # from SIGTERM to SIGKILL
LOG_HEAD = LOG_TAIL = 512 * 1024  # bytes of output that are kept from its beginning and from its end
FIRST_SHELL = b"vfsd"  # the name under which the shell that starts a command complains
_READ = 64 * 1024
_START = 1024  # bytes of output that are looked at for a complaint
_DRAIN_S = 1.0  # for output that is still in the pipe when all processes are gone
_COMPLAINT = re.compile(FIRST_SHELL + rb": (?:line )?\d+: (?:exec: )?(?P<shell>.*)")


class Running(Protocol):
    """A command that was started.

    closes_output: whether its output ends no later than it does. exit_code: once it has ended, as a shell has it,
    128 + n after signal n. complaint: why it could not be started,
    in one line, else empty. lost: whether it ended with whatever had started it, not by itself.
    """

    closes_output: bool
    exit_code: int
    complaint: str
    lost: bool

    async def exited(self) -> None:
        """Wait until it has ended."""

    async def end(self, grace_s: float) -> None:
        """Make sure that nothing of it runs any more: SIGTERM, and `grace_s` seconds later SIGKILL. Not to be
        cancelled; again is as good as once."""


class Command(Protocol):
    """A process to be."""

    @property
    def stdin(self) -> bytes:
        """What it reads."""

    async def start(self, stdin: int, output: int) -> Running:
        """Start it, with descriptors of its standard input, and of where its output and errors go. OSError."""


class PlainCommand(msgspec.Struct, frozen=True):
    """A process without a sandbox. argv[0]: an absolute path on a local disk. cwd: not in a mount. cgroup: a
    descriptor of the one that it is to be in. started: told its process id."""

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]
    cwd: bytes
    stdin: bytes
    cgroup: int | None = None
    started: Callable[[int], None] = lambda pid: None

    async def start(self, stdin: int, output: int) -> Running:
        """See Command."""
        popen = await spawn(self.argv, env=self.env, cwd=self.cwd, stdin=stdin, stdout=output, stderr=output)
        self.started(popen.pid)
        try:
            if self.cgroup is not None:
                procs = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.cgroup)
                with open(procs, "w", encoding="ascii") as file:
                    file.write(str(popen.pid))
            return _Group(popen)
        except OSError:  # it would run without its limits, or no descriptor is left to watch it by
            popen.kill()
            popen.wait()
            raise


class DatumOutcome(msgspec.Struct, frozen=True):
    """How a try ended.

    exit_code: as a shell has it, 128 + n after signal n; None when it never ran. duration_s: seconds. reason: one
    line, empty for success. ran: it was started. lost: it ended with whatever had started it, not by itself: no fault
    of the datum's.
    """

    exit_code: int | None
    duration_s: float
    timed_out: bool
    reason: str
    lost: bool = False
    ran: bool = False

    @property
    def ok(self) -> bool:
        """Whether the command ran and did its work."""
        return not self.reason

    @property
    def code_alone(self) -> bool:
        """Whether the command ran to its own end, so that its exit code is what it says."""
        return self.ran and not self.timed_out and not self.lost

    @property
    def signal(self) -> int | None:
        """The signal that ended it, as far as the exit code tells."""
        code = self.exit_code or 0
        return code - 128 if 128 < code <= 128 + signal.SIGRTMAX else None


async def run_datum(
    command: Command, log: BoundedLog, *, timeout_s: float | None, grace_s: float = GRACE_S
) -> DatumOutcome:
    """Run `command` to its end, its output into `log`.

    After `timeout_s` seconds, or when cancelled, it gets SIGTERM and `grace_s` seconds later SIGKILL. Nothing but
    Cancelled is raised: a command that fails, or cannot be started, or whose log cannot be written, is an outcome.
    """
    began = trio.current_time()
    log.begin()
    try:
        process, output = await _start(command)
    except OSError as error:
        name = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        why = f"it could not be started: {name}{error.strerror}"
        return DatumOutcome(None, trio.current_time() - began, False, why)
    limit = trio.CancelScope() if timeout_s is None else trio.move_on_after(timeout_s)
    async with output:
        try:
            if process.closes_output:
                with limit:
                    await _pump(output, log)
                    await process.exited()
                await process.end(grace_s)
                if limit.cancelled_caught:
                    await _pump(output, log)  # what it said last
            else:
                await _attend(process, output, log, limit, grace_s)
        finally:
            await process.end(grace_s)
    timed_out = limit.cancelled_caught
    reason = f"timed out after {timeout_s:g} s" if timed_out else reason_of(process, log)
    return DatumOutcome(
        process.exit_code, trio.current_time() - began, timed_out, reason, process.lost, not process.complaint
    )


async def _attend(
    process: Running, output: trio.lowlevel.FdStream, log: BoundedLog, limit: trio.CancelScope, grace_s: float
) -> None:
    """Wait for a process whose output may go on without it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, output, log)
        with limit:
            await process.exited()
        await process.end(grace_s)
        nursery.cancel_scope.deadline = trio.current_time() + _DRAIN_S


def reason_of(process: Running, log: BoundedLog) -> str:
    """Why a command that has ended did not do its work; empty when it did."""
    code = process.exit_code
    if code == 0:
        return log.error
    complaint = process.complaint or log.complaint
    if complaint:
        return complaint
    if process.lost:
        return "the process that had started it was killed"
    with contextlib.suppress(ValueError):
        return f"ended by {signal.Signals(code - 128).name}"
    return f"exit code {code}"


class _Group:
    """A process that leads its process group. Its exit is seen before it is reaped, so that neither its id nor its
    group's can belong to anybody else while signals are sent."""

    closes_output = False  # what gets away from its group may hold it open

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self.exit_code = 0
        self.complaint = ""
        self.lost = False
        self._popen = popen
        self._pidfd = os.pidfd_open(popen.pid)

    async def exited(self) -> None:
        await trio.lowlevel.wait_readable(self._pidfd)

    async def end(self, grace_s: float) -> None:
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
        self._signal(signal.SIGKILL)
        code = self._popen.wait()
        self.exit_code = code if code >= 0 else 128 - code
        os.close(self._pidfd)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)


async def _start(command: Command) -> tuple[Running, trio.lowlevel.FdStream]:
    """The process, and what it writes. OSError."""
    with contextlib.ExitStack() as ours:
        stdin = ours.enter_context(stdin_file(command.stdin))
        readable, writable = os.pipe()
        output = trio.lowlevel.FdStream(readable)
        ours.callback(os.close, writable)
        try:
            return await command.start(stdin, writable), output
        except BaseException:
            await output.aclose()
            raise


@contextlib.contextmanager
def stdin_file(content: bytes) -> Iterator[int]:
    """A descriptor that reads `content`: of a file and not of a pipe, so that nobody has to feed it, and a program may
    read it twice."""
    if content:
        stdin = os.memfd_create("stdin")
        with open(stdin, "wb", closefd=False) as writer:
            writer.write(content)
        os.lseek(stdin, 0, os.SEEK_SET)
    else:
        stdin = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield stdin
    finally:
        os.close(stdin)


async def _pump(output: trio.lowlevel.FdStream, log: BoundedLog) -> None:
    while data := await output.receive_some(_READ):
        log.write(data)


class BoundedLog:
    """A log file of the first LOG_HEAD and the last LOG_TAIL bytes; the head can be read while it grows.

    error: one line about the first write that failed, after which no more is written; else empty. cut: bytes that were
    not kept. masked: words in whose place `***` is written, the longest first.
    """

    def __init__(self, path: str | bytes, masked: tuple[bytes, ...] = ()) -> None:
        self.error = ""
        self._masked = masked
        self._held = b""  # the beginning of a masked word, perhaps
        self.cut = 0
        self.path = path
        self._fd = -1
        self._room = LOG_HEAD
        self._start = b""
        self._tail: deque[bytes] = deque()
        self._tail_size = 0

    def __enter__(self) -> Self:
        with self.noting_errors():
            self.open_anew()
        return self

    def open_anew(self) -> None:
        """Go on in a new file. OSError."""
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        held, self._masked = self._held, ()
        self.write(held)
        tail = b"".join(self._tail)
        over = max(0, len(tail) - LOG_TAIL)
        self.cut += over
        if self.cut:
            self.append(f"\n[vfsd: {self.cut} bytes of output are left out here]\n".encode())
        self.append(tail[over:])
        if self._fd >= 0:
            os.close(self._fd)

    @property
    def complaint(self) -> str:
        """What the shell that starts a command without a sandbox said about not being able to; else empty."""
        found = _COMPLAINT.match(self._start)
        return "" if found is None else found["shell"].decode(errors="replace")

    def begin(self) -> None:
        """Another command begins."""
        self._start = b""

    def write(self, data: bytes) -> None:
        """Add output."""
        if self._masked:
            data = self._without_secrets(self._held + data)
        if len(self._start) < _START:
            self._start += data[:_START]
        self.keep(data)

    def keep(self, data: bytes) -> None:
        """Write output that has no secrets in it, or hold it back to be written at the end."""
        head, rest = data[: self._room], data[self._room :]
        self._room -= len(head)
        self.append(head)
        if rest:
            self._tail.append(rest)
            self._tail_size += len(rest)
            while self._tail_size - len(self._tail[0]) >= LOG_TAIL:
                gone = len(self._tail.popleft())
                self._tail_size -= gone
                self.cut += gone

    def _without_secrets(self, data: bytes) -> bytes:
        for word in self._masked:
            data = data.replace(word, b"***")
        most = max(map(len, self._masked)) - 1
        ends = (data[at:] for at in range(max(0, len(data) - most), len(data)))
        self._held = next((end for end in ends if any(word.startswith(end) for word in self._masked)), b"")
        return data[: len(data) - len(self._held)]

    def append(self, data: bytes) -> None:
        """Write to the file."""
        with self.noting_errors():
            while data and not self.error:
                data = data[os.write(self._fd, data) :]

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Let an error of the block be the log's."""
        try:
            yield
        except OSError as error:
            self.error = f"its log {os.fsdecode(self.path)} cannot be written: {error.strerror}"
