"""copy_file_range(2), which `cp` uses: bytes that a commit has are not moved."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

SIZE = 20_000_000


@pytest.fixture
def committed(mounted: Mounted) -> Path:
    """A large committed file."""
    path = mounted.path / "data" / "main" / "big"
    path.write_bytes(os.urandom(SIZE))
    mounted.run("commit", "data/main")
    return path


def copied(source: Path, target: Path, size: int, offset: int = 0) -> int:
    """Copy with the system call; how many bytes in how many calls."""
    source_fd, target_fd = os.open(source, os.O_RDONLY), os.open(target, os.O_WRONLY | os.O_CREAT)
    try:
        done = calls = 0
        while done < size:
            got = os.copy_file_range(source_fd, target_fd, size - done, offset + done, offset + done)
            if not got:
                break
            done, calls = done + got, calls + 1
        return calls
    finally:
        os.close(source_fd)
        os.close(target_fd)


def staged(mounted: Mounted) -> int:
    return int(mounted.facts("status")["staging"]["used"])


def test_cp_of_a_committed_file_moves_no_bytes(mounted: Mounted, committed: Path) -> None:
    target = committed.with_name("copy")
    before = staged(mounted)
    subprocess.run(["cp", committed, target], check=True)
    assert staged(mounted) == before
    assert target.read_bytes() == committed.read_bytes()
    mounted.run("commit", "data/main")
    assert target.read_bytes() == committed.read_bytes()
    assert target.stat().st_ino != committed.stat().st_ino


def test_a_snapshot_is_copied_back_in_one_call(mounted: Mounted, committed: Path) -> None:
    data = committed.read_bytes()
    committed.write_bytes(b"spoiled")
    mounted.run("commit", "data/main")
    (mounted.path / "other").mkdir()
    target = mounted.path / "other" / "main" / "big"
    assert copied(mounted.path / "data" / "main@~1" / "big", target, SIZE) == 1
    assert target.read_bytes() == data


def test_a_copy_goes_its_own_way(mounted: Mounted, committed: Path) -> None:
    data, target = committed.read_bytes(), committed.with_name("copy")
    assert copied(committed, target, SIZE) == 1
    with target.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    mounted.run("commit", "data/main")
    assert committed.read_bytes() == data
    assert target.read_bytes() == data[:1_000_000] + b"changed" + data[1_000_007:]


def test_a_copy_in_pieces_and_of_a_part(mounted: Mounted, committed: Path) -> None:
    data, target = committed.read_bytes(), committed.with_name("copy")
    copied(committed, target, 5_000_001)
    copied(committed, target, 7_000_000, offset=5_000_001)
    assert target.read_bytes() == data[:12_000_001]
    mounted.run("commit", "data/main")
    assert target.read_bytes() == data[:12_000_001]


def test_what_cannot_be_shared_is_copied(mounted: Mounted, committed: Path) -> None:
    """Over bytes that are there, from another place, and from a file that no commit has."""
    data, folder = committed.read_bytes(), committed.parent
    there = folder / "there"
    there.write_bytes(b"x" * 3_000_000)
    copied(committed, there, 2_500_000)
    assert there.read_bytes() == data[:2_500_000] + b"x" * 500_000
    source_fd, target_fd = os.open(committed, os.O_RDONLY), os.open(folder / "moved", os.O_WRONLY | os.O_CREAT)
    assert os.copy_file_range(source_fd, target_fd, 100, 17, 0) == 100
    os.close(source_fd)
    os.close(target_fd)
    assert (folder / "moved").read_bytes() == data[17:117]
    fresh = folder / "fresh"
    fresh.write_bytes(data[:4_000_000])
    subprocess.run(["cp", fresh, folder / "again"], check=True)
    assert (folder / "again").read_bytes() == data[:4_000_000]


def test_a_closed_copy_survives_kill_9(mounted: Mounted, committed: Path) -> None:
    data = committed.read_bytes()
    mounted.run("commit", "start", "data/main")
    subprocess.run(["cp", committed, committed.with_name("copy")], check=True)
    mounted.kill()
    mounted.mount()
    assert committed.with_name("copy").read_bytes() == data
    mounted.run("commit", "finish", "data/main")
    assert committed.with_name("copy").read_bytes() == data
