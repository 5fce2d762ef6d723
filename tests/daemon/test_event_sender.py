"""OpenLineage events on their way: to a server, to a file, and when neither is there."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from vfsd.daemon.event_sender import TRIES, EventSender


class Server:
    """Answers POSTs with the next of `answers`, then with 200; `got` has what came."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: Queue[object] = Queue()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                status = outer.answers.pop(0) if outer.answers else 200
                self.send_response(status)
                self.end_headers()
                outer.got.put((status, json.loads(data)))

            def log_message(self, *words: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/api/v1/lineage"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def test_events_are_posted_in_order_and_tried_again_when_the_server_fails(server: Server) -> None:
    server.answers = [503, 500]
    sender = EventSender(server.url, first_wait_s=0.01)
    for number in range(3):
        sender.send({"number": number})
    got = [server.got.get(timeout=60) for _ in range(5)]
    assert got == [(503, {"number": 0}), (500, {"number": 0}), *((200, {"number": number}) for number in range(3))]
    sender.close()


def test_what_is_refused_or_fails_again_and_again_is_dropped_with_a_line(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [400, *[500] * TRIES]
    sender = EventSender(server.url, first_wait_s=0.01)
    for number in range(3):
        sender.send({"number": number})
    while server.got.get(timeout=60) != (200, {"number": 2}):
        pass
    sender.close()
    assert sum("is dropped" in line for line in caplog.messages) == 2


def test_a_server_that_is_not_there_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    sender = EventSender("http://127.0.0.1:9/none", waiting=5, first_wait_s=60)
    for number in range(100):
        sender.send({"number": number})
    sender.close(wait_s=30)
    assert any("some are dropped" in line for line in caplog.messages)
    assert any("is dropped" in line for line in caplog.messages)


def test_events_are_appended_to_a_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("before\n")
    sender = EventSender(str(path))
    for number in range(10):
        sender.send({"number": number})
    sender.close(wait_s=30)
    first, *rest = path.read_text().splitlines()
    assert (first, [json.loads(line)["number"] for line in rest]) == ("before", list(range(10)))
