"""`vfsd watch` as a process: what it says, how it ends, and that a restart goes on."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.daemon.program import Program
from tests.repo.following import writer

LIMIT_S = 120.0


class Watching:
    """A `vfsd watch` that runs. Its log is read line by line."""

    def __init__(self, vfsd: Program, *words: str) -> None:
        self._process = subprocess.Popen(
            vfsd.command("watch", *words), env=vfsd.environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self._unread = b""

    def said(self, pattern: str) -> str:
        """The next line of the log in which `pattern` is found."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            line, end, rest = self._unread.partition(b"\n")
            if end:
                self._unread = rest
                if re.search(pattern, line.decode()):
                    return line.decode()
                continue
            assert self._process.stderr is not None
            ready = select.select([self._process.stderr], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"nothing said {pattern}"
            part = os.read(self._process.stderr.fileno(), 65536)
            assert part, f"ended without {pattern}: {self._unread.decode()}"
            self._unread += part

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The process does nothing for the time of the block."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def ends(self, number: int | None = None) -> tuple[int, str]:
        """(exit code, the rest of the log), after a signal if one is given."""
        if number is not None:
            self._process.send_signal(number)
        _, log = self._process.communicate(timeout=LIMIT_S)
        return self._process.returncode, (self._unread + log).decode()

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()


@pytest.fixture
def vfsd(vfsd: Program) -> Program:
    """A store with the repo `texts`, with a quiet period that no test waits out unless it says so."""
    (vfsd.folder / "config.toml").write_text('author = "tester@here"\nquiet_s = 0.2\n')
    (vfsd.folder / "dir").mkdir()
    return vfsd


@pytest.fixture
def folder(vfsd: Program) -> Path:
    return vfsd.folder / "dir"


@pytest.fixture
def watch(vfsd: Program, folder: Path) -> Iterator[Watching]:
    found = Watching(vfsd, str(folder), "texts/main")
    yield found
    found.close()


def test_a_commit_is_a_line_that_says_what_it_has(watch: Watching, folder: Path, vfsd: Program) -> None:
    (folder / "note\nof two lines").write_text("x")
    line = watch.said("commit")
    commit = vfsd.ok("show", "texts/main", "--json").json
    assert line.endswith(f" INFO texts/main: commit {commit['id'][:12]}: note\\nof two lines")
    assert commit["author"] == "tester@here"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_what_is_closed_and_ends_it(number: int, folder: Path, vfsd: Program) -> None:
    (vfsd.folder / "config.toml").write_text("quiet_s = 600\nmax_wait_s = 600\n")
    (folder / "early").write_text("x")
    watch = Watching(vfsd, str(folder), "texts/main")
    watch.said("early")
    with writer(folder / "open") as write:
        write("half")
        (folder / "late").write_text("y")
        code, log = watch.ends(number)
    assert code == 0, log
    assert vfsd.ok("ls", "texts/main").lines == ["early", "late"]


def test_a_restart_after_kill_9_goes_on_and_uploads_nothing_again(
    watch: Watching, folder: Path, vfsd: Program
) -> None:
    (folder / "large").write_bytes(os.urandom(3_000_000))
    watch.said("large")
    watch.ends(signal.SIGKILL)
    packs = set((vfsd.store / "packs").rglob("*"))
    (folder / "meanwhile").write_text("x")
    (folder / "large").chmod(0o600)
    again = Watching(vfsd, str(folder), "texts/main")
    assert again.said("commit").endswith(": large, meanwhile")
    assert again.ends(signal.SIGTERM) == (0, "")
    assert set((vfsd.store / "packs").rglob("*")) == packs
    assert vfsd.ok("stat", "texts/main/large", "--json").json["mode"] == "0600"
    assert len(vfsd.ok("log", "texts/main").lines) == 2


def test_files_whose_notices_the_kernel_had_no_room_for_are_found(
    watch: Watching, folder: Path, vfsd: Program
) -> None:
    (folder / "first").touch()
    watch.said("first")
    with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as file:
        queue = int(file.read())
    if queue > 20_000:
        pytest.skip(f"the kernel's queue holds {queue} notices: too many files to fill it")
    with watch.stopped():
        for number in range(queue // 3):
            (folder / str(number)).write_text("x")
    watch.said("commit")
    code, log = watch.ends(signal.SIGTERM)
    assert code == 0, log
    assert len(vfsd.ok("ls", "texts/main").lines) == queue // 3 + 1


def test_a_directory_that_goes_is_an_error_of_one_line(watch: Watching, folder: Path) -> None:
    (folder / "a").write_text("x")
    watch.said("commit")
    folder.rename(folder.parent / "elsewhere")
    code, log = watch.ends()
    assert code == 1
    assert log.splitlines()[-1] == f"vfsd: {folder} is gone: start again when the directory is there"


def test_a_branch_that_goes_is_said_and_waited_for(watch: Watching, folder: Path, vfsd: Program) -> None:
    (folder / "a").write_text("x")
    watch.said("commit")
    vfsd.ok("branch", "delete", "texts/main")
    (folder / "b").write_text("y")
    watch.said("WARNING cannot commit, will try again: there is no branch main in repo texts")
    vfsd.ok("branch", "create", "texts/main")
    watch.said("commit")
    assert vfsd.ok("ls", "texts/main").lines == ["a", "b"]


def test_once_commits_what_differs_and_ends(folder: Path, vfsd: Program) -> None:
    (folder / "a").write_text("x")
    with writer(folder / "open"):
        done = vfsd.spawn("watch", "--once", str(folder), "texts/main")
    assert done.code == 0
    first, second = done.err.splitlines()
    assert first.endswith(": a")
    assert second.endswith(f"WARNING {folder}/open: left out: it is being written")
    (folder / "a").unlink()
    assert vfsd.spawn("watch", "--once", "--delete", str(folder), "texts/main").err.endswith(": - a, open\n")
    assert vfsd.ok("ls", "texts/main").lines == ["open"]


def test_a_path_is_the_directory_that_gets_it(folder: Path, vfsd: Program) -> None:
    vfsd.put("texts/main/other", "x")
    (folder / "a").write_text("x")
    vfsd.ok("watch", "--once", "--delete", str(folder), "texts/main/deep/er/")
    assert vfsd.ok("ls", "texts/main/deep/er").lines == ["a"]
    assert vfsd.ok("ls", "texts/main").lines == ["deep/", "other"]


@pytest.mark.parametrize(
    "local, spec, code, text",
    [
        ("nothing", "texts/main", 1, "DIR/nothing is not there: make the directory first"),
        ("file", "texts/main", 2, "DIR/file is not a directory"),
        ("state", "texts/main", 2, "DIR/state is in DIR/state, where vfsd keeps its own files: choose another"),
        ("", "texts/main", 2, "has DIR/state in it, where vfsd keeps its own files: choose one without"),
        ("dir", "texts", 2, "'texts': name it as REPO/BRANCH"),
        ("dir", "texts/none", 1, "there is no branch none in repo texts"),
        ("dir", "none/main", 1, "there is no repo none in"),
        ("dir", "texts/main@~1", 1, "texts/main@~1 is a snapshot, which never changes"),
        ("dir", "texts/main@v1", 1, "texts/main@v1 is a snapshot, which never changes"),
        ("dir", "texts/main/file", 1, "texts/main/file is a file, which a directory may not replace"),
        ("dir", "texts/main/file/below", 1, "file is not a directory"),
    ],
)
@pytest.mark.parametrize("once", [[], ["--once"]])
def test_bad_input_is_one_line(
    local: str, spec: str, code: int, text: str, once: list[str], folder: Path, vfsd: Program
) -> None:
    vfsd.put("texts/main/file", "x")
    vfsd.file("file")
    done = vfsd("watch", *once, str(vfsd.folder / local), spec)
    assert done.code == code
    assert text.replace("DIR", str(vfsd.folder)) in done.error


def test_the_output_of_a_pipeline_is_refused(folder: Path, vfsd: Program) -> None:
    spec = {"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": {"repo": "texts", "glob": "/"}}}
    vfsd.ok("pipeline", "create", "-f", vfsd.file("p.json", json.dumps(spec)))
    assert "p/main is the output of pipeline p" in vfsd("watch", str(folder), "p/main").error
