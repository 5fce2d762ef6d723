"""A port of this machine behind which a pipeline's command stands, whichever process that is at the moment.

Whoever comes while there is none, because it is begun anew, waits for some seconds and is let in then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator

import trio

PATIENCE_S = 10.0  # for a command that does not listen yet
VISITORS = 512  # connections at a time; more wait to be accepted
_LOOK_S = 0.05  # between two tries: that a process listens is told by nobody
_SIZE = 64 << 10

Connect = Callable[[], Awaitable[trio.SocketStream]]


class Door:
    """One port, for one event loop. Closed at first."""

    def __init__(self) -> None:
        self._place: tuple[str, int] | None = None
        self._connect: Connect | None = None
        self._scope = trio.CancelScope()
        self._closed = trio.Event()
        self._room = trio.CapacityLimiter(VISITORS)

    async def open(self, nursery: trio.Nursery, place: tuple[str, int]) -> None:
        """Listen at an address and port, if that is not done yet. OSError."""
        if self._place == place:
            return
        await self.close()
        ip, port = place
        try:
            listeners = await trio.open_tcp_listeners(port, host=ip)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"port {port} of {ip}") from None
        self._place, self._scope, self._closed = place, trio.CancelScope(), trio.Event()
        nursery.start_soon(self._serve, listeners)

    @contextlib.contextmanager
    def leading_to(self, connect: Connect) -> Iterator[None]:
        """Let who comes in by `connect` meanwhile, which raises OSError or ClosedResourceError where it cannot."""
        self._connect = connect
        try:
            yield
        finally:
            self._connect = None

    async def close(self) -> None:
        """Listen no more; connections end."""
        if self._place is not None:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._closed.wait()

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        try:
            with self._scope:
                await trio.serve_listeners(self._let_in, listeners)
        finally:
            self._place = None
            self._closed.set()

    async def _let_in(self, visitor: trio.SocketStream) -> None:
        async with visitor, self._room:
            command: trio.SocketStream | None = None
            with trio.move_on_after(PATIENCE_S):
                command = await self._command()
            if command is None:
                return
            async with command, trio.open_nursery() as nursery:
                nursery.start_soon(_pass_on, visitor, command, nursery.cancel_scope)
                nursery.start_soon(_pass_on, command, visitor, nursery.cancel_scope)

    async def _command(self) -> trio.SocketStream:
        while True:
            if self._connect is not None:
                with contextlib.suppress(OSError, trio.ClosedResourceError):
                    return await self._connect()
            await trio.sleep(_LOOK_S)


async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        both.cancel()
