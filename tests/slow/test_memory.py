"""A daemon keeps to some memory, however much passes through it."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.servers import S3Server

pytestmark = pytest.mark.slow
MIB = 1 << 20
SIZE = 1024 * MIB
MOST = 600 * MIB  # 256 MiB of chunks, as many on their way, and the daemon itself


def test_a_daemon_that_reads_a_file_larger_than_its_cache_keeps_to_its_memory(
    seaweedfs: S3Server, s3_url: str, tmp_path: Path
) -> None:
    with closing(Mounted(tmp_path / "node", s3_url)) as node:
        node.environ["VFSD_S3_ENDPOINT"] = seaweedfs.endpoint
        node.run("init")
        node.run("repo", "create", "data")
        with (tmp_path / "large").open("wb") as file:
            for _ in range(SIZE // (16 * MIB)):
                file.write(os.urandom(16 * MIB))
        node.run("put", tmp_path / "large", "data/main/large", timeout=600)
        node.mount()
        with (node.path / "data/main/large").open("rb", buffering=0) as read:
            while read.read(MIB):
                pass
        (line,) = [line for line in Path(f"/proc/{node.pid}/status").read_text().splitlines() if "VmHWM" in line]
        assert int(line.split()[1]) << 10 < MOST
