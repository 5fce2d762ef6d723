"""The mount's end of /dev/fuse: requests come in, answers and notifications go out. Knows nothing of what they mean.

Requests are taken in the event loop, one after the other, and answered at once where the handler can; a handler that
cannot gives a coroutine, which then runs as a task. Nothing is copied on the way but what such a task needs.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable, Coroutine, Sequence
from types import CoroutineType
from typing import Any, NamedTuple

import trio

from vfsd.serve.fuse import protocol
from vfsd.serve.fuse.protocol import Opcode

MAX_WRITE = 1 << 20  # bytes of one request
MAX_BACKGROUND = 64  # requests for readahead and asynchronous writes that the kernel keeps in flight
READ_AHEAD = 4 << 20  # bytes that the kernel may read ahead: allowed here, set in sysfs (see mount.py)
MOST_PIECES = 1000  # of one answer; the kernel takes 1,024 (IOV_MAX)
LONGEST_TURN_S = 0.001  # for which requests are answered one after the other before anything else runs
LOOKS = 60  # for the next request of a stream, before it is slept for: some 0.1 ms
STREAM = 32  # requests, each less than that behind the one before, that make it likely that the next is as near
_GONE = {errno.ENODEV, errno.EBADF}  # unmounted
_OF_HANDLES = frozenset({  # what may be done with what is open was decided when it was opened
    Opcode.READ, Opcode.WRITE, Opcode.FSYNC, Opcode.FLUSH, Opcode.RELEASE, Opcode.READDIRPLUS, Opcode.FSYNCDIR,
    Opcode.RELEASEDIR, Opcode.FORGET, Opcode.BATCH_FORGET,
})  # fmt: skip
_NOTHING = {errno.ENOENT, errno.EINTR}  # what was to be read was taken back

Body = bytes | Sequence[bytes | memoryview]  # of an answer, in one or several pieces


class After(NamedTuple):
    """The body of an answer, and what is done once it is given, before the next request is taken; it may not fail."""

    body: bytes
    rest: Callable[[], None]


Answer = Body | After | Coroutine[Any, Any, Body] | None  # None: the kernel expects none


class Request:
    """What the kernel asks. thread: id of the caller's, 0 for the kernel's own requests. body: what follows the header;
    it stands in a buffer that is used again once the handler has returned, unless it is kept. waited: something had to
    be loaded for it."""

    __slots__ = ("body", "gid", "node", "thread", "uid", "unique", "waited")

    def __init__(self, unique: int, node: int, uid: int, gid: int, thread: int, body: memoryview) -> None:
        self.unique = unique
        self.node = node
        self.uid = uid
        self.gid = gid
        self.thread = thread
        self.body = body
        self.waited = False

    def keep(self) -> None:
        """Have a body that outlasts the handler."""
        self.body = memoryview(bytes(self.body))

    def name(self, start: int = 0) -> bytes:
        """The one name that the body ends with."""
        return bytes(self.body[start:-1])


class Failure(Exception):
    """The answer is an errno."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.errno = number


Handler = Callable[[Request], Answer]


class Channel:
    """A connection to the kernel, over an open descriptor of /dev/fuse that belongs to a mount.

    users: who may use the filesystem; everybody whom the kernel lets through when it is empty.
    """

    def __init__(self, fd: int, users: frozenset[int] = frozenset()) -> None:
        self._fd = fd
        self._users = users
        os.set_blocking(fd, False)
        self._buffer = bytearray(MAX_WRITE + 4096)
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._stopped = trio.CancelScope()

    def greet(self) -> None:
        """Answer the kernel's first request. Unsupported."""
        self._poll.poll()
        size = os.readv(self._fd, [self._buffer])
        _, opcode, unique, *_ = protocol.HEADER.unpack_from(self._buffer)
        assert opcode == protocol.Opcode.INIT, opcode
        try:
            body = protocol.answer_init(
                bytes(self._buffer[protocol.HEADER.size : size]), readahead=READ_AHEAD, max_background=MAX_BACKGROUND,
                max_write=MAX_WRITE,
            )
        except protocol.Unsupported:
            self.fail(unique, errno.EPROTO)
            raise
        self.answer(unique, body)

    async def serve(self, handlers: dict[int, Handler], is_busy: Callable[[], bool]) -> None:
        """Have requests answered until the filesystem is unmounted or `stop` is called.

        handlers: opcode → what answers it; the kernel is told ENOSYS of all others. They raise Failure only. is_busy:
        whether threads of this process are at work, which need the processors more than a look at the device does.
        """
        table: list[Handler | None] = [handlers.get(opcode) for opcode in range(protocol.LAST_OPCODE)]
        with self._stopped:
            async with trio.open_nursery() as nursery:
                await self._take(table, is_busy, nursery)
                nursery.cancel_scope.cancel()

    async def _take(
        self, table: list[Handler | None], is_busy: Callable[[], bool], nursery: trio.Nursery
    ) -> None:
        buffers, view = [self._buffer], memoryview(self._buffer)
        fd, unpack, head = self._fd, protocol.HEADER.unpack_from, protocol.HEADER.size
        rested = time.monotonic()
        stream = 0
        while True:
            try:
                size = os.readv(fd, buffers)
            except BlockingIOError:
                # To wait for the device alone costs a fraction of what waiting for everything costs. Not while a task
                # waits for a thread, whose end would be noticed late.
                if stream < STREAM or nursery.child_tasks or is_busy() or not self._look():
                    since = time.monotonic()
                    await trio.lowlevel.wait_readable(fd)
                    rested = time.monotonic()
                    if rested - since > LONGEST_TURN_S:
                        stream = 0
                continue
            except OSError as error:
                if error.errno in _GONE:
                    return
                if error.errno in _NOTHING:
                    continue
                raise
            stream += 1
            _, opcode, unique, node, uid, gid, thread, _, _ = unpack(view)
            handler = table[opcode] if opcode < protocol.LAST_OPCODE else None
            if handler is None:
                self.fail(unique, errno.ENOSYS)
            elif self._users and uid not in self._users and opcode not in _OF_HANDLES:
                self.fail(unique, errno.EACCES)
            else:
                self._handle(handler, Request(unique, node, uid, gid, thread, view[head:size]), nursery)
            if time.monotonic() - rested > LONGEST_TURN_S:
                await trio.lowlevel.checkpoint()
                rested = time.monotonic()

    def _handle(self, handler: Handler, request: Request, nursery: trio.Nursery) -> None:
        try:
            answer = handler(request)
        except Failure as failure:
            self.fail(request.unique, failure.errno)
            return
        if isinstance(answer, CoroutineType):
            nursery.start_soon(self._later, request.unique, answer)
        elif isinstance(answer, After):
            # Two processors: the caller goes on while his bytes are brought to their place.
            self.answer(request.unique, answer.body)
            answer.rest()
        elif answer is not None:
            self.answer(request.unique, answer)  # type: ignore[arg-type]  # mypy knows no CoroutineType that narrows

    async def _later(self, unique: int, coming: Coroutine[Any, Any, Body]) -> None:
        try:
            body = await coming
        except Failure as failure:
            self.fail(unique, failure.errno)
        else:
            self.answer(unique, body)

    def _look(self) -> bool:
        """Whether another request comes within a millisecond. At first it is looked for without sleeping, with others
        let go before: waking an idle processor takes longer than most programs take to ask again."""
        for _ in range(LOOKS):
            if self._poll.poll(0):
                return True
            os.sched_yield()
        return bool(self._poll.poll(LONGEST_TURN_S * 1000))

    def answer(self, unique: int, body: Body) -> None:
        """Answer a request. One that was interrupted meanwhile needs none."""
        pieces = (body,) if isinstance(body, bytes) else body
        size = sum(map(len, pieces))
        head = protocol.ANSWER.pack(protocol.ANSWER.size + size, 0, unique)
        self._write([b"".join((head, *pieces))] if size <= 4096 or len(pieces) > MOST_PIECES else [head, *pieces])

    def fail(self, unique: int, number: int) -> None:
        """Answer with an errno."""
        self._write([protocol.ANSWER.pack(protocol.ANSWER.size, -number, unique)])

    def _write(self, pieces: Sequence[bytes | memoryview]) -> None:
        try:
            os.writev(self._fd, pieces)
        except OSError as error:
            if error.errno not in _NOTHING | _GONE:
                raise

    def notify(self, messages: list[bytes]) -> None:
        """Send notifications. Waits for the kernel, which may be waiting for an answer: not for the event loop."""
        for message in messages:
            self._write([message])

    def stop(self) -> None:
        """Have `serve` return."""
        self._stopped.cancel()

    def close(self) -> None:
        """Let go of the device: the kernel answers what is still asked with ENOTCONN."""
        os.close(self._fd)
