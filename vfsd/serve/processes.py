"""Which job a process belongs to, from /proc, while it waits for an answer and so cannot end.

A job is what one command started. From the process that asks, up through its parents, to the last one below

- an interactive shell: each command line is a job of its own, the commands of a pipeline are one;
- a session: a terminal, ssh login, cron job, service or notebook kernel each begin one. Launchers that give their
  workers sessions of their own (`LAUNCHERS`) are gone through;
- one of `SUPERVISORS`, which start services without sessions of their own.

What a job is known by, its session or within a shell's session its process group, outlives the processes in between: a
script that has ended leaves its children in it. What was found of a process holds for `TRUSTED_S`, then is looked at
again: a number that was given to another process meanwhile is noticed by its start time.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

TRUSTED_S = 2.0
MOST_KNOWN = 8192  # processes and threads that are remembered
MOST_PARENTS = 64
MOST_TEXT = 64  # characters of a word in a command
_FORKED = 0x40  # PF_FORKNOEXEC: a copy of its parent that runs no program of its own yet
_EXITING = 0x4  # PF_EXITING
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "ash"})
_INTERPRETERS = ("python", "perl", "ruby", "node", "Rscript", "julia", "lua", "php", *_SHELLS)
_NAME = re.compile(r"[\w.+-]{1,64}")
_WITH_VALUE = frozenset({"--rcfile", "--init-file", "-W", "-X", "-O", "+O", "-o", "+o"})
LAUNCHERS = frozenset({
    "torchrun", "torch.distributed.run", "torch.distributed.launch", "accelerate", "deepspeed", "mpirun", "mpiexec",
    "sudo", "doas", "script", "bwrap",
})  # fmt: skip
SUPERVISORS = frozenset({"supervisord", "runsv"})  # whose children are jobs of their own, by their process groups


class Process(NamedTuple):
    """A line of /proc/<pid>/stat. start: clock ticks since the machine's start. terminal: 0 for none. flags: whether it
    is a copy of its parent."""

    name: str
    parent: int
    group: int
    session: int
    terminal: int
    flags: int
    start: int


class Job(NamedTuple):
    """What a job is known by. group: 0 where the whole session is the job. start: when the session's first process
    started, in clock ticks, 0 once it has ended. first: the process to name the job after."""

    session: int
    group: int
    start: int
    first: int


class Known:
    """What was found of a process or thread. job: None for one that belongs to no job."""

    __slots__ = ("job", "process", "until", "words")

    def __init__(self, process: Process, until: float) -> None:
        self.process = process
        self.until = until
        self.job: Job | None = None
        self.words: list[str] | None = None


def process(pid: int) -> Process | None:
    """A process, or a thread by its own number; None when it is not there, or not shown to this user."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        line = os.read(fd, 1024)
    except OSError:
        return None
    finally:
        os.close(fd)
    name, _, rest = line.partition(b"(")[2].rpartition(b")")
    fields = rest.split(None, 20)
    if len(fields) < 20:
        return None
    return Process(
        name.decode(errors="replace"), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[4]),
        int(fields[6]) & _FORKED,
        int(fields[19]),
    )  # fmt: skip


def descends(pid: int, ancestor: int) -> bool:
    """Whether a process or thread is a process, or was started by it or by one that it started."""
    for _ in range(MOST_PARENTS):
        if pid == ancestor:
            return True
        found = process(pid)
        if found is None or found.parent <= 1:
            return False
        pid = found.parent
    return False


def is_killed(thread: int) -> bool:
    """Whether a thread ends because of a signal: what it closes now, it has not finished."""
    try:
        with open(f"/proc/{thread}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return True  # it is gone already
    return bool(int(fields[6]) & _EXITING) and bool(int(fields[49]) & 0x7F)


def words(pid: int) -> list[str]:
    """The first words of a command line, without directories in the first; empty when there is none any more."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            found = file.read(4096).split(b"\0")[:-1]
    except OSError:
        return []
    text = [word.decode(errors="replace") for word in found]
    return [os.path.basename(text[0]).lstrip("-"), *text[1:]] if text else []


def shown_command(command: list[str]) -> str:
    """A program, and of an interpreter its script or module: nothing else, arguments may be secret."""
    if not command:
        return ""
    name = command[0].split(" ")[0][:MOST_TEXT]
    return f"{name} {_script(command)}".rstrip() if name.startswith(_INTERPRETERS) else name


def _script(command: list[str]) -> str:
    """The script or `-m module` that an interpreter runs, `-c` for code in its arguments; empty for neither."""
    code = "c" if command[0] in _SHELLS else "ceEpr"
    skip = False
    for number, word in enumerate(command[1:], 2):
        if skip:
            skip = False
        elif word == "-m" and number < len(command):
            return f"-m {_plain(command[number])}"
        elif word in _WITH_VALUE:
            skip = True
        elif word == "--eval" or (word.startswith("-") and not word.startswith("--") and word[-1] in code):
            return "-c"
        elif not word.startswith(("-", "+")):
            return _plain(os.path.basename(word))
    return ""


def _plain(word: str) -> str:
    """A word that is the name of a file or module; anything else may be code."""
    return word if _NAME.fullmatch(word) else "..."


def _is_interactive(found: Process, command: list[str]) -> bool:
    """Whether a process is a shell that somebody types into; its copies in a pipeline are not."""
    if found.flags & _FORKED or not command or _script(command):
        return False
    return bool(found.terminal) or any(word[:1] == "-" and word[1:2] != "-" and "i" in word for word in command[1:])


class Processes:
    """What is known of the processes of this machine. own: the daemon's, whose children belong to no job."""

    def __init__(self, own: int) -> None:
        self._own = own
        self._known: dict[int, Known] = {}

    def find(self, pid: int, now: float) -> Known | None:
        """A process or thread that waits for an answer; None when it is not there to be seen. now: seconds."""
        return self._find(pid, now, MOST_PARENTS)

    def _find(self, pid: int, now: float, steps: int) -> Known | None:
        known = self._known.get(pid)
        if known is not None and now < known.until:
            return known
        found = process(pid)
        if found is None:
            self._known.pop(pid, None)
            return None
        if known is not None and known.process == found:
            known.until = now + TRUSTED_S
            return known
        if len(self._known) >= MOST_KNOWN:
            self._forget(now)
        known = self._known[pid] = Known(found, now + TRUSTED_S)
        known.job = self._job(pid, known, now, steps)
        return known

    def _job(self, pid: int, known: Known, now: float, steps: int) -> Job | None:
        found = known.process
        if pid == self._own or self._is_interactive(pid, known):
            return None
        parent = self._find(found.parent, now, steps - 1) if found.parent and steps else None
        if parent is not None:
            if found.parent == self._own:
                return None
            if parent.process.name in SUPERVISORS:
                return Job(found.session, found.group, parent.process.start, found.group)
            if parent.process.session == found.session:
                if not self._is_interactive(found.parent, parent):
                    return parent.job
                return Job(found.session, found.group, parent.process.start, found.group)
            if self._is_launcher(found.parent, parent):
                return parent.job
        if found.session == pid:
            return Job(pid, 0, found.start, pid)
        # Its parent has ended: the session says what it is part of.
        leader = self._find(found.session, now, steps - 1) if steps else None
        if leader is None:
            return Job(found.session, found.group, 0, pid)
        if self._is_interactive(found.session, leader):
            return Job(found.session, found.group, leader.process.start, found.group)
        return leader.job

    def command(self, pid: int, known: Known) -> str:
        """What a process is called; its short name once it has let go of its command line."""
        return shown_command(self._words(pid, known)) or known.process.name[:MOST_TEXT]

    def _words(self, pid: int, known: Known) -> list[str]:
        if known.words is None:
            known.words = words(pid)
        return known.words

    def _is_interactive(self, pid: int, known: Known) -> bool:
        return known.process.name in _SHELLS and _is_interactive(known.process, self._words(pid, known))

    def _is_launcher(self, pid: int, known: Known) -> bool:
        return not LAUNCHERS.isdisjoint(shown_command(self._words(pid, known)).split())

    def _forget(self, now: float) -> None:
        """Let go of what would be looked at again anyway; of everything when that is too little."""
        self._known = {pid: known for pid, known in self._known.items() if now < known.until}
        if len(self._known) >= MOST_KNOWN // 2:
            self._known.clear()
