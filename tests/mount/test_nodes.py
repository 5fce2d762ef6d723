"""Two nodes on one bucket: what one commits shows up at the other, and nothing more than that; answers get lost."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from tests.proxy import Mishap, Proxy, proxy_to
from tests.servers import S3Server
from tests.stores import make_store
from vfsd.store.open import open_store

PAGE = mmap.PAGESIZE
commits_when_it_is_quiet = pytest.mark.parametrize("quiet_s", [1.0], ids=[""])


class Pair:
    """Two mounted nodes. The first one speaks to the server through `proxy`, the second does not."""

    def __init__(self, one: Mounted, two: Mounted, proxy: Proxy) -> None:
        self.one = one
        self.two = two
        self.proxy = proxy

    @property
    def branches(self) -> tuple[Path, Path]:
        return self.one.path / "data/main", self.two.path / "data/main"


@pytest.fixture
def pair(seaweedfs: S3Server, s3_url: str, tmp_path: Path, quiet_s: float) -> Iterator[Pair]:
    """The branch data/main is there. quiet_s: of the first one."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(seaweedfs.endpoint))
        nodes = Mounted(tmp_path / "one", s3_url, quiet_s=quiet_s), Mounted(tmp_path / "two", s3_url)
        del nodes[0].environ["VFSD_S3_ENDPOINT"]
        with (nodes[0].folder / "config.toml").open("a") as file:
            file.write(f's3_endpoint = "{proxy.endpoint}"\n')
        make_store(s3_url)
        nodes[1].run("repo", "create", "data")
        for node in nodes:
            stack.callback(node.close)
            node.mount()
        yield Pair(*nodes, proxy)


def history(node: Mounted) -> list[str]:
    """Ids of the branch's commits, the newest first."""
    return [row["id"] for row in node.facts("log", "data/main")]


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file, kept open."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as area:
        yield area


def cached_pages(area: mmap.mmap) -> int:
    """How many pages of a mapped file the kernel has."""
    count = (len(area) + PAGE - 1) // PAGE
    found = (ctypes.c_ubyte * count)()
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(area)), found) == 0, os.strerror(ctypes.get_errno())
    return sum(page & 1 for page in found)


@pytest.mark.parametrize("writer", [0, 1])
def test_a_commit_elsewhere_shows_up_and_only_what_changed_leaves_the_kernels_cache(pair: Pair, writer: int) -> None:
    here, there = (pair.one, pair.two) if writer == 0 else (pair.two, pair.one)
    mine, theirs = here.path / "data/main", there.path / "data/main"
    for name in ("changed", "unchanged"):
        (mine / name).write_bytes(os.urandom(16 * PAGE))
    here.run("commit", "data/main")
    wait_for(lambda: sorted(os.listdir(theirs)) == ["changed", "unchanged"])
    with mapped(theirs / "changed") as changed, mapped(theirs / "unchanged") as unchanged:
        for area in (changed, unchanged):
            assert len(area.read()) == 16 * PAGE
            assert cached_pages(area) == 16
        new = os.urandom(16 * PAGE)
        (mine / "changed").write_bytes(new)
        (mine / "new").write_bytes(b"new")
        here.run("commit", "data/main")
        wait_for((theirs / "new").exists)
        wait_for(lambda: cached_pages(changed) == 0)
        assert cached_pages(unchanged) == 16
    assert (theirs / "changed").read_bytes() == new


def test_writers_of_one_path_on_two_nodes_all_get_in(pair: Pair) -> None:
    written = []
    for number in range(4):
        for name, branch in zip(("one", "two"), pair.branches, strict=True):
            text = f"{name} {number}"
            (branch / "same").write_text(text)
            written.append(text)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda node: node.run("commit", "data/main"), (pair.one, pair.two)))
    last = history(pair.two)[0]
    end = (pair.two.path / f"data/main@{last}/same").read_text()
    for branch in pair.branches:
        wait_for(lambda: (branch / "same").read_text() == end)  # noqa: B023
    kept = [(pair.two.path / f"data/main@{commit}/same").read_text() for commit in history(pair.two)]
    assert sorted(kept) == sorted(written)


def test_a_lost_answer_makes_no_second_commit(pair: Pair, s3_url: str) -> None:
    mine, theirs = pair.branches
    for number in range(3):
        (mine / f"file{number}").write_text(str(number))
        pair.proxy.expect(Mishap.LOSE, method="PUT", kind="refs")
        made = pair.one.run("commit", "data/main").stdout.strip()
        assert pair.proxy.counts().mishaps[Mishap.LOSE] == number + 1
        assert history(pair.two)[0].startswith(made)
    assert len(history(pair.two)) == 3
    store = open_store(s3_url)
    assert len(list(store.list("commits/"))) == 3
    store.close()
    wait_for(lambda: sorted(os.listdir(theirs)) == ["file0", "file1", "file2"])


def test_a_branch_that_cannot_be_followed_at_once_is_followed_later(pair: Pair) -> None:
    pair.one.umount()
    with (pair.one.folder / "config.toml").open("a") as file:
        file.write("s3_retry_s = 0.3\n")
    pair.one.mount()
    mine, theirs = pair.branches
    assert os.listdir(mine) == []
    pair.proxy.expect(Mishap.DROP, method="GET", kind="commits", times=10)
    (theirs / "file").write_text("two")
    pair.two.run("commit", "data/main")
    wait_for((mine / "file").exists)
    assert pair.proxy.counts().mishaps == {Mishap.DROP: 10}
    assert "cannot follow" in pair.one.log()


def lose_a_commit(pair: Pair) -> None:
    """The first node writes `file` and makes a commit that the second one sees, and never hears of it."""
    pair.proxy.expect(Mishap.LOSE, method="PUT", kind="refs")
    pair.proxy.expect(Mishap.DROP, method="PUT", kind="refs", times=50)
    (pair.branches[0] / "file").write_text("one")
    wait_for((pair.branches[1] / "file").exists)
    (pair.branches[1] / "file").write_text("two")
    pair.two.run("commit", "data/main")


@commits_when_it_is_quiet
def test_a_commit_that_was_made_and_given_up_is_not_made_again_over_a_later_one(pair: Pair) -> None:
    pair.one.umount()
    with (pair.one.folder / "config.toml").open("a") as file:
        file.write("s3_retry_s = 1\n")
    pair.one.mount()
    lose_a_commit(pair)
    for branch in pair.branches:
        wait_for(lambda: (branch / "file").read_text() == "two")  # noqa: B023
    assert len(history(pair.two)) == 2


@commits_when_it_is_quiet
def test_a_commit_that_was_made_when_the_daemon_was_killed_is_not_made_again_over_a_later_one(pair: Pair) -> None:
    lose_a_commit(pair)
    pair.one.kill()  # while it tries again
    pair.one.mount()
    assert (pair.branches[0] / "file").read_text() == "two"
    assert len(history(pair.two)) == 2
