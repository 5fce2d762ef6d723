"""What becomes a commit: each row of docs/semantics.md, through real mounts.

Two nodes over one store, which commit only when they are told to, and two that commit by themselves, one when it is
quiet and one after a time, serve all tests; each test has a repo of its own.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import mmap
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from tests.docs.pages import DOCS
from tests.mount.conftest import NEVER_S, Mounted
from tests.mount.test_namespace import wait_for
from tests.stores import make_store
from vfsd.daemon import control

LARGE = 300_000  # bytes; more than a small file has
QUIET_S, MAX_WAIT_S = 0.5, 2.0
RENAME_EXCHANGE = 2
Test = TypeVar("Test", bound=Callable[..., None])

_tested: set[str] = set()  # rows that a test holds
_numbers = itertools.count()


def row(*names: str) -> Callable[[Test], Test]:
    """The test holds these rows of the page."""

    def mark(test: Test) -> Test:
        _tested.update(names)
        return test

    return mark


class Commit(NamedTuple):
    """The commit that holds all that is closed. top: its snapshot. new: whether it was made just now."""

    top: Path
    new: bool

    @property
    def files(self) -> dict[str, bytes]:
        """Path below the top → bytes."""
        return files(self.top)


class Branch:
    """A branch in a mount."""

    def __init__(self, node: Mounted, repo: str, name: str = "main") -> None:
        self.node = node
        self.name = f"{repo}/{name}"
        self.live = node.path / repo / name

    def ask(self, question: str) -> Any:
        """What `vfsd commit` asks the daemon."""
        return control.ask(socket(self.node), question, branch=self.name, message="")

    def commit(self) -> Commit:
        """Commit what is closed."""
        answer = self.ask("commit")
        return Commit(self.snapshot(answer["id"]), answer["new"])

    def snapshot(self, commit: str) -> Path:
        """Where the mount shows a commit of the branch."""
        return self.live.parent / f"{self.live.name}@{commit}"

    @property
    def facts(self) -> Any:
        """What the daemon says of it."""
        os.listdir(self.live)  # the daemon knows the branches that were asked for
        repo, name = self.name.split("/")
        rows = control.ask(socket(self.node), "status")["branches"]
        return next(row for row in rows if (row["repo"], row["branch"]) == (repo, name))

    @property
    def log(self) -> list[str]:
        """Ids of its commits, the newest first."""
        return [row["id"] for row in self.node.facts("log", self.name)]


def socket(node: Mounted) -> str:
    """Where a node's daemon answers."""
    return os.fsdecode(os.getxattr(node.path, b"user.vfsd.control"))


def files(top: Path) -> dict[str, bytes]:
    """Path below `top` → bytes, of every regular file."""
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def opened(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """A descriptor, without any buffer before it."""
    return os.open(path, flags, 0o644)


@pytest.fixture(scope="module")
def make_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mounted]]:
    """Makes mounted nodes."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    made = []

    def make(store: str | None = None, *, quiet_s: float = NEVER_S, max_wait_s: float = NEVER_S) -> Mounted:
        node = Mounted(tmp_path_factory.mktemp("node"), store)
        made.append(node)
        (node.folder / "config.toml").write_text(f"quiet_s = {quiet_s}\nmax_wait_s = {max_wait_s}\npoll_s = 0.2\n")
        if store is None:
            make_store(node.store)
        node.mount()
        return node

    yield make
    for node in made:
        node.close()


@pytest.fixture(scope="module")
def site(make_node: Callable[..., Mounted]) -> Mounted:
    """A node that commits when it is told to."""
    return make_node()


@pytest.fixture(scope="module")
def second(make_node: Callable[..., Mounted], site: Mounted) -> Mounted:
    """Another node on the store of `site`."""
    return make_node(site.store)


@pytest.fixture(scope="module")
def timed(make_node: Callable[..., Mounted]) -> Mounted:
    """A node that commits by itself once it is quiet."""
    return make_node(quiet_s=QUIET_S)


@pytest.fixture(scope="module")
def restless(make_node: Callable[..., Mounted]) -> Mounted:
    """A node that takes no less for quiet than what it waits at the most."""
    return make_node(quiet_s=MAX_WAIT_S, max_wait_s=MAX_WAIT_S)


def new_branch(node: Mounted) -> Branch:
    """The branch of a new repo."""
    branch = Branch(node, f"r{next(_numbers)}")
    branch.live.parent.mkdir()
    return branch


@pytest.fixture
def branch(site: Mounted) -> Branch:
    return new_branch(site)


@pytest.fixture
def live(branch: Branch) -> Path:
    return branch.live


@pytest.fixture
def alone(timed: Mounted) -> Branch:
    """A branch that is committed without anybody asking."""
    return new_branch(timed)


# The page


def test_every_row_of_the_page_has_a_test_and_every_test_a_row() -> None:
    rows, inside = [], False
    for line in (DOCS / "semantics.md").read_text().splitlines():
        inside = line.startswith("|") and (inside or line.startswith("| row |"))
        found = re.match(r"\| `([a-z-]+)` \|", line) if inside else None
        rows += [found[1]] if found else []
    assert len(rows) > 50
    assert sorted(rows) == sorted(_tested)


# When there is one


@row("quiet")
def test_many_changes_become_one_commit_once_they_pause(alone: Branch) -> None:
    pauses, last = 0, time.monotonic()
    for number in range(30):
        begun = time.monotonic()
        (alone.live / f"f{number}").write_text("x")
        pauses += time.monotonic() - last >= QUIET_S  # a busy machine may make some of its own
        last = begun
    wait_for(lambda: alone.facts["state"] == "clean")
    assert 1 <= len(alone.log) <= 1 + pauses
    assert len(os.listdir(alone.snapshot(alone.log[0]))) == 30


@row("max-wait")
def test_changes_that_never_pause_are_committed_all_the_same(restless: Mounted) -> None:
    branch, numbers = new_branch(restless), itertools.count()

    def until_a_commit() -> float:
        """Write on until there is another commit; the longest pause, in seconds."""
        before, longest, last = branch.facts["commit"], 0.0, time.monotonic()
        deadline = last + 60
        while branch.facts["commit"] == before:
            assert last < deadline
            begun = time.monotonic()
            (branch.live / f"f{next(numbers)}").write_text("x")
            longest, last = max(longest, time.monotonic() - last), begun
        return max(longest, time.monotonic() - last)

    wait_for(lambda: until_a_commit() < MAX_WAIT_S)  # a busy machine may make pauses of its own
    assert len(os.listdir(branch.live)) == next(numbers)


@row("written-on")
def test_writing_on_to_an_open_file_puts_no_commit_off(alone: Branch) -> None:
    log = opened(alone.live / "log")
    (alone.live / "closed").write_text("x")

    def is_committed() -> bool:
        os.write(log, b"line\n")
        commit = alone.facts["commit"]
        return commit is not None and files(alone.snapshot(commit)) == {"closed": b"x"}

    wait_for(is_committed)
    os.close(log)


@row("commit-now")
def test_vfsd_commit_commits_at_once_and_only_what_is_new(branch: Branch, live: Path) -> None:
    (live / "a").write_text("x")
    made = branch.node.run("commit", branch.name).stdout.strip()
    assert files(branch.snapshot(made)) == {"a": b"x"}
    again = branch.node.run("commit", branch.name)
    assert (again.stdout.strip(), again.stderr) == (made, "nothing new to commit\n")


@row("undone")
def test_a_change_that_is_undone_is_no_commit(branch: Branch, live: Path) -> None:
    (live / "a").write_text("x")
    assert branch.commit().new
    os.chmod(live / "a", 0o600)
    os.chmod(live / "a", 0o644)
    times = live.stat()
    (live / "b").write_text("x")
    (live / "b").unlink()
    os.utime(live, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not branch.commit().new
    os.utime(live / "a", ns=(1, 1))
    assert branch.commit().new


@row("past-the-head")
def test_commands_commit_at_once_and_leave_the_head_on_top(branch: Branch, live: Path, tmp_path: Path) -> None:
    (live / "gone").write_text("x")
    branch.commit()
    (live / "head").write_text("x")
    (tmp_path / "put").write_text("x")
    branch.node.run("put", tmp_path / "put", f"{branch.name}/put")
    branch.node.run("cp", f"{branch.name}/put", f"{branch.name}/copy")
    branch.node.run("rm", f"{branch.name}/gone")
    log = branch.log
    assert [sorted(os.listdir(branch.snapshot(commit))) for commit in reversed(log)] == [
        ["gone"], ["gone", "put"], ["copy", "gone", "put"], ["copy", "put"],
    ]  # fmt: skip
    wait_for(lambda: sorted(os.listdir(live)) == ["copy", "head", "put"])
    assert sorted(branch.commit().files) == ["copy", "head", "put"]


@pytest.fixture
def store_away(alone: Branch) -> Iterator[Path]:
    """Where the store of `alone` would be, if its disk were there."""
    (alone.live / "before").write_text("x")
    wait_for(lambda: alone.facts["state"] == "clean" and alone.facts["commit"])
    path = Path(alone.node.store.removeprefix("file://"))
    path.rename(path.with_name("away"))
    yield path
    with suppress(FileNotFoundError):
        path.with_name("away").rename(path)


@row("store-away")
def test_a_commit_is_tried_again_until_the_store_is_back_and_then_has_everything(
    alone: Branch, store_away: Path
) -> None:
    (alone.live / "during").write_text("1")
    wait_for(lambda: alone.facts["retries"] > 1)
    assert (alone.facts["state"], "is gone" in alone.facts["error"]) == ("failing", True)
    (alone.live / "later").write_bytes(b"2" * LARGE)
    assert (alone.live / "during").read_text() == "1"
    assert (alone.live / "later").read_bytes() == b"2" * LARGE
    before = alone.facts["commit"]
    store_away.with_name("away").rename(store_away)
    wait_for(lambda: alone.facts["state"] == "clean", seconds=30)
    assert files(alone.snapshot(alone.facts["commit"])) == {"before": b"x", "during": b"1", "later": b"2" * LARGE}
    assert alone.log[1] == before


@row("store-away")
def test_status_says_why_commits_fail_while_the_store_is_away(alone: Branch, store_away: Path) -> None:
    (alone.live / "during").write_text("1")
    wait_for(lambda: alone.facts["retries"] > 0)
    rows = alone.node.facts("status")["branches"]
    assert [row["state"] for row in rows if f"{row['repo']}/{row['branch']}" == alone.name] == ["failing"]


@row("umount")
def test_unmounting_commits_what_is_closed_and_is_refused_while_the_mount_is_used(branch: Branch, live: Path) -> None:
    (live / "a").write_text("x")
    in_use = opened(live / "open")
    assert "busy" in branch.node.run("umount", branch.node.path, check=False).stderr
    assert not branch.log
    os.close(in_use)
    (live / "open").unlink()
    branch.node.umount()
    assert branch.node.run("cat", f"{branch.name}/a").stdout == "x"
    branch.node.mount()
    assert not branch.commit().new


@row("sigterm")
def test_sigterm_commits_what_is_closed_also_while_files_are_open(branch: Branch, live: Path) -> None:
    (live / "closed").write_text("x")
    synced, unsynced = opened(live / "synced"), opened(live / "unsynced")
    os.write(synced, b"1")
    os.fsync(synced)
    os.write(unsynced, b"1")
    daemon = os.pidfd_open(branch.node.pid)
    signal.pidfd_send_signal(daemon, signal.SIGTERM)
    assert select.select([daemon], [], [], 30)[0]
    os.close(daemon)
    close_dead(synced, unsynced)
    assert not branch.node.is_mounted()
    assert [found["name"] for found in branch.node.facts("ls", branch.name)] == ["closed"]
    branch.node.mount()
    assert branch.commit().files == {"closed": b"x", "synced": b"1"}


@row("read-only")
def test_a_read_only_mount_shows_what_is_not_committed_and_leaves_it_to_the_next(branch: Branch, live: Path) -> None:
    (live / "a").write_text("x")
    branch.node.kill()
    try:
        branch.node.mount("--read-only")
        assert files(live) == {"a": b"x"}
        for change in (lambda: (live / "b").write_text("x"), (live / "a").unlink, (live / "d").mkdir):
            with pytest.raises(OSError, match="Read-only") as caught:
                change()
            assert caught.value.errno == errno.EROFS
        branch.node.umount()
        assert branch.log == []
    finally:
        branch.node.close()
        branch.node.mount()
    wait_for(lambda: branch.facts["commit"])
    assert files(branch.snapshot(branch.facts["commit"])) == {"a": b"x"}


@row("output-branch")
def test_the_output_branch_of_a_pipeline_takes_no_writes(branch: Branch) -> None:
    repo, output = branch.live.parent.name, f"out{next(_numbers)}"
    spec = {
        "pipeline": {"name": output}, "input": {"pfs": {"repo": repo, "glob": "/*"}}, "transform": {"cmd": ["true"]}
    }  # fmt: skip
    path = branch.node.folder / "spec.json"
    path.write_text(json.dumps(spec))
    branch.node.run("pipeline", "create", "-f", path)
    try:
        live = Branch(branch.node, output).live
        wait_for(live.exists)
        with pytest.raises(OSError, match="Read-only") as caught:
            (live / "a").write_text("x")
        assert caught.value.errno == errno.EROFS
    finally:
        branch.node.run("pipeline", "delete", output)


@row("branch-deleted")
def test_changes_of_a_deleted_branch_stay_in_the_journal(branch: Branch) -> None:
    draft = Branch(branch.node, branch.live.parent.name, "draft")
    draft.live.mkdir()
    (draft.live / "a").write_text("x")
    branch.node.run("branch", "delete", draft.name)
    wait_for(lambda: not draft.live.exists())
    branch.node.umount()
    branch.node.mount()
    assert f"{draft.name}: it is deleted, and has changes here" in branch.node.log()
    draft.live.mkdir()
    wait_for(lambda: files(draft.live) == {"a": b"x"})
    assert draft.commit().files == {"a": b"x"}


@row("branch-deleted")
def test_what_is_written_into_a_deleted_branch_is_refused(branch: Branch) -> None:
    draft = Branch(branch.node, branch.live.parent.name, "draft")
    draft.live.mkdir()
    file, top = opened(draft.live / "a"), opened(draft.live, os.O_RDONLY)
    branch.node.run("branch", "delete", draft.name)
    wait_for(lambda: not draft.live.exists())
    os.write(file, b"x")
    for refused in (lambda: os.mkdir("d", dir_fd=top), lambda: os.fsync(file), lambda: os.close(file)):
        with pytest.raises(OSError) as error:
            refused()
        assert error.value.errno == errno.ESTALE
    os.close(top)


# Files that are written


@row("close")
def test_a_closed_file_is_in_the_next_commit(branch: Branch, live: Path) -> None:
    contents = {"empty": b"", "small": b"x", "large": os.urandom(LARGE)}
    for name, content in contents.items():
        (live / name).write_bytes(content)
    assert branch.commit().files == contents
    with (live / "large").open("r+b") as file:
        file.write(b"edit")
    assert branch.commit().files == {**contents, "large": b"edit" + contents["large"][4:]}


@row("close-one")
def test_a_file_is_in_a_commit_after_its_last_close(branch: Branch, live: Path) -> None:
    first = opened(live / "a")
    os.write(first, b"1")
    copy, other = os.dup(first), opened(live / "a")
    os.close(first)
    assert branch.commit().files == {}
    os.close(other)
    assert branch.commit().files == {}
    os.write(copy, b"2")
    os.close(copy)
    assert branch.commit().files == {"a": b"12"}


@row("fsync")
@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync])
def test_fsync_does_not_put_an_open_file_into_a_commit(branch: Branch, live: Path, sync: Callable[[int], None]) -> None:
    file = opened(live / "a")
    os.write(file, b"1")
    sync(file)
    assert branch.commit().files == {}
    os.close(file)
    assert branch.commit().files == {"a": b"1"}


@row("open-new")
def test_a_new_file_is_in_no_commit_however_long_it_is_open(branch: Branch, live: Path) -> None:
    file = opened(live / "log")
    for number in range(3):
        os.write(file, b"line\n")
        (live / f"other{number}").write_text("x")
        assert sorted(branch.commit().files) == [f"other{each}" for each in range(number + 1)]
    assert not branch.commit().new
    os.close(file)
    assert branch.commit().files["log"] == b"line\n" * 3


@row("open-committed")
@pytest.mark.parametrize("size", [10, LARGE])
@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND])
def test_a_committed_file_stays_as_it_was_while_it_is_rewritten(
    branch: Branch, live: Path, size: int, flags: int
) -> None:
    (live / "a").write_bytes(b"1" * size)
    mtime = (branch.commit().top / "a").stat().st_mtime_ns
    file = opened(live / "a", flags)
    os.write(file, b"2")
    (live / "other").write_text("x")
    kept = branch.commit()
    assert kept.files == {"a": b"1" * size, "other": b"x"}
    assert (kept.top / "a").stat().st_mtime_ns == mtime
    os.close(file)
    assert branch.commit().files["a"] == (live / "a").read_bytes() != b"1" * size


@row("open-closed")
@pytest.mark.parametrize(
    ("size", "flags"),
    [(10, os.O_RDWR), (10, os.O_WRONLY | os.O_APPEND), (10, os.O_RDWR | os.O_TRUNC), (LARGE, os.O_RDWR | os.O_TRUNC)],
)
@pytest.mark.parametrize("committed", [False, True], ids=["new", "cut-since-the-commit"])
def test_what_was_closed_is_committed_while_it_is_rewritten(
    branch: Branch, live: Path, size: int, flags: int, committed: bool
) -> None:
    if committed:
        (live / "a").write_bytes(b"0" * size)
        branch.commit()
    (live / "a").write_bytes(b"1" * size)
    file = opened(live / "a", flags)
    os.write(file, b"2")
    assert branch.commit().files == {"a": b"1" * size}
    os.close(file)
    assert branch.commit().files == {"a": (live / "a").read_bytes()}


@row("open-closed")
def test_what_was_closed_is_committed_while_it_is_rewritten_also_if_it_was_changed_in_place(
    branch: Branch, live: Path
) -> None:
    (live / "a").write_text("0")
    branch.commit()
    with (live / "a").open("a") as appending:
        appending.write("1")
    file = opened(live / "a", os.O_WRONLY | os.O_APPEND)
    os.write(file, b"2")
    found = branch.commit().files
    os.close(file)
    assert found == {"a": b"01"}


@row("open-closed-large")
@pytest.mark.parametrize("committed", [False, True], ids=["new", "committed-before"])
def test_a_large_closed_file_that_is_written_in_place_waits_for_its_close(
    branch: Branch, live: Path, committed: bool
) -> None:
    before = {"a": b"0" * LARGE} if committed else {}
    if committed:
        (live / "a").write_bytes(before["a"])
        branch.commit()
    (live / "a").write_bytes(b"1" * LARGE)
    file = opened(live / "a")
    os.write(file, b"2")
    assert branch.commit().files == before
    os.close(file)
    assert branch.commit().files == {"a": b"2" + b"1" * (LARGE - 1)}


@row("open-idle")
@pytest.mark.parametrize("size", [10, LARGE])
def test_a_file_that_is_only_held_open_is_committed_as_a_closed_one(branch: Branch, live: Path, size: int) -> None:
    (live / "a").write_bytes(b"1" * size)
    file = opened(live / "a")
    assert branch.commit().files == {"a": b"1" * size}
    os.close(file)
    assert not branch.commit().new


@row("open-attributes")
def test_attributes_of_a_file_that_is_rewritten_are_committed_with_its_old_bytes(branch: Branch, live: Path) -> None:
    (live / "a").write_text("1")
    mtime = (branch.commit().top / "a").stat().st_mtime_ns
    file = opened(live / "a")
    os.write(file, b"2")
    os.chmod(live / "a", 0o750)
    os.setxattr(live / "a", b"user.colour", b"green")
    found = branch.commit().top / "a"
    assert found.read_text() == "1"
    assert (found.stat().st_mode & 0o777, found.stat().st_mtime_ns) == (0o550, mtime)
    assert os.getxattr(found, b"user.colour") == b"green"
    os.close(file)
    assert branch.commit().files == {"a": b"2"}


@row("truncate")
@pytest.mark.parametrize("length", [0, 4, 20, LARGE])
def test_truncating_by_path_is_a_write_and_a_close(branch: Branch, live: Path, length: int) -> None:
    (live / "a").write_bytes(b"1" * 10)
    branch.commit()
    os.truncate(live / "a", length)
    assert branch.commit().files == {"a": (b"1" * 10 + bytes(length))[:length]}


@row("truncate-open")
def test_truncating_a_file_that_somebody_writes_waits_for_his_close(branch: Branch, live: Path) -> None:
    (live / "a").write_text("1" * 10)
    branch.commit()
    file = opened(live / "a")
    os.truncate(live / "a", 4)
    assert branch.commit().files == {"a": b"1" * 10}
    os.close(file)
    assert branch.commit().files == {"a": b"1" * 4}


@row("mmap")
def test_a_mapped_file_is_an_open_one_until_it_is_unmapped(branch: Branch, live: Path) -> None:
    (live / "a").write_bytes(b"1" * 8192)
    branch.commit()
    file = opened(live / "a")
    mapped = mmap.mmap(file, 8192)
    os.close(file)
    mapped[0] = ord("2")
    assert branch.commit().files == {"a": b"1" * 8192}
    mapped.flush()
    assert branch.commit().files == {"a": b"1" * 8192}
    mapped[8191] = ord("3")
    mapped.close()
    assert branch.commit().files == {"a": b"2" + b"1" * 8190 + b"3"}


@row("program-killed")
def test_what_a_killed_program_wrote_is_closed(branch: Branch, live: Path) -> None:
    lines = "import sys; file = open(sys.argv[1], 'w', 1); file.write('half\\n'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", lines, live / "a"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None
        program.stdout.readline()
        assert branch.commit().files == {}
        program.kill()
    assert branch.commit().files == {"a": b"half\n"}


# Names


@row("rename-over")
def test_a_file_that_is_written_beside_and_renamed_over_replaces_the_old_one(branch: Branch, live: Path) -> None:
    (live / "a").write_text("old")
    before = branch.commit()
    (live / ".a.tmp").write_text("new")
    os.replace(live / ".a.tmp", live / "a")
    assert branch.commit().files == {"a": b"new"}
    assert before.files == {"a": b"old"}


@row("rename-open")
def test_a_file_that_is_renamed_while_open_has_its_new_name_and_old_bytes(branch: Branch, live: Path) -> None:
    (live / "a").write_text("old")
    branch.commit()
    file, new = opened(live / "a"), opened(live / "n")
    os.write(file, b"new")
    os.write(new, b"new")
    os.rename(live / "a", live / "b")
    os.rename(live / "n", live / "m")
    assert branch.commit().files == {"b": b"old"}
    os.close(file)
    os.close(new)
    assert branch.commit().files == {"b": b"new", "m": b"new"}


@row("rename-open-over")
def test_an_open_file_that_is_renamed_over_another_takes_its_place_when_closed(branch: Branch, live: Path) -> None:
    (live / "a").write_text("old")
    before = branch.commit()
    file = opened(live / "n")
    os.write(file, b"new")
    os.replace(live / "n", live / "a")
    assert branch.commit().files == {}
    assert before.files == {"a": b"old"}
    os.close(file)
    assert branch.commit().files == {"a": b"new"}


@row("rename-directory")
def test_a_renamed_directory_takes_everything_along(branch: Branch, live: Path) -> None:
    (live / "d/deep").mkdir(parents=True)
    (live / "d/committed").write_text("1")
    (live / "d/deep/changed").write_text("1")
    branch.commit()
    (live / "d/deep/changed").write_text("2")
    (live / "d/new").write_text("3")
    os.rename(live / "d", live / "e")
    found = branch.commit()
    assert found.files == {"e/committed": b"1", "e/deep/changed": b"2", "e/new": b"3"}
    assert os.listdir(found.top) == ["e"]


@row("rename-exchange")
def test_exchanged_names_are_exchanged_in_one_commit(branch: Branch, live: Path) -> None:
    (live / "a").write_text("1")
    (live / "d").mkdir()
    (live / "d/x").write_text("2")
    branch.commit()
    exchange(live / "a", live / "d")
    assert branch.commit().files == {"d": b"1", "a/x": b"2"}


def exchange(one: Path, other: Path) -> None:
    """renameat2(2) with RENAME_EXCHANGE, which Python does not have."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(one))


@row("unlink")
def test_a_removed_file_is_in_the_commits_before_and_a_passing_one_in_none(branch: Branch, live: Path) -> None:
    (live / "a").write_text("1")
    before = branch.commit()
    (live / "a").unlink()
    (live / "passing").write_text("1")
    (live / "passing").unlink()
    after = branch.commit()
    assert (before.files, after.files, after.new) == ({"a": b"1"}, {}, True)


@row("unlink-create")
def test_commits_have_no_file_of_a_name_that_is_made_anew_until_it_is_closed(branch: Branch, live: Path) -> None:
    (live / "a").write_text("old")
    branch.commit()
    (live / "a").unlink()
    file = opened(live / "a", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(file, b"new")
    assert branch.commit().files == {}
    os.close(file)
    assert branch.commit().files == {"a": b"new"}


@row("unlink-open")
@pytest.mark.parametrize("committed", [False, True], ids=["new", "committed"])
def test_a_file_that_is_removed_while_open_goes_on_and_is_in_no_commit(
    branch: Branch, live: Path, committed: bool
) -> None:
    file = opened(live / "a")
    os.write(file, b"1")
    if committed:
        os.close(file)
        branch.commit()
        file = opened(live / "a")
    os.unlink(live / "a")
    os.pwrite(file, b"2", 1)
    assert branch.commit().files == {}
    assert os.pread(file, 10, 0) == b"12"
    os.fsync(file)
    os.close(file)
    assert not branch.commit().new
    assert os.listdir(live) == []


@row("link")
def test_a_second_name_is_of_the_same_inode_in_commits(branch: Branch, live: Path) -> None:
    (live / "a").write_text("1")
    branch.commit()
    os.link(live / "a", live / "b")
    found = branch.commit()
    assert found.files == {"a": b"1", "b": b"1"}
    assert (found.top / "a").stat().st_ino == (found.top / "b").stat().st_ino
    assert (found.top / "a").stat().st_nlink == 2


@row("link-write")
def test_a_change_under_one_name_is_committed_under_all(branch: Branch, live: Path) -> None:
    (live / "a").write_text("1")
    (live / "d").mkdir()
    os.link(live / "a", live / "d/b")
    branch.commit()
    file = opened(live / "a")
    os.write(file, b"2")
    assert branch.commit().files == {"a": b"1", "d/b": b"1"}
    os.close(file)
    os.chmod(live / "d/b", 0o600)
    found = branch.commit()
    assert found.files == {"a": b"2", "d/b": b"2"}
    assert (found.top / "a").stat().st_mode & 0o777 == 0o400


@row("make")
def test_inodes_of_every_kind_are_committed(branch: Branch, live: Path) -> None:
    (live / "dir").mkdir(mode=0o750)
    os.symlink("to nowhere", live / "symlink")
    kinds = {"fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "file": stat.S_IFREG}
    if os.geteuid() == 0:
        kinds |= {"block": stat.S_IFBLK, "char": stat.S_IFCHR}
    for name, kind in kinds.items():
        os.mknod(live / name, kind | 0o600, os.makedev(1, 3))
    top = branch.commit().top
    assert os.readlink(top / "symlink") == "to nowhere"
    assert stat.S_ISDIR((top / "dir").stat().st_mode)
    found = {name: stat.S_IFMT((top / name).stat().st_mode) for name in kinds}
    assert found == kinds
    assert all((top / name).stat().st_rdev == os.makedev(1, 3) for name in kinds if name in {"block", "char"})


# Attributes


def _chmod(path: Path) -> None:
    os.chmod(path, 0o500)


def _chown(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving a file away takes root")
    os.chown(path, 12, 34)


def _utimens(path: Path) -> None:
    os.utime(path, ns=(1_000_000_001, 1_000_000_001))


def _setxattr(path: Path) -> None:
    os.setxattr(path, b"user.colour", b"green")


def _seen(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    names = os.listxattr(path)
    return (
        status.st_mode & 0o555, status.st_uid, status.st_gid, status.st_mtime_ns,
        [os.getxattr(path, name) for name in names],
    )  # fmt: skip


@row("attributes")
@pytest.mark.parametrize("change", [_chmod, _chown, _utimens, _setxattr])
@pytest.mark.parametrize("name", ["file", "directory"])
def test_attributes_are_changes_that_are_committed(
    branch: Branch, live: Path, change: Callable[[Path], None], name: str
) -> None:
    (live / "file").write_text("x")
    (live / "directory").mkdir()
    before = branch.commit()
    change(live / name)
    after = branch.commit()
    assert after.new
    assert _seen(after.top / name) == _seen(live / name) != _seen(before.top / name)


@row("atime")
def test_reading_and_a_new_atime_are_no_changes(branch: Branch, live: Path) -> None:
    (live / "a").write_text("x")
    branch.commit()
    (live / "a").read_text()
    os.utime(live / "a", ns=(5, (live / "a").stat().st_mtime_ns))
    assert (live / "a").stat().st_atime_ns == 5
    assert not branch.commit().new


# Transactions


@row("transaction")
def test_nothing_is_committed_before_a_transaction_ends_and_then_all_that_is_closed(alone: Branch) -> None:
    alone.ask("start")
    (alone.live / "a").write_text("x")
    (alone.live / "b").write_text("x")
    other = new_branch(alone.node)
    (other.live / "a").write_text("x")
    wait_for(lambda: other.facts["commit"])  # as it would have been made here, later than this one
    assert (alone.facts["commit"], alone.facts["state"]) == (None, "transaction")
    file = opened(alone.live / "open")
    made = alone.ask("finish")
    assert files(alone.snapshot(made["id"])) == {"a": b"x", "b": b"x"}
    os.close(file)
    assert alone.log[-1] == made["id"]


@row("transaction-earlier")
def test_an_aborted_transaction_keeps_what_was_closed_before_its_start(branch: Branch, live: Path) -> None:
    (live / "earlier").write_text("x")
    branch.ask("start")
    (live / "since").write_text("x")
    branch.ask("abort")
    assert os.listdir(live) == ["earlier"]
    assert branch.commit().files == {"earlier": b"x"}


@row("abort")
def test_an_aborted_transaction_leaves_nothing_behind(branch: Branch, live: Path) -> None:
    (live / "keep").write_text("1")
    (live / "d").mkdir()
    branch.commit()
    branch.ask("start")
    (live / "keep").write_text("2")
    (live / "more").write_text("x")
    (live / "d").rmdir()
    branch.ask("abort")
    assert sorted(os.listdir(live)) == ["d", "keep"]
    assert (live / "keep").read_text() == "1"
    assert not branch.commit().new
    (live / "after").write_text("x")
    assert branch.commit().files == {"keep": b"1", "after": b"x"}


@row("abort-at-once")
def test_what_is_done_right_after_an_abort_is_done_at_the_head(branch: Branch, live: Path) -> None:
    (live / "d").mkdir()
    branch.commit()
    for number in range(20):
        os.stat(live / "d")
        branch.ask("start")
        branch.ask("abort")
        (live / "d" / str(number)).mkdir()
    assert len(os.listdir(live / "d")) == 20
    branch.node.umount()
    branch.node.mount()
    assert len(os.listdir(live / "d")) == 20


@row("abort-at-once")
def test_a_program_in_the_branch_goes_on_in_it_after_an_abort(branch: Branch, live: Path) -> None:
    (live / "d").mkdir()
    branch.commit()
    top, inner = opened(live, os.O_RDONLY), opened(live / "d", os.O_RDONLY)
    branch.ask("start")
    (live / "d" / "gone").mkdir()
    lost = opened(live / "d" / "gone", os.O_RDONLY)
    branch.ask("abort")
    os.close(os.open("new", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=top))
    assert sorted(os.listdir(top)) == ["d", "new"]
    for place in (inner, lost):
        with pytest.raises(OSError) as refused:
            os.mkdir("lost", dir_fd=place)
        assert refused.value.errno in (errno.ESTALE, errno.ENOENT)
    for descriptor in (top, inner, lost):
        os.close(descriptor)
    assert branch.commit().files == {"new": b""}


@row("abort-open")
def test_what_is_open_at_an_abort_can_be_used_and_is_in_no_commit(branch: Branch, live: Path) -> None:
    (live / "keep").write_text("1")
    branch.commit()
    branch.ask("start")
    new, kept = opened(live / "new"), opened(live / "keep")
    for file in (new, kept):
        os.write(file, b"2")
    branch.ask("abort")
    for file in (new, kept):
        assert os.pread(file, 1, 0) == b"2"
        os.close(file)
    assert branch.commit().files == {"keep": b"1"}
    assert branch.facts["state"] == "clean"
    assert files(live) == {"keep": b"1"}


# Crashes


def close_dead(*descriptors: int) -> None:
    """Close what a dead mount had open: the kernel says that it is gone."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


class Crash(NamedTuple):
    """What a test of a crash has: its branch before, with descriptors that are open; and the branch afterwards."""

    branch: Branch
    descriptors: list[int]


def _crash_closed(crash: Crash) -> None:
    live = crash.branch.live
    (live / "d").mkdir()
    (live / "d/small").write_text("1")
    (live / "large").write_bytes(b"1" * LARGE)
    (live / "base").unlink()
    os.rename(live / "d", live / "e")
    os.symlink("target", live / "symlink")
    os.link(live / "large", live / "linked")
    os.chmod(live / "e/small", 0o640)
    os.setxattr(live / "e/small", b"user.colour", b"green")


def _crash_open(crash: Crash) -> None:
    for name in ("new", "base"):
        crash.descriptors.append(opened(crash.branch.live / name))
        os.write(crash.descriptors[-1], b"2")


def _crash_closed_open(crash: Crash) -> None:
    (crash.branch.live / "a").write_text("1")
    (crash.branch.live / "base").write_text("1")
    for name in ("a", "base"):
        crash.descriptors.append(opened(crash.branch.live / name))
        os.write(crash.descriptors[-1], b"2")


def _crash_closed_in_place_open(crash: Crash) -> None:
    for text in (b"1", b"2"):
        crash.descriptors.append(opened(crash.branch.live / "base"))
        os.write(crash.descriptors[-1], text)
        if text == b"1":
            os.close(crash.descriptors.pop())


def _crash_fsync(crash: Crash) -> None:
    for size in (1, LARGE):
        crash.descriptors.append(opened(crash.branch.live / f"a{size}"))
        os.write(crash.descriptors[-1], b"1" * size)
        os.fsync(crash.descriptors[-1])
        os.write(crash.descriptors[-1], b"2")


def _crash_close_one(crash: Crash) -> None:
    first = opened(crash.branch.live / "a")
    os.write(first, b"1")
    crash.descriptors.append(os.dup(first))
    os.close(first)
    os.write(crash.descriptors[-1], b"2")


def _crash_transaction(crash: Crash) -> None:
    crash.branch.ask("start")
    (crash.branch.live / "a").write_text("1")


CRASHES = [
    _crash_closed, _crash_open, _crash_closed_open, _crash_closed_in_place_open, _crash_fsync, _crash_close_one,
    _crash_transaction,
]  # fmt: skip


@pytest.fixture(scope="module")
def crashed(site: Mounted) -> dict[Callable[[Crash], None], Branch]:
    """Branches with the committed file `base`; each case was brought about in one, then the daemon killed, and mounted
    anew."""
    crashes = {case: Crash(new_branch(site), []) for case in CRASHES}
    for case, crash in crashes.items():
        (crash.branch.live / "base").write_text("0")
        crash.branch.commit()
        case(crash)
    site.kill()
    for crash in crashes.values():
        close_dead(*crash.descriptors)
    site.mount()
    return {case: crash.branch for case, crash in crashes.items()}


def recovered(branch: Branch) -> Commit:
    """The commit after a crash, made by the daemon itself or now; the head must be equal."""
    commit = branch.commit()
    assert files(branch.live) == commit.files
    return commit


Crashed = dict[Callable[[Crash], None], Branch]


@row("crash-closed")
def test_what_was_closed_before_a_crash_is_there_and_committed(crashed: Crashed) -> None:
    branch = crashed[_crash_closed]
    wait_for(lambda: branch.facts["state"] == "clean")  # nobody has to ask
    found = recovered(branch)
    assert not found.new
    large = b"1" * LARGE
    assert found.files == {"e/small": b"1", "large": large, "linked": large}
    assert os.readlink(found.top / "symlink") == "target"
    assert (found.top / "e/small").stat().st_mode & 0o777 == 0o440
    assert os.getxattr(found.top / "e/small", b"user.colour") == b"green"
    assert (found.top / "linked").stat().st_ino == (found.top / "large").stat().st_ino


@row("crash-open")
def test_what_was_not_closed_before_a_crash_is_as_if_it_had_not_been_written(crashed: Crashed) -> None:
    assert recovered(crashed[_crash_open]).files == {"base": b"0"}


@row("crash-closed-open")
def test_what_was_closed_and_being_rewritten_at_a_crash_is_as_it_was_closed(crashed: Crashed) -> None:
    assert recovered(crashed[_crash_closed_open]).files == {"a": b"1", "base": b"1"}


@row("crash-closed-open")
def test_what_was_closed_and_is_rewritten_in_place_at_a_crash_is_as_it_was_closed(crashed: Crashed) -> None:
    assert recovered(crashed[_crash_closed_in_place_open]).files == {"base": b"1"}


@row("crash-fsync")
def test_what_was_synced_before_a_crash_is_committed_so(crashed: Crashed) -> None:
    assert recovered(crashed[_crash_fsync]).files == {"base": b"0", "a1": b"1", f"a{LARGE}": b"1" * LARGE}


@row("crash-close-one")
def test_what_one_close_of_several_recorded_before_a_crash_is_committed_so(crashed: Crashed) -> None:
    assert recovered(crashed[_crash_close_one]).files == {"base": b"0", "a": b"1"}


@row("transaction-crash")
def test_a_transaction_is_still_open_after_a_crash(crashed: Crashed) -> None:
    branch = crashed[_crash_transaction]
    assert files(branch.live) == {"base": b"0", "a": b"1"}
    assert branch.facts["state"] == "transaction"
    assert files(branch.snapshot(branch.facts["commit"])) == {"base": b"0"}
    assert files(branch.snapshot(branch.ask("finish")["id"])) == {"base": b"0", "a": b"1"}


# Two writers


@row("programs")
def test_two_programs_that_write_one_file_make_one_version_of_it(branch: Branch, live: Path) -> None:
    one, other = opened(live / "a"), opened(live / "a")
    os.pwrite(one, b"1", 0)
    os.pwrite(other, b"2", 1)
    assert os.pread(one, 10, 0) == b"12"
    os.close(one)
    assert branch.commit().files == {}
    os.pwrite(other, b"3", 2)
    os.close(other)
    assert branch.commit().files == {"a": b"123"}


class Pair(NamedTuple):
    """A branch on two nodes. `one` commits first, `two` is then the one that loses."""

    one: Branch
    two: Branch

    def after(self, first: Callable[[Path], object], last: Callable[[Path], object]) -> list[Commit]:
        """Both change something before either commits; the commits of each. Both heads are the last one then."""
        first(self.one.live)
        last(self.two.live)
        commits = [self.one.commit(), self.two.commit()]
        wait_for(lambda: self.one.facts["commit"] == self.two.facts["commit"])
        wait_for(lambda: files(self.one.live) == files(self.two.live) == commits[1].files)
        return commits


@pytest.fixture
def pair(branch: Branch, second: Mounted) -> Pair:
    """A branch with the files `f`, `d/x` on two nodes, which both have looked at it."""
    (branch.live / "d").mkdir()
    (branch.live / "d/x").write_text("0")
    (branch.live / "f").write_text("0")
    branch.commit()
    other = Branch(second, branch.live.parent.name)
    wait_for(lambda: other.live.exists() and files(other.live) == {"d/x": b"0", "f": b"0"})
    return Pair(branch, other)


@row("nodes-apart")
def test_changes_of_different_paths_on_two_nodes_are_both_there(pair: Pair) -> None:
    commits = pair.after(lambda live: (live / "d/1").write_text("1"), lambda live: (live / "d/2").write_text("2"))
    assert commits[1].files == {"d/1": b"1", "d/2": b"2", "d/x": b"0", "f": b"0"}


@row("nodes-same")
def test_of_one_path_that_two_nodes_change_the_last_commit_has_its_version(pair: Pair) -> None:
    def first(live: Path) -> None:
        (live / "f").write_text("1")
        os.chmod(live / "f", 0o600)

    commits = pair.after(first, lambda live: (live / "f").write_text("2"))
    assert [commit.files["f"] for commit in commits] == [b"1", b"2"]
    assert (commits[1].top / "f").stat().st_mode & 0o777 == 0o444
    assert len(pair.one.log) == 3


@row("nodes-remove")
def test_a_file_that_one_node_removes_and_the_other_changes_is_as_the_last_commit_says(pair: Pair) -> None:
    def change(live: Path) -> None:
        (live / "f").write_text("1")

    commits = pair.after(lambda live: (live / "f").unlink(), change)
    assert [commit.files.get("f") for commit in commits] == [None, b"1"]
    commits = pair.after(change, lambda live: (live / "f").unlink())
    assert [commit.files.get("f") for commit in commits] == [b"1", None]


@row("nodes-remove-open")
def test_a_file_that_one_node_removes_while_the_other_is_about_to_write_it_is_there_as_written(pair: Pair) -> None:
    with (pair.two.live / "f").open("r+b") as file:
        (pair.one.live / "f").unlink()
        pair.one.commit()
        wait_for(lambda: pair.one.facts["commit"] == pair.two.facts["commit"])
        file.write(b"1")
    assert pair.two.commit().files["f"] == b"1"
    wait_for((pair.one.live / "f").exists)


@row("nodes-kind")
def test_of_a_directory_and_a_file_of_one_name_the_last_commit_has_its_own(pair: Pair) -> None:
    def file(name: str) -> Callable[[Path], object]:
        return lambda live: (live / name).write_text("1")

    def directory(name: str) -> Callable[[Path], object]:
        return lambda live: make_in_directory(live / name, "y")

    assert pair.after(directory("n"), file("n"))[1].files == {"d/x": b"0", "f": b"0", "n": b"1"}
    assert pair.after(file("m"), directory("m"))[1].files == {"d/x": b"0", "f": b"0", "n": b"1", "m/y": b"1"}


@row("nodes-directory")
def test_directories_of_one_name_that_two_nodes_make_become_one(pair: Pair) -> None:
    def make(name: str) -> Callable[[Path], object]:
        return lambda live: make_in_directory(live / "n", name)

    assert pair.after(make("1"), make("2"))[1].files == {"d/x": b"0", "f": b"0", "n/1": b"1", "n/2": b"1"}


def make_in_directory(directory: Path, name: str) -> None:
    """Make a directory with one file in it."""
    directory.mkdir()
    (directory / name).write_text("1")


def write_in_d(live: Path) -> None:
    (live / "d/x").write_text("1")
    (live / "d/new").write_text("1")


@row("nodes-removed-directory")
def test_a_directory_that_one_node_removes_while_the_other_writes_in_it_is_as_the_last_commit_says(pair: Pair) -> None:
    commits = pair.after(lambda live: shutil.rmtree(live / "d"), write_in_d)
    assert [commit.files for commit in commits] == [{"f": b"0"}, {"d/x": b"1", "d/new": b"1", "f": b"0"}]
    (pair.one.live / "d/x").write_text("0")
    pair.one.commit()
    wait_for(lambda: (pair.two.live / "d/x").read_text() == "0")
    commits = pair.after(write_in_d, lambda live: shutil.rmtree(live / "d"))
    assert [commit.files for commit in commits] == [{"d/x": b"1", "d/new": b"1", "f": b"0"}, {"f": b"0"}]
    assert pair.two.facts["gave_way"] == ["d/new", "d/x"]
    assert "d/new, d/x" in pair.two.node.log()


@row("nodes-removed-directory-new")
def test_what_one_node_puts_into_a_directory_that_the_other_removes_stays(pair: Pair) -> None:
    def put(live: Path) -> None:
        (live / "d/new").write_text("1")
        make_in_directory(live / "d/deep", "y")

    commits = pair.after(put, lambda live: shutil.rmtree(live / "d"))
    assert commits[1].files == {"d/new": b"1", "d/deep/y": b"1", "f": b"0"}
    wait_for(lambda: (pair.one.live / "d/deep/y").exists() and not (pair.one.live / "d/x").exists())
    assert sorted(os.listdir(pair.two.live / "d")) == ["deep", "new"]
    assert pair.two.facts["gave_way"] == []


def test_what_was_written_through_a_name_elsewhere_goes_along_with_a_renamed_directory(pair: Pair) -> None:
    os.link(pair.one.live / "d/x", pair.one.live / "l")
    pair.one.commit()
    wait_for((pair.two.live / "l").exists)
    commits = pair.after(
        lambda live: (live / "l").write_text("1"), lambda live: os.rename(live / "d", live / "e")
    )
    assert commits[1].files == {"e/x": b"1", "l": b"1", "f": b"0"}


@row("nodes-gave-way")
def test_a_commit_says_what_others_had_there_that_its_writer_had_not_seen(pair: Pair) -> None:
    commits = pair.after(lambda live: (live / "f").write_text("1"), lambda live: (live / "f").write_text("2"))
    shown = pair.two.node.facts("show", f"{pair.two.name}@{commits[1].top.name.removeprefix('main@')}")
    assert shown["gave_way"] == [{"path": "f"}]
    assert "gave way" in pair.two.node.run("status").stdout
    (pair.two.live / "f").write_text("3")
    assert pair.two.node.facts("show", pair.two.name)["gave_way"] == [{"path": "f"}]
    made = pair.two.commit()
    shown = pair.two.node.facts("show", f"{pair.two.name}@{made.top.name.removeprefix('main@')}")
    assert shown["gave_way"] == [], "it had seen what it replaced"


@row("nodes-renamed-directory")
@pytest.mark.parametrize("writer_is_last", [False, True])
def test_a_directory_that_one_node_renames_while_the_other_writes_in_it_takes_that_along(
    pair: Pair, writer_is_last: bool
) -> None:
    changes: list[Callable[[Path], object]] = [write_in_d, lambda live: os.rename(live / "d", live / "e")]
    first, last = reversed(changes) if writer_is_last else changes
    commits = pair.after(first, last)
    renamed = {"e/x": b"0", "f": b"0"}
    written = {"d/x": b"1", "d/new": b"1"}
    assert commits[1].files == (renamed | written if writer_is_last else {"e/x": b"1", "e/new": b"1", "f": b"0"})
    assert commits[0].files == (renamed if writer_is_last else written | {"f": b"0"})


@row("nodes-renamed-directory")
def test_what_one_node_removes_of_a_directory_that_the_other_renames_is_gone_from_both(pair: Pair) -> None:
    (pair.one.live / "d/y").write_text("0")
    pair.one.commit()
    wait_for(lambda: files(pair.two.live) == {"d/x": b"0", "d/y": b"0", "f": b"0"})
    commits = pair.after(lambda live: (live / "d/x").unlink(), lambda live: os.rename(live / "d", live / "e"))
    assert commits[1].files == {"e/y": b"0", "f": b"0"}


@row("nodes-follow")
def test_what_another_node_commits_shows_up_except_over_changes_here(pair: Pair) -> None:
    (pair.two.live / "f").write_text("mine")
    (pair.one.live / "f").write_text("theirs")
    (pair.one.live / "d/x").write_text("theirs")
    made = pair.one.commit()
    wait_for(lambda: pair.two.facts["commit"] == made.top.name.removeprefix("main@"))
    wait_for(lambda: (pair.two.live / "d/x").read_text() == "theirs")
    assert (pair.two.live / "f").read_text() == "mine"
    assert pair.two.commit().files == {"d/x": b"theirs", "f": b"mine"}
