"""Limits for a datum's processes together, by cgroup v2, where this process may make cgroups.

It may where it is alone in one that was delegated to it, as under `Delegate=yes` of systemd. Then it moves itself into
one below, for a cgroup with limits below it can have no processes of its own:

    <own cgroup>/vfsd            the daemon, and the wardens
    <own cgroup>/vfsd-datums     a cgroup for each datum that has limits
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator

import msgspec

_CONTROLLERS = ("cpu", "memory", "pids")
_PERIOD = 100_000  # µs, the kernel's default for cpu.max


class Limits(msgspec.Struct, frozen=True):
    """What all processes of a datum may use together. memory: bytes, cpu: cores, 0 for no limit. pids: tasks."""

    memory: int
    cpu: float
    pids: int


class Group:
    """A datum's cgroup. fd: of its directory."""

    def __init__(self, path: str, fd: int) -> None:
        self.fd = fd
        self._path = path

    def ran_out(self) -> bool:
        """Whether the kernel killed a process of it for want of memory."""
        with open(f"{self._path}/memory.events", encoding="ascii") as events:
            counts = dict(line.split() for line in events)
        return int(counts.get("oom_kill", 0)) > 0


class Cgroups:
    """Makes cgroups for datums below a directory of the cgroup filesystem. Quick enough for the event loop."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._left: list[str] = []  # those that processes were still leaving

    @contextlib.contextmanager
    def made(self, limits: Limits) -> Iterator[Group]:
        """A cgroup until the block ends, when all its processes have. OSError."""
        self._left = [path for path in self._left if not _removed(path)]
        path = f"{self._folder}/{next(self._numbers)}"
        os.mkdir(path)
        try:
            _write(f"{path}/pids.max", str(limits.pids))
            if limits.memory:
                _write(f"{path}/memory.max", str(limits.memory))
                with contextlib.suppress(OSError):  # where the kernel has no swap, or an old kernel no such file
                    _write(f"{path}/memory.swap.max", "0")
                    _write(f"{path}/memory.oom.group", "1")
            if limits.cpu:
                _write(f"{path}/cpu.max", f"{int(limits.cpu * _PERIOD)} {_PERIOD}")
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield Group(path, fd)
            finally:
                os.close(fd)
        finally:
            if not _removed(path):
                self._left.append(path)


def open_cgroups(own: str | None = None) -> Cgroups | str:
    """Make ready for `Cgroups`; or why that cannot be, in one line. own: the directory of this process's cgroup."""
    try:
        own = own or _own()
        missing = set(_CONTROLLERS) - set(_read(f"{own}/cgroup.controllers").split())
        if missing:
            return f"its cgroup does not have the controllers {', '.join(sorted(missing))}"
        leaf, datums = f"{own}/vfsd", f"{own}/vfsd-datums"
        for folder in (leaf, datums):
            os.makedirs(folder, exist_ok=True)
        _write(f"{leaf}/cgroup.procs", str(os.getpid()))
        for folder in (own, datums):
            _write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in _CONTROLLERS))
        for left in os.scandir(datums):
            if left.is_dir():
                _removed(left.path)  # of a daemon that was killed
    except OSError as error:
        if error.errno == errno.EBUSY:
            return f"other processes are in {own}, the cgroup that it was started in"
        return f"{error.filename or 'its cgroup'}: {error.strerror}"
    return Cgroups(datums)


def _removed(path: str) -> bool:
    try:
        os.rmdir(path)
    except OSError:
        return False
    return True


def _own() -> str:
    """The directory of this process's cgroup. OSError when there is no cgroup v2."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        rows = [line.split() for line in mounts]
    tops = [row[4] for row in rows if row[row.index("-") + 1] == "cgroup2" and row[3] == "/"]
    path = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), None)
    if not tops or path is None:
        raise OSError(0, "there is no cgroup v2 here", "/sys/fs/cgroup")
    own = tops[0] + path.rstrip("/")
    return own.removesuffix("/vfsd")  # a daemon that was mounted anew by another is there already


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
