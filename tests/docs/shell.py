"""Runs the examples of a page in one bash and compares what they print.

    ```console          runs: lines that begin with `$ ` are commands, `> ` goes on with one, the rest is their output
    ```json file=NAME   is written to the file NAME first; so are blocks of other languages with `file=`
    ```sh, ```text      is read by people only

In output, `…` stands for anything within a line, and a line with nothing else for any number of lines. A command whose
last line of output is an error (`vfsd: …`) has to fail, every other one to succeed.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import Block, blocks

LIMIT_S = 300.0  # for one command, on the slowest machine
_FILE = re.compile(r"\bfile=(\S+)")
_ERROR = re.compile(r"(vfsd|bash|cp|touch|rm|mv|cat|ls): ")
_END = b"<<end of the command>>"  # nothing here prints it


@dataclass(frozen=True)
class Example:
    """A command and what it prints. line: in its page."""

    line: int
    command: str
    output: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether the page shows it failing."""
        return bool(self.output) and _ERROR.match(self.output[-1]) is not None


def examples(block: Block) -> Iterator[Example]:
    """The commands of a block that runs."""
    line, command, output = 0, "", list[str]()
    for number, text in enumerate(block.lines, block.line):
        if text.startswith("$ "):
            if line:
                yield Example(line, command, tuple(output))
            line, command, output = number, text[2:], []
        elif text.startswith("> ") and not output:
            command += "\n" + text[2:]
        else:
            assert line, f"{block.page}:{number}: output before a command"
            output.append(text)
    if line:
        yield Example(line, command, tuple(output))


def matches(shown: tuple[str, ...], printed: list[str]) -> bool:
    """Whether `printed` is what a page shows."""
    parts = (
        r"(?:[^\n]*\n)*" if line.strip() == "…" else ".*".join(map(re.escape, line.split("…"))) + "\n"
        for line in shown
    )
    return re.fullmatch("".join(parts), "".join(line + "\n" for line in printed)) is not None


def run_page(page: Path, folder: Path, environ: Mapping[str, str], *, typed: bool = False) -> int:
    """Run a page's examples in order, beginning in `folder`; how many. AssertionError names page and line. typed: each
    is a job of its own to lineage, as what somebody types is; the examples begin nothing in the background then."""
    count = 0
    with Bash(folder, environ) as bash:
        if typed:
            bash.type()
        for block in blocks(page):
            file = _FILE.search(block.info)
            if file:
                bash.write(file[1], "\n".join(block.lines) + "\n")
            elif block.info.split() == ["console"]:
                for example in examples(block):
                    check(page, example, *bash.run(example.command))
                    count += 1
    return count


def check(page: Path, example: Example, code: int, printed: list[str]) -> None:
    """AssertionError when a command did not do what its page shows."""
    where = f"{page.name}:{example.line}: {example.command}\n  printed (exit {code}):\n    "
    text = where + "\n    ".join(printed)
    assert matches(example.output, printed), f"{text}\n  the page shows:\n    " + "\n    ".join(example.output)
    assert bool(code) == example.fails, text


class Bash:
    """One bash that keeps its directory and its variables from command to command."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=folder, env=dict(environ), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def type(self) -> None:
        """Go on as a shell that somebody types into, with a process group for each command."""
        self._send("PS1= PS2= exec bash --norc --noprofile --noediting -i")
        self.run("set +H -m; unset HISTFILE")  # and it has said that it has no terminal

    def __enter__(self) -> Bash:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def write(self, name: str, text: str) -> None:
        """Write a file where the shell stands."""
        code, printed = self.run(f"cat >{name} <<'END-OF-FILE'\n{text}END-OF-FILE")
        assert code == 0, printed

    def run(self, command: str) -> tuple[int, list[str]]:
        """(exit code, lines that it printed on either output)."""
        end = _END.decode()
        self._send(f"{{\n{command}\n}} </dev/null\nprintf '{end}%d{end}' $?")
        text, code, _ = self._read(command).split(_END)
        return int(code), text.decode(errors="replace").splitlines()

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())
        self._process.stdin.flush()

    def _read(self, command: str) -> bytes:
        assert self._process.stdout is not None
        data = b""
        deadline = time.monotonic() + LIMIT_S
        while data.count(_END) < 2:
            left = deadline - time.monotonic()
            ready = select.select([self._process.stdout], [], [], max(0.0, left))[0]
            assert ready, f"{command}: not done in {LIMIT_S} s; so far:\n{data.decode(errors='replace')}"
            part = os.read(self._process.stdout.fileno(), 65536)
            assert part, f"{command}: ended the shell; before:\n{data.decode(errors='replace')}"
            data += part
        return data
