"""Every kind of store keeps the contract of `vfsd.store.api`."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import BUCKET, S3Server
from tests.store.conformance import ObjectStoreConformance
from vfsd.store import ObjectStore
from vfsd.store.api import Buffer, ETag
from vfsd.store.counting import CountingStore
from vfsd.store.faulty import FaultyStore
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.own_conditions import OwnConditions
from vfsd.store.s3 import S3Store


class TestLocalStore(ObjectStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[ObjectStore]:
        with closing(LocalStore(str(tmp_path / "store"))) as store:
            yield store


class TestMemoryStore(ObjectStoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestFaultyStoreWithoutFaults(ObjectStoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return FaultyStore(CountingStore(MemoryStore()))


class Careless(MemoryStore):
    """What some S3 servers make of conditions."""

    def put_if_absent(self, key: str, data: Buffer) -> ETag:
        return self.put(key, data)

    def put_if_match(self, key: str, data: Buffer, etag: ETag) -> ETag:
        return self.put(key, data)


class TestOwnConditions(ObjectStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return OwnConditions(Careless(), str(tmp_path / "locks"))


class TestS3StoreOnMoto(ObjectStoreConformance):
    @pytest.fixture
    def store(self, moto: S3Server, s3_credentials: None) -> Iterator[ObjectStore]:
        with closing(S3Store(BUCKET, secrets.token_hex(8), moto.endpoint)) as store:
            yield store


class TestS3StoreOnSeaweedFS(ObjectStoreConformance):
    keeps_empty_folders = True

    @pytest.fixture
    def store(self, seaweedfs: S3Server, s3_credentials: None) -> Iterator[ObjectStore]:
        with closing(S3Store(BUCKET, secrets.token_hex(8), seaweedfs.endpoint)) as store:
            yield store
