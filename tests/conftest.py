"""Fixtures that several packages' tests share: real S3 servers, started once in a test run and only if asked for."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import servers

# The machine is shared: slow is not wrong. The examples are the same in each run; the slow suite draws others.
settings.register_profile("vfsd", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vfsd")


@pytest.fixture(scope="session")
def seaweedfs() -> Iterator[servers.S3Server]:
    """A SeaweedFS server with the bucket `servers.BUCKET`."""
    with servers.seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def moto() -> Iterator[servers.S3Server]:
    """A moto server with the bucket `servers.BUCKET`."""
    with servers.moto() as server:
        yield server


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' credentials in the environment, and nothing of the user's own."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "VFSD_S3_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in servers.CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3_url(seaweedfs: servers.S3Server, s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store on SeaweedFS; this process and its children find endpoint and credentials."""
    monkeypatch.setenv("VFSD_S3_ENDPOINT", seaweedfs.endpoint)
    return f"s3://{servers.BUCKET}/{secrets.token_hex(8)}"
