"""Requests to one bucket: how many at once, how often again, and which of them twice.

Everything that S3Store asks goes through here. boto3's own retries are off: they know nothing of each other, and one
place is enough. `s3_client` makes single requests, `retry` and `hedge` have the rules, `s3_errors` knows what an error
means.
"""

from __future__ import annotations

import io
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError, ResponseStreamingError
from urllib3.exceptions import HTTPError

from vfsd.model.errors import Unavailable
from vfsd.store.buffers import BUFFERS
from vfsd.store.hedge import Beaten, Hedger, Over
from vfsd.store.retry import RetryBudget, Slots, backoff
from vfsd.store.s3_client import Answer, Bucket
from vfsd.store.s3_errors import TRANSIENT, Failure, classify, explain, retry_after
from vfsd.store.s3_options import S3Options

T = TypeVar("T")
Content = TypeVar("Content", bytes, memoryview)
FIRST_BUDGET = 3.0  # seconds of retries while the endpoint has never answered: its name is more likely wrong
PIECE = 1 << 20  # bytes that are read at once; between two pieces a read may end because it is beaten

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class S3Counts(msgspec.Struct, frozen=True):
    """What went over the wire since the store was opened. requests: by boto3's name of the operation, those that were
    sent again included. retries: requests sent because one before failed. throttled: answers that asked to slow down.
    hedges: reads that were sent a second time because the first was late; hedges_won: where the second was first."""

    requests: Mapping[str, int]
    retries: int = 0
    throttled: int = 0
    hedges: int = 0
    hedges_won: int = 0


class AskAgain(Exception):
    """Nothing is decided yet: send the conditional request again."""


class Requests:
    """The way to one bucket, shared by all threads. Connects at first use."""

    def __init__(self, bucket: str, options: S3Options) -> None:
        self.bucket = bucket
        self.options = options
        self._made: Bucket | None = None
        self._making = threading.Lock()
        self._answered = False
        self._slots = Slots(options.connections)
        self._budget = RetryBudget()
        self._hedger = Hedger(options.hedge, self._slots)
        self._counts: Counter[str] = Counter()
        self._retries = self._throttled = 0
        self._counting = threading.Lock()

    @property
    def is_aws(self) -> bool:
        """Whether the server is AWS's own."""
        return self._connected().is_aws

    @property
    def checksum(self) -> str:
        """What uploads carry: crc32, md5 or none. Connects."""
        if self.options.checksum != "auto":
            return self.options.checksum
        return "crc32" if self.is_aws else "none"

    @property
    def endpoint(self) -> str:
        """The server's URL, for messages."""
        return self._made.endpoint if self._made is not None else self.options.endpoint or "S3"

    def counts(self) -> S3Counts:
        """What was asked so far."""
        hedges = self._hedger.counts()
        with self._counting:
            return S3Counts(dict(self._counts), self._retries, self._throttled, hedges.sent, hedges.won)

    def ask(self, operation: str, **parameters: Any) -> Any:
        """One request through boto3's client."""
        bucket = self._connected()
        with self._slots:
            return self._send(operation, lambda: bucket.ask(operation, parameters))

    def get(self, key: str) -> tuple[bytes, str]:
        """One GET of a whole object, hedged; its bytes and its ETag."""
        bucket = self._connected()

        def read(over: Over) -> tuple[bytes, str]:
            answer = bucket.get(key, None)
            return _content(answer, over), answer.headers["etag"]

        with self._slots:
            return self._hedger.read(None, lambda over: self._send("get_object", lambda: read(over)))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """One GET of a range, hedged; its bytes, fewer only at the object's end."""
        return self._range(key, offset, length, _content)

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        """The same, in memory of `store.buffers`."""
        return self._range(key, offset, length, _large_content)

    def _range(self, key: str, offset: int, length: int, receive: Callable[[Answer, Over], Content]) -> Content:
        bucket = self._connected()
        span = f"bytes={offset}-{offset + length - 1}"

        def read(over: Over) -> Content:
            answer = bucket.get(key, span)
            content = receive(answer, over)
            if answer.status == 200:  # a server that does not know ranges
                part = content[offset : offset + length]
                return part if isinstance(part, bytes) else memoryview(bytes(part))
            _check_range(answer, len(content), offset, length)
            return content

        with self._slots:
            return self._hedger.read(length, lambda over: self._send("get_object", lambda: read(over)))

    def retry(self, what: str, act: Callable[[], T]) -> T:
        """The result of `act`, tried again while it fails for a moment, and budget and time allow, the latter from the
        first failure on. what: the object's URL, for the error that is raised otherwise."""
        attempt = 0
        failing_since = 0.0  # not since the call began: an answer that does not come may take all of its time
        renewed = False
        while True:
            used = self._made
            failed: BotoCoreError | ClientError
            try:
                result = act()
                self._answered = True
                self._budget.succeeded(was_retry=attempt > 0)
                return result
            except AskAgain:
                failure = Failure.RACE
            except (BotoCoreError, ClientError) as error:
                failed = error
                failure = classify(error)
                self._answered = self._answered or isinstance(error, ClientError)
            patience = self.options.retry_s if self._answered else min(FIRST_BUDGET, self.options.retry_s)
            failing_since = failing_since or time.monotonic()
            until = failing_since + patience
            if failure is Failure.CREDENTIALS and not renewed:
                renewed = True  # they may have been replaced: what boto3 reads is read again
                self._forget(used)
            elif failure is Failure.RACE:  # nothing is wrong with the server: its budget for retries stays untouched
                if not _sleep(backoff(attempt), until):
                    raise Unavailable(f"{what}: others' conditional writes are in the way: try again later")
            elif failure not in TRANSIENT or not self._wait(failed, failure, attempt, until):
                raise explain(failed, bucket=self.bucket, endpoint=self.endpoint, what=what) from None
            attempt += 1
            with self._counting:
                self._retries += 1

    def close(self) -> None:
        """Give back connections and threads."""
        self._hedger.close()
        with self._making:
            if self._made is not None:
                self._made.close()
                self._made = None

    # the rest

    def _send(self, operation: str, act: Callable[[], T]) -> T:
        with self._counting:
            self._counts[operation] += 1
        try:
            result = act()
        except ClientError as error:
            if classify(error) is Failure.THROTTLED:
                self._slots.slow_down()
                with self._counting:
                    self._throttled += 1
            raise
        self._slots.succeeded()
        return result

    def _wait(self, failed: BotoCoreError | ClientError, failure: Failure, attempt: int, until: float) -> bool:
        """Sleep until the retry may be sent; False when that would be later than `until`."""
        wait = max(backoff(attempt, throttled=failure is Failure.THROTTLED), retry_after(failed))
        if not _sleep(wait, until):
            return False
        while more := self._budget.take():
            if not _sleep(more * random.uniform(1, 2), until):
                return False
        return True

    def _connected(self) -> Bucket:
        made = self._made
        if made is None:
            with self._making:
                made = self._made = self._made or Bucket(self.bucket, self.options)
        return made

    def _forget(self, used: Bucket | None) -> None:
        """Connect anew at the next request, unless another thread has done so."""
        with self._making:
            if used is not None and self._made is used:
                used.close()
                self._made = None


def _sleep(seconds: float, until: float) -> bool:
    if time.monotonic() + seconds > until:
        return False
    time.sleep(seconds)
    return True


def _content(answer: Answer, over: Over) -> bytes:
    """The body, as long as its header says; Beaten when it is `over` meanwhile."""
    length = _length(answer)
    try:
        if length is None or length <= PIECE:
            content: bytes = answer.body.read()
        else:
            held = io.BytesIO()
            while (left := length - held.tell()) and (piece := answer.body.read(min(left, PIECE))):
                held.write(piece)
                if over():
                    answer.body.close()
                    raise Beaten
            content = held.getvalue()
    except (HTTPError, OSError) as error:
        raise ResponseStreamingError(error=error) from None
    _check_length(len(content), length)
    return content


def _large_content(answer: Answer, over: Over) -> memoryview:
    """The same, in memory that is used again."""
    length = _length(answer)
    if length is None or length <= PIECE:
        return memoryview(_content(answer, over))
    view = BUFFERS.take(length)
    at = 0
    try:
        while piece := answer.read_into(view[at : at + PIECE]):
            at += piece
            if over():
                answer.body.close()
                raise Beaten
    except (HTTPError, OSError) as error:
        answer.body.close()
        raise ResponseStreamingError(error=error) from None
    _check_length(at, length)
    return view


def _length(answer: Answer) -> int | None:
    said = answer.headers.get("content-length")
    return None if said is None else int(said)


def _check_length(size: int, length: int | None) -> None:
    if length is not None and size != length:
        raise IncompleteReadError(actual_bytes=size, expected_bytes=length)


def _check_range(answer: Answer, size: int, offset: int, length: int) -> None:
    """Whether a partial answer has just the bytes that were asked for."""
    found = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", ""))
    end = offset + length if found is None or found[3] == "*" else min(offset + length, int(found[3]))
    is_asked = found is not None and (int(found[1]), int(found[2]) + 1) == (offset, end)
    if size != end - offset or not is_asked:
        raise IncompleteReadError(actual_bytes=size, expected_bytes=end - offset)
