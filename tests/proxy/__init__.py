"""A proxy in front of a real S3 server, in a process of its own: it delays, slows down, fails and counts requests.

Requests go on unchanged, the Host header included, which the client's signature covers. What happens to them can be
changed while it runs. It speaks HTTP/1.1 without TLS, bodies of a known length or chunked, and `Expect: 100-continue`;
one connection to the server for each of the client's. Bodies are handed on as they come and never held as a whole.
"""

from __future__ import annotations

import contextlib
import enum
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

KINDS = ("format", "packs", "commits", "refs", "globals", "repos", "pipelines", "jobs")  # folders of a vfsd store
TOP = Path(__file__).parents[2]


class Mishap(enum.StrEnum):
    """What may happen to a request, the first three before the server sees it.

    DROP: the connection is cut. SLOW_DOWN, INTERNAL_ERROR: the answer is 503 SlowDown or 500 InternalError. RACE: it
    is 409 ConditionalRequestConflict. LOSE: the server acts and answers, then the connection is cut. CUT: the headers
    and half of the body of the answer come, then the connection is cut; an answer without a body comes whole.
    """

    DROP = "drop"
    SLOW_DOWN = "slow_down"
    INTERNAL_ERROR = "internal_error"
    RACE = "race"
    LOSE = "lose"
    CUT = "cut"


class Options(msgspec.Struct, frozen=True):
    """latency_ms: each request waits so long before it goes on, beside all others. mb_per_s: millions of bytes a
    second that all connections together get, both ways added up; 0: no limit. mishaps: share of the requests, 0 to 1,
    that each of them meets. seed: of the choice; setting options begins its sequence anew."""

    latency_ms: float = 0.0
    mb_per_s: float = 0.0
    mishaps: dict[Mishap, float] = {}
    seed: int = 0


class Planned(msgspec.Struct):
    """A mishap for the next `times` requests of this method and kind; empty: any. It goes before what chance says."""

    mishap: Mishap
    method: str = ""
    kind: str = ""
    times: int = 1


class Traffic(msgspec.Struct):
    """requests: how many. up, down: bytes from and to the client, headers included."""

    requests: int = 0
    up: int = 0
    down: int = 0

    def add(self, other: Traffic) -> None:
        """Count the other one in."""
        self.requests += other.requests
        self.up += other.up
        self.down += other.down


class Counts(msgspec.Struct):
    """What came since counting began.

    by: method, then kind. Methods are HTTP's, but LIST where S3 lists. Kinds are the folders of a vfsd store (see
    KINDS) and `other`. mishaps: how many requests met each. peak: requests that waited for their answer at once, at
    most. connections: accepted.
    """

    by: dict[str, dict[str, Traffic]] = {}
    mishaps: dict[Mishap, int] = {}
    peak: int = 0
    connections: int = 0

    def of(self, method: str = "", kind: str = "") -> Traffic:
        """The sum over one method, one kind, or all."""
        total = Traffic()
        for name, kinds in self.by.items():
            for one, traffic in kinds.items():
                if method in {"", name} and kind in {"", one}:
                    total.add(traffic)
        return total

    def requests(self, method: str = "", kind: str = "") -> int:
        """How many of one method, one kind, or all."""
        return self.of(method, kind).requests


class Proxy:
    """A running proxy; from any thread. `endpoint` is what clients are told instead of the server's."""

    def __init__(self, running: subprocess.Popen[bytes]) -> None:
        self._running = running
        self._lock = threading.Lock()
        port = self._receive()
        self.endpoint = f"http://127.0.0.1:{port}"

    def set(self, options: Options) -> None:
        """Requests that come from now on meet these."""
        self._ask("set", options)

    def expect(self, mishap: Mishap, *, method: str = "", kind: str = "", times: int = 1) -> None:
        """The next `times` requests of this method and kind (empty: any) meet this, behind what was expected before."""
        self._ask("expect", Planned(mishap, method, kind, times))

    def counts(self) -> Counts:
        """What came since the last reset."""
        return msgspec.convert(self._ask("counts", None), Counts)

    def reset(self) -> Counts:
        """As `counts`, and begin anew."""
        return msgspec.convert(self._ask("reset", None), Counts)

    def _ask(self, question: str, value: object) -> Any:
        assert self._running.stdin is not None
        with self._lock:
            self._running.stdin.write(msgspec.json.encode([question, value]) + b"\n")
            self._running.stdin.flush()
            return self._receive()

    def _receive(self) -> Any:
        assert self._running.stdout is not None
        line = self._running.stdout.readline()
        if not line:
            raise RuntimeError("the proxy's process has ended")
        return msgspec.json.decode(line)


@contextlib.contextmanager
def proxy_to(endpoint: str, options: Options | None = None) -> Iterator[Proxy]:
    """A proxy in front of the server at `endpoint`, gone when the context, or this process, ends."""
    command = [sys.executable, "-m", "tests.proxy", urlsplit(endpoint).netloc]
    with subprocess.Popen(
        command, cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as running:
        try:
            proxy = Proxy(running)
            proxy.set(options or Options())
            yield proxy
        finally:
            running.kill()
