"""The command line as tests run it: on a store, a state and a home of its own; as a real process, or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from vfsd.daemon.cli import cli

TIMEOUT = 300.0  # seconds; nothing here takes so long, on no machine


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Standard output."""
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.text.splitlines()

    @property
    def json(self) -> Any:
        """Standard output as one document."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """What a user reads who did something wrong: exactly one line, from vfsd, and no traceback."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("vfsd: "), self.err
        assert "VFSD_DEBUG" not in lines[0], self.err
        assert self.out == b"", self.out
        return lines[0].removeprefix("vfsd: ")


class Program:
    """`vfsd` with a store in `folder`/store, not made yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        config = folder / "config.toml"
        config.write_text('author = "tester@here"\n')
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "VFSD_STORE": f"file://{self.store}",
            "VFSD_STATE_DIR": str(folder / "state"),
            "VFSD_CACHE_DIR": str(folder / "cache"),
            "VFSD_CONFIG": str(config),
            **{name: value for name, value in os.environ.items() if name.startswith(("AWS_", "VFSD_S3_"))},
        }

    def __call__(self, *args: str, stdin: bytes = b"") -> Done:
        """Run in this process: quick, and the same code but for the last exit."""
        result = CliRunner().invoke(cli, args, input=stdin, env=self.environ)
        return Done(result.exit_code, result.stdout_bytes, result.stderr)

    def ok(self, *args: str, stdin: bytes = b"") -> Done:
        """Run in this process; it has to succeed."""
        done = self(*args, stdin=stdin)
        assert done.code == 0, done.err
        return done

    def spawn(self, *args: str | bytes, stdin: bytes = b"", **environ: str) -> Done:
        """Run as a process of its own."""
        finished = subprocess.run(
            self.command(*args), input=stdin, env=self.environ | environ, capture_output=True, timeout=TIMEOUT,
            check=False,
        )  # fmt: skip
        return Done(finished.returncode, finished.stdout, finished.stderr.decode())

    def command(self, *args: str | bytes) -> list[str | bytes]:
        """The words of a process to start."""
        return [sys.executable, "-m", "vfsd", *args]

    def file(self, name: str, content: bytes | str = b"") -> str:
        """A local file; its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def put(self, spec: str, content: bytes | str) -> str:
        """Make `spec` a file with this content; the id of the commit."""
        data = content.encode() if isinstance(content, str) else content
        made = self.ok("put", "-", spec, "--json", stdin=data).json["id"]
        assert isinstance(made, str)
        return made
