"""A client's connection to the proxy: its requests go on to the server one by one, their bodies unread."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator

from tests.proxy import Mishap
from tests.proxy.ledger import Ledger
from tests.proxy.wire import Answered, Gone, Head, Wire, first_of

BLOCK = 256 << 10  # bytes moved at once
SLOWED_BLOCK = 16 << 10  # the same under a bandwidth limit, so that connections share it evenly
SPLICED = 128 << 10  # a body larger than this goes from socket to socket within the kernel
ALL = sys.maxsize  # bytes: until the connection ends
MADE_UP = {
    Mishap.SLOW_DOWN: (b"503 Slow Down", b"SlowDown"),
    Mishap.INTERNAL_ERROR: (b"500 Internal Server Error", b"InternalError"),
    Mishap.RACE: (b"409 Conflict", b"ConditionalRequestConflict"),
}


class Connection:
    """A client's connection, and the one to the server that serves it."""

    def __init__(self, client: socket.socket, server: tuple[str, int], ledger: Ledger) -> None:
        self._client = Wire(client)
        self._address = server
        self._server: Wire | None = None
        self._ledger = ledger
        self._buffer = memoryview(bytearray(BLOCK))
        self._pipe = os.pipe()
        with contextlib.suppress(PermissionError):  # one user's pipes may not have all too much
            fcntl.fcntl(self._pipe[0], fcntl.F_SETPIPE_SZ, BLOCK)
        self._about = "", ""  # method and kind of the request under way
        self._waits = False  # for its answer

    def run(self) -> None:
        """Pass requests on until somebody ends the connection."""
        try:
            while self._exchange():
                pass
        except (OSError, Gone, Answered):
            pass  # the client sees its connection end
        finally:
            self._client.close()
            self._drop_server()
            for end in self._pipe:
                os.close(end)

    def _exchange(self) -> bool:
        """One request and its answer; whether another may follow."""
        raw = self._client.until(b"\r\n\r\n")
        if not raw:
            return False
        request = Head(raw)
        self._about = request.about()
        mishap = self._ledger.begins(*self._about)
        self._waits = True
        self._count(self._client, len(raw))
        try:
            time.sleep(self._ledger.options.latency_ms / 1000)
            if mishap is Mishap.DROP:
                return False
            if mishap in MADE_UP:
                return self._make_up(request, *MADE_UP[mishap])
            return self._pass_on(request, mishap)
        finally:
            self._answered()

    def _answered(self) -> None:
        if self._waits:
            self._waits = False
            self._ledger.answered()

    def _make_up(self, request: Head, status: bytes, code: bytes) -> bool:
        """Answer in the server's place. Somebody who expects leave to send a body goes without, and must connect anew:
        nobody knows whether it comes all the same."""
        if not request.expects:
            self._body(request, self._client, None)
        content = b"<Error><Code>" + code + b"</Code><Message>made up</Message></Error>"
        head = [
            b"HTTP/1.1 " + status, b"Content-Type: application/xml", b"Content-Length: %d" % len(content),
            b"Connection: " + (b"close" if request.expects else b"keep-alive"), b"", b"",
        ]  # fmt: skip
        self._answered()
        self._send(self._client, b"\r\n".join(head) + (b"" if request.words[0] == b"HEAD" else content))
        return not (request.expects or request.closes)

    def _pass_on(self, request: Head, mishap: Mishap | None) -> bool:
        server = self._connected()
        begin = request.raw
        if request.expects and not self._client.early:
            self._send(server, begin)
            begin = b""
            first_of(self._client, server)  # a client does not wait for ever
            if server.is_readable():
                answer = Head(server.until(b"\r\n\r\n"))
                if answer.status >= 200:
                    self._answer(request, answer, server, mishap)
                    return False
                self._send(self._client, answer.raw)
        is_whole = True
        try:
            self._body(request, self._client, server, begin)
        except Answered:
            is_whole = False
        while (answer := Head(server.until(b"\r\n\r\n"))).status < 200:
            self._send(self._client, answer.raw)
        return self._answer(request, answer, server, mishap) and is_whole

    def _connected(self) -> Wire:
        if self._server is not None and self._server.is_readable():
            self._drop_server()  # it has ended the connection while nothing was asked
        if self._server is None:
            self._server = Wire(socket.create_connection(self._address))
        return self._server

    def _drop_server(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _answer(self, request: Head, answer: Head, server: Wire, mishap: Mishap | None) -> bool:
        self._answered()
        to = None if mishap is Mishap.LOSE else self._client
        is_cut = False
        if request.words[0] == b"HEAD" or answer.status in {204, 304}:
            self._send(to, answer.raw)
        elif answer.length is None and not answer.is_chunked:
            self._move(server, to, ALL, answer.raw)
            return False
        else:
            is_cut = mishap is Mishap.CUT and answer.length != 0
            self._body(answer, server, to, answer.raw, is_cut=is_cut)
        return not (to is None or is_cut or request.closes or answer.closes)

    # Bodies

    def _body(self, head: Head, source: Wire, to: Wire | None, begin: bytes = b"", *, is_cut: bool = False) -> None:
        """Send `begin`, then move the body that `head` announces; half of it, or of its first chunk, when it is cut."""
        if not head.is_chunked:
            length = head.length or 0
            self._move(source, to, length // 2 if is_cut else length, begin)
            return
        for line in self._lines(source):
            begin += line
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            self._move(source, to, size // 2 if is_cut else size + len(b"\r\n"), begin)
            if is_cut:
                return
            begin = b""
        self._send(to, begin)
        for line in self._lines(source):  # trailers, and the empty line that ends them
            self._send(to, line)
            if line == b"\r\n":
                return

    def _lines(self, source: Wire) -> Iterator[bytes]:
        while line := source.until(b"\r\n"):
            self._count(source, len(line))
            yield line
        raise Gone

    def _move(self, source: Wire, to: Wire | None, size: int, begin: bytes = b"") -> None:
        """Send `begin`, then move `size` bytes, or ALL."""
        early, source.early = source.early[:size], source.early[size:]
        self._count(source, len(early))
        self._send(to, begin + early)
        left = size - len(early)
        splices = to is not None and left > SPLICED and not self._ledger.bandwidth.rate
        while left:
            count = self._splice(source, to, left) if to and splices else self._copy(source, to, left)
            if not count:
                if size == ALL:
                    return
                raise Gone
            self._count(source, count)
            left -= count

    def _copy(self, source: Wire, to: Wire | None, left: int) -> int:
        block = SLOWED_BLOCK if self._ledger.bandwidth.rate else BLOCK
        count = source.sock.recv_into(self._buffer, min(left, block))
        self._send(to, self._buffer[:count])
        return count

    def _splice(self, source: Wire, to: Wire, left: int) -> int:
        """As `_copy`, but the bytes never come into this process: half the time for large bodies."""
        out, into = self._pipe
        taken = on_the_way = os.splice(source.sock.fileno(), into, min(left, BLOCK))
        if to is self._client:
            self._ledger.moved(*self._about, down=taken)
        try:
            while on_the_way:
                on_the_way -= os.splice(out, to.sock.fileno(), on_the_way)
        except OSError:
            raise self._gone(to) from None
        return taken

    def _count(self, source: Wire, size: int) -> None:
        if source is self._client:
            self._ledger.moved(*self._about, up=size)

    def _send(self, to: Wire | None, data: bytes | memoryview) -> None:
        self._ledger.bandwidth.take(len(data))
        if to is None:
            return
        if to is self._client:
            self._ledger.moved(*self._about, down=len(data))
        try:
            to.sock.sendall(data)
        except OSError:
            raise self._gone(to) from None

    def _gone(self, to: Wire) -> Exception:
        return Gone() if to is self._client else Answered()
