"""From closed writes to commits, and what a crash leaves."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Mounted, commits_by_itself
from tests.mount.test_namespace import wait_for


def heads(mounted: Mounted) -> list[str]:
    return [row["id"] for row in mounted.facts("log", "data/main")]


@commits_by_itself
def test_closed_writes_become_a_commit_when_the_branch_is_quiet(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    for number in range(20):
        (live / f"f{number}").write_text(str(number))
    wait_for(lambda: heads(mounted) and mounted.facts("show", "data/main")["files"] == 20)


def test_a_commit_that_nobody_gave_a_message_names_what_it_touches_on_one_line(mounted: Mounted) -> None:
    live = os.fsencode(mounted.path / "data/main")
    for name in (b"a\nb", b"c\x1b[31m", b"d\xff"):
        open(live + b"/" + name, "w").close()
    os.rename(live + b"/d\xff", live + b"/0")
    os.rename(live + b"/0", live + b"/d\xff")
    mounted.run("commit", "data/main")
    names, more = mounted.facts("show", "data/main")["message"].split(" and ")
    assert (sorted(names.split(", ")), more) == ([r"a\nb", r"c\x1b[31m", r"d\xff"], "1 more")


def test_a_file_that_is_being_written_is_in_no_commit(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    with (live / "open").open("w") as file:
        file.write("half")
        file.flush()
        (live / "closed").write_text("whole")
        mounted.run("commit", "data/main")
        assert os.listdir(mounted.path / "data/main@~0") == ["closed"]
        file.write(" and the rest")
    mounted.run("commit", "data/main")
    assert (mounted.path / "data/main@~0/open").read_text() == "half and the rest"


def test_a_rewritten_file_that_is_still_open_is_committed_as_it_was_closed(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    (live / "a").write_text("closed")
    with (live / "a").open("w") as file:
        file.write("not closed")
        file.flush()
        mounted.run("commit", "data/main")
        assert (mounted.path / "data/main@~0/a").read_text() == "closed"
    mounted.run("commit", "data/main")
    assert (mounted.path / "data/main@~0/a").read_text() == "not closed"


def test_a_file_that_an_equal_one_was_renamed_over_keeps_its_bytes(mounted: Mounted) -> None:
    """The commit has nothing new of it, and the head must not take that for nothing at all."""
    live = mounted.path / "data/main"
    (live / "a").write_text("bytes")
    mounted.run("commit", "data/main")
    shutil.copy2(live / "a", live / "beside")
    (live / "beside").rename(live / "a")
    mounted.run("commit", "data/main")
    assert (live / "a").read_text() == "bytes"
    with (live / "a").open("a") as file:
        file.write(" and more")
    mounted.run("commit", "data/main")
    assert (mounted.path / "data/main@~0/a").read_text() == "bytes and more"


def test_commit_says_when_there_is_nothing_new_to_commit(mounted: Mounted) -> None:
    done = mounted.run("commit", "data/main")
    assert (done.stdout, done.stderr) == ("", "nothing new to commit\n")
    assert heads(mounted) == []


def test_a_transaction_holds_commits_back_and_makes_one(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    mounted.run("commit", "start", "data/main")
    (live / "a").write_text("a")
    refused = mounted.run("commit", "data/main", check=False)
    assert refused.returncode != 0 and "transaction" in refused.stderr
    (live / "b").write_text("b")
    assert heads(mounted) == []
    mounted.run("commit", "finish", "data/main", "-m", "both")
    assert len(heads(mounted)) == 1
    assert sorted(os.listdir(mounted.path / "data/main@~0")) == ["a", "b"]
    assert mounted.facts("show", "data/main")["message"] == "both"


def test_an_aborted_transaction_leaves_the_branch_as_it_was(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    (live / "keep").write_text("keep")
    mounted.run("commit", "data/main")
    mounted.run("commit", "start", "data/main")
    (live / "keep").write_text("changed")
    (live / "more").write_text("more")
    mounted.run("commit", "abort", "data/main")
    assert os.listdir(live) == ["keep"]
    assert (live / "keep").read_text() == "keep"
    assert len(heads(mounted)) == 1


def test_unmounting_commits_what_is_closed(mounted: Mounted) -> None:
    (mounted.path / "data/main/a").write_text("a")
    mounted.umount()
    assert mounted.run("cat", "data/main/a").stdout == "a"


def test_what_was_closed_survives_kill_9_and_is_committed(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    (live / "base").write_text("base" * 100)
    mounted.run("commit", "data/main")
    mounted.run("commit", "start", "data/main")  # nothing is committed while the daemon is killed
    (live / "small").write_text("small")
    (live / "large").write_bytes(os.urandom(1 << 20))
    large = (live / "large").read_bytes()
    (live / "d").mkdir()
    (live / "d/moved-from").write_text("moved")
    (live / "d/moved-from").rename(live / "d/moved-to")
    os.link(live / "small", live / "second-name")
    os.symlink("small", live / "link")
    (live / "gone").write_text("x")
    (live / "gone").unlink()
    with (live / "base").open("r+") as file:
        file.seek(4)
        file.write("EDIT")
    os.chmod(live / "small", 0o600)
    os.setxattr(live / "small", b"user.colour", b"green")
    mounted.kill()
    mounted.mount()

    def check(top: Path) -> None:
        assert sorted(os.listdir(top)) == ["base", "d", "large", "link", "second-name", "small"]
        assert (top / "small").read_text() == (top / "second-name").read_text() == "small"
        assert (top / "large").read_bytes() == large
        assert os.listdir(top / "d") == ["moved-to"] and (top / "d/moved-to").read_text() == "moved"
        assert (top / "base").read_text() == "baseEDIT" + "base" * 98
        assert os.readlink(top / "link") == "small"
        assert os.stat(top / "small").st_mode & 0o777 in {0o600, 0o400}
        assert os.getxattr(top / "small", b"user.colour") == b"green"

    check(live)
    mounted.run("commit", "finish", "data/main")
    check(mounted.path / "data/main@~0")


def test_a_commit_without_a_daemon_leaves_what_other_branches_have_closed(mounted: Mounted) -> None:
    (mounted.path / "other").mkdir()
    for repo in ("data", "other"):
        (mounted.path / repo / "main/small").write_text(repo)
    mounted.kill()
    mounted.run("commit", "data/main")
    mounted.run("commit", "other/main")
    assert mounted.run("cat", "data/main/small", "other/main/small").stdout == "dataother"


def test_a_node_that_lost_its_state_has_every_commit(mounted: Mounted) -> None:
    shutil.copytree("/usr/share/common-licenses", mounted.path / "data/main/texts")
    mounted.umount()
    shutil.rmtree(mounted.folder / "state")
    mounted.mount()
    compared = filecmp.dircmp("/usr/share/common-licenses", mounted.path / "data/main/texts")
    assert not compared.left_only and not compared.right_only and not compared.diff_files


def test_edits_anywhere_in_a_large_file_read_back_and_are_committed(mounted: Mounted) -> None:
    path = mounted.path / "data/main/large"
    expected = bytearray(os.urandom(9 << 20))
    path.write_bytes(expected)
    mounted.run("commit", "data/main")
    with path.open("r+b") as file:
        for offset, data in ((0, b"begin"), (5_000_000, os.urandom(300_000)), (len(expected) + 1000, b"beyond")):
            file.seek(offset)
            file.write(data)
            expected.extend(bytes(max(0, offset + len(data) - len(expected))))
            expected[offset : offset + len(data)] = data
    assert path.read_bytes() == expected
    mounted.run("commit", "data/main")
    assert (mounted.path / "data/main@~0/large").read_bytes() == expected
    os.truncate(path, 4_000_000)
    os.truncate(path, 4_500_000)
    expected[4_000_000:] = bytes(500_000)
    assert path.read_bytes() == expected
    mounted.run("commit", "data/main")
    assert (mounted.path / "data/main@~0/large").read_bytes() == expected


def test_a_small_change_in_a_large_file_stores_little(mounted: Mounted) -> None:
    path = mounted.path / "data/main/large"
    path.write_bytes(os.urandom(32 << 20))
    mounted.run("commit", "data/main")
    before = _stored(mounted)
    with path.open("r+b") as file:
        file.seek(16 << 20)
        file.write(b"one edit")
    mounted.run("commit", "data/main")
    assert _stored(mounted) - before < 9 << 20  # two chunks at the most, of four MiB each, and the tree


def _stored(mounted: Mounted) -> int:
    return sum(path.stat().st_size for path in (mounted.folder / "store").rglob("*") if path.is_file())


def test_git_works_on_a_branch(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    shutil.copytree(Path(os.__file__).parent / "json", live / "json", ignore=shutil.ignore_patterns("__pycache__"))

    def git(*words: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.run(
            ["git", *identity, *words], cwd=live, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "one")
    mounted.run("commit", "data/main")
    git("gc", "-q")
    assert git("fsck", "--full") == ""
    assert git("status", "--porcelain") == ""


@pytest.mark.parametrize("how", ["umount", "kill"])
def test_an_open_transaction_outlives_the_daemon(mounted: Mounted, how: str) -> None:
    (mounted.path / "other").mkdir()
    for branch in ("data/main", "other/main"):
        mounted.run("commit", "start", branch)
    (mounted.path / "data/main/a").write_text("a")
    getattr(mounted, how)()
    open_ = {"data": "transaction", "other": "transaction"}
    assert {row["repo"]: row["state"] for row in mounted.facts("status")["branches"]} == open_
    mounted.mount()
    assert {row["repo"]: row["state"] for row in mounted.facts("status")["branches"]} == open_
    assert (mounted.path / "data/main/a").read_text() == "a"
    assert heads(mounted) == []
    mounted.run("commit", "finish", "data/main")
    assert len(heads(mounted)) == 1


def test_a_copied_directory_has_hard_links_of_its_own(mounted: Mounted) -> None:
    live = mounted.path / "data/main"
    (live / "d").mkdir()
    (live / "d/a").write_text("original")
    os.link(live / "d/a", live / "d/b")
    mounted.run("commit", "data/main")
    mounted.run("cp", "data/main/d", "data/main/copy")
    wait_for((live / "copy").exists)
    (live / "copy/a").write_text("changed in the copy")
    assert (live / "d/a").read_text() == (live / "d/b").read_text() == "original"
    mounted.umount()
    mounted.mount()
    (live / "d/a").write_text("through one name")
    assert (live / "d/b").read_text() == "through one name"
    assert (live / "copy/b").read_text() == "changed in the copy"


@pytest.mark.parametrize("how", ["umount", "kill"])
def test_changes_of_what_somebody_else_removed_meanwhile_outlive_the_daemon(
    mounted: Mounted, tmp_path: Path, how: str
) -> None:
    live = mounted.path / "data/main"
    for name in ("d", "moved"):
        (live / name).mkdir()
        (live / name / "x").write_text("1")
    (live / "a").write_text("a")
    mounted.run("commit", "data/main")
    mounted.run("commit", "start", "data/main")
    with (live / "d/x").open("a") as file:
        file.write("2")
    (live / "d/new").write_text("new")
    (live / "nd").mkdir()
    (live / "nd/q").write_text("q")
    (live / "moved").rename(live / "M")
    (live / "a").rename(live / "b")
    (tmp_path / "file").write_text("foreign")
    for words in (("rm", "-r", "data/main/d"), ("rm", "-r", "data/main/moved"), ("rm", "data/main/a")):
        mounted.run(*words)
    mounted.run("put", tmp_path / "file", "data/main/nd")
    mounted.run("put", tmp_path / "file", "data/main/foreign")
    wait_for((live / "foreign").exists)
    (live / "later").write_text((live / "foreign").read_text())

    def check(top: Path) -> None:
        assert sorted(os.listdir(top)) == ["M", "b", "d", "foreign", "later", "nd"]
        assert ((top / "d/x").read_text(), (top / "d/new").read_text()) == ("12", "new")
        assert (top / "nd/q").read_text() == "q"
        assert ((top / "M/x").read_text(), (top / "b").read_text()) == ("1", "a")
        assert (top / "later").read_text() == "foreign"

    check(live)
    for _ in range(2):
        getattr(mounted, how)()
        mounted.mount()
        check(live)
    mounted.run("commit", "finish", "data/main")
    check(live)
    check(mounted.path / "data/main@~0")
