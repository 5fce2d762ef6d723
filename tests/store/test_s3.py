"""What S3Store does beyond the contract: lost and refused answers, and errors that a user can act on."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from datetime import UTC, datetime

import pytest

from tests.proxy import Mishap, Options, Proxy, proxy_to
from tests.servers import BUCKET, S3Server, free_ports
from tests.store.gateway import Answer, Gateway, Request, gateway_to, pass_on
from vfsd.model.errors import AccessDenied, Conflict, InvalidArgument, NotFound, Unavailable
from vfsd.store import ObjectStore, open_store, retry, s3, s3_requests
from vfsd.store.buffers import whole_pages
from vfsd.store.s3 import S3Store
from vfsd.store.s3_client import parse_time
from vfsd.store.s3_options import S3Options

pytestmark = pytest.mark.usefixtures("s3_credentials")
LIMIT_S = 60.0  # nothing here takes so long


@pytest.fixture(scope="module")
def running(moto: S3Server) -> Iterator[Proxy]:
    with proxy_to(moto.endpoint) as proxy:
        yield proxy


@pytest.fixture
def proxy(running: Proxy) -> Iterator[Proxy]:
    running.reset()
    yield running
    running.set(Options())


@pytest.fixture
def gateway(moto: S3Server) -> Iterator[Gateway]:
    with gateway_to(moto) as gateway:
        yield gateway


@pytest.fixture
def store(proxy: Proxy) -> Iterator[S3Store]:
    with closing(S3Store(BUCKET, secrets.token_hex(8), proxy.endpoint)) as store:
        yield store


def opened(endpoint: str, **options: object) -> S3Store:
    """A store of its own behind `endpoint`."""
    return S3Store(BUCKET, secrets.token_hex(8), endpoint, S3Options(**options))  # type: ignore[arg-type]


# Retries


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.SLOW_DOWN, Mishap.INTERNAL_ERROR, Mishap.RACE])
def test_a_new_object_is_made_though_requests_fail(store: ObjectStore, proxy: Proxy, mishap: Mishap) -> None:
    proxy.expect(mishap, method="PUT", times=2)
    etag = store.put_if_absent("refs/r/main", b"mine")
    assert store.get("refs/r/main") == (b"mine", etag)
    assert proxy.counts().requests("PUT") > 1


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.SLOW_DOWN, Mishap.INTERNAL_ERROR, Mishap.RACE])
def test_an_object_is_replaced_though_requests_fail(store: ObjectStore, proxy: Proxy, mishap: Mishap) -> None:
    first = store.put("refs/r/main", b"1")
    proxy.reset()
    proxy.expect(mishap, method="PUT")
    second = store.put_if_match("refs/r/main", b"2", first)
    assert store.get("refs/r/main") == (b"2", second)
    assert proxy.counts().requests("PUT") == 2


def test_a_lost_answer_does_not_hide_that_somebody_else_won(store: ObjectStore, proxy: Proxy) -> None:
    first = store.put("refs/r/main", b"1")
    store.put("refs/r/main", b"hers")
    proxy.expect(Mishap.LOSE, method="PUT")
    with pytest.raises(Conflict):
        store.put_if_match("refs/r/main", b"mine", first)
    proxy.expect(Mishap.RACE, method="PUT")
    with pytest.raises(Conflict):
        store.put_if_match("refs/r/main", b"mine", first)
    assert store.get("refs/r/main")[0] == b"hers"


@pytest.mark.parametrize("server", ["seaweedfs", "moto"])
def test_racing_writes_whose_answers_get_lost_are_all_made_once(server: str, request: pytest.FixtureRequest) -> None:
    """Each writer adds its name to a list. Who cannot know whether its write was made, because it lost the answer and
    then somebody else wrote, looks for its name."""
    writers, rounds = 4, 6

    def add(store: ObjectStore, name: bytes) -> None:
        while True:
            held, etag = store.get("refs/r/main")
            if name in held.split():
                return
            try:
                store.put_if_match("refs/r/main", held + b" " + name, etag)
            except Conflict:
                continue
            return

    with proxy_to(request.getfixturevalue(server).endpoint) as proxy, closing(opened(proxy.endpoint)) as store:
        store.put("refs/r/main", b"")
        proxy.set(Options(mishaps={Mishap.LOSE: 0.2, Mishap.DROP: 0.05, Mishap.RACE: 0.05, Mishap.CUT: 0.05}))
        with ThreadPoolExecutor(writers) as pool:
            names = [b"%d-%d" % pair for pair in itertools.product(range(writers), range(rounds))]
            for _ in pool.map(lambda name: add(store, name), names):
                pass
        assert proxy.counts().mishaps[Mishap.LOSE] > 0
        proxy.set(Options())
        assert sorted(store.get("refs/r/main")[0].split()) == sorted(names)


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.LOSE, Mishap.CUT, Mishap.SLOW_DOWN, Mishap.INTERNAL_ERROR])
@pytest.mark.parametrize("size", [100_000, 5_000_000])
def test_reads_and_listings_are_tried_again(store: ObjectStore, proxy: Proxy, mishap: Mishap, size: int) -> None:
    data = secrets.token_bytes(size)
    store.put("packs/ab/abcd", data)
    store.get_range("packs/ab/abcd", 0, 1)  # the first read of a store goes another way than the others
    reads: tuple[tuple[str, Callable[[], bytes]], ...] = (
        ("GET", lambda: store.get("packs/ab/abcd")[0]),
        ("GET", lambda: store.get_range("packs/ab/abcd", 0, size)),
        ("LIST", lambda: data if [item.key for item in store.list()] == ["packs/ab/abcd"] else b""),
    )
    for method, read in reads:
        proxy.reset()
        proxy.expect(mishap, method=method, times=2)
        assert read() == data
        assert proxy.counts().requests() == 3


@pytest.mark.parametrize("mishap", [Mishap.DROP, Mishap.CUT, Mishap.SLOW_DOWN])
def test_the_first_read_of_a_store_is_tried_again_too(proxy: Proxy, store: ObjectStore, mishap: Mishap) -> None:
    store.put("refs/r/main", b"content")
    with closing(S3Store(BUCKET, store.url.rpartition("/")[2], proxy.endpoint)) as fresh:
        proxy.expect(mishap, method="GET", times=2)
        assert fresh.get("refs/r/main")[0] == b"content"


def cut_quietly(request: Request, ask: Callable[[], Answer]) -> Answer:
    """Half of the content, with a Content-Length that fits."""
    answer = ask()
    if request.method == "GET":
        answer.body = answer.body[: len(answer.body) // 2]
    return answer


def other_range(request: Request, ask: Callable[[], Answer]) -> Answer:
    """Other bytes than were asked for, as many."""
    answer = ask()
    if "content-range" in answer.headers:
        answer.headers["content-range"] = "bytes 1-100/200"
    return answer


@pytest.mark.parametrize("meddle", [cut_quietly, other_range])
def test_a_range_of_another_length_or_place_is_not_taken_for_the_right_one(
    gateway: Gateway, meddle: Callable[[Request, Callable[[], Answer]], Answer]
) -> None:
    with closing(opened(gateway.endpoint, retry_s=0.4)) as store:
        store.put("packs/ab/abcd", bytes(200))
        assert store.get_range("packs/ab/abcd", 0, 100) == bytes(100)
        gateway.meddle = meddle
        for _ in range(2):
            with pytest.raises(Unavailable, match=r"(50|100) read, but total bytes expected is 100"):
                store.get_range("packs/ab/abcd", 0, 100)


def test_a_large_range_begins_its_memory_also_of_a_server_that_sends_the_whole_object(gateway: Gateway) -> None:
    whole = secrets.token_bytes(4 << 20)

    def send_all(request: Request, ask: Callable[[], Answer]) -> Answer:
        return Answer(200, {}, whole) if request.method == "GET" else ask()

    with closing(opened(gateway.endpoint)) as store:
        store.put("packs/ab/abcd", whole)
        for meddle in (pass_on, send_all):
            gateway.meddle = meddle
            view = store.get_large("packs/ab/abcd", 1000, 2 << 20)
            assert view == whole[1000 : 1000 + (2 << 20)]
            assert whole_pages(view)[: len(view)] == view  # as the disk cache writes it


def test_retrying_ends_when_the_time_is_up(proxy: Proxy) -> None:
    with closing(opened(proxy.endpoint, retry_s=3.0)) as store:
        proxy.set(Options(mishaps={Mishap.SLOW_DOWN: 1.0}))
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="SlowDown"):
            store.get("refs/r/main")
        assert 1 < proxy.counts().requests() < 100
        assert time.monotonic() - begun < 60


def test_retries_dry_up_when_most_requests_fail(proxy: Proxy) -> None:
    """Without a budget, each of the calls would be sent about six times in this time."""
    calls = 100

    def fails(store: ObjectStore) -> bool:
        try:
            store.get_range("packs/ab/abcd", 0, 1)
        except Unavailable:
            return True
        return False

    with closing(opened(proxy.endpoint, retry_s=1.5, hedge=0)) as store:
        store.put("packs/ab/abcd", b"content")
        proxy.reset()
        proxy.set(Options(mishaps={Mishap.INTERNAL_ERROR: 1.0}))
        with ThreadPoolExecutor(50) as pool:
            assert all(pool.map(lambda _: fails(store), range(calls)))
        assert calls <= proxy.counts().requests() < 2 * calls
        proxy.set(Options())
        assert store.get_range("packs/ab/abcd", 0, 1) == b"c"  # and it is used again as soon as it is back


class Together:
    """Answers `count` requests when as many are there; `most` is how many there were at once."""

    def __init__(self, count: int) -> None:
        self.most = 0
        self._count = count
        self._there = 0
        self._changed = threading.Condition()

    def __call__(self, request: Request, ask: Callable[[], Answer]) -> Answer:
        with self._changed:
            self._there += 1
            self.most = max(self.most, self._there)
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.most >= self._count, LIMIT_S)
        answer = ask()
        with self._changed:
            self._there -= 1
        return answer


def test_a_server_that_asks_to_slow_down_gets_fewer_requests_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "DECREASE_EVERY", 0)  # or else requests that are under way together count as one

    def slow_down(request: Request, ask: Callable[[], Answer]) -> Answer:
        gateway.meddle = pass_on
        return Answer.error(503, "SlowDown")

    with closing(opened(gateway.endpoint, connections=32, hedge=0)) as store, ThreadPoolExecutor(32) as pool:
        store.put("packs/ab/abcd", b"content")

        def read(times: int, least: int) -> int:
            """Read so often; the requests are answered once `least` of them are there. How many were, at the most."""
            gateway.meddle = together = Together(least)
            for _ in pool.map(lambda _: store.get_range("packs/ab/abcd", 0, 1), range(times)):
                pass
            return together.most

        assert read(32, least=32) == 32
        for _ in range(3):
            gateway.meddle = slow_down
            store.get_range("packs/ab/abcd", 0, 1)
        assert store.counts().throttled == 3
        assert read(100, least=1) < 32 * 0.7
        assert store.counts().throttled == 3
        read(300, least=1)
        assert read(32, least=24) > 32 * 0.7


def test_a_server_that_says_when_to_come_again_is_left_alone_until_then(gateway: Gateway) -> None:
    def wait_a_second(request: Request, ask: Callable[[], Answer]) -> Answer:
        return Answer.error(429, "TooManyRequests", retry_after="1") if request.number == 1 else ask()

    with closing(opened(gateway.endpoint)) as store:
        store.put("refs/r/main", b"content")
        gateway.meddle = wait_a_second
        begun = time.monotonic()
        assert store.get("refs/r/main")[0] == b"content"
        assert time.monotonic() - begun >= 1


def test_a_server_that_sends_nothing_is_given_up_after_the_timeout(gateway: Gateway) -> None:
    def hang(request: Request, ask: Callable[[], Answer]) -> Answer:
        if request.number in {2, 3}:
            done.wait(LIMIT_S)
        return ask()

    done = threading.Event()
    with closing(opened(gateway.endpoint, read_timeout_s=2.0, hedge=0)) as store:
        store.put("refs/r/main", b"content")
        gateway.meddle = hang
        assert [store.get("refs/r/main")[0] for _ in range(2)] == [b"content"] * 2
        assert len(gateway.seen) == 5
    done.set()


@pytest.mark.parametrize("others", [b"", b"hers"])
def test_a_conditional_write_that_is_answered_too_late_is_asked_again_and_told_from_one_that_lost(
    gateway: Gateway, others: bytes
) -> None:
    """Also where one answer that does not come takes all of the time that a call may be tried again."""
    done = threading.Event()

    def answer_late(request: Request, ask: Callable[[], Answer]) -> Answer:
        if request is not gateway.seen[0]:
            return ask()
        if others:
            request.body[:] = others  # somebody else's write, which comes first
        answer = ask()
        done.wait(LIMIT_S)
        return answer

    gateway.meddle = answer_late
    with closing(opened(gateway.endpoint, read_timeout_s=2.0, retry_s=2.0, hedge=0)) as store:
        with pytest.raises(Conflict) if others else nullcontext():
            store.put_if_absent("refs/r/main", b"mine")
        done.set()
        assert [request.method for request in gateway.seen] == ["PUT", "PUT", "GET"]
        assert store.get("refs/r/main")[0] == (others or b"mine")


def test_no_more_requests_are_under_way_than_connections_are_allowed(proxy: Proxy) -> None:
    with closing(opened(proxy.endpoint, connections=3)) as store, ThreadPoolExecutor(12) as pool:
        proxy.set(Options(latency_ms=200))
        list(pool.map(lambda number: store.put(f"packs/ab/{number:04}", b""), range(24)))
        assert proxy.counts().peak == 3


def test_connections_are_used_again(seaweedfs: S3Server) -> None:
    with proxy_to(seaweedfs.endpoint) as proxy, closing(opened(proxy.endpoint, hedge=0)) as store:
        store.put("packs/ab/abcd", bytes(1000))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: store.get_range("packs/ab/abcd", number, 10), range(200)))
        assert proxy.counts().requests() == 201
        assert proxy.counts().connections <= 17  # 8 threads may all do a first read, with connections of their own


def test_what_is_not_there_is_asked_for_once(store: ObjectStore, proxy: Proxy) -> None:
    for _ in range(2):  # the second time it goes another way
        proxy.reset()
        with pytest.raises(NotFound):
            store.get("refs/r/main")
        assert proxy.counts().requests() == 1
        store.put("refs/r/other", b"")
        store.get("refs/r/other")


def test_requests_are_counted_by_what_was_asked(store: S3Store, proxy: Proxy) -> None:
    store.put("refs/r/main", b"content")
    proxy.expect(Mishap.DROP, method="GET")
    store.get("refs/r/main")
    list(store.list())
    counts = store.counts()
    assert counts.requests == {"put_object": 1, "get_object": 2, "list_objects_v2": 1}
    assert (counts.retries, counts.throttled, counts.hedges) == (1, 0, 0)


# Listings, names, errors


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


@pytest.mark.parametrize(
    "said",
    ["2026-11-22T10:00:00.000Z", "2026-11-22T10:00:00", "Sun, 22 Nov 2026 10:00:00 GMT", 1795341600, "1795341600"],
)
def test_times_are_read_in_every_form_that_servers_use(said: str | int) -> None:
    assert parse_time(said) == datetime(2026, 11, 22, 10, tzinfo=UTC)


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
    monkeypatch.setattr(s3_requests, "FIRST_BUDGET", 0.3)
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


def test_large_objects_are_in_memory_once(moto: S3Server) -> None:
    size = 24 << 20
    with closing(opened(moto.endpoint, multipart=8 << 20)) as store:
        store.put("refs/r/main", b"")  # what boto3 itself takes is loaded then
        content = bytes(size)
        acts: tuple[tuple[Callable[[], object], float], ...] = (
            (lambda: store.put("packs/ab/abcd", content), 0.1),
            (lambda: store.get_range("packs/ab/abcd", 0, 1), 0.1),
            (lambda: store.get("packs/ab/abcd"), 1.3),
            (lambda: store.get_range("packs/ab/abcd", 0, size), 1.3),
        )
        for act, limit in acts:
            tracemalloc.start()
            act()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < limit * size
