"""Objects written out of vfsd, into a bucket of somebody else's: any key that S3 takes, any size, never deleted."""

from __future__ import annotations

from collections.abc import Callable

from vfsd.store import s3_multipart
from vfsd.store.s3_options import S3Options
from vfsd.store.s3_requests import Requests

Read = Callable[[int, int], bytes]  # (offset, size) → bytes


class S3Target:
    """A bucket. Connects at first use; blocks; safe from any thread. Errors are those of vfsd.store.api."""

    def __init__(self, bucket: str, options: S3Options) -> None:
        self._bucket = bucket
        self._options = options
        self._requests = Requests(bucket, options)

    def put(self, key: str, size: int, read: Read) -> None:
        """Write an object of `size` bytes, which `read` gives, perhaps in several threads: no more than a few parts of
        it are held. It is there as a whole or not at all."""
        name, requests, options = f"s3://{self._bucket}/{key}", self._requests, self._options

        def write() -> None:
            checked = s3_multipart.checksum(kind, content)
            requests.ask("put_object", Key=key, Body=memoryview(content), **options.kept, **checked)

        kind = requests.retry(name, lambda: requests.checksum)
        if size < options.multipart:
            content = read(0, size)
            requests.retry(name, write)
        else:
            s3_multipart.upload(requests, name, key, Ranges(size, read), kind, options.kept)

    def close(self) -> None:
        """Give back connections."""
        self._requests.close()


class Ranges:
    """Bytes that are read where they are asked for."""

    def __init__(self, size: int, read: Read) -> None:
        self._size = size
        self._read = read

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(self._size)
        return self._read(start, stop - start)
