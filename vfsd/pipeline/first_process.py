"""What a datum's process 1 does: makes what the datum sees, gives up every privilege, starts the command and reaps.
For a command that works on many datums it stays what it is, and makes what the next one sees.

For vfsd.pipeline.warden alone; the standard library only, and nothing is imported later: see there.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import resource
import select
import signal
import socket
import stat
from collections.abc import Callable
from typing import Any, NoReturn

from vfsd.pipeline.kernel import (
    BIND,
    NEWUSER,
    NODEV,
    NOSUID,
    REC,
    REMOUNT,
    check,
    detach,
    drop_bounds,
    dumpable,
    enter,
    libc,
    loopback,
    mount,
    no_new_privileges,
    read_only,
    set_capabilities,
    write,
)

# What root needs to work on files and processes as it is used to: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID,
# SETUID; never what undoes a read-only mount.
_ROOT_KEEPS = frozenset({0, 1, 3, 4, 5, 6, 7})
_ROOT_CHANGES = (b"/proc/sys", b"/proc/sysrq-trigger", b"/proc/irq", b"/proc/bus")  # the machine, by writing there
_NOT_FOUND, _NOT_RUNNABLE, NOT_MADE = 127, 126, 125
# Signals that Python, or whoever started vfsd, may have had ignored: a command begins without.
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_LINE = 4096  # bytes of what a command says when it asks for a datum
_ASKING_S = 5.0  # for that line to come


class Complaint(Exception):
    """Why a command could not be started, in one line."""

    def __init__(self, text: str, code: int = NOT_MADE) -> None:
        super().__init__(text)
        self.code = code


def lay_out_datum(pfs: bytes, request: dict[str, Any]) -> None:
    """Mount a datum's inputs and its output on the directory `pfs`."""
    mount(b"tmpfs", pfs, b"tmpfs", NOSUID | NODEV, b"mode=755")
    os.mkdir(pfs + b"/out")
    for path, name in request["binds"]:
        os.close(os.open(pfs + b"/" + name, os.O_CREAT | os.O_CLOEXEC))
        mount(path, pfs + b"/" + name, None, BIND)
    for name, content in request["files"]:
        with open(pfs + b"/" + name, "wb") as file:
            file.write(content)
    for source, place in request["inputs"]:
        target = pfs + b"/" + place
        try:
            is_dir = stat.S_ISDIR(os.lstat(source).st_mode)
        except OSError as error:
            raise Complaint(f"the input {os.fsdecode(place)} cannot be read: {error.strerror}") from None
        os.makedirs(target if is_dir else os.path.dirname(target), exist_ok=True)
        if not is_dir:
            os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC))
        mount(source, target, None, BIND)
    for target, place in request["links"]:
        path = pfs + b"/" + place
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(target, path)
    read_only(pfs)
    if request["out"] is None:
        return
    mount(request["out"], pfs + b"/out", None, BIND)
    mount(b"", pfs + b"/out", None, BIND | REMOUNT | NOSUID | NODEV)


def furnish(view: bytes, request: dict[str, Any]) -> None:
    """Mount what this datum alone has besides."""
    size = b"size=%d" % request["memory"]
    for place in (b"/tmp", b"/dev/shm", b"/var/tmp"):
        if os.path.isdir(view + place):
            mount(b"tmpfs", view + place, b"tmpfs", NOSUID | NODEV, b"mode=1777," + size)
    mount(b"devpts", view + b"/dev/pts", b"devpts", NOSUID, b"newinstance,ptmxmode=0666,mode=620")
    mount(b"proc", view + b"/proc", b"proc", NOSUID | NODEV)
    if request["uid"] == 0:
        for place in filter(lambda place: os.path.exists(view + place), _ROOT_CHANGES):
            mount(view + place, view + place, None, BIND | REC)
            read_only(view + place)
    for folder, files in request["secrets"]:
        _lay_out(view + folder, files, *_here(request))
    if request["offline"]:
        loopback()


def _lay_out(folder: bytes, files: list[tuple[bytes, bytes]], uid: int, gid: int) -> None:
    """A directory of files that only the datum's user can read, over what may be there."""
    os.makedirs(folder, exist_ok=True)
    mount(b"tmpfs", folder, b"tmpfs", NOSUID | NODEV, b"mode=755")
    for name, content in files:
        fd = os.open(folder + b"/" + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with open(fd, "wb") as file:
            file.write(content)
            os.fchown(fd, uid, gid)
    read_only(folder)


def give_up_privileges(request: dict[str, Any], root: bytes = b"") -> None:
    """Become the datum's user, with its limits. root: the directory that becomes the root directory; empty when it is
    that already."""
    uid, gid = request["uid"], request["gid"]
    here = _here(request)
    own_users = uid != 0 and request["userns"]
    if root and not own_users:  # who has changed his root directory can make no user namespace
        _change_root(root)
    if not request["nested"]:
        os.setgroups(request["groups"])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    if uid == 0:
        drop_bounds(_ROOT_KEEPS)
        set_capabilities(_ROOT_KEEPS)
    else:
        if own_users:
            _own_users((uid, gid), here, os.fsdecode(root) + "/proc")
            if root:
                _change_root(root)
        set_capabilities(frozenset())
    no_new_privileges()
    for kind, limit in request["limits"]:
        most = resource.getrlimit(kind)[1]
        value = limit if most == resource.RLIM_INFINITY else min(limit, most)
        resource.setrlimit(kind, (value, value))
    if request["descriptors"] is not None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (request["descriptors"], most))
    dumpable(False)  # the command, of the same user, is not to look into this process


def _change_root(root: bytes) -> None:
    os.chroot(root)
    os.chdir(b"/")


def _here(request: dict[str, Any]) -> tuple[int, int]:
    """The datum's user and group as this user namespace has them: where vfsd is not root, it is the only one."""
    return (0, 0) if request["nested"] else (request["uid"], request["gid"])


def _own_users(inside: tuple[int, int], here: tuple[int, int], proc: str) -> None:
    """A user namespace, in which limits on processes count this datum's alone, and which can make no other."""
    dumpable(True)  # else its files in /proc belong to root
    check(libc.unshare(NEWUSER))
    write(f"{proc}/self/setgroups", "deny")
    write(f"{proc}/self/uid_map", f"{inside[0]} {here[0]} 1")
    write(f"{proc}/self/gid_map", f"{inside[1]} {here[1]} 1")
    write(f"{proc}/sys/user/max_user_namespaces", "0")


def _found(program: bytes, path: bytes) -> bytes:
    """The program as a shell finds it: folders that this user may not enter are passed over."""
    if b"/" in program:
        return program
    there = ""
    for folder in path.split(b":"):
        candidate = folder + b"/" + program
        if os.path.isfile(candidate):
            if os.access(candidate, os.X_OK):
                return candidate
            there = os.fsdecode(candidate)
    if there:
        raise Complaint(f"{there}: Permission denied", _NOT_RUNNABLE)
    raise Complaint(f"{os.fsdecode(program)}: not found", _NOT_FOUND)


def _ready(request: dict[str, Any]) -> bytes:
    """Enter the working directory; the program."""
    try:
        os.chdir(request["cwd"])
    except OSError as error:
        raise Complaint(f"its working directory {os.fsdecode(request['cwd'])}: {error.strerror}") from None
    return _found(request["argv"][0], request["env"].get(b"PATH", b""))


def _become(request: dict[str, Any], stdin: int, output: int) -> NoReturn:
    """Become the command: no process that had privileges stays in its reach."""
    program = _ready(request)
    argv, env = request["argv"], request["env"]
    os.setsid()
    for number, fd in enumerate((stdin, output, output)):
        os.dup2(fd, number)
    for ignored in _IGNORED:
        signal.signal(ignored, signal.SIG_DFL)
    try:
        os.execve(program, argv, env)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise Complaint(f"{os.fsdecode(argv[0])}: {error.strerror}", _NOT_RUNNABLE) from None
        os.execve(b"/bin/sh", (b"/bin/sh", program, *argv[1:]), env)


def _start(request: dict[str, Any], stdin: int, output: int) -> int:
    """Start the command; its process id."""
    program = _ready(request)
    argv, env = request["argv"], request["env"]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, output, output))]
    options: dict[str, Any] = {"file_actions": actions, "setsid": True, "setsigmask": (), "setsigdef": _IGNORED}
    try:
        try:
            return os.posix_spawn(program, argv, env, **options)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script that does not say of what: shells take it for one of theirs.
            return os.posix_spawn(b"/bin/sh", (b"/bin/sh", program, *argv[1:]), env, **options)
    except FileNotFoundError:
        raise Complaint(f"{os.fsdecode(argv[0])}: not found", _NOT_FOUND) from None
    except OSError as error:
        raise Complaint(f"{os.fsdecode(argv[0])}: {error.strerror}", _NOT_RUNNABLE) from None


def first_process(view: bytes, say: Callable[[str], None], fds: list[int]) -> NoReturn:
    """What a datum's process 1 does. fds: the request, standard input, where output goes."""
    code = NOT_MADE
    try:
        with open(fds[0], "rb", closefd=False) as file:
            request = marshal.loads(file.read())
        furnish(view, request)
        if request["many"]:
            serve_many(view, request, fds[1:], say)
        lay_out_datum(view + b"/pfs", request)
        enter(view)
        give_up_privileges(request)
        signal.signal(signal.SIGTERM, tell_all)
        command = _start(request, fds[1], fds[2])
        for fd in fds[:3]:
            os.close(fd)
        code = _wait_and_give(command, fds[3]) if request["sockets"] else _wait_for(command)
    except Complaint as complaint:
        code = complaint.code
        say(str(complaint))
    except OSError as error:
        name = "" if error.filename is None else os.fsdecode(error.filename).removeprefix(os.fsdecode(view)) + ": "
        say(f"the sandbox: {name}{error.strerror}")
    finally:
        os._exit(code)


def tell_all(*_: object) -> None:
    """SIGTERM to all processes of the datum but this one."""
    try:
        os.kill(-1, signal.SIGTERM)
    except ProcessLookupError:
        pass


def _wait_for(command: int) -> int:
    """Reap whatever ends until the command does; its exit code, as a shell has it."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == command:
            return exit_code(status)


def _wait_and_give(command: int, talk: int) -> int:
    """The same, and a socket of this network for each message that comes by the socket `talk`."""
    woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that select is told
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    with socket.socket(fileno=talk) as asking:
        sources: list[Any] = [woken, asking]
        while True:
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == command:
                    return exit_code(ended[1])
            ready, _, _ = select.select(sources, [], [])
            if woken in ready:
                os.read(woken, 4096)
            if asking in ready and not asking.recv(16):
                sources.remove(asking)  # nobody will ask any more
            elif asking in ready:
                with contextlib.suppress(BrokenPipeError), socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                    socket.send_fds(asking, [b"!"], [made.fileno()])


def exit_code(status: int) -> int:
    """What wait(2) says, as a shell has it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


# Many datums, one after the other


def serve_many(view: bytes, request: dict[str, Any], fds: list[int], say: Callable[[str], None]) -> NoReturn:
    """Start a command that asks for its datums, and change /pfs for each of them. Never returns.

    This process keeps what it needs for that; the command, in a root directory of its own, has nothing. It connects to
    `/pfs/.next` and sends a line: empty, or why its last datum failed. The answer is `ok` when the next one is there,
    `none` when there is none. fds: standard input, where output goes, a socket to the daemon.
    """
    dumpable(False)
    talk = socket.socket(fileno=fds[2])
    place = b"/next-" + os.urandom(8).hex().encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(place)
        os.chmod(place, 0o666)
        listener.listen()
        nothing = {"binds": ((place, b".next"),), "files": (), "inputs": (), "links": (), "out": None}
        lay_out_datum(view + b"/pfs", nothing)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that select is told
        command = _start_confined(view, request, fds, say)
        signal.signal(signal.SIGTERM, tell_all)
        _Many(view + b"/pfs", nothing, talk, listener, command).run()


def _start_confined(view: bytes, request: dict[str, Any], fds: list[int], say: Callable[[str], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = NOT_MADE
    try:
        give_up_privileges(request, view)
        _become(request, fds[0], fds[1])
    except Complaint as complaint:
        code = complaint.code
        say(str(complaint))
    except OSError as error:
        say(f"the sandbox: {error.strerror}")
    finally:
        os._exit(code)


class _Many:
    """Between a command that takes many datums and the daemon that gives them."""

    def __init__(
        self, pfs: bytes, nothing: dict[str, Any], talk: socket.socket, listener: socket.socket, command: int
    ) -> None:
        self._pfs = pfs
        self._nothing = nothing
        self._talk = talk
        self._listener = listener
        self._command = command
        self._asking: socket.socket | None = None

    def run(self) -> NoReturn:
        """Until the command ends, or the daemon hangs up."""
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._reap()
        sources: list[Any] = [self._talk, self._listener, woken]
        while True:
            ready, _, _ = select.select(sources, [], [])
            if woken in ready:
                os.read(woken, 4096)
                self._reap()
            if self._listener in ready:
                self._asked()
            if self._talk in ready:
                self._given()

    def _reap(self) -> None:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == self._command:
                os._exit(exit_code(ended[1]))

    def _asked(self) -> None:
        """The command has done with its datum: it loses sight of it, then the daemon is told."""
        client, _ = self._listener.accept()
        client.settimeout(_ASKING_S)
        try:
            with client.makefile("rb") as lines:
                line = lines.readline(_LINE)
        except OSError:
            line = b""
        if not line.endswith(b"\n") or self._asking is not None:
            client.close()
            return
        self._asking = client
        self._show(self._nothing)
        self._talk.send(marshal.dumps(line.strip()))

    def _given(self) -> None:
        message, fds, _, _ = socket.recv_fds(self._talk, 64, 1, socket.MSG_CMSG_CLOEXEC)
        if not message:
            os._exit(NOT_MADE)
        if fds:
            with open(fds[0], "rb") as file:
                datum = marshal.loads(file.read())
            self._show({**datum, "binds": self._nothing["binds"]})
        if self._asking is not None:
            with self._asking, contextlib.suppress(OSError):
                self._asking.sendall(message)
            self._asking = None

    def _show(self, datum: dict[str, Any]) -> None:
        detach(self._pfs)
        lay_out_datum(self._pfs, datum)
