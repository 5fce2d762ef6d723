"""Objects in an S3 bucket, through boto3. What fails for a moment is tried again within a budget.

A conditional write whose condition failed is settled by reading the object back, as the contract says. Large objects
go up in parts. `s3_requests` has the rules for retries and hedged reads, `s3_errors` knows what an error means.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec
from botocore.exceptions import ClientError

from vfsd.model.errors import Conflict, InvalidArgument, NotFound
from vfsd.store import s3_multipart
from vfsd.store.api import Buffer, ETag, Stat
from vfsd.store.keys import check_key, check_prefix
from vfsd.store.order import in_byte_order, safe_start
from vfsd.store.s3_errors import Failure, classify
from vfsd.store.s3_options import S3Options
from vfsd.store.s3_requests import AskAgain, Requests, S3Counts

T = TypeVar("T")
PAGE = 1000  # objects that one answer to a listing holds at most

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")


class S3Store:
    """An ObjectStore below `prefix` in `bucket`.

    endpoint: URL of a server that is not AWS; by default that of `options`, else `VFSD_S3_ENDPOINT`, else what boto3
    finds. Credentials and region are what boto3 finds; credentials that expire are asked for again. Connects at first
    use.
    """

    def __init__(
        self, bucket: str, prefix: str = "", endpoint: str | None = None, options: S3Options | None = None
    ) -> None:
        prefix = prefix.strip("/")
        if _BUCKET.fullmatch(bucket) is None:
            raise InvalidArgument(f"{bucket!r} cannot be the name of a bucket: s3://bucket/prefix names a store")
        self._bucket = bucket
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        options = options or S3Options()
        endpoint = endpoint or options.endpoint or os.environ.get("VFSD_S3_ENDPOINT", "")
        self._options = msgspec.structs.replace(options, endpoint=endpoint)
        self._requests = Requests(bucket, self._options)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def is_local(self) -> bool:
        return False

    @property
    def checksum(self) -> str:
        """What uploads carry: crc32, md5 or none. Connects."""
        return self._requests.checksum

    def counts(self) -> S3Counts:
        """What went over the wire so far."""
        return self._requests.counts()

    # reading

    def get(self, key: str) -> tuple[bytes, ETag]:
        where = self._key(key)
        data, etag = self._requests.retry(self._name(key), lambda: self._requests.get(where))
        return data, ETag(etag)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._range(key, lambda where: self._requests.get_range(where, offset, max(length, 1))[:length], b"")

    def get_large(self, key: str, offset: int, length: int) -> memoryview:
        nothing = memoryview(b"")
        return self._range(key, lambda where: self._requests.get_large(where, offset, length), nothing)

    def _range(self, key: str, act: Callable[[str], T], nothing: T) -> T:
        """What `act` gives; `nothing` when it lies behind the object's end."""
        where = self._key(key)

        def read() -> T:
            try:
                return act(where)
            except ClientError as error:
                if classify(error) is Failure.BEHIND_END:
                    return nothing
                raise

        return self._requests.retry(self._name(key), read)

    def stat(self, key: str) -> Stat:
        where = self._key(key)

        def look() -> Any:
            try:
                return self._requests.ask("head_object", Key=where)
            except ClientError as error:
                if classify(error) in {Failure.ABSENT, Failure.DENIED, Failure.OTHER}:
                    # An answer to HEAD has no body to say that the bucket is missing, or the credentials expired.
                    self._requests.ask("list_objects_v2", Prefix=where, MaxKeys=1)
                raise

        answer = self._requests.retry(self._name(key), look)
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
        request = {"Prefix": self._prefix + prefix, "MaxKeys": PAGE, **request}
        while True:
            page = self._requests.retry(self._name(prefix), lambda: self._requests.ask("list_objects_v2", **request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    # writing

    def put(self, key: str, data: Buffer) -> ETag:
        where, name, content = self._key(key), self._name(key), memoryview(data)
        if len(content) < self._options.multipart:
            return self._requests.retry(name, lambda: self._write(where, content))
        kind = self._requests.retry(name, lambda: self.checksum)
        return s3_multipart.upload(self._requests, name, where, content, kind, self._options.kept)

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        where, content = self._key(key), memoryview(data)

        def write() -> ETag:
            try:
                return self._write(where, content, IfNoneMatch="*")
            except ClientError as error:
                if classify(error) not in {Failure.CONDITION, Failure.RACE}:
                    raise
            try:
                held, found = self.get(key)
            except NotFound:
                raise AskAgain from None  # the write in the way failed, or was deleted
            if held == content:
                return found
            raise Conflict(f"{self._name(key)} is there already, with other bytes")

        return self._requests.retry(self._name(key), write)

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        where, content = self._key(key), memoryview(data)

        def write() -> ETag:
            try:
                return self._write(where, content, IfMatch=etag)
            except ClientError as error:
                failure = classify(error)
                if failure not in {Failure.CONDITION, Failure.RACE, Failure.ABSENT}:
                    raise
            try:
                held, found = self.get(key)
            except NotFound:
                raise Conflict(f"{self._name(key)} was deleted meanwhile") from None
            if held == content:
                return found
            if failure is Failure.RACE and found == etag:
                raise AskAgain  # nobody has won yet
            raise Conflict(f"{self._name(key)} was changed meanwhile")

        return self._requests.retry(self._name(key), write)

    def delete(self, key: str) -> None:
        where = self._key(key)
        self._requests.retry(self._name(key), lambda: self._requests.ask("delete_object", Key=where))

    def abort_uploads(self, prefix: str, older_s: float, *, dry_run: bool = False) -> int:
        check_prefix(prefix)
        where = self._prefix + prefix
        return s3_multipart.abort_uploads(self._requests, self._name(prefix), where, older_s, dry_run=dry_run)

    def refuses_damaged(self, key: str, kind: str) -> bool:
        """Whether the server refuses an object at `key` whose checksum of this kind (crc32, md5) is that of other
        content. Else the object is there now."""
        where, content = self._key(key), secrets.token_bytes(64)
        wrong = s3_multipart.checksum(kind, content[:-1])

        def write() -> bool:
            try:
                self._requests.ask("put_object", Key=where, Body=content, **self._options.kept, **wrong)
            except ClientError as error:
                if classify(error) is Failure.DIGEST:
                    return True
                raise
            return False

        return self._requests.retry(self._name(key), write)

    def close(self) -> None:
        self._requests.close()

    # the rest

    def _key(self, key: str) -> str:
        return self._prefix + check_key(key)

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def _write(self, where: str, content: memoryview, **condition: str) -> ETag:
        # A memoryview: what is a file or bytes for boto3 is sent only once the server has said "100 Continue", which
        # takes a round trip.
        checked = s3_multipart.checksum(self.checksum, content)
        answer = self._requests.ask("put_object", Key=where, Body=content, **self._options.kept, **checked, **condition)
        return ETag(answer["ETag"])
