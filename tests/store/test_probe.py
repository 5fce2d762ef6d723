"""Stores that keep their conditions are told from those that ignore, half keep or refuse them."""

from __future__ import annotations

import secrets
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import BUCKET, S3Server
from vfsd.model.errors import Conflict, NotFound, Unavailable
from vfsd.store import Buffer, ETag, ObjectStore
from vfsd.store.faulty import FaultyStore, Request
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.probe import KEYS, WRITERS, probe_conditional_writes
from vfsd.store.s3 import S3Store


class IgnoresIfMatch(MemoryStore):
    """What `rclone serve s3` does with If-Match."""

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        return self.put(key, data)


class IgnoresIfNoneMatch(MemoryStore):
    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        return self.put(key, data)


class ChecksThenWrites(MemoryStore):
    """Looks first and writes then, as a server without locks does: right, but for races."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = threading.Barrier(KEYS * WRITERS)

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        try:
            self.stat(key)
        except NotFound:
            self._looked.wait(60)
            return self.put(key, data)
        raise Conflict(key)


class RefusesIfMatch(MemoryStore):
    """What an old Ceph does with an ETag in quotes."""

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        raise Conflict(key)


@pytest.fixture(params=["memory", "local", "moto"])
def honest(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(str(tmp_path))
    request.getfixturevalue("s3_credentials")
    server: S3Server = request.getfixturevalue("moto")
    return S3Store(BUCKET, secrets.token_hex(8), server.endpoint)


def test_a_store_that_keeps_its_conditions_may_be_shared(honest: ObjectStore) -> None:
    with closing(honest):
        result = probe_conditional_writes(honest)
        assert (result.created, result.swapped) == ((1,) * KEYS, (1,) * KEYS)
        assert result.shared
        assert result.usable
        assert list(honest.list()) == []


@pytest.mark.parametrize(
    ("store", "problems"),
    [
        (IgnoresIfMatch(), ["ignores If-Match"]),
        (IgnoresIfNoneMatch(), ["ignores If-None-Match: *"]),
        (ChecksThenWrites(), ["ignores If-None-Match: *"]),
        (RefusesIfMatch(), ["refuses every write with If-Match"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_store_that_does_not_is_recognised_and_the_condition_named(store: ObjectStore, problems: list[str]) -> None:
    result = probe_conditional_writes(store)
    assert not result.shared
    assert len(result.problems) == len(problems)
    for said, expected in zip(result.problems, problems, strict=True):
        assert expected in said
    assert result.usable == ("refuses" not in problems[0])
    assert list(store.list()) == []


def test_a_store_that_fails_is_not_judged_and_is_left_clean() -> None:
    def plan(request: Request) -> None:
        if request.kind == "put_if_match":
            raise Unavailable("down")

    store = FaultyStore(MemoryStore(), plan)
    with pytest.raises(Unavailable, match="down"):
        probe_conditional_writes(store)
    assert list(store.list()) == []
