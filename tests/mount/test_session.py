"""What is agreed with the kernel: the amended answer to FUSE_INIT, and what it brings."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from vfsd.serve.fuse.session import MAX_BACKGROUND, READ_AHEAD, WANTED, amended

AUTO_INVAL_DATA, EXPLICIT_INVAL_DATA = 1 << 12, 1 << 25
words = st.integers(0, (1 << 32) - 1)


def question(flags: int) -> bytes:
    return bytes(40) + struct.pack("=IIII", 7, 44, 1 << 17, flags) + bytes(48)


def answer(flags: int, error: int = 0) -> bytes:
    body = struct.pack("=IIIIHHI", 7, 31, 1 << 17, flags, 0, 0, 1 << 20) + bytes(36)
    return struct.pack("=IiQ", 16 + len(body), error, 77) + body


@given(offered=words, flags=words)
def test_only_what_the_kernel_offers_is_added(offered: int, flags: int) -> None:
    before = answer(flags)
    after = amended(question(offered), before)
    ahead, now, background = struct.unpack_from("=IIH", after, 16 + 8)
    assert ahead == READ_AHEAD
    assert now & WANTED == (flags | offered) & WANTED
    assert not (now & EXPLICIT_INVAL_DATA and now & AUTO_INVAL_DATA)
    assert background == MAX_BACKGROUND
    assert (after[:24], after[36:]) == (before[:24], before[36:])


@given(data=st.binary(max_size=60))
def test_a_refusal_or_something_else_passes_as_it_is(data: bytes) -> None:
    assert amended(question(WANTED), answer(0, -71)) == answer(0, -71)
    assert amended(data[:30], answer(0)) == answer(0)
    assert amended(question(WANTED), data[:20]) == data[:20]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have the kernel read further ahead")
def test_the_kernel_reads_as_far_ahead_as_it_is_told(mounted: Mounted) -> None:
    assert (mounted.path / "data").is_dir()  # answered, so the handshake is behind us
    number = os.stat(mounted.path).st_dev
    allowed = Path(f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb").read_text()
    assert int(allowed) == READ_AHEAD >> 10


@pytest.fixture
def script(mounted: Mounted) -> Path:
    path = mounted.path / "data" / "main" / "script"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o6755)
    return path


def test_writing_takes_the_set_user_id_bits_away(script: Path) -> None:
    assert script.stat().st_mode & 0o7777 == 0o6755
    with script.open("a") as file:
        file.write("true\n")
    assert script.stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(("mode", "after"), [(0o6755, 0o755), (0o6745, 0o2745), (0o1755, 0o1755)])
def test_another_owner_takes_them_away_too(script: Path, mode: int, after: int) -> None:
    script.chmod(mode)
    os.chown(script, 65534, 65534)
    assert script.stat().st_mode & 0o7777 == after


def test_a_directory_keeps_its_bits_with_another_owner(script: Path) -> None:
    folder = script.parent / "folder"
    folder.mkdir()
    folder.chmod(0o6755)
    os.chown(folder, 65534, 65534)
    assert folder.stat().st_mode & 0o7777 == 0o6755


def test_what_another_node_commits_replaces_pages_that_the_kernel_holds(
    mounted: Mounted, script: Path, tmp_path: Path
) -> None:
    """One descriptor stays open, so that nothing but the notification can bring the new bytes."""
    mounted.run("commit", "data/main")
    with script.open() as file:
        assert file.read() == "#!/bin/sh\n"
        (tmp_path / "new").write_text("#!/bin/no\n")
        mounted.run("put", tmp_path / "new", "data/main/script")

        def again() -> str:
            file.seek(0)
            return file.read()

        wait_for(lambda: again() == "#!/bin/no\n")
