"""One end of an HTTP connection, and the heads of the messages on it."""

from __future__ import annotations

import contextlib
import re
import select
import socket
from urllib.parse import unquote_to_bytes

from tests.proxy import KINDS

HEAD_LIMIT = 64 << 10  # bytes of a message's first line and headers


class Gone(Exception):
    """A connection ended where it should not."""


class Answered(Exception):
    """The server takes no more of a request: it has answered already, or is gone."""


class Wire:
    """One end of a connection, and what was read from it too early."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.early = b""

    def until(self, end: bytes) -> bytes:
        """Everything up to and with `end`; empty when the connection ends before anything comes. Gone."""
        found = self.early
        while (at := found.find(end)) < 0:
            more = self.sock.recv(HEAD_LIMIT)
            if not more and not found:
                return b""
            if not more or len(found) > HEAD_LIMIT:
                raise Gone
            found += more
        self.early = found[at + len(end) :]
        return found[: at + len(end)]

    def is_readable(self) -> bool:
        """Whether something, or the end, has come."""
        return bool(self.early) or first_of(self, wait=False)

    def close(self) -> None:
        """Let the other side know at once."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def first_of(*wires: Wire, wait: bool = True) -> bool:
    """Return when something, or the end, has come on one of them; whether it has."""
    poll = select.poll()
    for wire in wires:
        poll.register(wire.sock, select.POLLIN)
    return bool(poll.poll(None if wait else 0))


class Head:
    """The first line and the headers of a message. length: of its body, None when it is chunked or ends with the
    connection. Source: RFC 9112."""

    _LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
    _CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked", re.IGNORECASE)
    _CLOSE = re.compile(rb"\r\nconnection:[^\r]*close", re.IGNORECASE)
    _EXPECT = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.IGNORECASE)

    def __init__(self, raw: bytes) -> None:
        if not raw:
            raise Gone
        self.raw = raw
        self.words = raw[: raw.index(b"\r\n")].split(b" ", 2)
        self.is_chunked = self._CHUNKED.search(raw) is not None
        length = None if self.is_chunked else self._LENGTH.search(raw)
        self.length = None if length is None else int(length[1])
        self.closes = self._CLOSE.search(raw) is not None
        self.expects = self._EXPECT.search(raw) is not None

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.words[1])

    def about(self) -> tuple[str, str]:
        """Method and kind of a request, as they are counted."""
        method, target = self.words[0].decode(), self.words[1]
        path, _, query = target.partition(b"?")
        key = path.lstrip(b"/").partition(b"/")[2]
        if method == "GET" and not key and not re.search(rb"(^|&)(location|versioning|acl|uploads)\b", query):
            method = "LIST"
            prefix = re.search(rb"(?:^|&)prefix=([^&]*)", query)
            key = b"" if prefix is None else prefix[1]
        parts = unquote_to_bytes(key).decode("latin-1").split("/")
        return method, next((part for part in parts if part in KINDS), "other")
