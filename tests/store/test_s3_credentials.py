"""Credentials that expire are asked for again, by a store that is open for long."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server
from tests.store.gateway import Answer, Gateway, Request, gateway_to
from vfsd.model.errors import AccessDenied
from vfsd.store.s3 import S3Store

# What `credential_process` runs: another access key each time, good for so many seconds.
PROCESS = """
import datetime, json, sys
calls, seconds, key, secret = sys.argv[1:]
with open(calls, "a") as file:
    file.write("asked\\n")
number = len(open(calls).readlines())
end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=float(seconds))
print(json.dumps({"Version": 1, "AccessKeyId": key.replace("N", str(number)), "SecretAccessKey": secret,
                  "SessionToken": f"token-{number}", "Expiration": end.isoformat()}))
"""

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture
def gateway(moto: S3Server) -> Iterator[Gateway]:
    with gateway_to(moto) as gateway:
        yield gateway


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration file of boto3, which is the one place where it finds credentials."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    path = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(path))
    return path


def process(config: Path, seconds: float, key: str = "key-N") -> Path:
    """Have boto3 ask a process for credentials that are good for so long; the file in which it counts the calls."""
    program, calls = config.parent / "process.py", config.parent / "calls"
    program.write_text(PROCESS)
    calls.write_text("")
    command = f"{sys.executable} {program} {calls} {seconds} {key} {SECRET_KEY}"
    config.write_text(f"[default]\ncredential_process = {command}\n")
    return calls


def keys(gateway: Gateway) -> list[tuple[str, str]]:
    """Access key and session token of each request."""
    found = []
    for request in gateway.seen:
        key = re.search(r"Credential=([^/]+)/", request.headers["authorization"])
        assert key is not None
        found.append((key[1], request.headers.get("x-amz-security-token", "")))
    return found


def opened(endpoint: str) -> S3Store:
    return S3Store(BUCKET, secrets.token_hex(8), endpoint)


def test_credentials_are_asked_for_again_before_they_expire(gateway: Gateway, config: Path) -> None:
    calls = process(config, 30)  # so little is left that boto3 asks at each request
    with closing(opened(gateway.endpoint)) as store:
        store.put("refs/r/main", b"content")
        for _ in range(4):
            assert store.get("refs/r/main")[0] == b"content"
        list(store.list())
    assert len(calls.read_text().split()) >= 6
    used = keys(gateway)
    assert len(used) == len(set(used)) == 6
    assert all(token == key.replace("key", "token") for key, token in used)


def test_credentials_that_last_are_asked_for_once(gateway: Gateway, config: Path) -> None:
    calls = process(config, 3600)
    with closing(opened(gateway.endpoint)) as store, ThreadPoolExecutor(8) as pool:
        store.put("refs/r/main", b"content")
        assert set(pool.map(lambda _: store.get("refs/r/main")[0], range(50))) == {b"content"}
    assert len(calls.read_text().split()) == 1
    assert set(keys(gateway)) == {("key-1", "token-1")}


def test_a_server_that_checks_signatures_takes_credentials_that_were_renewed(
    seaweedfs: S3Server, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = process(config, 30, ACCESS_KEY)
    program = config.parent / "process.py"
    program.write_text(PROCESS.replace('"SessionToken": f"token-{number}", ', ""))  # the server knows of none
    with closing(opened(seaweedfs.endpoint)) as store:
        etag = store.put("refs/r/main", b"1")
        for _ in range(3):
            assert store.get("refs/r/main") == (b"1", etag)
    assert len(calls.read_text().split()) >= 4


def test_roles_are_assumed_again_before_they_end(
    gateway: Gateway, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", gateway.endpoint)
    config.write_text(
        "[default]\nrole_arn = arn:aws:iam::123456789012:role/reader\nsource_profile = base\nduration_seconds = 900\n"
        "[profile base]\naws_access_key_id = base\naws_secret_access_key = base\n"
    )
    with closing(opened(gateway.endpoint)) as store:
        for number in range(3):
            store.put("refs/r/main", b"%d" % number)
            assert store.get("refs/r/main")[0] == b"%d" % number
    roles = [request for request in gateway.sent("POST") if b"AssumeRole" in request.body]
    assert len(roles) >= 2  # within 15 minutes of their end, new ones are asked for
    used = {key for request, key in zip(gateway.seen, keys(gateway), strict=True) if request not in roles}
    assert len(used) >= 2 and all(token for _, token in used)
    assert "base" not in {key for key, _ in used}


@pytest.mark.parametrize("operation", ["get", "stat", "put", "list"])
def test_credentials_that_were_revoked_are_read_again_and_the_request_succeeds(
    gateway: Gateway, config: Path, operation: str
) -> None:
    """As when another program writes new ones into the file every hour, which boto3 itself reads once."""
    acts: dict[str, Callable[[S3Store], object]] = {
        "get": lambda store: store.get("refs/r/main"),
        "stat": lambda store: store.stat("refs/r/main"),
        "put": lambda store: store.put("refs/r/main", b"content"),
        "list": lambda store: list(store.list()),
    }

    def only_new(request: Request, ask: Callable[[], Answer]) -> Answer:
        return ask() if "Credential=new/" in request.headers["authorization"] else Answer.error(400, "ExpiredToken")

    credentials = "[default]\naws_access_key_id = {}\naws_secret_access_key = x\naws_session_token = t\n"
    config.write_text(credentials.format("old"))
    with closing(opened(gateway.endpoint)) as store:
        store.put("refs/r/main", b"content")
        store.get("refs/r/main")
        gateway.meddle = only_new
        with pytest.raises(AccessDenied, match="ExpiredToken"):
            acts[operation](store)
        config.write_text(credentials.format("new"))
        acts[operation](store)
        acts[operation](store)
        assert keys(gateway)[-1] == ("new", "t")


def test_credentials_that_were_missing_are_found_once_they_are_there(gateway: Gateway, config: Path) -> None:
    with closing(opened(gateway.endpoint)) as store:
        with pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID"):
            store.put("refs/r/main", b"content")
        config.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
        store.put("refs/r/main", b"content")


def test_a_program_for_credentials_that_fails_is_named(gateway: Gateway, config: Path) -> None:
    config.write_text("[default]\ncredential_process = /bin/false\n")
    with closing(opened(gateway.endpoint)) as store, pytest.raises(AccessDenied, match="accepts no credentials") as got:
        store.get("refs/r/main")
    assert "\n" not in str(got.value)
    assert gateway.seen == []
