"""`vfsd cache` on a real bucket: what it says, brings and drops, also beside a daemon; on a directory, one line."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.daemon.program import Program
from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from tests.stores import make_store

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def program(tmp_path: Path, s3_url: str) -> Program:
    """A bucket with 6 MiB in 60 files and one, and a cache of 16 MiB."""
    vfsd = Program(tmp_path)
    vfsd.environ["VFSD_STORE"] = s3_url
    vfsd.file("config.toml", 'author = "tester@here"\ncache_disk = "16 MiB"\n')
    make_store(s3_url)
    vfsd.ok("repo", "create", "data")
    dice = random.Random(0)
    for number in range(60):
        vfsd.file(f"folder/small/{number:02}", dice.randbytes(50 * KIB))
    vfsd.file("folder/large", dice.randbytes(3 * MIB))
    vfsd.ok("put", str(tmp_path / "folder"), "data/main/")
    return vfsd


def test_a_cache_is_empty_then_warm_then_empty_again(program: Program) -> None:
    before = program.ok("cache", "status", "--json").json
    assert (before["used"], before["segments"], before["blocks"], before["hit_rate"]) == (0, 0, 0, None)
    assert before["limit"] == 16 * MIB and before["free"] > 0
    warm = program.ok("cache", "warm", "data/main", "--json").json
    size = 60 * 50 * KIB + 3 * MIB
    assert (warm["size"], warm["brought"]) == (size, size)
    assert warm["requests"] <= 3, "by the pack, not by the file"
    held = program.ok("cache", "status", "--json").json
    assert (held["used"], held["blocks"]) == (size, warm["chunks"])
    assert held["folder"].startswith(program.environ["VFSD_CACHE_DIR"])
    again = program.ok("cache", "warm", "data/main/folder/small", "--json").json
    assert (again["size"], again["brought"], again["requests"]) == (60 * 50 * KIB, 0, 0)
    dropped = program.ok("cache", "drop", "--json").json
    assert dropped == {"used": size, "segments": held["segments"], "blocks": held["blocks"]}
    assert program.ok("cache", "status", "--json").json["used"] == 0
    assert not any(os.path.isfile(path) for path in Path(held["folder"]).rglob("*"))


def test_what_is_said_is_for_people(program: Program) -> None:
    (line,) = program.ok("cache", "warm", "data/main/folder/large").lines
    assert line.startswith("data/main/folder/large: 3.0 MiB in ") and " came now, with " in line
    (line,) = program.ok("cache", "warm", "data/main/folder/large").lines
    assert line.endswith("are in the cache already")
    lines = dict(line.split(maxsplit=1) for line in program.ok("cache", "status").lines)
    assert lines["used"] == "3.0 MiB of 16.0 MiB"
    (line,) = program.ok("cache", "drop").lines
    assert line.startswith("dropped 3.0 MiB in ")


def test_what_is_larger_than_the_cache_is_refused_in_one_line(program: Program) -> None:
    program.file("config.toml", 'author = "tester@here"\ncache_disk = "4 MiB"\n')
    done = program("cache", "warm", "data/main")
    assert done.code == 1
    assert done.error == (
        "data/main holds 5.9 MiB, and the cache has room for 2.5 MiB: name a part of it, or raise cache_disk"
    )
    assert program.ok("cache", "status", "--json").json["used"] == 0
    assert program("cache", "warm", "data/none").code == 1
    assert program("cache", "warm", "data/main/none").error == "data/main: there is no none"


def test_a_daemon_reads_what_was_warmed_beside_it_and_goes_on_after_a_drop(s3_url: str, tmp_path: Path) -> None:
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    node = Mounted(tmp_path, s3_url)
    make_store(s3_url)
    node.run("repo", "create", "data")
    large, other = (random.Random(seed).randbytes(8 * MIB) for seed in (1, 2))
    for name, content in (("large", large), ("other", other)):
        (tmp_path / name).write_bytes(content)
        node.run("put", str(tmp_path / name), f"data/main/{name}")
    node.mount()
    try:
        assert node.facts("cache", "warm", "data/main/large")["brought"] == 8 * MIB
        assert (node.path / "data/main/large").read_bytes() == large
        wait_for(lambda: node.facts("cache", "status")["hit_rate"] == 1.0)
        assert node.facts("cache", "drop")["used"] == 8 * MIB
        assert (node.path / "data/main/other").read_bytes() == other
        assert node.facts("cache", "status")["used"] >= 8 * MIB
        wait_for(lambda: node.facts("cache", "status")["hit_rate"] < 0.9)
    finally:
        node.close()


def test_on_a_local_store_there_is_no_cache_and_one_line_says_so(tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.ok("init")
    program.ok("repo", "create", "data")
    program.put("data/main/a", "a")
    for words in (["status"], ["warm", "data/main"], ["drop"]):
        (line,) = program.ok("cache", *words).lines
        assert line == f"file://{program.store} is on this machine: its own files are read, and nothing is cached"
    assert program.ok("cache", "status", "--json").json["folder"] is None
    assert program.ok("cache", "warm", "data/main", "--json").json["brought"] == 0
