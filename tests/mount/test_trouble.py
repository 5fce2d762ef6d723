"""Bad input and bad luck: one clear line each, and nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.stores import make_store


def refused(mounted: Mounted, *words: str | Path) -> str:
    """The one line of a command that fails."""
    done = mounted.run(*words, check=False)
    assert done.returncode in {1, 2}
    assert done.stderr.startswith("vfsd: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_folder_that_is_no_store_is_not_mounted(node: Mounted, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a vfsd store" in refused(node, "--store", f"file://{tmp_path}/empty", "mount", node.path)
    assert not node.is_mounted()


def test_the_default_store_is_made_when_nobody_names_one(tmp_path: Path) -> None:
    node = Mounted(tmp_path)
    del node.environ["VFSD_STORE"]
    node.environ["XDG_DATA_HOME"] = str(tmp_path / "data")
    if os.geteuid() == 0:
        pytest.skip("root's default store is /var/lib/vfsd/store: a test does not write there")
    done = node.run("mount", node.path)
    try:
        assert f"file://{tmp_path}/data/vfsd/store" in done.stderr
    finally:
        node.close()


def test_a_mountpoint_in_use_is_refused_by_name(mounted: Mounted) -> None:
    assert "is in use" in refused(mounted, "mount", mounted.path)


def test_a_second_daemon_of_one_state_directory_is_refused(mounted: Mounted, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    assert "VFSD_STATE_DIR" in refused(mounted, "mount", tmp_path / "second")


def test_a_mountpoint_that_is_not_fit_is_refused(node: Mounted, tmp_path: Path) -> None:
    assert "make the directory first" in refused(node, "mount", tmp_path / "missing")
    assert r"/\xff: No such file or directory: make" in refused(node, "mount", tmp_path / os.fsdecode(b"\xff"))
    (node.path / "file").touch()
    assert "not empty" in refused(node, "mount", node.path)
    assert "not a directory" in refused(node, "mount", node.path / "file")
    (node.path / "file").unlink()
    assert "bogus" in refused(node, "mount", "-o", "bogus", node.path)


def test_folders_may_be_named_from_where_one_is(node: Mounted) -> None:
    names = {"VFSD_STATE_DIR": "state", "VFSD_CACHE_DIR": "cache", "VFSD_CONFIG": "config.toml", "VFSD_STORE": "store"}
    node.environ |= names
    node.run("mount", "mnt", cwd=node.folder)
    (node.path / "data").mkdir()
    assert node.run("status", "--json", cwd=node.folder).stdout.count('"running"') == 1
    node.run("umount", "mnt", cwd=node.folder)
    assert {"state", "store"} <= set(os.listdir(node.folder))


def test_a_mount_in_use_is_not_unmounted(mounted: Mounted) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, cwd=mounted.path) as user:
        assert "busy" in refused(mounted, "umount", mounted.path)
        assert user.stdin is not None
        user.stdin.close()
    mounted.umount()
    assert "not mounted" in refused(mounted, "umount", mounted.path)


def test_the_mount_of_a_dead_daemon_is_taken_over(mounted: Mounted) -> None:
    mounted.kill()
    with pytest.raises(OSError) as caught:
        os.listdir(mounted.path)
    assert caught.value.errno == errno.ENOTCONN
    mounted.mount()
    assert os.listdir(mounted.path) == ["data"]


def test_damage_is_an_error_of_that_file_alone_and_is_named(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    contents = {name: os.urandom(400_000) for name in ("a", "b")}
    for name, content in contents.items():
        (live / name).write_bytes(content)
    mounted.run("commit", "data/main")
    mounted.umount()
    packs = [path for path in (mounted.folder / "store/packs").rglob("*") if path.stat().st_size > 400_000]
    pack = packs[0]
    data = bytearray(pack.read_bytes())
    at = data.index(contents["a"][1000:1100])
    data[at] ^= 1
    pack.write_bytes(data)
    mounted.mount()
    with pytest.raises(OSError) as caught:
        (live / "a").read_bytes()
    assert caught.value.errno == errno.EIO
    assert (live / "b").read_bytes() == contents["b"]
    assert pack.name in mounted.log() and "damaged" in mounted.log()
    assert pack.name in refused(mounted, "get", "data/main/a", mounted.folder / "out")
    assert not (mounted.folder / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk takes mount(2), which takes root")
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_staging_disk_is_enospc_at_write_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    node = Mounted(tmp_path / "node")
    node.environ["VFSD_STATE_DIR"] = str(small_disk)
    make_store(node.store)
    try:
        node.mount()
        (node.path / "data").mkdir()
        live = node.path / "data/main"
        (live / "kept").write_bytes(b"k" * 1_000_000)
        with pytest.raises(OSError) as caught:
            (live / "large").write_bytes(bytes(range(256)) * (40 << 12))
        assert caught.value.errno == errno.ENOSPC
        (live / "large").unlink()
        node.run("commit", "data/main")
        (live / "more").write_bytes(b"m" * 1_000_000)
        node.run("commit", "data/main")
        assert sorted(os.listdir(node.path / "data/main@~0")) == ["kept", "more"]
    finally:
        node.close()


def test_a_full_state_disk_is_called_so(small_disk: Path, tmp_path: Path) -> None:
    node = Mounted(tmp_path / "node")
    node.environ["VFSD_STATE_DIR"] = str(small_disk)
    make_store(node.store)
    with (small_disk / "rest").open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    assert "index.sqlite: the disk is full" in refused(node, "log", "data/main")
    assert "index.sqlite: the disk is full" in refused(node, "mount", node.path)


def test_a_full_store_is_said_and_the_commit_is_made_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    node = Mounted(tmp_path / "node", f"file://{small_disk}/store")
    make_store(node.store)
    ballast = small_disk / "ballast"
    try:
        node.mount()
        (node.path / "data").mkdir()
        (node.path / "data/main/a").write_bytes(os.urandom(1 << 20))
        node.run("commit", "data/main")
        with pytest.raises(OSError):
            ballast.write_bytes(bytes(64 << 20))
        content = os.urandom(2 << 20)
        (node.path / "data/main/b").write_bytes(content)
        assert "full" in refused(node, "commit", "data/main")
        assert (node.path / "data/main/b").read_bytes() == content
        ballast.unlink()
        node.run("commit", "data/main")
        assert (node.path / "data/main@~0/b").read_bytes() == content
    finally:
        ballast.unlink(missing_ok=True)
        node.close()


def test_a_store_that_cannot_be_shared_refuses_a_second_node(mounted: Mounted, tmp_path: Path) -> None:
    mounted.umount()
    path = mounted.folder / "store/format"
    path.write_text(path.read_text().replace('"shared":true', '"shared":false'))  # as on a server without conditions
    mounted.mount()
    assert os.listdir(mounted.path) == ["data"]
    other = Mounted(tmp_path / "other", mounted.store)
    assert "uses it" in refused(other, "mount", other.path)
    assert "uses it" in refused(other, "repo", "list")


def test_a_read_only_mount_commits_nothing_of_an_earlier_run(mounted: Mounted) -> None:
    mounted.run("commit", "start", "data/main")
    (mounted.path / "data/main/a").write_text("a")
    mounted.kill()
    mounted.mount("--read-only")
    assert (mounted.path / "data/main/a").read_text() == "a"
    assert "read-only" in refused(mounted, "commit", "finish", "data/main")
    mounted.umount()
    assert mounted.facts("log", "data/main") == []


def test_a_journal_that_cannot_be_synced_at_unmounting_keeps_what_there_is(node: Mounted) -> None:
    for name in ("one", "two"):
        node.run("repo", "create", name)
    node.mount()
    for name in ("one", "two"):
        (node.path / name / "main/f").write_bytes(name.encode())
    (journal,) = (node.folder / "state").glob("*/journal")
    away = journal.with_name("away")
    journal.rename(away)
    node.run("umount", node.path, check=False)
    away.rename(journal)
    assert "unexpected" not in node.log()
    assert all(f"{name}/main: not committed" in node.log() for name in ("one", "two"))
    node.mount()
    for name in ("one", "two"):
        assert (node.path / name / "main/f").read_bytes() == name.encode()
        assert node.run("commit", f"{name}/main")
