"""A proxy in front of an S3 server that drops, cuts and refuses what it is told to."""

from __future__ import annotations

import contextlib
import enum
import http.client
import threading
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.servers import S3Server


class Mishap(enum.Enum):
    """DROP: the request never arrives. LOSE: it does, but no answer comes back. CUT: half of the answer's body does.
    The rest are answers that the server never gave: too busy, and a conditional request in the way."""

    DROP = enum.auto()
    LOSE = enum.auto()
    CUT = enum.auto()
    SLOW_DOWN = enum.auto()
    RACE = enum.auto()


_MADE_UP = {Mishap.SLOW_DOWN: (503, "SlowDown"), Mishap.RACE: (409, "ConditionalRequestConflict")}


class Proxy(ThreadingHTTPServer):
    """`mishaps` meet the next requests with `method`; `seen` has the method of every request that came."""

    daemon_threads = True

    def __init__(self, server: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(server.endpoint).netloc
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.method = ""
        self.mishaps: deque[Mishap] = deque()
        self.seen: list[str] = []

    def expect(self, method: str, *mishaps: Mishap) -> None:
        self.method = method
        self.mishaps = deque(mishaps)
        self.seen.clear()


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        proxy = self.server
        proxy.seen.append(self.command)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        mishap = proxy.mishaps.popleft() if self.command == proxy.method and proxy.mishaps else None
        self.close_connection = mishap in {Mishap.DROP, Mishap.LOSE, Mishap.CUT}
        if mishap is Mishap.DROP:
            return
        if mishap in _MADE_UP:
            status, code = _MADE_UP[mishap]
            self._answer(status, {}, f"<Error><Code>{code}</Code><Message>made up</Message></Error>".encode())
            return
        with contextlib.closing(http.client.HTTPConnection(proxy.upstream, timeout=30)) as upstream:
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
        if mishap is Mishap.LOSE:
            return
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
        self._answer(answer.status, headers, content, cut=mishap is Mishap.CUT)

    do_GET = do_PUT = do_HEAD = do_DELETE = _handle  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the tests' output is no place for an access log."""


_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


@contextlib.contextmanager
def proxy_to(server: S3Server) -> Iterator[Proxy]:
    """A running proxy, ended with the context."""
    with Proxy(server) as proxy:
        running = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        running.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            running.join()
