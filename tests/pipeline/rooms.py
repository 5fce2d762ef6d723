"""Rooms in which datums run, with the directories of one datum, for tests."""

from __future__ import annotations

import os
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from vfsd.model.datum import DatumInput
from vfsd.model.ids import CommitId, DatumId, Digest, GlobalId, JobId
from vfsd.model.spec_transform import Transform
from vfsd.pipeline.accounts import Account, Accounts
from vfsd.pipeline.executor import GRACE_S, BoundedLog, DatumOutcome, run_datum
from vfsd.pipeline.sandbox import DatumRun, Mounted, Room, Sandbox, Terms, Unsandboxed, mounted, sandbox_works

COMMIT = CommitId("c" * 64)
LIMIT_S = 300.0  # nothing here takes so long, on no machine
WHY_NOT = sandbox_works()
needs_sandbox = pytest.mark.skipif(WHY_NOT is not None, reason=f"no sandbox: {WHY_NOT}")
Maker = type[Sandbox] | type[Unsandboxed]
BOTH = [
    pytest.param(Sandbox, id="sandbox", marks=needs_sandbox),
    pytest.param(Unsandboxed, id="unsandboxed"),
]
both = pytest.mark.parametrize("maker", BOTH)


def account(maker: Maker) -> Account:
    """Whom a test's datums run as: nobody where that is possible."""
    return Accounts(("nobody" if maker is Sandbox else "root",)).of("")


class Bench:
    """A directory that stands for the mount, and the directories of one job with one datum."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mount = root / "mount"
        self.job = root / "job"
        self.out = self.job / "out"
        self.scratch = self.job / "scratch"
        self.log = root / "log"
        self.cut = 0  # bytes that the last log did not keep
        self.mark = f"98765.{os.getpid()}{id(self)}"  # an argument that no other process has
        for directory in (self.mount, self.job, self.out, self.scratch):
            directory.mkdir()
        self.out.chmod(0o777)

    def put(self, path: bytes, content: bytes, name: str = "texts") -> Mounted:
        """An input file."""
        one = DatumInput(name, "repo", "main", COMMIT, path, False, Digest(b""), len(content))
        found = mounted(os.fsencode(self.mount), one)
        os.makedirs(os.path.dirname(found.source), exist_ok=True)
        Path(os.fsdecode(found.source)).write_bytes(content)
        return found

    @asynccontextmanager
    async def room(self, maker: Maker, *hidden: Path, **terms: Any) -> AsyncIterator[Room]:
        """A room of the job."""
        made = Sandbox(map(os.fsencode, hidden), os.fsencode(self.mount)) if maker is Sandbox else Unsandboxed()
        who = terms.pop("account", None) or account(maker)
        async with made.opened(os.fsencode(self.job), Terms(account=who, **terms)) as room:
            yield room

    def run(self, script: str, *inputs: Mounted, **transform: Any) -> DatumRun:
        """The datum, with a shell script."""
        text = script.replace("SLEEP", f"sleep {self.mark}")
        return self.command("sh", "-c", text, self.mark, inputs=inputs, **transform)

    def command(self, *cmd: str, inputs: tuple[Mounted, ...] = (), **transform: Any) -> DatumRun:
        """The datum, with a command."""
        return DatumRun(
            transform=Transform(cmd, **transform),
            inputs=inputs,
            out=os.fsencode(self.out),
            scratch=os.fsencode(self.scratch),
            job=JobId("1" * 32),
            datum=DatumId("2" * 64),
            output=GlobalId("3" * 32),
        )

    async def outcome(
        self, maker: Maker, run: DatumRun, *hidden: Path, timeout_s: float | None = LIMIT_S, grace_s: float = GRACE_S,
        log: str = "", **terms: Any,
    ) -> tuple[DatumOutcome, str]:
        """How the datum ended in a room of its own, and its log."""
        path = log or os.fspath(self.log)
        async with self.room(maker, *hidden, **terms) as room:
            with BoundedLog(path) as written:
                outcome = await run_datum(room.prepare(run), written, timeout_s=timeout_s, grace_s=grace_s)
        self.cut = written.cut
        return outcome, "" if log else self.log.read_text(errors="surrogateescape")

    def left(self) -> list[int]:
        """Processes of the command that run on. One that was killed takes a moment to be gone, sometimes a long one."""
        return [pid for pid in self.running() if not ends(pid)]

    def running(self) -> list[int]:
        """Processes of the command."""
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                argv = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if self.mark.encode() in argv and int(name) != os.getpid():
                found.append(int(name))
        return found


def ends(pid: int) -> bool:
    """Whether a process ends within a while."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watched], [], [], 60)[0])
    finally:
        os.close(watched)
