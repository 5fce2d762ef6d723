"""What scripts/bench store measures: file systems over one S3 server, and plain requests as their limit.

How each is mounted and ended is in scripts/benchmarks/peers.py; here is how it speaks to the server, when the server
holds all that was written, and what must go for a node to have seen nothing yet.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from scripts.benchmarks.child import in_child
from scripts.benchmarks.dataset import RANDOM_SIZE, SMALL_SIZE, Data, Row, copy_in
from scripts.benchmarks.peers import Failed, Juicefs, Mounted, Rclone, S3ql, TooLong, Vfsd, last_line
from scripts.benchmarks.plain import FILES, RANGE, RANGES, Boto3
from tests.servers import ACCESS_KEY, BUCKET, CREDENTIALS, SECRET_KEY

TOP = Path(__file__).parents[2]
FILLERS = 8  # processes that copy a set in where nobody looks at the time
STREAMS = "16"  # requests at once, where a peer lets one choose


class Peer(Protocol):
    """What a cell of the table needs. All raise Failed, and TooLong when it takes too long."""

    settings: str

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""

    def version(self) -> str:
        """What it is, in a few words."""

    def begin(self, *, fresh: bool) -> None:
        """Be ready for work; `fresh`: as a node that has kept nothing. The first one makes an empty store."""

    def measure(self, row: Row, data: Data, limit: float) -> float | None:
        """Seconds of a row, at most `limit`, until the server holds what it stores; None when it has no such row."""

    def fill(self, data: Data, name: str) -> None:
        """Store a set as quickly as may be, whatever is there of it."""

    def abandon(self) -> None:
        """A row failed, or did not end: be such that it can begin again."""

    def remove(self) -> None:
        """End it and remove everything of it here."""


class OnS3(Mounted):
    """What file systems over the server have in common. endpoint: URL that they are to use; server: the server's own,
    where requests are neither delayed nor counted."""

    local: tuple[str, ...] = ("cache",)  # folders that a fresh node does not have

    def __init__(self, folder: Path, programs: Path, limit: float, endpoint: str, server: str) -> None:
        super().__init__(folder, programs, limit)
        self.endpoint = endpoint
        self.server = server

    def begin(self, *, fresh: bool) -> None:
        """Be mounted; `fresh`: as a node that has kept nothing."""
        if fresh:
            self.unmount()
            for name in self.local:
                shutil.rmtree(self.folder / name, ignore_errors=True)
                if self.made:
                    (self.folder / name).mkdir()
        if not self.daemon:
            self.mount()

    def measure(self, row: Row, data: Data, limit: float) -> float | None:
        """Seconds of a row, at most `limit`, until the server holds what it stores."""
        took = in_child(row.run, self.where, data, limit)
        start = time.perf_counter()
        if row.stores:
            usual, self.limit = self.limit, limit - took
            try:
                self.settle(row.needs, data)
            finally:
                self.limit = usual
        return took + time.perf_counter() - start

    def settle(self, name: str, data: Data) -> None:
        """Return when the server holds everything that was written; `name`: the set that it was."""

    def fill(self, data: Data, name: str) -> None:
        """Copy a set in with several processes at once."""
        self.begin(fresh=False)
        in_child(lambda where, load: copy_in(where, load, name, processes=FILLERS), self.where, data, self.limit)
        self.settle(name, data)

    def abandon(self) -> None:
        """End it at once."""
        self.kill()


class VfsdOnS3(OnS3, Vfsd):
    """vfsd as it is in this checkout."""

    settings = "default configuration; cold: neither state nor cache; stored: `vfsd commit` has returned"
    local = ("state", "cache")

    def environ(self) -> dict[str, str]:
        """The environment of its commands."""
        return {
            **self.rig.environ, **CREDENTIALS, "VFSD_STORE": f"s3://{BUCKET}/vfsd", "VFSD_S3_ENDPOINT": self.endpoint
        }  # fmt: skip

    def settle(self, name: str, data: Data) -> None:
        """Return when the server holds everything that was written."""
        self.run("vfsd", "commit", "bench/main")

    def fill(self, data: Data, name: str) -> None:
        """Put a set past the mount."""
        self.begin(fresh=False)
        self.run("vfsd", "put", data.folder / name, f"bench/main/{name}")


class JuicefsOnS3(OnS3, Juicefs):
    """JuiceFS: metadata in SQLite on the local disk."""

    settings = "SQLite on the local disk, which a cold node keeps; no trash, no writeback"

    def make(self) -> None:
        """Make an empty one."""
        Mounted.make(self)
        self.run(
            "juicefs", "format", "--storage", "s3", "--bucket", f"{self.endpoint}/{BUCKET}", "--access-key", ACCESS_KEY,
            "--secret-key", SECRET_KEY, "--trash-days", "0", f"sqlite3://{self.folder}/meta.db", "bench",
        )  # fmt: skip


class PlainObjects(OnS3):
    """A file system whose files are objects of the same name: any client can fill it."""

    def fill(self, data: Data, name: str) -> None:
        """Put a set past the mount."""
        clients = [Plain(library, self.programs, self.limit, self.endpoint) for library in reversed(LIMITS)]
        next(client for client in clients if not client.absent()).fill(data, name)


class RcloneOnS3(PlainObjects, Rclone):
    """rclone mount, with the full cache and several streams a file."""

    options = (
        "--vfs-read-chunk-streams", STREAMS, "--vfs-read-chunk-size", "4M", "--vfs-write-back", "100ms", "--transfers",
        STREAMS, "--use-server-modtime",
    )  # fmt: skip
    settings = f"--vfs-cache-mode full {' '.join(options)}; stored: the server lists it"

    def environ(self) -> dict[str, str]:
        """The environment of its commands: the remote is made of it."""
        remote = {
            "TYPE": "s3", "PROVIDER": "SeaweedFS", "ACCESS_KEY_ID": ACCESS_KEY, "SECRET_ACCESS_KEY": SECRET_KEY,
            "ENDPOINT": self.endpoint, "REGION": "us-east-1",
        }  # fmt: skip
        return {**super().environ(), **{f"RCLONE_CONFIG_BENCH_{key}": value for key, value in remote.items()}}

    def remote(self) -> str | Path:
        """What it is mounted over."""
        return f"bench:{BUCKET}"

    def settle(self, name: str, data: Data) -> None:
        """Return when the server holds everything that was written: files are queued some time after their close."""
        ends = time.monotonic() + self.limit
        while self._stored(name) < data.bytes_in(name):
            if time.monotonic() > ends:
                raise TooLong(f"not stored within {self.limit:.0f} s")
            time.sleep(0.1)
            self.written_back()

    def leave(self) -> None:
        """Write everything out and ask the daemon to end."""
        super().leave()
        (self.folder / "rc").unlink(missing_ok=True)

    def abandon(self) -> None:
        """End it at once."""
        super().abandon()
        (self.folder / "rc").unlink(missing_ok=True)

    def _stored(self, name: str) -> int:
        """Bytes of a set that the server holds."""
        return Boto3(self.server, BUCKET, ACCESS_KEY, SECRET_KEY).size(name)


class S3fs(PlainObjects):
    """s3fs, as Debian has it, with a cache on the local disk."""

    name = "s3fs"
    program = "s3fs"
    settings = f"use_cache, parallel_count={STREAMS}, multireq_max=64"

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        return "" if shutil.which("s3fs") else "no s3fs in PATH, see scripts/bench peers --help"

    def version(self) -> str:
        """What it is, in a few words."""
        return self.run(self._path(), "--version").splitlines()[0].split("V")[-1].split()[0]

    def make(self) -> None:
        """Make an empty one."""
        super().make()
        secret = self.folder / "passwd"
        secret.touch(0o600)
        secret.write_text(f"{ACCESS_KEY}:{SECRET_KEY}\n")

    def serve(self) -> list[str | Path]:
        """The command that mounts it in the foreground."""
        options = (
            f"url={self.endpoint},use_path_request_style,passwd_file={self.folder}/passwd,use_cache={self.cache},"
            f"parallel_count={STREAMS},multireq_max=64"
        )
        return [self._path(), BUCKET, self.mnt, "-f", "-o", options]

    def _path(self) -> str:
        return shutil.which("s3fs") or "s3fs"


class S3qlOnS3(OnS3, S3ql):
    """S3QL, neither encrypted nor compressed."""

    settings = "--plain, --compress none; stored: umount.s3ql has returned; a cold node fetches the metadata unseen"

    def make(self) -> None:
        """Make an empty one."""
        secret = self.folder / "auth"
        secret.touch(0o600)
        secret.write_text(
            f"[s3c]\nstorage-url: s3c://\nbackend-login: {ACCESS_KEY}\nbackend-password: {SECRET_KEY}\n"
        )
        super().make()

    def settle(self, name: str, data: Data) -> None:
        """Return when the server holds everything that was written, metadata included."""
        self.unmount()

    def abandon(self) -> None:
        """End it at once, and have it mend itself."""
        self.kill()
        if not self.made:
            return
        try:
            self.run("fsck.s3ql", *self.options(), "--batch", self.url())
        except Failed as error:
            if "Completed fsck" not in str(error):  # its exit code says that there was something to mend
                raise

    def options(self) -> list[str | Path]:
        """What all its commands take."""
        backend: list[str | Path] = ["--authfile", self.folder / "auth", "--backend-options", "no-ssl"]
        return [*super().options(), *backend]

    def url(self) -> str:
        """Where its objects are."""
        return f"s3c://{urlsplit(self.endpoint).netloc}/{BUCKET}/s3ql"


class Plain:
    """Plain requests by scripts/benchmarks/plain.py, as the limit of what a file system can do."""

    def __init__(self, library: str, programs: Path, limit: float, endpoint: str) -> None:
        self.name = library
        self.settings = f"{RANGES} ranges of {RANGE >> 20} MiB, {FILES} small objects at once; one object a file"
        self._programs = programs
        self._limit = limit
        self._endpoint = endpoint

    def absent(self) -> str:
        """Why it cannot be measured here; empty if it can."""
        return "" if self._python() else f"no {self.name} in {self._programs}, see scripts/bench peers --help"

    def version(self) -> str:
        """Of the library."""
        found = f"import importlib.metadata; print(importlib.metadata.version({self.name!r}))"
        return subprocess.run([self._python(), "-c", found], capture_output=True, text=True, check=True).stdout.strip()

    def begin(self, *, fresh: bool) -> None:
        """Nothing is kept from one row to the next."""

    def measure(self, row: Row, data: Data, limit: float) -> float | None:
        """Seconds of a row, at most `limit`; None when it has no such row."""
        return self.act(row.action, row.needs, data, limit) if row.action else None

    def fill(self, data: Data, name: str) -> None:
        """Put a set."""
        self.act("put-big" if name == "big" else "put-files", name, data, self._limit)

    def abandon(self) -> None:
        """Nothing is kept."""

    def remove(self) -> None:
        """Nothing is kept."""

    def act(self, action: str, top: str, data: Data, limit: float) -> float:
        """Seconds of an action."""
        task = {
            "library": self.name, "server": [self._endpoint, BUCKET, ACCESS_KEY, SECRET_KEY], "action": action,
            "folder": str(data.folder), "top": top, "names": data.small_names(), "each": SMALL_SIZE, "size": data.size,
            "count": data.many, "places": data.places(), "piece": RANDOM_SIZE,
        }  # fmt: skip
        # by name and not with -m: scripts/bench lists what can be run
        command = [self._python(), "-c", "from scripts.benchmarks.plain import main; main()"]
        try:
            done = subprocess.run(
                command, cwd=TOP, input=json.dumps(task), capture_output=True, text=True, timeout=limit, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise TooLong(f"{action} did not end within {limit:.0f} s") from None
        if done.returncode:
            raise Failed(f"{action}: {last_line(done.stderr)}")
        return float(done.stdout)

    def _python(self) -> str:
        """The interpreter that has the library: this one, or the peers'; empty if none."""
        if importlib.util.find_spec(self.name):
            return sys.executable
        theirs = self._programs / "python"
        tried = [str(theirs), "-c", f"import {self.name}"]
        if not theirs.exists() or subprocess.run(tried, capture_output=True, check=False).returncode:
            return ""
        return str(theirs)


FILE_SYSTEMS: dict[str, type[OnS3]] = {
    kind.name: kind for kind in (VfsdOnS3, JuicefsOnS3, RcloneOnS3, S3fs, S3qlOnS3)
}
LIMITS = ("boto3", "obstore")


def make_peer(name: str, folder: Path, programs: Path, limit: float, endpoint: str, server: str) -> Peer:
    """One of FILE_SYSTEMS or LIMITS, with nothing in it. folder: is made, for everything of it. limit: seconds of every
    step that is not timed."""
    if name in LIMITS:
        return Plain(name, programs, limit, endpoint)
    return FILE_SYSTEMS[name](folder, programs, limit, endpoint, server)
