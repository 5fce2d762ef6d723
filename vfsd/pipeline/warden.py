"""The process that starts a job's datums, each in namespaces of its own: a program, run once a job with `python -I -S`.

    vfsd daemon ── bwrap ── warden (process 1 of its pid namespace) ── a datum's process 1 ── its command

bubblewrap makes what all datums of a job see alike, once; for each of them the warden forks (clone3(2)) into new
namespaces, puts in what this datum sees, gives up every privilege and starts the command. That costs a third of a
bubblewrap a datum. Nothing survives: with a datum's process 1 the kernel ends all others of that datum, with the
warden all datums, and the warden ends when the daemon does, because its socket does.

It uses the standard library alone and imports all at its start: later it sees no file of the machine. Spoken to by
vfsd.pipeline.wardens over a socket that keeps messages apart; see `Request` there.
"""

from __future__ import annotations

import errno
import gc
import marshal
import os
import selectors
import socket
import struct

from vfsd.pipeline.first_process import NOT_MADE, first_process
from vfsd.pipeline.kernel import BIND, NEWUSER, PRIVATE, REC, enter, fork, libc, mount


class Warden:
    """Starts datums as it is told and says how each ended. view: the root directory of all of them."""

    def __init__(self, talk: socket.socket, view: bytes) -> None:
        self._talk = talk
        self._view = view
        self._watched = selectors.DefaultSelector()
        self._children: dict[int, int] = {}  # ticket → process id

    def run(self) -> None:
        """Until the daemon hangs up."""
        self._watched.register(self._talk, selectors.EVENT_READ)
        gc.freeze()  # what is here now is shared with the children as long as nobody writes to it
        while True:
            for key, _ in self._watched.select():
                if key.data is None:
                    message, fds, _, _ = socket.recv_fds(self._talk, 64, 5, socket.MSG_CMSG_CLOEXEC)
                    if not message:
                        return
                    self._told(message, fds)
                else:
                    self._ended(key.fd, *key.data)

    def _told(self, message: bytes, fds: list[int]) -> None:
        ticket, what, flag = struct.unpack("=qqq", message)
        if fds:
            self._begin(ticket, what, fds, has_cgroup=bool(flag))
        elif ticket in self._children:  # else it has ended, and the daemon will hear of it
            os.kill(self._children[ticket], what)

    def _begin(self, ticket: int, namespaces: int, fds: list[int], *, has_cgroup: bool) -> None:
        try:
            child, pidfd = fork(namespaces, fds[-1] if has_cgroup else None)
        except OSError as error:
            self._say(b"why", ticket, f"the sandbox: no process can be made: {error.strerror}".encode())
            self._say(b"end", ticket, NOT_MADE)
            child = -1
        if child == 0:
            first_process(self._view, lambda text: self._say(b"why", ticket, os.fsencode(text)), fds)
        for fd in fds:
            os.close(fd)
        if child > 0:
            self._children[ticket] = child
            self._watched.register(pidfd, selectors.EVENT_READ, (ticket, child))

    def _ended(self, pidfd: int, ticket: int, child: int) -> None:
        """The kernel lets process 1 of a namespace end only when all others have."""
        _, status, used = os.wait4(child, 0)
        self._watched.unregister(pidfd)
        os.close(pidfd)
        del self._children[ticket]
        code = os.waitstatus_to_exitcode(status)
        self._say(b"end", ticket, code if code >= 0 else 128 - code, used.ru_maxrss, used.ru_utime + used.ru_stime)

    def _say(self, *words: bytes | int | float) -> None:
        try:
            self._talk.send(marshal.dumps(words))
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.ECONNRESET}:
                raise


def _own_users_work() -> bool:
    """Whether the kernel lets a process without privileges make a user namespace. Tries."""
    child = os.fork()
    if child == 0:
        os._exit(0 if libc.unshare(NEWUSER) == 0 else 1)
    return os.waitpid(child, 0)[1] == 0


def main(view: bytes, *seen: bytes) -> None:
    """Serve the socket that is standard input. view: where bubblewrap made what all datums see. seen: directories with
    what single datums see, kept under their paths; nothing else of the machine is kept."""
    talk = socket.socket(fileno=0)
    users = _own_users_work()
    mount(b"none", b"/", None, REC | PRIVATE)
    root = view + b".root"
    mount(b"tmpfs", root, b"tmpfs", 0, b"mode=755")
    for path in (view, *seen):
        os.makedirs(root + path)
        mount(path, root + path, None, BIND | (REC if path == view else 0))
    enter(root)
    talk.send(marshal.dumps((b"up", users)))
    Warden(talk, view).run()

