"""What S3Store does beyond the contract: lost and refused answers, and errors that a user can act on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.servers import BUCKET, S3Server, free_ports
from tests.store.proxy import Mishap, Proxy, proxy_to
from vfsd.model.errors import AccessDenied, Conflict, InvalidArgument, NotFound, Unavailable
from vfsd.store import ObjectStore, open_store, s3
from vfsd.store.s3 import S3Store

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture
def proxy(moto: S3Server) -> Iterator[Proxy]:
    with proxy_to(moto) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy) -> Iterator[ObjectStore]:
    with closing(S3Store(BUCKET, secrets.token_hex(8), proxy.endpoint)) as store:
        yield store


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.SLOW_DOWN, Mishap.RACE])
def test_a_new_object_is_made_though_requests_fail(store: ObjectStore, proxy: Proxy, mishap: Mishap) -> None:
    proxy.expect("PUT", mishap, mishap)
    etag = store.put_if_absent("refs/r/main", b"mine")
    assert store.get("refs/r/main") == (b"mine", etag)
    assert proxy.seen.count("PUT") > 1


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.SLOW_DOWN, Mishap.RACE])
def test_an_object_is_replaced_though_requests_fail(store: ObjectStore, proxy: Proxy, mishap: Mishap) -> None:
    first = store.put("refs/r/main", b"1")
    proxy.expect("PUT", mishap)
    second = store.put_if_match("refs/r/main", b"2", first)
    assert store.get("refs/r/main") == (b"2", second)
    assert proxy.seen.count("PUT") == 2


def test_a_lost_answer_does_not_hide_that_somebody_else_won(store: ObjectStore, proxy: Proxy) -> None:
    first = store.put("refs/r/main", b"1")
    store.put("refs/r/main", b"hers")
    proxy.expect("PUT", Mishap.LOSE)
    with pytest.raises(Conflict):
        store.put_if_match("refs/r/main", b"mine", first)
    proxy.expect("PUT", Mishap.RACE)
    with pytest.raises(Conflict):
        store.put_if_match("refs/r/main", b"mine", first)
    assert store.get("refs/r/main")[0] == b"hers"


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.CUT, Mishap.SLOW_DOWN])
def test_reads_and_listings_are_tried_again(store: ObjectStore, proxy: Proxy, mishap: Mishap) -> None:
    data = secrets.token_bytes(100_000)
    store.put("packs/ab/abcd", data)
    reads = (
        lambda: store.get("packs/ab/abcd")[0],
        lambda: store.get_range("packs/ab/abcd", 0, 100_000),
        lambda: data if [item.key for item in store.list()] == ["packs/ab/abcd"] else b"",
    )
    for read in reads:
        proxy.expect("GET", mishap, mishap)
        assert read() == data
        assert len(proxy.seen) == 3


def test_retrying_ends_when_the_time_is_up(
    store: ObjectStore, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "BUDGET", 3.0)
    proxy.expect("GET", *[Mishap.SLOW_DOWN] * 1000)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="SlowDown"):
        store.get("refs/r/main")
    assert 1 < len(proxy.seen) < 1000
    assert time.monotonic() - begun < 15


def test_what_is_not_there_is_asked_for_once(store: ObjectStore, proxy: Proxy) -> None:
    proxy.expect("GET")
    with pytest.raises(NotFound):
        store.get("refs/r/main")
    assert proxy.seen == ["GET"]


def test_long_listings_come_page_by_page(
    seaweedfs: S3Server, moto: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PAGE", 3)
    keys = [f"refs/{repo}/{branch}" for repo in ("a-b", "a.b", "a", "a0", "b") for branch in "1234"]
    for server in (seaweedfs, moto):
        with closing(S3Store(BUCKET, secrets.token_hex(8), server.endpoint)) as store:
            for key in keys:
                store.put(key, b"")
            assert [item.key for item in store.list()] == keys
            assert [item.key for item in store.list("refs/a", after="refs/a.b/3")] == keys[7:16]
            assert list(store.list_folders("refs/")) == ["a-b", "a.b", "a", "a0", "b"]


def test_stores_with_different_prefixes_do_not_see_each_other(moto: S3Server) -> None:
    run = secrets.token_hex(8)
    one, other = S3Store(BUCKET, f"{run}/a", moto.endpoint), S3Store(BUCKET, f"/{run}/a-b/", moto.endpoint)
    with closing(one), closing(other):
        one.put("format", b"1")
        assert list(other.list()) == []
        assert (one.url, other.url) == (f"s3://{BUCKET}/{run}/a", f"s3://{BUCKET}/{run}/a-b")


def test_a_url_and_the_environment_are_enough_to_find_a_store(s3_url: str) -> None:
    with closing(open_store(s3_url)) as store:
        store.put("format", b"1")
        assert store.url == s3_url
    with closing(open_store(s3_url + "/")) as again:
        assert again.get("format")[0] == b"1"


def test_the_endpoint_may_come_from_boto3s_own_variable(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.endpoint)
    with closing(S3Store(BUCKET, secrets.token_hex(8))) as store:
        store.put("format", b"1")
        assert store.get("format")[0] == b"1"


def test_a_bucket_that_is_not_there_is_named(seaweedfs: S3Server, moto: S3Server) -> None:
    for server in (seaweedfs, moto):
        with closing(S3Store("no-such-bucket", "", server.endpoint)) as store:
            for read in (store.get, store.stat, lambda key: store.get_range(key, 0, 1), lambda _: list(store.list())):
                with pytest.raises(Unavailable, match=f"'no-such-bucket' is not there at {server.endpoint}: create it"):
                    read("format")


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_say_what_to_set(
    seaweedfs: S3Server, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "wrong")
    with closing(S3Store(BUCKET, "", seaweedfs.endpoint)) as store:
        calls = (
            lambda: store.get("format"),
            lambda: store.stat("format"),
            lambda: store.put("format", b""),
            lambda: store.put_if_absent("format", b""),
            lambda: list(store.list()),
        )
        for call in calls:
            with pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
                call()


def test_missing_credentials_say_what_to_set(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    store = S3Store(BUCKET, "", moto.endpoint)
    with closing(store), pytest.raises(AccessDenied, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        store.get("format")


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with closing(S3Store(BUCKET)) as store, pytest.raises(AccessDenied, match="nobody"):
        store.get("format")


def test_an_endpoint_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "FIRST_BUDGET", 0.3)
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    store = S3Store(BUCKET, "", endpoint)
    with closing(store), pytest.raises(Unavailable, match=f"{endpoint} cannot be reached"):
        store.get("format")


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [("s3://", ""), ("s3:///prefix", ""), ("s3://a_b!/c", ""), ("s3://bucket/a//b", ""), ("s3://bucket", "nonsense")],
)
def test_a_url_that_names_no_bucket_is_refused(url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFSD_S3_ENDPOINT", endpoint)
    with pytest.raises(InvalidArgument):
        open_store(url).get("format")
