"""Objects in an S3 bucket, through boto3. What fails for a moment is tried again within a budget of time.

boto3's own retries are off: they have no such budget, and one place is enough. A conditional write whose condition
failed is settled by reading the object back, as the contract says. `s3_errors` knows what an error means.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from vfsd.model.errors import Conflict, InvalidArgument, NotFound, Unavailable
from vfsd.store.api import Buffer, ETag, Stat
from vfsd.store.keys import check_key, check_prefix
from vfsd.store.order import in_byte_order, safe_start
from vfsd.store.s3_errors import TRANSIENT, BotoError, Failure, classify, explain

T = TypeVar("T")
Client = Any  # boto3 makes its client classes at run time
CONNECTIONS = 64  # requests at once; more wait for a connection
PAGE = 1000  # objects that one answer to a listing holds at most
BUDGET = 30.0  # seconds for which one call is tried again
FIRST_BUDGET = 3.0  # the same, while the endpoint has never answered: its name is more likely wrong than it is down
BACKOFF = 0.05  # seconds, doubled with each attempt; the wait is a random part of it ("full jitter", AWS)
BACKOFF_MAX = 5.0
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0  # without a byte

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class S3Store:
    """An ObjectStore below `prefix` in `bucket`.

    endpoint: URL of a server that is not AWS; by default `VFSD_S3_ENDPOINT`, else what boto3 finds. Credentials and
    region are what boto3 finds. Connects at first use.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint: str | None = None) -> None:
        prefix = prefix.strip("/")
        if _BUCKET.fullmatch(bucket) is None:
            raise InvalidArgument(f"{bucket!r} cannot be the name of a bucket: s3://bucket/prefix names a store")
        self._bucket = bucket
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._endpoint = endpoint or os.environ.get("VFSD_S3_ENDPOINT") or None
        self._made: Client | None = None
        self._making = threading.Lock()
        self._answered = False

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def is_local(self) -> bool:
        return False

    # reading

    def get(self, key: str) -> tuple[bytes, ETag]:
        target = self._target(key)

        def read() -> tuple[bytes, ETag]:
            answer = self._client().get_object(**target)
            return answer["Body"].read(), ETag(answer["ETag"])

        return self._try(key, read)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        target = self._target(key)
        span = f"bytes={offset}-{offset + max(length, 1) - 1}"

        def read() -> bytes:
            try:
                answer = self._client().get_object(**target, Range=span)
            except ClientError as error:
                if classify(error) is Failure.BEHIND_END:
                    return b""
                raise
            data: bytes = answer["Body"].read()
            is_whole = answer["ResponseMetadata"]["HTTPStatusCode"] == 200  # a server that does not know ranges
            return data[offset : offset + length] if is_whole else data[:length]

        return self._try(key, read)

    def stat(self, key: str) -> Stat:
        target = self._target(key)
        try:
            answer = self._try(key, lambda: self._client().head_object(**target))
        except NotFound:
            next(self._pages(key, {}))  # raises if the bucket is missing, which an answer to HEAD cannot say
            raise
        return Stat(key, answer["ContentLength"], ETag(answer["ETag"]), answer["LastModified"].timestamp())

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Stat]:
        begin = len(check_prefix(prefix)) - len(prefix.rpartition("/")[2])  # where names in the folder begin
        found = self._found(prefix, {"StartAfter": self._prefix + safe_start(after)} if after else {})
        ordered = in_byte_order(found, lambda item: item.key, lambda item: item.key[begin:].partition("/")[0])
        return (item for item in ordered if item.key > after)

    def _found(self, prefix: str, request: dict[str, Any]) -> Iterator[Stat]:
        for page in self._pages(prefix, request):
            for item in page.get("Contents", ()):
                key = item["Key"][len(self._prefix) :]
                yield Stat(key, item["Size"], ETag(item["ETag"]), item["LastModified"].timestamp())

    def list_folders(self, prefix: str) -> Iterator[str]:
        check_prefix(prefix)
        names = (
            item["Prefix"][len(self._prefix + prefix) : -1]
            for page in self._pages(prefix, {"Delimiter": "/"})
            for item in page.get("CommonPrefixes", ())
        )
        return in_byte_order(names, lambda name: name + "/", lambda name: name)

    def _pages(self, prefix: str, request: dict[str, Any]) -> Iterator[Any]:
        request = {"Bucket": self._bucket, "Prefix": self._prefix + prefix, "MaxKeys": PAGE, **request}
        while True:
            page = self._try(prefix, lambda: self._client().list_objects_v2(**request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    # writing

    def put(self, key: str, data: Buffer) -> ETag:
        target, body = self._target(key), bytes(data)
        return self._try(key, lambda: ETag(self._client().put_object(**target, Body=body)["ETag"]))

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        target, body = self._target(key), bytes(data)

        def write() -> ETag:
            try:
                return ETag(self._client().put_object(**target, Body=body, IfNoneMatch="*")["ETag"])
            except ClientError as error:
                if classify(error) not in {Failure.CONDITION, Failure.RACE}:
                    raise
            try:
                held, found = self.get(key)
            except NotFound:
                raise _AskAgain from None  # the write in the way failed, or was deleted
            if held == body:
                return found
            raise Conflict(f"{self._name(key)} is there already, with other bytes")

        return self._try(key, write)

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        target, body = self._target(key), bytes(data)

        def write() -> ETag:
            try:
                return ETag(self._client().put_object(**target, Body=body, IfMatch=etag)["ETag"])
            except ClientError as error:
                failure = classify(error)
                if failure not in {Failure.CONDITION, Failure.RACE, Failure.ABSENT}:
                    raise
            try:
                held, found = self.get(key)
            except NotFound:
                raise Conflict(f"{self._name(key)} was deleted meanwhile") from None
            if held == body:
                return found
            if failure is Failure.RACE and found == etag:
                raise _AskAgain  # nobody has won yet
            raise Conflict(f"{self._name(key)} was changed meanwhile")

        return self._try(key, write)

    def delete(self, key: str) -> None:
        target = self._target(key)
        self._try(key, lambda: self._client().delete_object(**target))

    def close(self) -> None:
        with self._making:
            if self._made is not None:
                self._made.close()
                self._made = None

    # the rest

    def _target(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def _try(self, key: str, act: Callable[[], T]) -> T:
        """The result of `act`, tried again while it fails for a moment and there is time."""
        begun = time.monotonic()
        attempt = 0
        while True:
            try:
                result = act()
                self._answered = True
                return result
            except _AskAgain:
                failed: BotoError | None = None
            except (BotoCoreError, ClientError) as error:
                failed = error
                self._answered = self._answered or isinstance(error, ClientError)
            wait = random.uniform(0, min(BACKOFF_MAX, BACKOFF * 2**attempt))
            left = (BUDGET if self._answered else FIRST_BUDGET) - (time.monotonic() - begun)
            if failed is not None and (wait > left or classify(failed) not in TRANSIENT):
                endpoint = self._made.meta.endpoint_url if self._made is not None else self._endpoint or "S3"
                raise explain(failed, bucket=self._bucket, endpoint=endpoint, what=self._name(key)) from None
            if wait > left:
                raise Unavailable(f"{self._name(key)}: others' conditional writes are in the way: try again later")
            time.sleep(wait)
            attempt += 1

    def _client(self) -> Client:
        if self._made is None:
            with self._making:
                if self._made is None:
                    self._made = self._connect()
        return self._made

    def _connect(self) -> Client:
        session = boto3.Session()
        client = self._make_client(session, "path" if self._endpoint else "auto")
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        if self._endpoint or host.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return client
        client.close()  # boto3 found another endpoint, in its environment or configuration
        return self._make_client(session, "path")

    def _make_client(self, session: boto3.Session, style: Any) -> Client:
        config = Config(
            max_pool_connections=CONNECTIONS,
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            tcp_keepalive=True,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": style},
            request_checksum_calculation="when_required",  # other servers do not know the newer ones
            response_checksum_validation="when_required",
            user_agent_extra="vfsd",
        )
        region = session.region_name or "us-east-1"
        try:
            client: Client = session.client("s3", endpoint_url=self._endpoint, region_name=region, config=config)
            return client
        except ValueError as error:
            raise InvalidArgument(f"S3 endpoint {self._endpoint!r}: {error}: http://host:port is one") from None


class _AskAgain(Exception):
    """Nothing is decided yet: send the conditional request again."""
