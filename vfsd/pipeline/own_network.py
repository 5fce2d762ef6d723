"""The way to a port of a command that has a network of its own.

A socket belongs for ever to the network that it was made in. So the command's first process, which is in there, is
asked for sockets, and they are connected here.
"""

from __future__ import annotations

import contextlib
import socket

import trio

from vfsd.model.spec_lasting import LOOPBACK


class OwnNetwork:
    """For one command. A context manager. theirs: what the first process is to have, see SandboxRoom.prepare."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._asking = trio.Lock()

    def __enter__(self) -> OwnNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.notify_closing(self._ours)
        self._ours.close()
        self.theirs.close()

    async def connect(self, port: int) -> trio.SocketStream:
        """Connect to a port there. OSError; ClosedResourceError when the command has ended."""
        async with self._asking:
            self._ours.send(b"?")
            await trio.lowlevel.wait_readable(self._ours)
            _, fds, _, _ = socket.recv_fds(self._ours, 16, 1, socket.MSG_CMSG_CLOEXEC)
        with contextlib.ExitStack() as undo:
            made = undo.enter_context(trio.socket.from_stdlib_socket(socket.socket(fileno=fds[0])))
            await made.connect((LOOPBACK, port))
            undo.pop_all()
        return trio.SocketStream(made)
