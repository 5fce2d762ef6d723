"""A real mount: the program as a user starts it, in a process of its own, over a store in a temporary directory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stores import make_store

QUIET_S = 0.2  # shorter than the default, so that tests wait less
NEVER_S = 3600.0
commits_by_itself = pytest.mark.parametrize("quiet_s", [QUIET_S], ids=[""])


class Mounted:
    """One node: a store, a state directory, a mountpoint, and the commands of `vfsd` over them. quiet_s: how long a
    branch must be quiet until it is committed; by itself it is not while a test runs, unless that is said here."""

    def __init__(self, folder: Path, store: str | None = None, *, quiet_s: float = NEVER_S) -> None:
        self.folder = folder
        self.path = folder / "mnt"
        self.path.mkdir(parents=True)
        self.store = store or f"file://{folder}/store"
        config = folder / "config.toml"
        config.write_text(f"quiet_s = {quiet_s}\nmax_wait_s = {NEVER_S}\npoll_s = 0.2\n")
        self.environ = {
            **os.environ,
            "VFSD_STATE_DIR": str(folder / "state"),
            "VFSD_CACHE_DIR": str(folder / "cache"),
            "VFSD_STORE": self.store,
            "VFSD_CONFIG": str(config),
        }

    def run(
        self, *words: str | Path, check: bool = True, timeout: float = 300, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of vfsd; its exit code must be 0 unless `check` is off. timeout: in seconds."""
        done = subprocess.run(
            [sys.executable, "-m", "vfsd", *map(str, words)], env=self.environ, capture_output=True, text=True,
            check=False, timeout=timeout, **more,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"vfsd {' '.join(map(str, words))}: {done.stderr}"
        return done

    def facts(self, *words: str | Path) -> Any:
        """What a command prints with --json."""
        return json.loads(self.run("--json", *words).stdout)

    def mount(self, *words: str) -> None:
        """Mount and return when it is ready."""
        self.run("mount", *words, self.path)

    def umount(self) -> None:
        """Unmount and return when the daemon has ended."""
        self.run("umount", self.path)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return int(os.getxattr(self.path, b"user.vfsd.pid"))

    def kill(self) -> None:
        """kill -9 the daemon, and return when it is gone."""
        watched = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(watched, signal.SIGKILL)
            assert select.select([watched], [], [], 60)[0]
        finally:
            os.close(watched)

    def close(self) -> None:
        """Leave nothing behind."""
        if self.is_mounted():
            done = self.run("umount", self.path, check=False)
            if done.returncode:
                subprocess.run(["fusermount3", "-u", "-z", str(self.path)], check=False, capture_output=True)

    def is_mounted(self) -> bool:
        """Whether something is mounted at the mountpoint."""
        return any(line.split()[4] == str(self.path) for line in Path("/proc/self/mountinfo").read_text().splitlines())

    def log(self) -> str:
        """The daemon's log."""
        return "".join(path.read_text() for path in (self.folder / "state").glob("*/daemon.log"))


@pytest.fixture
def quiet_s() -> float:
    """After what time without a change `node` commits by itself; a test that needs it sets it as a parameter."""
    return NEVER_S


@pytest.fixture
def node(tmp_path: Path, quiet_s: float) -> Iterator[Mounted]:
    """A node with an empty store, not mounted yet."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    found = Mounted(tmp_path, quiet_s=quiet_s)
    make_store(found.store)
    yield found
    found.close()


@pytest.fixture
def mounted(node: Mounted) -> Mounted:
    """A mounted node with the repo `data`."""
    node.mount()
    (node.path / "data").mkdir()
    return node
