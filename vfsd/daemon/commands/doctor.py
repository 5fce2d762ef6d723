"""`vfsd doctor`: what this machine and the store need, one line each."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator

import click

from vfsd.daemon.config import Settings
from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.output import Facts, print_json_list, print_line, shown_size
from vfsd.daemon.session import settings_for
from vfsd.model.errors import NotFound, Unavailable, VfsdError
from vfsd.model.shown import shown_text
from vfsd.pipeline.sandbox import sandbox_works
from vfsd.repo.repository import read_format
from vfsd.store.api import ObjectStore
from vfsd.store.checkup import FAIL, OK, WARN, Finding, check_store, failed
from vfsd.store.open import open_store

LITTLE = 1 << 30  # bytes of free space that are a reason to look
TOO_LITTLE = 64 << 20
VOLATILE = {"tmpfs", "ramfs"}
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "fuse.sshfs"}
SETUID = 0o4000


@click.command(cls=FactsCommand)
@click.pass_obj
def doctor(invocation: Invocation) -> None:
    """Check what this machine and the store need.

    A line each: whether it is good (ok), may become trouble (warn) or does not work (FAIL), and what to do. The store's
    answers, rights, racing conditional writes, clock, speed and checksums; the directories of state and cache; FUSE;
    bubblewrap. Writes some small objects and 8 MiB to the store, and deletes them again. Fails when something does not
    work.

    \b
    Examples:
      vfsd doctor
      vfsd --store s3://bucket/prefix doctor
    """
    settings = settings_for(invocation)
    failures: list[str] = []
    found = _noted(_all(settings), failures)
    if invocation.json:
        print_json_list(_facts(finding) for finding in found)
    else:
        for finding in found:
            print_line(_line(finding))
            sys.stdout.flush()  # at once: some take seconds
    if failures:
        raise Unavailable(f"this does not work: {', '.join(failures)}")


def _all(settings: Settings) -> Iterator[Finding]:
    yield from _store(settings)
    yield _folder("state", settings.state_dir, is_database=True)
    yield _folder("cache", settings.cache_dir, is_database=False)
    yield _device()
    yield _fusermount()
    missing = sandbox_works()
    if missing is None:
        yield Finding("sandbox", OK, "bubblewrap works")
    else:
        remedy = "install the package bubblewrap, or allow user namespaces; without it commands see the whole machine"
        yield Finding("sandbox", WARN, f"pipelines run without one: {missing}", remedy)


def _store(settings: Settings) -> Iterator[Finding]:
    try:
        store = open_store(settings.store, settings.s3)
    except VfsdError as error:
        yield failed("store", error)
        return
    with contextlib.closing(store):
        finding = _format(store)
        yield finding
        # A directory that is no store stays as it is. A bucket's fitness is of interest before `init`, too.
        if finding.state == OK or (finding.state == WARN and not store.is_local):
            yield from check_store(store)


def _format(store: ObjectStore) -> Finding:
    try:
        found = read_format(store)
    except NotFound:
        return Finding("store", WARN, f"{store.url} is not a vfsd store", "vfsd init makes it one")
    except VfsdError as error:
        return failed("store", error)
    shared = "may be shared between nodes" if found.shared else "is for one node alone"
    return Finding("store", OK, f"{store.url} answers, and {shared}")


def _folder(check: str, path: str, *, is_database: bool) -> Finding:
    """Whether files can be made in the folder, or where it will be made, and what kind of place that is."""
    there = path
    while not os.path.exists(there):
        there = os.path.dirname(there)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        variable = f"VFSD_{check.upper()}_DIR"
        return Finding(check, FAIL, f"{path}: no file can be made in {there}: {error.strerror}",
                       f"let this user write there, or set {variable}")  # fmt: skip
    kind = _filesystem(there)
    text = f"{path} is writable, {shown_size(free)} are free ({kind})"
    if free < TOO_LITTLE:
        return Finding(check, FAIL if is_database else WARN, text, "make room")
    if is_database and kind in VOLATILE:
        return Finding(check, WARN, f"{text}, and lost at the next start of the machine",
                       "set VFSD_STATE_DIR to a directory on a disk: it holds what is not committed yet")  # fmt: skip
    if is_database and kind in REMOTE:
        return Finding(check, WARN, f"{text}, where SQLite's locks cannot be trusted",
                       "set VFSD_STATE_DIR to a directory on a disk of this machine")  # fmt: skip
    if free < LITTLE:
        return Finding(check, WARN, text, "make room")
    return Finding(check, OK, text)


def _filesystem(path: str) -> str:
    """The kind of the filesystem that `path` is on; see proc_pid_mountinfo(5)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[0]
    return "unknown filesystem"  # btrfs gives each subvolume a device of its own


def _device() -> Finding:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding("fuse", FAIL, "/dev/fuse is not there",
                       "load the kernel module (modprobe fuse), or pass the device into the container")  # fmt: skip
    except OSError as error:
        return Finding("fuse", FAIL, f"/dev/fuse cannot be opened: {error.strerror}",
                       "run as root, or let this user read and write it")  # fmt: skip
    return Finding("fuse", OK, "/dev/fuse can be opened")


def _fusermount() -> Finding:
    path = shutil.which("fusermount3")
    if path is None:
        return Finding("fusermount3", FAIL, "it is not installed", "install the package fuse3")
    if os.geteuid() != 0 and not os.stat(path).st_mode & SETUID:
        return Finding("fusermount3", FAIL, f"{path} is not set-user-ID root, so only root can mount with it",
                       f"chown root {path} && chmod u+s {path}")  # fmt: skip
    return Finding("fusermount3", OK, f"it is {path}")


def _noted(findings: Iterable[Finding], failures: list[str]) -> Iterator[Finding]:
    """The findings, those that failed added to `failures` on the way."""
    for finding in findings:
        if finding.state == FAIL:
            failures.append(finding.check)
        yield finding


def _line(finding: Finding) -> str:
    state = "FAIL" if finding.state == FAIL else finding.state.ljust(len(FAIL))
    remedy = f": {finding.remedy}" if finding.remedy else ""
    return shown_text(f"{state}  {finding.check}: {finding.text}{remedy}")


def _facts(finding: Finding) -> Facts:
    return {"check": finding.check, "state": finding.state, "text": finding.text, "remedy": finding.remedy}
