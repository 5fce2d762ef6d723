"""A place where the examples of one page run: a home, a store and a state of its own, and nothing left mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.conftest import mounted, node, quiet_s

__all__ = ["mounted", "node", "place", "quiet_s"]


@dataclass(frozen=True)
class Place:
    """folder: where the shell begins. environ: all variables that it has."""

    folder: Path
    environ: dict[str, str]

    def mountpoints(self) -> list[str]:
        """What is mounted below `folder`."""
        rows = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return [row for row in rows if row.startswith(f"{self.folder}/")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """What the pages take for granted: vfsd in PATH, and a machine on which nobody used it before."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    folder = tmp_path / "home"
    folder.mkdir()
    config = tmp_path / "config.toml"
    config.write_text('author = "you@here"\nquiet_s = 3600\nmax_wait_s = 3600\npoll_s = 0.2\n')
    environ = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(tmp_path),
        "VFSD_CONFIG": str(config),
        "VFSD_STORE": f"file://{tmp_path}/store",
        "VFSD_STATE_DIR": str(tmp_path / "state"),
        "VFSD_CACHE_DIR": str(tmp_path / "cache"),
    }
    environ |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}  # which vfsd is tested
    found = Place(folder, environ)
    yield found
    for mountpoint in found.mountpoints():
        done = subprocess.run(["vfsd", "umount", mountpoint], env=environ, capture_output=True, check=False)
        if done.returncode:
            subprocess.run(["fusermount3", "-u", "-z", mountpoint], check=False)
