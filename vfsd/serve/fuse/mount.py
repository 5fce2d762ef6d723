"""Mounting: is the place fit, which options, and the kernel's own knobs."""

from __future__ import annotations

import errno
import logging
import os
import socket
import subprocess

import msgspec

from vfsd.model.errors import AccessDenied, AlreadyExists, InvalidArgument, NotFound, Unavailable
from vfsd.serve.fuse.channel import MAX_BACKGROUND, READ_AHEAD, Channel
from vfsd.serve.fuse.protocol import Unsupported

log = logging.getLogger(__name__)
KNOWN_OPTIONS = frozenset({"allow_other", "allow_root", "noatime", "ro", "rw", "dev", "suid", "exec", "nodev", "nosuid",
                           "noexec", "max_read", "fsname", "subtype", "default_permissions", "auto_unmount"})


class MountRow(msgspec.Struct, frozen=True):
    """A line of /proc/self/mountinfo. device: "major:minor"."""

    mountpoint: str
    kind: str
    source: str
    device: str


def mounts() -> list[MountRow]:
    """What is mounted, in order; the last row of a mountpoint is the one that is seen."""
    rows = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            words, more = left.split(), right.split()
            place = words[4].encode("utf-8", "surrogateescape").decode("unicode_escape")
            place = place.encode("latin-1").decode("utf-8", "surrogateescape")
            rows.append(MountRow(place, more[0], more[1], words[2]))
    return rows


def mounted_at(path: str) -> MountRow | None:
    """What is mounted at `path` itself."""
    folder, name = os.path.split(os.path.abspath(path))
    real = os.path.join(os.path.realpath(folder), name)
    found = [row for row in mounts() if row.mountpoint == real]
    return found[-1] if found else None


def check_mountpoint(path: str) -> str:
    """The real path when something can be mounted there; a dead mount of an earlier daemon is removed first."""
    if not os.path.exists("/dev/fuse"):
        raise NotFound("/dev/fuse is not there: load the kernel module (modprobe fuse), or pass the device in")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise AccessDenied("/dev/fuse cannot be opened: run as root, or let this user read and write it")
    path = os.path.abspath(path)
    try:
        os.statvfs(path)  # asks the daemon, where stat(2) may know the answer still
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise NotFound(f"mountpoint {path}: {error.strerror}: make the directory first") from None
        log.warning("%s: the daemon that was mounted here is gone, mounting anew", path)
        unmount(path, lazy=True)
    row = mounted_at(path)
    if row is not None and row.kind.startswith("fuse"):
        raise AlreadyExists(f"{path} is in use: {row.source} ({row.kind}) is mounted there: `vfsd umount {path}` first")
    if not os.path.isdir(path):
        raise InvalidArgument(f"mountpoint {path} is not a directory")
    if os.listdir(path):
        raise AlreadyExists(f"mountpoint {path} is not empty: choose an empty directory")
    return os.path.realpath(path)


def unmount(path: str, *, lazy: bool = False) -> None:
    """fusermount3 -u, which works for root and for the user who mounted; one line when it does not."""
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotFound("fusermount3 is not installed: install the package fuse3") from None
    if done.returncode:
        text = done.stderr.strip().removeprefix("fusermount3: ").splitlines()
        raise Unavailable(f"{path} cannot be unmounted: {text[0] if text else 'fusermount3 failed'}")


def mount(mountpoint: str, source: str, options: set[str], *, read_only: bool) -> Channel:
    """Mount; whoever uses the filesystem waits until the channel is served. InvalidArgument, NotFound, Unavailable."""
    for option in options:
        if option.partition("=")[0] not in KNOWN_OPTIONS:
            known = ", ".join(sorted(KNOWN_OPTIONS))
            raise InvalidArgument(f"-o {option}: not a mount option that vfsd knows: {known}")
    words = {"default_permissions", f"fsname={_escaped(source)}", "subtype=vfsd", *options}
    if read_only:
        words.add("ro")
    users: frozenset[int] = frozenset()
    if "allow_root" in words:  # the kernel knows everybody or the owner alone
        words.remove("allow_root")
        words.add("allow_other")
        users = frozenset({0, os.geteuid()})
    if os.geteuid() == 0:
        words.add("allow_other")
    channel = Channel(_device(mountpoint, ",".join(sorted(words))), users)
    try:
        channel.greet()
    except Unsupported as error:
        channel.close()
        unmount(mountpoint, lazy=True)
        raise Unavailable(f"{mountpoint} cannot be mounted: {error}") from None
    _tune(mountpoint)
    return channel


def _escaped(source: str) -> str:
    """Commas divide the options."""
    return source.replace("\\", "\\\\").replace(",", "\\,")


def _device(mountpoint: str, options: str) -> int:
    """The descriptor of /dev/fuse under which fusermount3 has mounted: it sends it through a socket (fuse's
    doc/kernel.txt and lib/mount.c)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        try:
            process = subprocess.Popen(
                ["fusermount3", "-o", options, "--", mountpoint], stderr=subprocess.PIPE, pass_fds=[theirs.fileno()],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            )
        except FileNotFoundError:
            raise NotFound("fusermount3 is not installed: install the package fuse3") from None
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if descriptors:
            if "auto_unmount" in options.split(","):
                os.dup(ours.fileno())  # fusermount3 stays, and unmounts when this socket closes with the process
                process.stderr.close()  # type: ignore[union-attr]
            else:
                process.communicate()
            os.set_inheritable(descriptors[0], False)
            return descriptors[0]
        text = process.communicate()[1].decode(errors="replace").strip().removeprefix("fusermount3: ").splitlines()
        why = text[0] if text else "fusermount3 failed"
        raise Unavailable(f"{mountpoint} cannot be mounted: {why}: check the values of -o")


def close(channel: Channel, mountpoint: str, *, unmount_too: bool) -> None:
    """Let go of the device and, unless somebody else has, of the mountpoint."""
    channel.close()
    if unmount_too:
        try:
            unmount(mountpoint, lazy=True)
        except Unavailable as error:
            log.debug("%s", error)  # the daemon's end has unmounted it


def _tune(mountpoint: str) -> None:
    """Raise readahead and requests in flight; needs root, and is only speed."""
    row = mounted_at(mountpoint)
    if row is None or os.geteuid() != 0:
        return
    minor = row.device.split(":")[1]
    for path, value in (
        (f"/sys/class/bdi/{row.device}/read_ahead_kb", READ_AHEAD >> 10),
        (f"/sys/fs/fuse/connections/{minor}/max_background", MAX_BACKGROUND),
    ):
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(str(value))
        except OSError as error:
            log.debug("%s stays as it is: %s", path, error.strerror)
