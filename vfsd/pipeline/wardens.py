"""The daemon's side of a warden (vfsd.pipeline.warden): starts it, has it start commands, hears how each ended.

Nothing here waits for a thread but starting and ending the warden itself. When a warden is killed, what it had started
is dead too, and is reported as lost.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any, NoReturn

import trio

import vfsd
from vfsd.pipeline.orphans import end_orphans
from vfsd.pipeline.spawner import spawn

NEWNS, NEWIPC, NEWUTS, NEWPID, NEWNET = 1 << 17, 1 << 27, 1 << 26, 1 << 29, 1 << 30  # linux/sched.h
_ALWAYS = NEWNS | NEWIPC | NEWUTS | NEWPID
_MESSAGE = 64 << 10
_WHERE = os.path.dirname(os.path.dirname(os.path.abspath(vfsd.__file__)))
_PROGRAM = (
    b"import os, sys; sys.path.insert(0, sys.argv[1]); from vfsd.pipeline.warden import main;"
    b" main(*map(os.fsencode, sys.argv[2:]))"
)
_END_S = 5.0  # a warden that was hung up on is gone in less

_log = logging.getLogger(__name__)


class Datum:
    """A command in its sandbox. exit_code: as a shell has it, 128 + n after signal n. complaint: why it could not be
    started, else empty. lost: it ended because its warden did. memory: the most that one process had, in bytes; cpu:
    seconds; both of processes that were waited for."""

    closes_output = True  # the kernel closes it with the last process of the namespace

    def __init__(self, own: Warden, ticket: int) -> None:
        self.exit_code = 0
        self.complaint = ""
        self.lost = False
        self.memory = 0
        self.cpu = 0.0
        self._warden = own
        self._ticket = ticket
        self._over = trio.Event()

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._over.is_set()

    async def exited(self) -> None:
        """Wait until it, and all that it started, has ended."""
        await self._over.wait()

    async def end(self, grace_s: float) -> None:
        """Make sure that nothing of it runs any more: SIGTERM to all its processes, SIGKILL `grace_s` seconds later.
        Not to be cancelled; again is as good as once."""
        with trio.CancelScope(shield=True):
            if self._over.is_set():
                return
            await self._warden.signal(self._ticket, signal.SIGTERM)
            with trio.move_on_after(grace_s):
                await self._over.wait()
                return
            await self._warden.signal(self._ticket, signal.SIGKILL)
            await self._over.wait()

    def over(self, exit_code: int, memory: int = 0, cpu: float = 0.0, *, lost: bool = False) -> None:
        """It has ended."""
        self.exit_code, self.memory, self.cpu, self.lost = exit_code, memory, cpu, lost
        self._over.set()


class Warden:
    """A warden that is up."""

    def __init__(self, process: subprocess.Popen[bytes], talk: socket.socket, own_users: bool) -> None:
        self.own_users = own_users  # whether datums can have user namespaces
        self.gone = trio.Event()
        self._process = process
        self._talk = talk
        self._tickets = 0
        self._running: dict[int, Datum] = {}

    async def start(
        self, request: dict[str, Any], fds: Sequence[int], *, offline: bool, cgroup: int | None = None
    ) -> Datum:
        """Start a command. request: see vfsd.pipeline.first_process. fds: its standard input, where its output goes,
        and a socket to talk about many datums, or to ask for sockets. offline: with no network but its own loopback.
        cgroup: a descriptor of the directory of a cgroup v2 that it is to be in."""
        self._tickets += 1
        ticket = self._tickets
        running = self._running[ticket] = Datum(self, ticket)
        memory = in_memory({**request, "offline": offline, "userns": self.own_users})
        try:
            namespaces = _ALWAYS | (NEWNET if offline else 0)
            given = [memory, *fds, *([] if cgroup is None else [cgroup])]
            await self._tell(struct.pack("=qqq", ticket, namespaces, cgroup is not None), given)
        finally:
            os.close(memory)
        return running

    async def signal(self, ticket: int, number: signal.Signals) -> None:
        """To the first process of a datum."""
        await self._tell(struct.pack("=qqq", ticket, number, 0), [])

    async def _tell(self, message: bytes, fds: list[int]) -> None:
        with trio.CancelScope(shield=True):
            while self.alive:
                try:
                    socket.send_fds(self._talk, [message], fds)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._talk)
                except OSError:
                    self.lose()
                else:
                    return
        self.lose()  # also what was asked for too late

    async def listen(self) -> None:
        """Hear what it says, until it is gone."""
        while True:
            message = await _receive(self._talk)
            if not message:
                self.lose()
                return
            word, ticket, *rest = marshal.loads(message)
            running = self._running.get(ticket)
            if running is None:
                continue
            if word == b"why":
                running.complaint = rest[0].decode(errors="replace")
            else:
                code, memory, cpu = (*rest, 0, 0.0)[:3]
                running.over(code, memory << 10, cpu)
                del self._running[ticket]

    @property
    def pid(self) -> int:
        """Of a process that all it starts descends from."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still starts anything."""
        return not self.gone.is_set()

    def lose(self) -> None:
        """It is gone, or will be at once, and what it has started with it."""
        self.gone.set()
        while self._running:
            self._running.popitem()[1].over(128 + signal.SIGKILL, lost=True)

    async def complain(self) -> None:
        """Write to the log what it, or bubblewrap, prints."""
        assert self._process.stderr is not None
        async with trio.lowlevel.FdStream(os.dup(self._process.stderr.fileno())) as stream:
            async for data in stream:
                for line in data.decode(errors="replace").splitlines():
                    _log.error("warden: %s", line)


def in_memory(request: dict[str, Any]) -> int:
    """A descriptor of a file, on no disk, with a request for a first process."""
    memory = os.memfd_create("request")
    with open(memory, "wb", closefd=False) as file:
        marshal.dump(request, file)
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


@contextlib.asynccontextmanager
async def running_warden(bwrap: Sequence[bytes], view: bytes, seen: Sequence[bytes]) -> AsyncIterator[Warden]:
    """A warden, until the block ends. bwrap: what makes `view`, see vfsd.pipeline.sandbox; it and `view`.root are
    directories. seen: directories with what single datums see. OSError says why there is none."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            program = (os.fsencode(sys.executable), b"-I", b"-S", b"-c", _PROGRAM, os.fsencode(_WHERE))
            process = await spawn(
                (*bwrap, *program, view, *seen), env={}, cwd=b"/", stdin=theirs.fileno(), stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        ours.setblocking(False)
        try:
            up = await _first_message(ours, process, view)
            own = Warden(process, ours, marshal.loads(up)[1])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(own.listen)
                nursery.start_soon(own.complain)
                try:
                    yield own
                finally:
                    own.lose()  # nobody listens any more to what ended
                nursery.cancel_scope.cancel()
        finally:
            ours.close()
            await _reap(process, view)


async def _receive(talk: socket.socket) -> bytes:
    """A message; empty when no other will come."""
    while True:
        try:
            return talk.recv(_MESSAGE)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(talk)
        except OSError:
            return b""


async def _first_message(talk: socket.socket, process: subprocess.Popen[bytes], view: bytes) -> bytes:
    """What a warden says when it is up. OSError when it never will be."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_child, process, view)
        message = await _receive(talk)
        nursery.cancel_scope.cancel()
    if not message:
        await _fail(process)
    return message


async def _end_child(process: subprocess.Popen[bytes], view: bytes) -> None:
    """Once bubblewrap has ended, which it should not yet: what it left may hold the socket that is listened to."""
    await _ended(process)
    await trio.to_thread.run_sync(end_orphans, view)


async def _ended(process: subprocess.Popen[bytes]) -> None:
    pidfd = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(pidfd)
    finally:
        os.close(pidfd)


async def _fail(process: subprocess.Popen[bytes]) -> NoReturn:
    assert process.stderr is not None
    said = await trio.to_thread.run_sync(process.stderr.read)
    lines = said.decode(errors="replace").splitlines() or ["it ended without a word"]
    raise OSError(0, lines[0] if lines[0].startswith("bwrap: ") else lines[-1], "the sandbox")


async def _reap(process: subprocess.Popen[bytes], view: bytes) -> None:
    with trio.CancelScope(shield=True):
        with trio.move_on_after(_END_S) as patience:
            await _ended(process)
        if patience.cancelled_caught:
            process.kill()
            await _end_child(process, view)
        process.wait()
        if process.stderr is not None:
            process.stderr.close()
