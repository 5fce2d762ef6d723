"""Hard links through the kernel: in the live branch, in snapshots, after a remount, on another node."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for


@pytest.fixture
def linked(mounted: Mounted) -> Mounted:
    """A branch with a file of three names, committed, and the daemon started anew."""
    main = mounted.path / "r" / "main"
    (mounted.path / "r").mkdir()
    (main / "deep" / "er").mkdir(parents=True)
    (main / "a").write_bytes(b"one")
    os.link(main / "a", main / "deep" / "b")
    os.link(main / "a", main / "deep" / "er" / "c")
    (main / "deep" / "alone").write_bytes(b"alone")
    mounted.run("commit", "r/main")
    mounted.umount()
    mounted.mount()
    return mounted


def names(top: Path) -> list[Path]:
    return [top / "a", top / "deep" / "b", top / "deep" / "er" / "c"]


@pytest.mark.parametrize("place", ["r/main", "r/main@~0"])
def test_the_names_of_a_file_are_one_inode_after_a_remount(linked: Mounted, place: str) -> None:
    for path in names(linked.path / place):
        assert path.stat().st_nlink == 3  # each before the others have been looked at, and after
    assert len({path.stat().st_ino for path in names(linked.path / place)}) == 1
    assert (linked.path / place / "deep" / "alone").stat().st_nlink == 1


def test_a_change_under_one_name_is_a_change_under_all_in_the_next_commit(linked: Mounted) -> None:
    with open(linked.path / "r/main/deep/b", "ab") as file:
        file.write(b" two")
    os.chmod(linked.path / "r/main/a", 0o600)
    commit = linked.facts("commit", "r/main")["id"]
    for top in ("r/main", f"r/main@{commit}"):
        for path in names(linked.path / top):
            assert path.read_bytes() == b"one two"
            assert path.stat().st_mode & 0o700 == (0o600 if top == "r/main" else 0o400)
    assert linked.run("cat", f"r/main@{commit}/deep/er/c").stdout == "one two"


def test_a_name_less_is_a_name_less_for_all(linked: Mounted) -> None:
    os.unlink(linked.path / "r/main/deep/er/c")
    commit = linked.facts("commit", "r/main")["id"]
    linked.umount()
    linked.mount()
    for top in ("r/main", f"r/main@{commit}"):
        assert (linked.path / top / "a").stat().st_nlink == 2
        assert (linked.path / top / "deep/b").stat().st_nlink == 2
    os.unlink(linked.path / "r/main/a")
    os.replace(linked.path / "r/main/deep/alone", linked.path / "r/main/alone")
    assert (linked.path / "r/main/deep/b").stat().st_nlink == 1
    assert (linked.path / "r/main/deep/b").read_bytes() == b"one"


def test_a_directory_that_was_renamed_takes_names_along(linked: Mounted) -> None:
    main = linked.path / "r/main"
    os.rename(main / "deep" / "er", main / "moved")
    os.rename(main / "deep", main / "moved" / "deep")
    (main / "a").write_bytes(b"new")
    commit = linked.facts("commit", "r/main")["id"]
    for top in (main, linked.path / f"r/main@{commit}"):
        assert (top / "moved" / "c").read_bytes() == (top / "moved" / "deep" / "b").read_bytes() == b"new"
        assert (top / "moved" / "c").stat().st_nlink == 3


def test_another_commit_that_puts_a_file_over_one_name_leaves_the_others(linked: Mounted, tmp_path: Path) -> None:
    main = linked.path / "r/main"
    assert {path.stat().st_ino for path in names(main)} == {(main / "a").stat().st_ino}
    (tmp_path / "new").write_bytes(b"put")
    linked.run("put", tmp_path / "new", "r/main/deep/b")
    wait_for(lambda: (main / "deep" / "b").read_bytes() == b"put")
    assert (main / "a").read_bytes() == (main / "deep" / "er" / "c").read_bytes() == b"one"
    assert (main / "deep" / "b").stat().st_ino != (main / "a").stat().st_ino


def test_a_copy_within_the_store_has_links_of_its_own(linked: Mounted) -> None:
    linked.run("cp", "r/main/deep", "r/main/copy")
    main = linked.path / "r/main"
    wait_for((main / "copy").exists)
    (main / "copy" / "b").write_bytes(b"changed")
    assert (main / "copy" / "er" / "c").read_bytes() == b"changed"
    assert (main / "deep" / "b").read_bytes() == (main / "a").read_bytes() == b"one"
    assert (main / "copy" / "b").stat().st_nlink == 2
    linked.run("cp", "r/main@~1/deep", "r/main/deep")
    commit = linked.facts("commit", "r/main")["id"]
    snapshot = linked.path / f"r/main@{commit}"
    assert (snapshot / "copy/er/c").read_bytes() == b"changed"
    assert (snapshot / "a").read_bytes() == b"one"


def test_tar_finds_the_links_of_a_snapshot(linked: Mounted, tmp_path: Path) -> None:
    archive = subprocess.run(
        ["tar", "-C", linked.path / "r/main@~0", "-c", "."], check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-C", tmp_path, "-x"], input=archive, check=True)
    assert len({path.stat().st_ino for path in names(tmp_path)}) == 1


def forget(mounted: Mounted) -> None:
    """Have the kernel drop the names that it knows, as it does when it is short of memory."""
    subprocess.run(["mount", "-i", "-o", "remount", str(mounted.path)], check=True)


@pytest.mark.parametrize("place", ["r/main", "r/main@~0"])
def test_names_looked_at_at_different_times_have_one_inode_number(linked: Mounted, place: str) -> None:
    numbers = set()
    for path in names(linked.path / place):
        numbers.add(path.stat().st_ino)
        forget(linked)
    assert len(numbers) == 1


def test_a_name_that_is_renamed_first_stays_one_of_its_file(linked: Mounted) -> None:
    main = linked.path / "r/main"
    os.rename(main / "a", main / "z")
    with open(main / "z", "ab") as file:
        file.write(b" more")
    assert (main / "deep/b").read_bytes() == b"one more"
    assert (main / "deep/b").stat().st_ino == (main / "z").stat().st_ino
    assert (main / "deep/b").stat().st_nlink == 3


def test_names_are_found_again_after_the_kernel_has_forgotten_them(linked: Mounted) -> None:
    """A search for the names of one file knows those of the others, also of such as it need not look for."""
    main = linked.path / "r/main"
    (main / "x").touch()
    os.link(main / "x", main / "y")
    linked.run("commit", "r/main")
    forget(linked)
    os.link(main / "deep/b", main / "d")
    linked.run("commit", "r/main")
    os.chmod(main / "x", 0o600)
    forget(linked)
    os.chmod(main / "a", 0o640)
    for path in (*names(main), main / "d"):
        assert (path.stat().st_nlink, path.stat().st_mode & 0o777) == (4, 0o640)


def test_a_file_keeps_its_number_when_it_gets_a_second_name(mounted: Mounted) -> None:
    main = mounted.path / "data/main"
    (main / "a").touch()
    number = (main / "a").stat().st_ino
    os.link(main / "a", main / "b")
    mounted.run("commit", "data/main")
    forget(mounted)
    assert {(main / name).stat().st_ino for name in "ab"} == {number}


def test_names_that_were_found_and_forgotten_are_found_again(linked: Mounted) -> None:
    main = linked.path / "r/main"
    subprocess.run(["touch", "-a", main / "a"], check=True)  # looks for the names, and changes nothing
    forget(linked)
    os.chmod(main / "deep" / "b", 0o600)
    commit = linked.facts("commit", "r/main")["id"]
    for path in names(linked.path / f"r/main@{commit}"):
        assert path.stat().st_mode & 0o777 == 0o400
