"""What Python 3.11 has no function for: mounts, namespaces, capabilities. For vfsd.pipeline.warden alone.

The standard library only, and nothing is imported later: see there.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct

# Numbers that are the same on every architecture that Linux has had since these calls came (5.12 for the last).
_AT_FDCWD, _CLONE3, _MOUNT_SETATTR = -100, 435, 442
NEWUSER = 1 << 28
_PIDFD, _INTO_CGROUP = 1 << 12, 1 << 33
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 1 << 5, 1 << 12, 1 << 14, 1 << 18
_RECURSIVE = 0x8000  # AT_RECURSIVE
DETACH = 2
_SET_DUMPABLE, _CAPBSET_DROP, _NO_NEW_PRIVS = 4, 24, 38
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_CAPABILITIES = 0x20080522  # version 3 of capset(2)

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(result: int) -> int:
    """What a call answered; OSError when it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    """mount(2). OSError names the target."""
    try:
        check(libc.mount(source, target, kind, ctypes.c_ulong(flags), options))
    except OSError as error:
        raise OSError(error.errno, error.strerror, target) from None


def fork(flags: int, cgroup: int | None) -> tuple[int, int]:
    """fork(2) into new namespaces, and into a cgroup; the child's id and a descriptor of it, 0 in the child."""
    pidfd = ctypes.c_int(-1)
    if cgroup is not None:
        flags |= _INTO_CGROUP
    arguments = struct.pack(
        "=11Q", flags | _PIDFD, ctypes.addressof(pidfd), 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup or 0
    )
    child = check(libc.syscall(_CLONE3, ctypes.c_char_p(arguments), ctypes.c_size_t(len(arguments))))
    return child, pidfd.value


def read_only(path: bytes) -> None:
    """A mount and all below it: not to be written, no devices, no set-uid programs."""
    attributes = struct.pack("=4Q", RDONLY | NOSUID | NODEV, 0, 0, 0)
    check(
        libc.syscall(
            _MOUNT_SETATTR, _AT_FDCWD, path, _RECURSIVE, ctypes.c_char_p(attributes),
            ctypes.c_size_t(len(attributes)),
        )
    )  # fmt: skip


def enter(root: bytes) -> None:
    """Make `root`, a mount, the root directory, and let the old one go."""
    os.chdir(root)
    check(libc.pivot_root(b".", b"."))
    check(libc.umount2(b".", DETACH))
    os.chdir(b"/")


def set_capabilities(kept: frozenset[int]) -> None:
    """Have these capabilities and no others, for good but for what an exec as root gives."""
    low = sum(1 << number for number in kept)
    header, sets = struct.pack("=Ii", _CAPABILITIES, 0), struct.pack("=6I", low, low, 0, 0, 0, 0)
    check(libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(sets)))


def write(path: str, text: str) -> None:
    """Write a file of the kernel at once."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def detach(path: bytes) -> None:
    """Take a mount away, and all below it, also from who still uses it."""
    check(libc.umount2(path, DETACH))


def drop_bounds(kept: frozenset[int]) -> None:
    """Let no program that is started have other capabilities."""
    for capability in range(64):
        if capability not in kept and libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            return  # the kernel has no more of them


def no_new_privileges() -> None:
    """Let no program that is started have more than this process: none is set-uid any more."""
    check(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))


def dumpable(answer: bool) -> None:
    """Whether processes of the same user may look into this one."""
    libc.prctl(_SET_DUMPABLE, int(answer), 0, 0, 0)


def loopback() -> None:
    """Bring the loopback device of a new network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = b"lo".ljust(16, b"\0")
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, name + bytes(24))
        (flags,) = struct.unpack_from("=h", answer, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, name + struct.pack("=h", flags | _IFF_UP) + bytes(22))
