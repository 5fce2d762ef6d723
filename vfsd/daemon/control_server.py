"""Answering on the control socket (daemon.control)."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import trio

from vfsd.daemon.control import Facts
from vfsd.model.errors import VfsdError

log = logging.getLogger(__name__)
Handler = Callable[[Facts], Awaitable[Any]]
MAX_LINE = 1 << 20
RETRY_S = 0.1  # seconds until a command is looked for again while there is no descriptor for it
_CREDENTIALS = struct.Struct("3i")  # process, user, group


async def serve(path: str, handlers: dict[str, Handler]) -> None:
    """Answer until cancelled."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound by a short name: a socket's path has 107 bytes at most, a state directory may be deeper.
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        await listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)
    os.chmod(path, 0o600)
    listener.listen(16)

    async def answer(stream: trio.SocketStream) -> None:
        """Questions have the number of the process that asks, as the kernel knows it: `pid`, 0 where it is not seen."""
        peer = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        await _answer(stream, handlers, _CREDENTIALS.unpack(peer)[0])

    is_told = False
    with listener:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, _ = await listener.accept()
                except OSError as error:
                    if not is_told:
                        log.error("no descriptor is left to answer commands with, trying on: %s", error.strerror)
                    is_told = True
                    await trio.sleep(RETRY_S)
                else:
                    is_told = False
                    nursery.start_soon(answer, trio.SocketStream(connection))


async def _answer(stream: trio.SocketStream, handlers: dict[str, Handler], pid: int) -> None:
    async with stream:
        result = await _result(await _line(stream), handlers, pid)
        try:
            await stream.send_all(msgspec.json.encode(result) + b"\n")
        except trio.BrokenResourceError:
            pass  # whoever asked does not wait for the answer any more


async def _result(line: bytes, handlers: dict[str, Handler], pid: int) -> Facts:
    try:
        question = msgspec.json.decode(line, type=Facts)
        handler = handlers[question["ask"]]
    except (KeyError, TypeError, msgspec.MsgspecError):
        return {"error": "the daemon does not understand this command: are both of one version?", "exit": 1}
    try:
        return {"ok": await handler({**question, "pid": pid})}
    except VfsdError as error:
        return {"error": str(error), "exit": error.exit_code}
    except Exception as error:
        # The daemon goes on: one question that nobody foresaw must not take the mount with it.
        log.exception("%s failed", question["ask"])
        return {"error": f"unexpected {type(error).__name__}: {error} (the daemon's log shows where)", "exit": 1}


async def _line(stream: trio.SocketStream) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < MAX_LINE:
        part = await stream.receive_some()
        if not part:
            break
        data += part
    return data
