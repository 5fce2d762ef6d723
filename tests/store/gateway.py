"""A server in this process between a client and an S3 server: a test sees what is sent, and may hold it up, answer in
the server's place, or alter the answer. With a certificate it speaks TLS. Hosts like `BUCKET.name` become paths.

For what `tests.proxy` cannot do, because it passes bytes on unread.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.servers import BUCKET, S3Server


@dataclass
class Answer:
    """An HTTP answer. length: what Content-Length says, when it is not the body's."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = None

    @classmethod
    def error(cls, status: int, code: str, **headers: str) -> Answer:
        """An error as S3 puts it."""
        body = f"<Error><Code>{code}</Code><Message>made up &amp; sent</Message></Error>".encode()
        return cls(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@dataclass(frozen=True)
class Request:
    """A request that came. target: path and query. Names of headers are in lower case. body: what is passed on, so a
    change of it reaches the server. number: counts from 0."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytearray
    number: int


Meddle = Callable[[Request, Callable[[], Answer]], Answer]


def pass_on(request: Request, ask: Callable[[], Answer]) -> Answer:
    """Ask the server, and answer what it does."""
    return ask()


class Gateway(ThreadingHTTPServer):
    """`meddle` gets each request and how to ask the server, and gives the answer. `seen` has all requests."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: S3Server, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.upstream = urlsplit(server.endpoint).netloc
        self.port: int = self.server_address[1]
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.meddle: Meddle = pass_on
        self.lock = threading.Lock()
        self.seen: list[Request] = []

    def sent(self, method: str) -> list[Request]:
        """The requests with this method."""
        return [request for request in self.seen if request.method == method]

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients that go away are what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Gateway
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _handle(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = bytearray(self.rfile.read(int(headers.get("content-length", 0))))
        target, passed = self.path, headers
        if not headers["host"].startswith("127.0.0.1"):  # a name that the server does not go by
            passed = {**headers, "host": self.server.upstream}
            if headers["host"].startswith(f"{BUCKET}."):
                target = f"/{BUCKET}{target}"
        with self.server.lock:
            request = Request(self.command, target, headers, body, len(self.server.seen))
            self.server.seen.append(request)
        answer = self.server.meddle(request, lambda: self._ask(target, passed, body))
        length = len(answer.body) if answer.length is None else answer.length
        self.close_connection = length != len(answer.body) and self.command != "HEAD"
        self.send_response_only(answer.status)
        for name, value in {**answer.headers, "content-length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle  # noqa: N815

    def _ask(self, target: str, headers: dict[str, str], body: bytearray) -> Answer:
        with contextlib.closing(http.client.HTTPConnection(self.server.upstream, timeout=120)) as upstream:
            upstream.request(self.command, target, body or None, headers)
            answer = upstream.getresponse()
            content = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        length = found.pop("content-length", None) if self.command == "HEAD" else None
        kept = {name: value for name, value in found.items() if name not in _OWN}
        return Answer(answer.status, kept, content, None if length is None else int(length))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the tests' output is no place for an access log."""


_OWN = {"connection", "transfer-encoding", "keep-alive", "content-length"}


@contextlib.contextmanager
def gateway_to(server: S3Server, tls: ssl.SSLContext | None = None) -> Iterator[Gateway]:
    """A running gateway, ended with the context."""
    with Gateway(server, tls) as gateway:
        running = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.01})
        running.start()
        try:
            yield gateway
        finally:
            gateway.shutdown()
            running.join()
