"""What the options do to requests: hosts, certificates, checksums, encryption, who pays, who signs."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.servers import BUCKET, S3Server
from tests.store.certificates import authority
from tests.store.gateway import Answer, Gateway, Request, gateway_to
from vfsd.model.errors import InvalidArgument, Unavailable
from vfsd.store import open_store
from vfsd.store.s3 import S3Store
from vfsd.store.s3_options import MIN_PART, S3Options

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture
def gateway(moto: S3Server) -> Iterator[Gateway]:
    with gateway_to(moto) as gateway:
        yield gateway


def opened(endpoint: str, **options: Any) -> S3Store:
    return S3Store(BUCKET, secrets.token_hex(8), endpoint, S3Options(**options))


def use_all(store: S3Store) -> None:
    """Every kind of request, reads twice: the first goes another way than the others."""
    etag = store.put("refs/r/main", b"1")
    store.put_if_match("refs/r/main", b"2", etag)
    store.put_if_absent("refs/r/next", b"1")
    store.put("packs/ab/abcd", bytes(2 * MIN_PART))
    for _ in range(2):
        assert store.get("refs/r/main")[0] == b"2"
        assert store.get_range("packs/ab/abcd", 5, 10) == bytes(10)
    assert [item.key for item in store.list()] == ["packs/ab/abcd", "refs/r/main", "refs/r/next"]
    assert store.stat("refs/r/main").size == 1
    store.abort_uploads("", 0)
    store.delete("refs/r/main")


# Where


def test_the_bucket_stands_in_the_path_or_in_the_host_as_it_is_asked(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **more: Any) -> Any:
        return found("127.0.0.1" if str(host).endswith("s3.test") else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    endpoint = f"http://s3.test:{gateway.port}"
    for addressing, host in (("virtual", f"{BUCKET}.s3.test"), ("path", "s3.test"), ("auto", "s3.test")):
        with closing(opened(endpoint, addressing=addressing, multipart=2 * MIN_PART)) as store:
            use_all(store)
        assert {request.headers["host"] for request in gateway.seen} == {f"{host}:{gateway.port}"}
        gateway.seen.clear()


def test_options_come_with_the_url_and_the_variable_fills_in(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://{BUCKET}/{secrets.token_hex(8)}"
    with closing(open_store(url, S3Options(endpoint=moto.endpoint))) as store:
        store.put("format", b"1")
    monkeypatch.setenv("VFSD_S3_ENDPOINT", moto.endpoint)
    with closing(open_store(url)) as store:
        assert store.get("format")[0] == b"1"


@pytest.mark.parametrize("by", ["option", "variable"])
def test_servers_may_have_certificates_of_an_authority_of_their_own(
    moto: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    bundle, tls = authority(tmp_path, "ours")
    if by == "variable":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with gateway_to(moto, tls) as gateway:
        assert gateway.endpoint.startswith("https://")
        option = str(bundle) if by == "option" else ""
        with closing(opened(gateway.endpoint, ca_bundle=option, multipart=2 * MIN_PART)) as store:
            use_all(store)


def test_a_certificate_that_nobody_trusts_is_named_at_once(moto: S3Server, tmp_path: Path) -> None:
    other, _ = authority(tmp_path, "other")
    _, tls = authority(tmp_path, "ours")
    with gateway_to(moto, tls) as gateway:
        for bundle in ("", str(other)):
            with closing(opened(gateway.endpoint, ca_bundle=bundle)) as store:
                with pytest.raises(Unavailable, match=r"certificate that nobody trusted here.*s3_ca_bundle"):
                    store.get("format")
                assert store.counts().retries == 0
        assert gateway.seen == []
    store = opened("https://127.0.0.1:1", ca_bundle="/no/such.pem")
    with closing(store), pytest.raises(InvalidArgument, match=r"s3_ca_bundle: there is no file /no/such\.pem"):
        store.get("format")


def test_a_bucket_in_another_region_is_found_there(gateway: Gateway) -> None:
    regions = ["us-east-1"]

    def elsewhere(request: Request, ask: Callable[[], Answer]) -> Answer:
        if f"/{regions[-1]}/s3/" in request.headers["authorization"]:
            return ask()
        return Answer.error(301, "PermanentRedirect", x_amz_bucket_region=regions[-1])

    gateway.meddle = elsewhere
    with closing(opened(gateway.endpoint, multipart=2 * MIN_PART)) as store:
        for region in ("us-east-1", "eu-west-1", "ap-south-1"):  # it does not move in truth, but it has to be found
            regions.append(region)
            use_all(store)
            before = len(gateway.seen)
            assert store.get("refs/r/next")[0] == b"1"
            assert len(gateway.seen) == before + 1
            for key in ("refs/r/next", "packs/ab/abcd"):
                store.delete(key)


# What uploads carry


@pytest.mark.parametrize(
    ("options", "headers"),
    [
        ({}, {}),
        ({"encryption": "AES256"}, {"x-amz-server-side-encryption": "AES256"}),
        ({"encryption": "aws:kms"}, {"x-amz-server-side-encryption": "aws:kms"}),
        (
            {"encryption": "aws:kms", "kms_key": "key-7"},
            {"x-amz-server-side-encryption": "aws:kms", "x-amz-server-side-encryption-aws-kms-key-id": "key-7"},
        ),
    ],
)
def test_objects_are_encrypted_as_it_is_asked(
    gateway: Gateway, options: dict[str, str], headers: dict[str, str]
) -> None:
    with closing(opened(gateway.endpoint, multipart=2 * MIN_PART, **options)) as store:
        use_all(store)
        store.put("refs/r/last", b"")
    made = [
        request for request in gateway.seen
        if (request.method == "PUT" and "partNumber" not in request.target) or request.target.endswith("?uploads")
    ]  # fmt: skip
    assert len(made) == 5
    for request in made:
        sent = {name: value for name, value in request.headers.items() if "encryption" in name}
        assert sent == headers


@pytest.mark.parametrize("server", ["seaweedfs", "moto"])
@pytest.mark.parametrize(
    ("kind", "header"), [("crc32", "x-amz-checksum-crc32"), ("md5", "content-md5"), ("none", ""), ("auto", "")]
)
def test_uploads_carry_the_checksum_that_is_asked_for(
    server: str, kind: str, header: str, request: pytest.FixtureRequest
) -> None:
    with gateway_to(request.getfixturevalue(server)) as gateway:
        with closing(opened(gateway.endpoint, checksum=kind, multipart=2 * MIN_PART)) as store:
            use_all(store)
        puts = gateway.sent("PUT")
        assert len(puts) == 4
        for put in puts:
            found = {name for name in put.headers if "checksum" in name or name == "content-md5"}
            assert found == ({header} if header else set())


def test_uploads_do_not_wait_for_leave_to_send_the_content(gateway: Gateway) -> None:
    """`Expect: 100-continue`, which boto3 adds to what it takes for a file, costs a round trip."""
    with closing(opened(gateway.endpoint, multipart=2 * MIN_PART)) as store:
        use_all(store)
    assert not [request for request in gateway.seen if "expect" in request.headers]


def test_content_that_is_damaged_on_its_way_is_sent_again(seaweedfs: S3Server) -> None:
    content = secrets.token_bytes(10_000)
    damaged = iter([True])

    def damage(request: Request, ask: Callable[[], Answer]) -> Answer:
        if request.method == "PUT" and next(damaged, False):
            request.body[100] ^= 1
        return ask()

    with gateway_to(seaweedfs) as gateway, closing(opened(gateway.endpoint, checksum="crc32")) as store:
        gateway.meddle = damage
        store.put("packs/ab/abcd", content)
        assert store.get("packs/ab/abcd")[0] == content
        assert len(gateway.sent("PUT")) == 2


def test_a_server_is_asked_whether_it_compares_checksums(seaweedfs: S3Server, moto: S3Server) -> None:
    for server, compares in ((seaweedfs, True), (moto, False)):
        with closing(opened(server.endpoint)) as store:
            for kind in ("crc32", "md5"):
                assert store.refuses_damaged("probe/a", kind) == compares
                assert bool(list(store.list("probe/"))) != compares
                store.delete("probe/a")


# Who pays, who signs


@pytest.mark.parametrize("pays", [True, False])
def test_requesters_agree_to_pay_in_every_request_or_in_none(gateway: Gateway, pays: bool) -> None:
    with closing(opened(gateway.endpoint, requester_pays=pays, multipart=2 * MIN_PART)) as store:
        use_all(store)
    assert {request.headers.get("x-amz-request-payer") for request in gateway.seen} == {"requester" if pays else None}
    assert len({request.method for request in gateway.seen}) == 5


def test_public_buckets_are_read_without_credentials(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = secrets.token_hex(8)
    with closing(S3Store(BUCKET, prefix, moto.endpoint)) as store:
        store.put("refs/r/main", b"for all")
    config = Config(s3={"addressing_style": "path"})
    with closing(boto3.client("s3", endpoint_url=moto.endpoint, region_name="us-east-1", config=config)) as owner:
        owner.put_bucket_acl(Bucket=BUCKET, ACL="public-read")
        owner.put_object_acl(Bucket=BUCKET, Key=f"{prefix}/refs/r/main", ACL="public-read")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with gateway_to(moto) as gateway:
            options = S3Options(anonymous=True)
            with closing(S3Store(BUCKET, prefix, gateway.endpoint, options)) as store:
                for _ in range(2):
                    assert store.get("refs/r/main")[0] == b"for all"
                assert [item.key for item in store.list()] == ["refs/r/main"]
            assert not any("authorization" in request.headers for request in gateway.seen)
        owner.put_bucket_acl(Bucket=BUCKET, ACL="private")


# What is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"endpoint": "server:9000"}, "endpoint: 'server:9000' is no URL"),
        ({"endpoint": "http://"}, "endpoint: 'http://' is no URL"),
        ({"addressing": "dns"}, "addressing: 'dns' is not known: auto, path, virtual are"),
        ({"encryption": "SSE-C"}, "encryption: SSE-C is not done"),
        ({"encryption": "rot13"}, "encryption: 'rot13' is not known: AES256, aws:kms, aws:kms:dsse are"),
        ({"kms_key": "k"}, "kms_key: a key is used by the encryption aws:kms alone"),
        ({"kms_key": "k", "encryption": "AES256"}, "kms_key"),
        ({"checksum": "sha1"}, "checksum: 'sha1' is not known"),
        ({"connections": 0}, "connections: 0 is none"),
        ({"read_timeout_s": 0.0}, "read_timeout_s: 0.0 is no number of seconds"),
        ({"retry_s": float("inf")}, "retry_s: inf is no number of seconds"),
        ({"hedge": 1.5}, "hedge: 1.5 is no share"),
        ({"hedge": float("nan")}, "hedge: nan is no share"),
        ({"multipart": MIN_PART - 1}, "multipart: 5242879 bytes are less than a part"),
    ],
)
def test_options_that_cannot_be_are_refused_by_their_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        S3Options(**options)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
