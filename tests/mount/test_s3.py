"""The same over a real S3 server, and two nodes on one bucket."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from tests.stores import make_store


@pytest.fixture
def nodes(s3_url: str, tmp_path: Path) -> Iterator[tuple[Mounted, Mounted]]:
    """Two nodes with state of their own, mounted over one store."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    pair = Mounted(tmp_path / "one", s3_url), Mounted(tmp_path / "two", s3_url)
    make_store(s3_url)
    try:
        for node in pair:
            node.mount()
        yield pair
    finally:
        for node in pair:
            node.close()


def test_two_nodes_see_each_others_commits_and_keep_both_writes(nodes: tuple[Mounted, Mounted]) -> None:
    one, two = nodes
    (one.path / "data").mkdir()
    wait_for((two.path / "data/main").exists)
    (one.path / "data/main/from-one").write_text("1")
    (two.path / "data/main/from-two").write_text("2")
    for node in nodes:
        node.run("commit", "data/main")
    for node in nodes:
        wait_for(lambda: sorted(os.listdir(node.path / "data/main")) == ["from-one", "from-two"])  # noqa: B023
        assert (node.path / "data/main/from-one").read_text() == "1"
        assert (node.path / "data/main/from-two").read_text() == "2"
    (one.path / "data/main/from-two").write_text("changed by one")
    one.run("commit", "data/main")
    wait_for(lambda: (two.path / "data/main/from-two").read_text() == "changed by one")


def test_a_node_that_lost_its_disk_reads_everything_from_the_bucket(nodes: tuple[Mounted, Mounted]) -> None:
    node = nodes[0]
    (node.path / "data").mkdir()
    content = os.urandom(20 << 20)
    (node.path / "data/main/large").write_bytes(content)
    for number in range(300):
        (node.path / f"data/main/small{number:03}").write_text(str(number))
    node.umount()
    shutil.rmtree(node.folder / "state")
    shutil.rmtree(node.folder / "cache")
    node.mount()
    assert (node.path / "data/main/large").read_bytes() == content
    assert len(os.listdir(node.path / "data/main")) == 301
    assert (node.path / "data/main/small299").read_text() == "299"
    found = node.facts("index", "rebuild")
    assert found["problems"] == [] and found["commits"] == 1
