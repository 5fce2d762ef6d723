"""The bound on what waits for its commit: writers are slowed down, then told at `write`, and nothing closed is lost."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted

MIB = 1 << 20


@pytest.fixture
def small(node: Mounted) -> Mounted:
    """A mount whose staging area holds 8 MiB, and which commits by itself only when it has to."""
    config = Path(node.environ["VFSD_CONFIG"])
    config.write_text('quiet_s = 1000\nmax_wait_s = 1000\nstaging_disk = "8MiB"\n')
    node.mount()
    (node.path / "data").mkdir()
    return node


def test_more_than_the_limit_can_be_written_as_long_as_commits_give_room(small: Mounted) -> None:
    top = small.path / "data" / "main"
    contents = {f"{number:02}": os.urandom(MIB) for number in range(30)}
    for name, content in contents.items():
        (top / name).write_bytes(content)
    assert {name: (top / name).read_bytes() for name in contents} == contents
    assert small.facts("status")["staging"]["used"] <= 8 * MIB
    small.run("commit", "data/main")
    assert (small.path / "data/main@~0/07").read_bytes() == contents["07"]


def test_small_files_give_their_room_back_when_they_are_committed(small: Mounted) -> None:
    """They share files, which are not kept for what may come."""
    top = small.path / "data" / "main"
    for round_ in range(3):
        for number in range(50):
            (top / f"{round_}-{number}").write_bytes(os.urandom(100_000))
        small.run("commit", "data/main")
        assert small.facts("status")["staging"]["used"] < 2 * MIB


def test_more_files_can_be_written_than_may_be_open(node: Mounted) -> None:
    Path(node.environ["VFSD_CONFIG"]).write_text("quiet_s = 1000\nmax_wait_s = 1000\n")
    node.run("mount", node.path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 256)))
    (node.path / "data").mkdir()
    content = os.urandom(140_000)
    for number in range(400):
        (node.path / f"data/main/{number}").write_bytes(content)
    node.run("commit", "data/main")
    assert len(os.listdir(node.path / "data/main@~0")) == 400


def test_what_no_commit_can_give_room_for_is_refused_at_write(small: Mounted) -> None:
    top = small.path / "data" / "main"
    (top / "closed").write_bytes(b"closed")
    with open(top / "large", "wb", buffering=0) as file:
        with pytest.raises(OSError) as refused:
            file.writelines(bytes(MIB) for _ in range(20))
        assert refused.value.errno == errno.ENOSPC
        written = file.tell()
    assert 6 * MIB < written <= 8 * MIB
    assert (top / "large").read_bytes() == bytes(written)  # closed without an error, as far as it was written
    assert "raise staging_disk" in small.log()
    (top / "large").unlink()
    (top / "more").write_bytes(bytes(4 * MIB))
    small.umount()
    small.mount()
    assert {path.name: path.stat().st_size for path in top.iterdir()} == {"closed": 6, "more": 4 * MIB}


def test_a_transaction_keeps_its_room(small: Mounted) -> None:
    """It may not be committed, so it cannot give room either."""
    top = small.path / "data" / "main"
    small.run("commit", "start", "data/main")
    with pytest.raises(OSError) as refused:
        for number in range(20):
            (top / f"{number}").write_bytes(bytes(MIB))
    assert refused.value.errno == errno.ENOSPC
    small.run("commit", "finish", "data/main")
    (top / "after").write_bytes(bytes(4 * MIB))
    assert (top / "after").stat().st_size == 4 * MIB


def test_an_aborted_transaction_gives_its_room_back(small: Mounted) -> None:
    """That of what is open once it is closed."""
    top = small.path / "data" / "main"
    for _ in range(3):
        small.run("commit", "start", "data/main")
        with open(top / "open", "wb") as file:
            file.write(bytes(2 * MIB))
            (top / "closed").write_bytes(bytes(4 * MIB))
            small.run("commit", "abort", "data/main")
            assert small.facts("status")["staging"]["used"] < 3 * MIB
        (top / "kept").write_bytes(b"kept")
        small.run("commit", "data/main")
    assert small.facts("status")["staging"]["used"] < MIB
    descriptors = [os.readlink(path) for path in Path(f"/proc/{small.pid}/fd").iterdir()]
    assert not [path for path in descriptors if "/staging/f" in path]


def test_status_says_how_much_waits(small: Mounted) -> None:
    (small.path / "data/main/a").write_bytes(bytes(3 * MIB))
    facts = small.facts("status")["staging"]
    assert facts["limit"] == 8 * MIB
    assert 3 * MIB <= facts["used"] < 4 * MIB
    assert "of 8.0 MiB" in small.run("status").stdout
