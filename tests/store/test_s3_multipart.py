"""Large objects go up in parts and appear as wholes; what unfinished uploads leave can be removed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.proxy import Mishap, Options, proxy_to
from tests.servers import BUCKET, S3Server
from tests.store.gateway import Answer, Gateway, Request, gateway_to
from vfsd.model.errors import NotFound, Unavailable
from vfsd.store import s3_multipart
from vfsd.store.s3 import S3Store
from vfsd.store.s3_options import MIN_PART, S3Options

KEY = "packs/ab/abcd"
LARGE = 3 * MIN_PART + 17  # bytes

pytestmark = pytest.mark.usefixtures("s3_credentials", "small_parts")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parts of LARGE bytes instead of one."""
    monkeypatch.setattr(s3_multipart, "PART", MIN_PART + 100_000)


@pytest.fixture(params=["seaweedfs", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def gateway(server: S3Server) -> Iterator[Gateway]:
    with gateway_to(server) as gateway:
        yield gateway


@pytest.fixture
def prefix() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def client(server: S3Server, s3_credentials: None) -> Iterator[Any]:
    """Past everything, to the server itself."""
    config = Config(s3={"addressing_style": "path"})
    with closing(boto3.client("s3", endpoint_url=server.endpoint, region_name="us-east-1", config=config)) as client:
        yield client


def opened(endpoint: str, prefix: str, **options: Any) -> S3Store:
    return S3Store(BUCKET, prefix, endpoint, S3Options(multipart=2 * MIN_PART, **options))


def operations(gateway: Gateway) -> list[str]:
    """What was asked, in a word each."""
    words = []
    for request in gateway.seen:
        if request.method == "POST":
            words.append("begin" if "uploads" in request.target else "complete")
        elif "partNumber" in request.target:
            words.append("part")
        else:
            words.append("abort" if "uploadId" in request.target else request.method)
    return words


def uploads(client: Any, prefix: str) -> list[str]:
    """Keys of the uploads that have not ended."""
    found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix).get("Uploads", [])
    return [item["Key"] for item in found if item["Key"].startswith(prefix)]


def test_a_large_object_goes_up_in_parts_side_by_side(server: S3Server, prefix: str, client: Any) -> None:
    content = secrets.token_bytes(LARGE)
    slow = Options(latency_ms=300)
    with proxy_to(server.endpoint, slow) as proxy, closing(opened(proxy.endpoint, prefix)) as store:
        etag = store.put(KEY, memoryview(content))
        assert (proxy.counts().requests("PUT"), proxy.counts().requests("POST")) == (3, 2)
        assert proxy.counts().peak > 1
        assert store.get(KEY) == (content, etag)
        assert [(item.key, item.size, item.etag) for item in store.list()] == [(KEY, LARGE, etag)]
    assert uploads(client, prefix) == []


def test_an_object_below_the_limit_goes_up_in_one_request(gateway: Gateway, prefix: str) -> None:
    with closing(opened(gateway.endpoint, prefix)) as store:
        store.put(KEY, bytes(2 * MIN_PART - 1))
        assert operations(gateway) == ["PUT"]
        store.put(KEY, bytes(2 * MIN_PART))
        assert operations(gateway)[1:] == ["begin", "part", "part", "complete"]


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.SLOW_DOWN, Mishap.INTERNAL_ERROR])
def test_a_large_object_goes_up_though_requests_fail(server: S3Server, prefix: str, mishap: Mishap) -> None:
    content = secrets.token_bytes(LARGE)
    with proxy_to(server.endpoint) as proxy, closing(opened(proxy.endpoint, prefix)) as store:
        for method, times in (("POST", 1), ("PUT", 2)):
            proxy.expect(mishap, method=method, times=times)
        store.put(KEY, content)
        assert store.get(KEY)[0] == content


def test_an_upload_that_fails_leaves_neither_object_nor_parts(gateway: Gateway, prefix: str, client: Any) -> None:
    def no_second_part(request: Request, ask: Callable[[], Answer]) -> Answer:
        return Answer.error(507, "InsufficientStorage") if "partNumber=2" in request.target else ask()

    gateway.meddle = no_second_part
    with closing(opened(gateway.endpoint, prefix)) as store:
        with pytest.raises(Exception, match="no space left") as caught:
            store.put(KEY, bytes(LARGE))
        assert "\n" not in str(caught.value)
        assert "complete" not in operations(gateway) and "abort" in operations(gateway)
        with pytest.raises(NotFound):
            store.stat(KEY)
    assert uploads(client, prefix) == []


def test_a_lost_answer_to_the_last_request_makes_no_difference(gateway: Gateway, prefix: str, client: Any) -> None:
    """The server acts, but the client is told of an error; asked again, the server knows nothing of that upload."""
    content = secrets.token_bytes(LARGE)
    fates = [lambda ask: ask() and Answer.error(500, "InternalError"), lambda ask: Answer.error(404, "NoSuchUpload")]

    def meddle(request: Request, ask: Callable[[], Answer]) -> Answer:
        is_last = request.method == "POST" and "uploadId" in request.target
        return fates.pop(0)(ask) if is_last and fates else ask()

    gateway.meddle = meddle
    with closing(opened(gateway.endpoint, prefix)) as store:
        etag = store.put(KEY, content)
        assert fates == []
        assert store.get(KEY) == (content, etag)
    assert uploads(client, prefix) == []


@pytest.mark.parametrize("server", ["seaweedfs"], indirect=True)  # moto answers 500 to a part that belongs nowhere
def test_an_upload_that_somebody_aborts_is_begun_anew(gateway: Gateway, prefix: str, client: Any) -> None:
    aborted = []

    def meddle(request: Request, ask: Callable[[], Answer]) -> Answer:
        if "partNumber=3" in request.target and not aborted:
            aborted.append(request.target.partition("uploadId=")[2].partition("&")[0])
            client.abort_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/{KEY}", UploadId=aborted[0])
        return ask()

    gateway.meddle = meddle
    content = secrets.token_bytes(LARGE)
    with closing(opened(gateway.endpoint, prefix)) as store:
        store.put(KEY, content)
        assert store.get(KEY)[0] == content
        assert operations(gateway).count("begin") == 2


def test_an_upload_that_is_always_aborted_is_given_up(gateway: Gateway, prefix: str) -> None:
    gateway.meddle = lambda request, ask: (
        Answer.error(404, "NoSuchUpload") if "partNumber" in request.target else ask()
    )
    with closing(opened(gateway.endpoint, prefix)) as store, pytest.raises(Unavailable, match="forgets uploads"):
        store.put(KEY, bytes(LARGE))


@pytest.mark.parametrize("kind", ["crc32", "md5"])
def test_parts_carry_checksums(gateway: Gateway, prefix: str, kind: str) -> None:
    content = secrets.token_bytes(LARGE)
    header = {"crc32": "x-amz-checksum-crc32", "md5": "content-md5"}[kind]
    with closing(opened(gateway.endpoint, prefix, checksum=kind)) as store:
        store.put(KEY, content)
        assert store.get(KEY)[0] == content
    parts = [request for request in gateway.seen if "partNumber" in request.target]
    assert len(parts) == 3 and all(header in request.headers for request in parts)


def begun(client: Any, key: str) -> str:
    """What a process leaves that dies while it uploads."""
    upload: str = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"part")
    return upload


def test_abandoned_uploads_below_a_prefix_are_found_and_removed(server: S3Server, prefix: str, client: Any) -> None:
    keys = [f"{prefix}/packs/ab/{number}" for number in range(3)]
    others = [f"{prefix}/refs/r/main", f"{prefix}-other/packs/ab/0"]
    for key in [*keys, *others]:
        begun(client, key)
    with closing(opened(server.endpoint, prefix)) as store:
        assert store.abort_uploads("packs/", 0, dry_run=True) == 3
        assert sorted(uploads(client, f"{prefix}/packs/")) == keys
        assert store.abort_uploads("packs/", 0) == 3
        assert store.abort_uploads("packs/", 0) == 0
        assert sorted(uploads(client, prefix)) == sorted(others)
        assert store.abort_uploads("", 0) == 1
        assert list(store.list()) == []
    with closing(opened(server.endpoint, f"{prefix}-other")) as other:
        assert other.abort_uploads("", 0) == 1


def test_uploads_that_may_still_go_on_are_left_alone(seaweedfs: S3Server, prefix: str) -> None:
    with closing(opened(seaweedfs.endpoint, prefix)) as store:
        config = Config(s3={"addressing_style": "path"})
        with closing(
            boto3.client("s3", endpoint_url=seaweedfs.endpoint, region_name="us-east-1", config=config)
        ) as client:
            begun(client, f"{prefix}/{KEY}")
            assert store.abort_uploads("", 3600) == 0
            assert uploads(client, prefix) == [f"{prefix}/{KEY}"]
        assert store.abort_uploads("", 0) == 1


def test_a_server_without_uploads_in_parts_has_none_to_remove(moto: S3Server, prefix: str) -> None:
    with gateway_to(moto) as gateway, closing(opened(gateway.endpoint, prefix)) as store:
        gateway.meddle = lambda request, ask: Answer.error(501, "NotImplemented")
        assert store.abort_uploads("", 0) == 0
