"""How pyfuse3 waits for the kernel, and what is agreed with the kernel at the start.

pyfuse3 takes what it needs of trio from its name `trio`, so that another event loop can stand in (pyfuse3.asyncio does
that). Here it gets trio with two things done cheaper: a lock that costs nothing while nobody else wants it, and waiting
that looks first whether a request is there already. And the answer to the kernel's first request passes through
`amended`: libfuse does not know, or does not ask for, some of what the kernel offers. See docs/decisions/0011.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from types import SimpleNamespace, TracebackType

import pyfuse3
import trio

DEVICE = "/dev/fuse"
MAX_BACKGROUND = 64  # requests for readahead and asynchronous writes that the kernel keeps in flight
READ_AHEAD = 4 << 20  # bytes that the kernel may read ahead: allowed here, set in sysfs (see mount.py)
LONGEST_TURN_S = 0.001  # for which requests are answered one after the other before anything else runs
_MESSAGE = 1 << 16

# struct fuse_out_header and the beginning of struct fuse_init_out: include/uapi/linux/fuse.h, protocol 7.23 and later.
_HEADER = struct.Struct("=IiQ")
_INIT = struct.Struct("=IIIIHH")
_FIRST = 56  # where the flags of struct fuse_init_in are, its header of 40 bytes included: + major, minor, readahead
_AUTO_INVAL_DATA = 1 << 12
_CACHE_SYMLINKS = 1 << 23
_EXPLICIT_INVAL_DATA = 1 << 25
_HANDLE_KILLPRIV_V2 = 1 << 28
WANTED = _CACHE_SYMLINKS | _EXPLICIT_INVAL_DATA | _HANDLE_KILLPRIV_V2


def amended(question: bytes, answer: bytes) -> bytes:
    """libfuse's answer to FUSE_INIT with what else is wanted, as far as the kernel's question offers it.

    - EXPLICIT_INVAL_DATA: pages stay in the kernel's cache until it is told, not until a file's mtime changes; a file
      that was just written is read without asking.
    - HANDLE_KILLPRIV_V2: writing clears the set-user-ID bits here, so that the kernel need not ask for the attribute
      security.capability before each write.
    - CACHE_SYMLINKS: targets of symbolic links.
    - max_background, and a limit of readahead that leaves room for what sysfs is told: the kernel takes the less.
    """
    size = _HEADER.size + _INIT.size
    if len(answer) < size or len(question) < _FIRST or _HEADER.unpack_from(answer)[1]:
        return answer
    (offered,) = struct.unpack_from("=I", question, _FIRST - 4)
    major, minor, _, flags, _, _ = _INIT.unpack_from(answer, _HEADER.size)
    flags |= WANTED & offered
    if flags & _EXPLICIT_INVAL_DATA:
        flags &= ~_AUTO_INVAL_DATA
    init = _INIT.pack(major, minor, READ_AHEAD, flags, MAX_BACKGROUND, MAX_BACKGROUND * 3 // 4)
    return answer[: _HEADER.size] + init + answer[size:]


class Turn:
    """A lock that is taken and given back without a pass through the event loop while nobody else waits for it."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        if self._taken:
            await self._waiting.park()  # woken with the lock handed over
        self._taken = True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting:
            self._waiting.unpark()
        else:
            self._taken = False


class Session:
    """Stands in for trio in pyfuse3, for the one mount of this process."""

    Lock = Turn
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)
    from_thread = trio.from_thread

    def __init__(self) -> None:
        self.lowlevel = SimpleNamespace(
            current_task=trio.lowlevel.current_task,
            current_trio_token=trio.lowlevel.current_trio_token,
            notify_closing=trio.lowlevel.notify_closing,
            wait_readable=self.wait_readable,
        )
        self._handshake: Handshake | None = None
        self._poll = select.poll()
        self._rested = 0.0

    def begin(self, fd: int) -> None:
        """The device is open as `fd`, and the kernel's first request waits there."""
        self._handshake = Handshake(fd)
        self._poll.register(fd, select.POLLIN)

    async def wait_readable(self, fd: int) -> None:
        """Until there is a request. Others run at least every `LONGEST_TURN_S`."""
        if self._handshake is not None and self._handshake.step():
            self._handshake = None
        if self._poll.poll(0):
            if time.monotonic() - self._rested > LONGEST_TURN_S:
                await trio.lowlevel.checkpoint()
                self._rested = time.monotonic()
            return
        await trio.lowlevel.wait_readable(fd)
        self._rested = time.monotonic()


class Handshake:
    """The first request and its answer, with libfuse reading from and writing to a socket in place of the device."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._device = os.dup(fd)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os.dup2(theirs.fileno(), fd, inheritable=False)
        self._question = b""

    def step(self) -> bool:
        """Called whenever libfuse wants a request: pass the question on, then the answer; whether that is all."""
        if not self._question:
            select.select([self._device], [], [])
            self._question = os.read(self._device, 1 << 21)
            self._ours.send(self._question)
            return False
        os.write(self._device, amended(self._question, self._ours.recv(_MESSAGE)))
        os.dup2(self._device, self._fd, inheritable=False)
        os.close(self._device)
        self._ours.close()
        return True


def device() -> int:
    """The descriptor under which this process has the device open. Its highest: the one that was opened last."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == DEVICE:
                found.append(int(name))
        except FileNotFoundError:
            pass
    return max(found)


def stand_in() -> Session:
    """Have pyfuse3 use a Session; before pyfuse3.init."""
    session = Session()
    vars(pyfuse3)["trio"] = session
    return session
