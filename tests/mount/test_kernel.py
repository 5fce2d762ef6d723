"""What is agreed with the kernel: the answer to FUSE_INIT, and what it brings."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from vfsd.serve.fuse import protocol
from vfsd.serve.fuse.channel import READ_AHEAD

words = st.integers(0, (1 << 32) - 1)


@given(offered=words, minor=st.integers(protocol.OLDEST_MINOR, 99))
def test_nothing_is_agreed_that_the_kernel_does_not_offer(offered: int, minor: int) -> None:
    question = struct.pack("=IIII", 7, minor, 1 << 17, offered) + bytes(48)
    answer = protocol.answer_init(question, readahead=4 << 20, max_background=64, max_write=1 << 20)
    assert len(answer) == 64
    major, spoken, ahead, agreed, background, congestion, write = struct.unpack_from("=IIIIHHI", answer)
    assert (major, ahead, background, write) == (7, 4 << 20, 64, 1 << 20)
    assert spoken <= minor
    assert congestion <= background
    assert agreed & ~offered == 0


@pytest.mark.parametrize("version", [(6, 99), (7, 8), (7, protocol.OLDEST_MINOR - 1)])
def test_a_kernel_that_is_too_old_is_told_apart(version: tuple[int, int]) -> None:
    with pytest.raises(protocol.Unsupported, match=r"7\.31 or later is needed"):
        protocol.answer_init(struct.pack("=IIII", *version, 0, 0), readahead=0, max_background=1, max_write=4096)


times = st.integers(-(1 << 62), 1 << 62)


@given(atime=times, mtime=times, ctime=times)
def test_times_before_1970_are_whole_seconds_and_nanoseconds_after_them(atime: int, mtime: int, ctime: int) -> None:
    fields = protocol.ATTR.unpack(protocol.attr(2, stat.S_IFREG, 1, 0, 0, 0, 0, atime, mtime, ctime))
    for ns, seconds, rest in zip((atime, mtime, ctime), fields[3:6], fields[6:9], strict=True):
        assert 0 <= rest < 1_000_000_000
        assert seconds * 1_000_000_000 + rest == ns


@given(name=st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_names_of_a_directory_stand_on_eight_bytes(name: bytes) -> None:
    packed = protocol.dirent(name, 7, 3, stat.S_IFDIR)
    assert len(packed) % 8 == 0
    inode, position, length, kind = struct.unpack_from("=QQII", packed)
    assert (inode, position, packed[24 : 24 + length], kind) == (7, 3, name, 4)


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


def test_an_attribute_is_made_or_replaced_as_it_is_asked_for(mounted: Mounted) -> None:
    path = mounted.path / "data" / "main" / "file"
    path.write_text("x")
    with pytest.raises(OSError) as missing:
        os.setxattr(path, "user.a", b"1", os.XATTR_REPLACE)
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    with pytest.raises(OSError) as there:
        os.setxattr(path, "user.a", b"2", os.XATTR_CREATE)
    os.setxattr(path, "user.a", b"3", os.XATTR_REPLACE)
    assert (missing.value.errno, there.value.errno) == (errno.ENODATA, errno.EEXIST)
    assert (os.listxattr(path), os.getxattr(path, "user.a")) == (["user.a"], b"3")


def test_a_long_answer_comes_whole_whoever_else_asks(mounted: Mounted) -> None:
    """Many readers and writers at once: each gets its own bytes."""
    folder = mounted.path / "data" / "main"
    wrong: list[int] = []

    def work(number: int) -> None:
        path = folder / f"f{number}"
        data = bytes([number]) * (3_000_000 + number)
        path.write_bytes(data)
        if path.read_bytes() != data:
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_listing_of_a_snapshot_is_the_same_each_time(mounted: Mounted) -> None:
    """The kernel keeps it; the live branch's own changes."""
    folder = mounted.path / "data" / "main"
    for number in range(300):
        (folder / f"{number:03}").touch()
    mounted.run("commit", "data/main")
    commit = os.getxattr(mounted.path / "data" / "main@~0", "user.vfsd.commit").decode()
    snapshot = mounted.path / "data" / f"main@{commit}"
    first = os.listdir(snapshot)
    (folder / "299").unlink()
    (folder / "more").touch()
    mounted.run("commit", "data/main")
    assert os.listdir(snapshot) == first == [f"{number:03}" for number in range(300)]
    assert sorted(os.listdir(folder)) == [*first[:-1], "more"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_allow_root_keeps_others_out(node: Mounted) -> None:
    """Root and the one who mounted are the same here; anybody else is refused."""
    node.mount("-o", "allow_root")
    look = [sys.executable, "-c", "import os, sys; os.setuid(65534); os.stat(sys.argv[1])", f"{node.path}/data"]
    (node.path / "data").mkdir()
    done = subprocess.run(look, capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stderr
    assert os.listdir(node.path) == ["data"]
