"""The proxy that tests and benchmarks put in front of S3 servers: it passes on what comes, and fails what it should."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.proxy import Mishap, Options, Proxy, proxy_to
from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, free_ports

PACK = f"packs/ab/{secrets.token_hex(16)}"


@pytest.fixture(scope="module", params=["seaweedfs", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def running(server: S3Server) -> Iterator[Proxy]:
    with proxy_to(server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    running.reset()
    yield running
    running.set(Options())


@pytest.fixture
def client(proxy: Proxy) -> Iterator[Any]:
    with closing(client_of(proxy.endpoint)) as client:
        yield client


@pytest.fixture
def key() -> str:
    return f"{secrets.token_hex(8)}/{PACK}"


def client_of(endpoint: str, secret: str = SECRET_KEY) -> Any:
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=secret,
        config=Config(
            retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, max_pool_connections=16,
            connect_timeout=30, read_timeout=120,
        ),
    )  # fmt: skip


def address(proxy: Proxy) -> tuple[str, int]:
    host, _, port = proxy.endpoint.removeprefix("http://").partition(":")
    return host, int(port)


def there(server: S3Server, key: str) -> bytes | None:
    """What the server itself says."""
    with closing(client_of(server.endpoint)) as client:
        try:
            found: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
        return found


@pytest.mark.parametrize("size", [0, 1, 100_000, 9_000_000])
@pytest.mark.parametrize("limited", [False, True])
def test_objects_pass_unchanged_in_both_directions(
    server: S3Server, proxy: Proxy, client: Any, key: str, size: int, limited: bool
) -> None:
    proxy.set(Options(mb_per_s=1000 if limited else 0))
    data = secrets.token_bytes(size)
    client.put_object(Bucket=BUCKET, Key=key, Body=data)
    assert there(server, key) == data
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == data
    assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == size
    if size:
        answer = client.get_object(Bucket=BUCKET, Key=key, Range=f"bytes=0-{size // 2}")
        assert answer["Body"].read() == data[: size // 2 + 1]
    assert [item["Key"] for item in client.list_objects_v2(Bucket=BUCKET, Prefix=key)["Contents"]] == [key]
    client.delete_object(Bucket=BUCKET, Key=key)
    assert there(server, key) is None


def test_requests_are_counted_by_method_and_kind_and_their_bytes_both_ways(proxy: Proxy, client: Any) -> None:
    store = f"packs-of-{secrets.token_hex(4)}"
    for _ in range(3):
        client.put_object(Bucket=BUCKET, Key=f"{store}/{PACK}", Body=bytes(500_000))
    client.put_object(Bucket=BUCKET, Key=f"{store}/refs/repo/main", Body=b"1")
    client.get_object(Bucket=BUCKET, Key=f"{store}/{PACK}", Range="bytes=0-199999")["Body"].read()
    client.head_object(Bucket=BUCKET, Key=f"{store}/commits/1".replace("commits/1", PACK))
    client.list_objects_v2(Bucket=BUCKET, Prefix=f"{store}/refs/")
    client.list_objects_v2(Bucket=BUCKET, Prefix=f"{store}/")
    client.delete_object(Bucket=BUCKET, Key=f"{store}/refs/repo/main")
    counts = proxy.reset()
    found = {(method, kind): one.requests for method, kinds in counts.by.items() for kind, one in kinds.items()}
    assert found == {
        ("PUT", "packs"): 3, ("PUT", "refs"): 1, ("GET", "packs"): 1, ("HEAD", "packs"): 1, ("LIST", "refs"): 1,
        ("LIST", "other"): 1, ("DELETE", "refs"): 1,
    }  # fmt: skip
    assert counts.requests() == 9
    assert counts.requests("PUT") == 4
    assert counts.requests(kind="refs") == 3
    assert 1_500_000 < counts.of("PUT", "packs").up < 1_520_000
    assert 200_000 < counts.of("GET").down < 202_000
    assert counts.peak == 1
    assert proxy.counts().requests() == 0


def test_every_request_waits_and_those_of_many_connections_together(proxy: Proxy, client: Any) -> None:
    proxy.set(Options(latency_ms=100))
    begun = time.monotonic()
    for _ in range(5):
        client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
    assert time.monotonic() - begun >= 0.5
    assert proxy.reset().peak == 1
    proxy.set(Options(latency_ms=2000))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.list_objects_v2(Bucket=BUCKET, MaxKeys=1), range(8)))
    assert proxy.counts().peak == 8


def test_all_connections_together_get_the_bandwidth(proxy: Proxy, client: Any, key: str) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(500_000))
    proxy.set(Options(mb_per_s=4))
    begun = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: client.get_object(Bucket=BUCKET, Key=key)["Body"].read(), range(4)))
    assert time.monotonic() - begun >= 2e6 / 4e6 - 0.1  # what the bucket holds comes at once


def test_a_dropped_request_never_reaches_the_server(server: S3Server, proxy: Proxy, client: Any, key: str) -> None:
    proxy.expect(Mishap.DROP, method="PUT")
    with pytest.raises(BotoCoreError):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    assert there(server, key) is None
    client.put_object(Bucket=BUCKET, Key=key, Body=b"2")
    assert there(server, key) == b"2"
    assert proxy.counts().mishaps == {Mishap.DROP: 1}


@pytest.mark.parametrize(
    ("mishap", "status", "code"),
    [
        (Mishap.SLOW_DOWN, 503, "SlowDown"),
        (Mishap.INTERNAL_ERROR, 500, "InternalError"),
        (Mishap.RACE, 409, "ConditionalRequestConflict"),
    ],
)
def test_a_refused_request_never_reaches_the_server(
    server: S3Server, proxy: Proxy, client: Any, key: str, mishap: Mishap, status: int, code: str
) -> None:
    proxy.expect(mishap, times=3)
    calls = (
        lambda: client.put_object(Bucket=BUCKET, Key=key, Body=bytes(3_000_000)),
        lambda: client.get_object(Bucket=BUCKET, Key=key),
        lambda: client.list_objects_v2(Bucket=BUCKET),
    )
    for call in calls:
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == code
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert there(server, key) is None
    assert client.list_objects_v2(Bucket=BUCKET, Prefix=key)["KeyCount"] == 0


def test_a_refused_head_request_leaves_the_connection_usable(proxy: Proxy, client: Any, key: str) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    proxy.reset()
    proxy.expect(Mishap.SLOW_DOWN)
    with pytest.raises(ClientError, match="503"):
        client.head_object(Bucket=BUCKET, Key=key)
    assert client.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 1
    assert proxy.counts().connections <= 1  # one if the server ended the last one


def test_of_a_lost_answer_the_object_is_there_and_the_client_has_an_error(
    server: S3Server, proxy: Proxy, client: Any, key: str
) -> None:
    data = secrets.token_bytes(2_000_000)
    proxy.expect(Mishap.LOSE, method="PUT", kind="packs")
    with pytest.raises(BotoCoreError):
        client.put_object(Bucket=BUCKET, Key=key, Body=data)
    assert there(server, key) == data
    proxy.expect(Mishap.LOSE)
    with pytest.raises(BotoCoreError):
        client.get_object(Bucket=BUCKET, Key=key)
    assert proxy.counts().of("GET").down == 0


@pytest.mark.parametrize("size", [1_000, 5_000_000])
def test_a_cut_answer_raises_where_it_is_read(proxy: Proxy, client: Any, key: str, size: int) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=bytes(size))
    proxy.expect(Mishap.CUT)
    answer = client.get_object(Bucket=BUCKET, Key=key)
    assert answer["ContentLength"] == size
    with pytest.raises(BotoCoreError):
        answer["Body"].read()
    assert size / 2 <= proxy.counts().of("GET").down < size / 2 + 2000
    assert len(client.get_object(Bucket=BUCKET, Key=key)["Body"].read()) == size


def test_an_expected_mishap_meets_only_its_method_and_kind(proxy: Proxy, client: Any, key: str) -> None:
    client.put_object(Bucket=BUCKET, Key=key, Body=b"1")
    proxy.expect(Mishap.DROP, method="GET", kind="refs")
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"1"
    with pytest.raises(BotoCoreError):
        client.get_object(Bucket=BUCKET, Key=key.replace("packs", "refs"))
    assert client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == b"1"


def test_the_same_seed_fails_the_same_requests(proxy: Proxy, client: Any) -> None:
    def failed(seed: int) -> list[str]:
        proxy.set(Options(mishaps={Mishap.SLOW_DOWN: 0.2, Mishap.INTERNAL_ERROR: 0.3}, seed=seed))
        codes = []
        for _ in range(60):
            try:
                client.list_objects_v2(Bucket=BUCKET, MaxKeys=1)
                codes.append("")
            except ClientError as error:
                codes.append(error.response["Error"]["Code"])
        return codes

    first = failed(7)
    assert {code: first.count(code) > 3 for code in first} == {"": True, "SlowDown": True, "InternalError": True}
    counts = proxy.reset()
    assert counts.mishaps == {
        Mishap.SLOW_DOWN: first.count("SlowDown"), Mishap.INTERNAL_ERROR: first.count("InternalError")
    }  # fmt: skip
    assert failed(7) == first
    assert failed(8) != first


def test_a_signature_is_of_the_host_that_the_client_speaks_to(seaweedfs: S3Server, key: str) -> None:
    with proxy_to(seaweedfs.endpoint) as proxy:
        with closing(client_of(proxy.endpoint)) as client:
            client.put_object(Bucket=BUCKET, Key=key, Body=b"1")
        with closing(client_of(proxy.endpoint, "wrong")) as client, pytest.raises(ClientError) as caught:
            client.put_object(Bucket=BUCKET, Key=key, Body=b"2")
    assert caught.value.response["Error"]["Code"] == "SignatureDoesNotMatch"
    assert there(seaweedfs, key) == b"1"


class Chunks(BaseHTTPRequestHandler):
    """Sends back what it gets, in chunks and with a trailer. Refuses whom `POST`s, before it has the body."""

    protocol_version = "HTTP/1.1"

    def handle_expect_100(self) -> bool:
        if self.command == "POST":
            self.do_POST()
            return False
        return super().handle_expect_100()

    def do_POST(self) -> None:
        self.send_response_only(403)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def do_PUT(self) -> None:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self.send_response_only(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(body), 300_000):
            piece = body[at : at + 300_000]
            self.wfile.write(b"%x;name=value\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\nX-Trailer: 1\r\n\r\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def echo() -> Iterator[Proxy]:
    with HTTPServer(("127.0.0.1", 0), Chunks) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            with proxy_to(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
                yield proxy
        finally:
            server.shutdown()
            thread.join()


def test_chunked_bodies_pass_and_the_connection_goes_on(echo: Proxy) -> None:
    data = secrets.token_bytes(1_000_000)
    with closing(http.client.HTTPConnection(*address(echo), timeout=120)) as connection:
        for size in (1_000_000, 1, 0, 70_000):
            pieces = [data[at : min(at + 64_000, size)] for at in range(0, size, 64_000)]
            connection.request("PUT", "/bucket/key", iter(pieces), encode_chunked=True)
            assert connection.getresponse().read() == data[:size]
        assert echo.counts().connections == 1
        assert echo.counts().requests("PUT", "other") == 4
        assert 1_070_000 < echo.counts().of().up < 1_080_000
        echo.expect(Mishap.CUT)
        connection.request("PUT", "/bucket/key", iter([data]), encode_chunked=True)
        with pytest.raises(http.client.IncompleteRead):
            connection.getresponse().read()


def test_whoever_asks_for_leave_to_send_a_body_gets_the_servers_word(echo: Proxy) -> None:
    head = b"%s /bucket/key HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(address(echo), timeout=120) as granted:
        granted.sendall(head % b"PUT")
        assert granted.recv(100).startswith(b"HTTP/1.1 100 ")
        granted.sendall(b"3\r\nabc\r\n0\r\n\r\n")
        assert granted.makefile("rb").read(12) == b"HTTP/1.1 200"
    with socket.create_connection(address(echo), timeout=120) as impatient:
        impatient.sendall(head % b"PUT" + b"3\r\nabc\r\n0\r\n\r\n")
        impatient.shutdown(socket.SHUT_WR)
        assert b"\r\nabc\r\n" in impatient.makefile("rb").read()
    with socket.create_connection(address(echo), timeout=120) as refused:
        refused.sendall(head % b"POST")
        assert refused.makefile("rb").read().startswith(b"HTTP/1.1 403 ")


def test_a_refusal_that_comes_before_the_body_is_passed_on(echo: Proxy) -> None:
    with closing(http.client.HTTPConnection(*address(echo), timeout=120)) as connection:
        connection.putrequest("POST", "/bucket/key")
        connection.putheader("Content-Length", "50000000")
        connection.endheaders()
        with contextlib.suppress(ConnectionError):
            connection.send(bytes(50_000_000))
        assert connection.getresponse().status == 403
    assert echo.counts().of("POST").up < 50_000_000


def test_a_server_that_is_not_there_is_a_cut_connection() -> None:
    (port,) = free_ports(1)
    with proxy_to(f"http://127.0.0.1:{port}") as proxy, closing(client_of(proxy.endpoint)) as client:
        with pytest.raises(BotoCoreError):
            client.list_buckets()
        assert proxy.counts().requests("LIST") == 1


def test_the_proxy_ends_with_its_context(moto: S3Server) -> None:
    with proxy_to(moto.endpoint) as proxy:
        endpoint = proxy.endpoint
    with closing(client_of(endpoint)) as client, pytest.raises(BotoCoreError):
        client.list_buckets()
