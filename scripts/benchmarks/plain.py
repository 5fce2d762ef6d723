"""What the wire gives: plain requests, many at once, with boto3 or obstore. The limit that scripts/bench store shows.

Runs in whichever environment has the library, so it needs nothing else. One object a file, under the file's path.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

RANGE = 4 << 20  # bytes of the big object that one request asks for
RANGES = 16  # such requests at once
FILES = 64  # requests for small objects at once
PART = 16 << 20  # bytes of the big object that are sent at once


class Client(Protocol):
    """An S3 client; raises what its library raises."""

    def get(self, key: str) -> int:
        """Bytes of a whole object."""

    def get_range(self, key: str, start: int, length: int) -> int:
        """Bytes of a part of one."""

    def put(self, key: str, path: Path) -> None:
        """A small file as an object."""

    def put_big(self, key: str, path: Path) -> None:
        """A large one, in parts."""

    def count(self, prefix: str) -> int:
        """How many objects a listing has."""


class Boto3:
    """Through boto3."""

    def __init__(self, endpoint: str, bucket: str, key_id: str, secret: str) -> None:
        import boto3  # noqa: PLC0415  obstore's environment does not have it
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        self._bucket = bucket
        self._parts = TransferConfig(multipart_chunksize=PART, max_concurrency=RANGES)
        self._client: Any = boto3.client(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            config=Config(
                max_pool_connections=FILES, s3={"addressing_style": "path"},
                request_checksum_calculation="when_required", response_checksum_validation="when_required",
            ),
        )  # fmt: skip

    def get(self, key: str) -> int:
        """Bytes of a whole object."""
        return len(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())

    def get_range(self, key: str, start: int, length: int) -> int:
        """Bytes of a part of one."""
        span = f"bytes={start}-{start + length - 1}"
        return len(self._client.get_object(Bucket=self._bucket, Key=key, Range=span)["Body"].read())

    def put(self, key: str, path: Path) -> None:
        """A small file as an object."""
        self._client.put_object(Bucket=self._bucket, Key=key, Body=path.read_bytes())

    def put_big(self, key: str, path: Path) -> None:
        """A large one, in parts."""
        self._client.upload_file(str(path), self._bucket, key, Config=self._parts)

    def count(self, prefix: str) -> int:
        """How many objects a listing has."""
        return sum(page["KeyCount"] for page in self._pages(prefix))

    def size(self, prefix: str) -> int:
        """How many bytes the objects of a listing have."""
        return sum(item["Size"] for page in self._pages(prefix) for item in page.get("Contents", ()))

    def _pages(self, prefix: str) -> Any:
        return self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)


class Obstore:
    """Through obstore."""

    def __init__(self, endpoint: str, bucket: str, key_id: str, secret: str) -> None:
        import obstore  # noqa: PLC0415  the other environment does not have it
        from obstore.store import S3Store  # noqa: PLC0415

        self._obstore: Any = obstore
        self._store: Any = S3Store(
            bucket, endpoint=endpoint, access_key_id=key_id, secret_access_key=secret, region="us-east-1",
            client_options={"allow_http": True},
        )  # fmt: skip

    def get(self, key: str) -> int:
        """Bytes of a whole object."""
        return len(self._obstore.get(self._store, key).bytes())

    def get_range(self, key: str, start: int, length: int) -> int:
        """Bytes of a part of one."""
        return len(self._obstore.get_range(self._store, key, start=start, length=length))

    def put(self, key: str, path: Path) -> None:
        """A small file as an object."""
        self._obstore.put(self._store, key, path.read_bytes(), use_multipart=False)

    def put_big(self, key: str, path: Path) -> None:
        """A large one, in parts."""
        self._obstore.put(self._store, key, path, chunk_size=PART, max_concurrency=RANGES)

    def count(self, prefix: str) -> int:
        """How many objects a listing has."""
        return sum(len(page) for page in self._obstore.list(self._store, prefix))


CLIENTS: dict[str, Callable[[str, str, str, str], Client]] = {"boto3": Boto3, "obstore": Obstore}


def act(client: Client, action: str, asked: Any) -> float:
    """Seconds that it took. asked: folder of the data; names: the small files' keys; size: of the big object; places:
    where in it is read, `piece` bytes each; top: the set that is put or listed; count: objects in it."""
    folder = Path(asked["folder"])
    if action == "put-big":
        return _timed(lambda: client.put_big("big", folder / "big"))
    if action == "put-files":
        names = [str(path.relative_to(folder)) for path in sorted((folder / asked["top"]).rglob("*")) if path.is_file()]
        return _timed(lambda: _all(FILES, lambda name: client.put(name, folder / name), names))
    if action == "first":
        return _expect(lambda: client.get_range(asked["names"][0], 0, 1), 1)
    if action == "seq":
        starts = range(0, asked["size"], RANGE)
        return _expect(
            lambda: sum(
                _all(RANGES, lambda at: client.get_range("big", at, min(RANGE, asked["size"] - at)), list(starts))
            ),
            asked["size"],
        )
    if action == "epoch":
        return _expect(lambda: sum(_all(FILES, client.get, asked["names"])), asked["each"] * len(asked["names"]))
    if action == "list":
        return _expect(lambda: client.count(f"{asked['top']}/"), asked["count"])
    if action == "random":
        pieces = (client.get_range("big", at, asked["piece"]) for at in asked["places"])
        return _expect(lambda: sum(pieces), asked["piece"] * len(asked["places"]))
    raise ValueError(action)


def _all(count: int, work: Callable[[Any], Any], items: list[Any]) -> Iterator[Any]:
    with ThreadPoolExecutor(count) as pool:
        yield from pool.map(work, items)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    found = work()
    if isinstance(found, Iterator):
        list(found)
    return time.perf_counter() - start


def _expect(work: Callable[[], int], count: int) -> float:
    start = time.perf_counter()
    found = work()
    took = time.perf_counter() - start
    if found != count:
        raise SystemExit(f"{found} instead of {count}")
    return took


def main() -> None:
    """The task is JSON on standard input, the seconds go to standard output."""
    task = json.load(sys.stdin)
    client = CLIENTS[task["library"]](*task["server"])
    print(act(client, task["action"], task))
