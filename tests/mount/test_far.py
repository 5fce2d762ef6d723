"""A store that is far away: what will be read next is here before it is asked for."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import servers
from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from tests.proxy import Mishap, Options, Proxy, proxy_to
from tests.stores import make_store

MIB = 1 << 20


class Filled(NamedTuple):
    """A store, and what was put into it under data/main/set."""

    url: str
    source: Path


@pytest.fixture(scope="module")
def filled(seaweedfs: servers.S3Server, tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A store that has two directories of 20 files of 1 MiB, more than one pack, and a large file."""
    folder = tmp_path_factory.mktemp("far")
    dice = random.Random(7)
    for name in ("a", "b"):
        (folder / "source" / name).mkdir(parents=True)
        for number in range(20):
            (folder / "source" / name / f"{number:02}").write_bytes(dice.randbytes(MIB))
    (folder / "source" / "large").write_bytes(dice.randbytes(50 * MIB))
    found = Filled(f"s3://{servers.BUCKET}/{secrets.token_hex(8)}", folder / "source")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (servers.CREDENTIALS | {"VFSD_S3_ENDPOINT": seaweedfs.endpoint}).items():
            patch.setenv(name, value)
        first = Mounted(folder / "first", found.url)
        make_store(found.url)
        first.run("repo", "create", "data")
        first.run("put", found.source, "data/main/set")
    return found


@pytest.fixture
def proxy(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Between the node and its store."""
    assert s3_url
    with proxy_to(os.environ["VFSD_S3_ENDPOINT"]) as running:
        monkeypatch.setenv("VFSD_S3_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture
def fresh(proxy: Proxy, filled: Filled, tmp_path: Path) -> Iterator[Mounted]:
    """A node that has seen nothing of the store yet."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    node = Mounted(tmp_path / "fresh", filled.url)
    node.mount()
    yield node
    proxy.set(Options())
    node.close()


@pytest.fixture
def top(fresh: Mounted) -> Path:
    """The set, as a fresh node shows it."""
    return fresh.path / "data" / "main" / "set"


def is_quiet(proxy: Proxy, least: int) -> bool:
    """Whether so many bytes have come, and none for as long as many answers take."""
    before = received(proxy)
    if before < least:
        return False
    time.sleep(1)
    return received(proxy) == before


def received(proxy: Proxy) -> int:
    """Bytes of packs that came so far."""
    return proxy.counts().of("GET", "packs").down


def test_files_that_are_read_in_order_are_here_before_they_are_opened(top: Path, proxy: Proxy, filled: Filled) -> None:
    names = [f"{folder}/{number:02}" for folder in ("a", "b") for number in range(20)]
    for name in names[:24]:
        assert (top / name).stat().st_size == MIB
        (top / name).read_bytes()
    wait_for(lambda: is_quiet(proxy, len(names) * MIB))
    proxy.set(Options(mishaps={Mishap.DROP: 1.0}))
    for name in names:
        assert (top / name).read_bytes() == (filled.source / name).read_bytes()


def test_a_large_file_comes_in_large_requests(top: Path, proxy: Proxy, filled: Filled) -> None:
    assert len(os.listdir(top)) == 3
    proxy.reset()
    assert (top / "large").read_bytes() == (filled.source / "large").read_bytes()
    counts = proxy.counts().of("GET", "packs")
    assert counts.down >= 50 * MIB
    assert counts.requests <= 25


def test_a_file_here_and_there_is_read_alone(top: Path, proxy: Proxy) -> None:
    assert len(os.listdir(top / "b")) == 20
    proxy.reset()
    (top / "b" / "13").read_bytes()
    assert received(proxy) < 3 * MIB


def test_a_large_file_is_on_its_way_before_it_is_closed(fresh: Mounted, proxy: Proxy, tmp_path: Path) -> None:
    """Also one whose writer goes back to its beginning, as those do that write a length there in the end."""
    data, target = os.urandom(100 * MIB), fresh.path / "more" / "main" / "f"
    target.parent.parent.mkdir()
    with target.open("wb", buffering=0) as file:
        for at in range(0, 80 * MIB, MIB):
            file.write(data[at : at + MIB])
        wait_for(lambda: proxy.counts().of("PUT", "packs").up > 32 * MIB)
        for at in range(80 * MIB, 100 * MIB, MIB):
            file.write(data[at : at + MIB])
        file.seek(0)
        file.write(b"length")
    fresh.run("commit", "more/main")
    assert proxy.counts().of("PUT", "packs").up < 105 * MIB, "what was sent early is not sent again"
    fresh.run("get", "more/main/f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"length" + data[6:]
