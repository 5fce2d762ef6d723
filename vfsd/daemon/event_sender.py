"""Sends OpenLineage events as jobs run: to a URL, or to the end of a file, one a line.

Never in the way of a job: events wait in a queue of a fixed length, one thread sends them, tries a few times, and gives
up with a line in the log.
"""

from __future__ import annotations

import logging
import queue
import threading
import urllib.error
import urllib.request

import msgspec

from vfsd.lineage.openlineage import Event

WAITING = 1000  # events
TRIES = 4
FIRST_WAIT_S = 0.5  # before the second try; each wait is four times the one before
TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


class EventSender:
    """target: `http://…` or `https://…`, to which each event is POSTed, or the path of a file."""

    def __init__(self, target: str, *, waiting: int = WAITING, first_wait_s: float = FIRST_WAIT_S) -> None:
        self._target = target
        self._first_wait_s = first_wait_s
        self._queue: queue.Queue[bytes | None] = queue.Queue(waiting)
        self._dropped = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vfsd-events", daemon=True)
        self._thread.start()

    def send(self, event: Event) -> None:
        """Have an event sent; dropped when too many wait already. Does not block."""
        try:
            self._queue.put_nowait(msgspec.json.encode(event))
        except queue.Full:
            if not self._dropped:
                _log.warning("%s: too many OpenLineage events wait, some are dropped", self._target)
            self._dropped += 1

    def close(self, wait_s: float = 5.0) -> None:
        """Give what waits a moment, each event one more try, and end."""
        self._closing.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            pass  # the thread looks at `_closing` too
        self._thread.join(wait_s)
        left = self._queue.qsize()
        if self._thread.is_alive() and left:
            _log.warning("%s: %d OpenLineage events were not sent", self._target, left)

    def _run(self) -> None:
        while True:
            if self._closing.is_set() and self._queue.empty():
                return
            data = self._queue.get()
            if data is None:
                return
            self._deliver(data)
            if self._dropped and self._queue.empty():
                _log.warning("%s: %d OpenLineage events were dropped", self._target, self._dropped)
                self._dropped = 0

    def _deliver(self, data: bytes) -> None:
        wait_s = self._first_wait_s
        for number in range(1, TRIES + 1):
            try:
                self._once(data)
            except urllib.error.HTTPError as error:
                problem, again = f"{error.code} {error.reason}", error.code >= 500 or error.code == 429
                error.close()
            except (OSError, ValueError) as error:
                problem, again = str(error), True
            else:
                return
            if number == TRIES or not again or self._closing.is_set():
                _log.warning("%s: an OpenLineage event is dropped: %s", self._target, problem)
                return
            self._closing.wait(wait_s)
            wait_s *= 4

    def _once(self, data: bytes) -> None:
        if not self._target.startswith(("http://", "https://")):
            with open(self._target, "ab") as file:
                file.write(data + b"\n")
            return
        request = urllib.request.Request(
            self._target, data, {"Content-Type": "application/json", "User-Agent": "vfsd"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read()
