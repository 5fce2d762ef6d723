"""Stores that are fit for use, and what is said of others."""

from __future__ import annotations

import email.utils
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.proxy import Options, proxy_to
from tests.servers import BUCKET, S3Server
from tests.store.gateway import Answer, Gateway, Request, gateway_to
from vfsd.model.errors import AccessDenied, VfsdError
from vfsd.store import Buffer, ETag, ObjectStore, checkup, probe
from vfsd.store.checkup import FAIL, OK, WARN, Finding, check_store
from vfsd.store.faulty import FaultyStore
from vfsd.store.faulty import Request as Asked
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.s3 import S3Store
from vfsd.store.s3_options import S3Options

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many writers as tell a good store from a bad one, and fewer bytes: on some servers all of it takes seconds."""
    monkeypatch.setattr(checkup, "LARGE", 1 << 20)
    monkeypatch.setattr(probe, "KEYS", 2)
    monkeypatch.setattr(probe, "WRITERS", 3)


@pytest.fixture
def gateway(moto: S3Server) -> Iterator[Gateway]:
    with gateway_to(moto) as gateway:
        yield gateway


def found(store: ObjectStore) -> dict[str, Finding]:
    """The findings by their names. Nothing is left behind."""
    with closing(store):
        findings = {finding.check: finding for finding in check_store(store)}
        assert list(store.list("probe/")) == []
    return findings


def opened(endpoint: str, **options: object) -> S3Store:
    return S3Store(BUCKET, secrets.token_hex(8), endpoint, S3Options(**options))  # type: ignore[arg-type]


def test_good_stores_have_nothing_to_complain_of(tmp_path: Path, seaweedfs: S3Server) -> None:
    everywhere = {"rights", "conditional writes", "clock", "speed"}
    local = found(LocalStore(str(tmp_path / "store")))
    assert {name: finding.state for name, finding in local.items()} == dict.fromkeys(everywhere, OK)
    bucket = found(opened(seaweedfs.endpoint))
    assert {name: finding.state for name, finding in bucket.items()} == dict.fromkeys(
        {*everywhere, "uploads", "checksums"}, OK
    )
    assert list((tmp_path / "store" / "probe").iterdir()) == []


def test_conditions_that_are_ignored_are_a_warning_and_those_refused_a_failure(gateway: Gateway) -> None:
    class RefusesIfMatch(MemoryStore):
        def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
            return self.put_if_absent(key, data)

    class IgnoresIfMatch(MemoryStore):
        def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
            return self.put(key, data)

    assert found(RefusesIfMatch())["conditional writes"].state == FAIL
    finding = found(IgnoresIfMatch())["conditional writes"]
    assert (finding.state, finding.remedy) == (WARN, "let one node alone use the store")
    assert "ignores If-Match" in finding.text


def test_a_right_that_is_missing_is_named_and_nothing_more_is_tried() -> None:
    def no_deletes(asked: Asked) -> None:
        if asked.kind == "put":
            raise AccessDenied("denied")

    store = FaultyStore(MemoryStore(), no_deletes)
    findings = list(check_store(store))
    assert [(finding.check, finding.state, finding.text) for finding in findings] == [("rights", FAIL, "denied")]


@pytest.mark.parametrize(("seconds", "said"), [(-3600, "ahead of"), (300, "behind"), (2, ""), (-3, "")])
def test_a_clock_that_is_wrong_is_told_by_how_much(gateway: Gateway, seconds: float, said: str) -> None:
    def other_clock(request: Request, ask: Callable[[], Answer]) -> Answer:
        answer = ask()
        stamp = answer.headers.get("last-modified")
        if stamp is not None:
            time = email.utils.parsedate_to_datetime(stamp).timestamp() + seconds
            answer.headers["last-modified"] = email.utils.formatdate(time, usegmt=True)
        return answer

    gateway.meddle = other_clock
    clock = found(opened(gateway.endpoint))["clock"]
    assert clock.state == (WARN if said else OK)
    if said:
        told = re.search(rf"(\d+) s {said}", clock.text)
        assert told is not None, clock.text
        assert abs(seconds) - 60 < int(told[1]) <= abs(seconds)  # requests take time, and stamps are whole seconds


def test_a_store_that_is_far_away_is_named_with_its_times(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "SLOW", 0.05)
    with proxy_to(moto.endpoint, Options(latency_ms=60)) as proxy:
        speed = found(opened(proxy.endpoint))["speed"]
    assert speed.state == WARN
    assert float(speed.text.split(" ms")[0]) >= 60


def test_uploads_that_nobody_ended_are_counted(moto: S3Server) -> None:
    store = opened(moto.endpoint)
    store.put("format", b"")
    store._requests.ask("create_multipart_upload", Key=store._key("packs/ab/abcd"))  # moto dates all uploads back
    uploads = {finding.check: finding for finding in check_store(store)}["uploads"]
    assert (uploads.state, uploads.text) == (WARN, "1 large uploads are unfinished for a day")
    assert store.abort_uploads("", 0) == 1
    assert found(store)["uploads"].state == OK


@pytest.mark.parametrize("code", ["AccessDenied", "MethodNotAllowed"])
def test_uploads_that_may_not_be_listed_are_no_reason_to_fail(gateway: Gateway, code: str) -> None:
    def no_lists(request: Request, ask: Callable[[], Answer]) -> Answer:
        status = {"AccessDenied": 403, "MethodNotAllowed": 405}[code]
        return Answer.error(status, code) if request.target.startswith(f"/{BUCKET}?uploads") else ask()

    gateway.meddle = no_lists
    uploads = found(opened(gateway.endpoint))["uploads"]
    assert uploads.state == (WARN if code == "AccessDenied" else OK)


@pytest.mark.parametrize(
    ("server", "kind", "state", "said"),
    [
        ("seaweedfs", "crc32", OK, "carry a crc32, and the server compares it"),
        ("seaweedfs", "md5", OK, "carry a md5, and the server compares it"),
        ("seaweedfs", "auto", OK, "would compare a crc32"),
        ("moto", "crc32", WARN, "does not compare it"),
        ("moto", "auto", OK, "would not compare any"),
    ],
)
def test_checksums_that_are_not_compared_are_told(
    server: str, kind: str, state: str, said: str, request: pytest.FixtureRequest
) -> None:
    running: S3Server = request.getfixturevalue(server)
    checksums = found(opened(running.endpoint, checksum=kind))["checksums"]
    assert (checksums.state, said in checksums.text) == (state, True)


def test_an_error_in_the_middle_is_a_finding_and_the_rest_goes_on() -> None:
    class NoRanges(MemoryStore):
        def get_range(self, key: str, offset: int, length: int) -> bytes:
            raise VfsdError("no ranges here")

    findings = found(NoRanges())
    assert (findings["speed"].state, findings["speed"].text) == (FAIL, "no ranges here")
    assert findings["clock"].state == OK
