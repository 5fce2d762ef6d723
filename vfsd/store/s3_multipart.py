"""Large objects, uploaded in parts side by side, and what is left of uploads that never ended.

The object appears when the upload is completed, as a whole, or not at all. An upload that fails is aborted; what a
process leaves that dies meanwhile is paid for until `abort_uploads` removes it.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from vfsd.model.errors import Unavailable
from vfsd.store.api import Buffer, ETag, Sliced
from vfsd.store.s3_client import parse_time
from vfsd.store.s3_errors import Failure, classify
from vfsd.store.s3_requests import Requests

log = logging.getLogger(__name__)
PART = 16 << 20  # bytes of a part at most
MOST_PARTS = 10_000  # that S3 takes
AT_ONCE = 4  # parts of one object on their way
TRIES = 3  # uploads of one object that somebody else aborts or removes


class _Gone(Exception):
    """The server knows no such upload any more."""


def checksum(kind: str, content: Buffer) -> dict[str, str]:
    """The parameter that lets the server check the content of an upload. kind: crc32, md5 or none."""
    match kind:
        case "crc32":
            return {"ChecksumCRC32": base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()}
        case "md5":
            digest = hashlib.md5(content, usedforsecurity=False).digest()
            return {"ContentMD5": base64.b64encode(digest).decode()}
    return {}


def upload(requests: Requests, url: str, key: str, content: Sliced, kind: str, extras: Mapping[str, str]) -> ETag:
    """Write the object `key` in parts. url: of the object, for messages. kind: of checksum. extras: parameters that
    say how the object is to be kept."""
    begin = {**extras, **({"ChecksumAlgorithm": "CRC32"} if kind == "crc32" else {})}
    for _ in range(TRIES):
        target = {"Key": key, "UploadId": _ask(requests, url, "create_multipart_upload", Key=key, **begin)["UploadId"]}
        try:
            parts = _send_parts(requests, url, target, content, kind)
            done = _ask(requests, url, "complete_multipart_upload", **target, MultipartUpload={"Parts": parts})
            return ETag(done["ETag"])
        except _Gone:
            continue  # aborted by a clean-up, or completed by a request whose answer was lost: either way, write again
        except BaseException:
            _give_up(requests, url, target)
            raise
    raise Unavailable(f"{url}: the server forgets uploads while they are under way: try again later")


def _send_parts(
    requests: Requests, url: str, target: Mapping[str, str], content: Sliced, kind: str
) -> list[dict[str, Any]]:
    count = min(MOST_PARTS, -(-len(content) // PART))
    size = -(-len(content) // count)

    def send(number: int) -> dict[str, Any]:
        part = content[(number - 1) * size : number * size]
        checked = checksum(kind, part)
        answer = _ask(requests, url, "upload_part", **target, PartNumber=number, Body=memoryview(part), **checked)
        checked.pop("ContentMD5", None)
        return {"PartNumber": number, "ETag": answer["ETag"], **checked}

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vfsd-part") as pool:
        parts = [pool.submit(send, number) for number in range(1, count + 1)]
        wait(parts, return_when=FIRST_EXCEPTION)
        pool.shutdown(wait=True, cancel_futures=True)
        for part in parts:
            if not part.cancelled() and (error := part.exception()) is not None:
                raise error
        return [part.result() for part in parts]


def _give_up(requests: Requests, url: str, target: Mapping[str, str]) -> None:
    """Abort an upload that failed, in one try: there is an error already, and `abort_uploads` finds what is left."""
    try:
        requests.ask("abort_multipart_upload", **target)
    except (BotoCoreError, ClientError) as error:
        if classify(error) is not Failure.UPLOAD:
            log.warning("%s: the parts of an upload that failed are left in the bucket: %s", url, error)


def abort_uploads(requests: Requests, url: str, prefix: str, older_s: float, *, dry_run: bool) -> int:
    """Abort the uploads of keys that begin with `prefix`, begun more than `older_s` seconds ago by the server's clock;
    how many there were. A server that knows no uploads in parts has none. url: of the prefix, for messages."""
    old = list(_old_uploads(requests, url, prefix, older_s))
    if not dry_run:
        for target in old:
            try:
                _ask(requests, url, "abort_multipart_upload", **target)
            except _Gone:
                pass  # it has ended by itself
    return len(old)


def _old_uploads(requests: Requests, url: str, prefix: str, older_s: float) -> Iterator[dict[str, str]]:
    where = {"Prefix": prefix}
    while True:
        try:
            page = _ask(requests, url, "list_multipart_uploads", **where)
        except _Gone:
            return
        said = page["ResponseMetadata"]["HTTPHeaders"].get("date")
        before = (parse_time(said) if said else datetime.now(UTC)) - timedelta(seconds=older_s)
        for found in page.get("Uploads", ()):
            if found["Key"].startswith(prefix) and found["Initiated"] <= before:
                yield {"Key": found["Key"], "UploadId": found["UploadId"]}
        if not page.get("IsTruncated"):
            return
        where |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _ask(requests: Requests, url: str, operation: str, **parameters: Any) -> Any:
    """One request, tried again as all are; _Gone when there is no such upload, or no uploads at all."""

    def act() -> Any:
        try:
            return requests.ask(operation, **parameters)
        except ClientError as error:
            if classify(error) is Failure.UPLOAD:
                raise _Gone from None
            if classify(error) is Failure.UNKNOWN and operation == "list_multipart_uploads":
                raise _Gone from None
            raise

    return requests.retry(url, act)
