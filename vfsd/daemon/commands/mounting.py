"""`vfsd mount`, `umount` and `status`."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from typing import Any

import click

from vfsd.daemon import control
from vfsd.daemon.config import Settings
from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.notify import READY_FD, tell_parent
from vfsd.daemon.output import print_fields, print_json, print_line, print_table, short, shown_size
from vfsd.daemon.session import daemon_facts, opened_store, settings_for
from vfsd.daemon.unopened import unopened_facts
from vfsd.index.journal import JournalFile
from vfsd.model.errors import NotFound, Unavailable, VfsdError
from vfsd.model.shown import shown_text
from vfsd.repo.refs import Refs
from vfsd.repo.repository import init_store, read_format
from vfsd.store.api import ObjectStore
from vfsd.store.open import open_store

START_S = 300.0  # how long `mount` waits for the daemon to be ready: changes of an earlier run are brought back first
STOP_S = 90.0  # how long `umount` waits for the last commits


@click.command(cls=StoreCommand)
@click.argument("mountpoint", type=click.Path(resolve_path=False))
@click.option("--foreground", "-f", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("--read-only", is_flag=True, help="Refuse every write.")
@click.option("-o", "options", metavar="OPTION[,OPTION…]", multiple=True, help="Mount options, as mount(8) has them.")
@click.pass_obj
def mount(
    invocation: Invocation, mountpoint: str, foreground: bool, read_only: bool, options: tuple[str, ...]
) -> None:
    """Mount the store and serve it.

    MOUNTPOINT is an empty directory. Returns once the mount is ready; a daemon goes on in the background: filesystem,
    committer and pipelines. Where no store is named, the default one is used, and made when it is not there yet.

    \b
    Examples:
      vfsd mount /mnt/vfs
      vfsd --store s3://bucket/prefix mount /mnt/vfs
      vfsd mount --foreground -o ro /mnt/vfs
    """
    words = [word for text in options for word in text.split(",") if word]
    read_only = read_only or "ro" in words
    settings = settings_for(invocation)
    store_id = _ensure_store(settings)
    if foreground:
        _serve(settings, mountpoint, read_only, [word for word in words if word not in {"ro", "rw"}])
    else:
        _start(settings, store_id, mountpoint, read_only, words)


def _ensure_store(settings: Settings) -> str:
    """The store's id; the default store is made when it is not there."""
    store = open_store(settings.store, settings.s3)
    try:
        try:
            return read_format(store).id
        except NotFound:
            if settings.store_named:
                raise
            made = init_store(store)
            click.echo(f"made the store {store.url}", err=True)
            return made.id
    finally:
        store.close()


def _serve(settings: Settings, mountpoint: str, read_only: bool, options: list[str]) -> None:
    from vfsd.daemon.node import MountOptions, run_daemon  # noqa: PLC0415  the other commands do not pay for trio
    from vfsd.serve.fuse.mount import check_mountpoint  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every event
    try:
        place = check_mountpoint(mountpoint)
        run_daemon(settings, MountOptions(place, read_only, tuple(options)))
    except VfsdError as error:
        tell_parent(os.environ, f"{error.exit_code} {' '.join(str(error).split())}")
        raise


def _start(settings: Settings, store_id: str, mountpoint: str, read_only: bool, words: list[str]) -> None:
    """Start the daemon in a session of its own and wait for its word."""
    folder = settings.node_dir(store_id)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    log_path = os.path.join(folder, "daemon.log")
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "vfsd", "--store", settings.store, "mount", "--foreground"]
    if read_only:
        command.append("--read-only")
    for word in words:
        command += ["-o", word]
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            [*command, "--", os.path.abspath(mountpoint)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, pass_fds=[writing], env={**os.environ, READY_FD: str(writing)},
        )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="surrogateescape") as pipe:
        ready, _, _ = select.select([pipe], [], [], START_S)
        word = pipe.readline().strip() if ready else ""
    if word == "ready":
        return
    code, _, text = word.partition(" ")
    if text:
        process.wait()
        failed = VfsdError(text)
        failed.exit_code = int(code)
        raise failed
    if not ready:
        process.terminate()
        raise Unavailable(f"the daemon was not ready after {START_S:.0f} s, and is told to end: {log_path} says more")
    raise Unavailable(f"the daemon did not get ready: {log_path} says why")


@click.command(cls=StoreCommand)
@click.argument("mountpoint", type=click.Path())
@click.pass_obj
def umount(_: Invocation, mountpoint: str) -> None:
    """Commit what is closed, and unmount.

    Returns when the daemon has ended. Fails, and changes nothing, while a process uses the mount.

    \b
    Example:
      vfsd umount /mnt/vfs
    """
    from vfsd.serve.fuse.mount import mounted_at, unmount  # noqa: PLC0415

    row = mounted_at(mountpoint)
    if row is None or not row.source.startswith("vfsd:"):
        raise NotFound(f"vfsd is not mounted at {mountpoint}")
    try:
        pid = int(os.getxattr(mountpoint, b"user.vfsd.pid"))
        path = os.fsdecode(os.getxattr(mountpoint, b"user.vfsd.control"))
        watched = os.pidfd_open(pid)
    except OSError:
        unmount(mountpoint, lazy=True)  # its daemon is gone: only the kernel's side is left
        return
    try:
        control.ask(path, "pause")  # jobs use the mount; they go on at the next one
        try:
            unmount(mountpoint)
        except VfsdError:
            control.ask(path, "resume")
            raise
        if not select.select([watched], [], [], STOP_S)[0]:
            raise Unavailable(f"unmounted, but the daemon (process {pid}) is still committing: `vfsd status`")
    finally:
        os.close(watched)


@click.command(cls=FactsCommand)
@click.pass_obj
def status(invocation: Invocation) -> None:
    """Show the daemon and what is not committed yet.

    \b
    Example:
      vfsd status
    """
    settings = settings_for(invocation)
    facts = daemon_facts(settings)
    if facts is None:
        with opened_store(settings) as (store, store_format):
            facts = _without_daemon(store, store_format.id, settings.node_dir(store_format.id))
    if invocation.json:
        print_json(facts)
        return
    print_fields([
        ("daemon", facts["state"]),
        ("store", facts["store"]),
        ("mountpoint", facts.get("mountpoint") or ""),
        ("process", str(facts.get("pid") or "")),
        ("since", facts.get("started") or ""),
        ("staging", _staging(facts.get("staging"))),
    ])  # fmt: skip
    if facts["branches"]:
        print_line()
        print_table(
            ("BRANCH", "STATE", "COMMIT", "ERROR"),
            (
                (f"{row['repo']}/{row['branch']}", row["state"], short(row["commit"]), row["error"] or "")
                for row in facts["branches"]
            ),
        )
    for row in facts["branches"]:
        if row["gave_way"]:
            paths = ", ".join(map(shown_text, row["gave_way"]))
            print_line(f"gave way in {row['repo']}/{row['branch']}, and is in earlier commits: {paths}")


def _staging(facts: dict[str, int] | None) -> str:
    return "" if facts is None else f"{shown_size(facts['used'])} of {shown_size(facts['limit'])}"


def _without_daemon(store: ObjectStore, store_id: str, folder: str) -> dict[str, Any]:
    branches: list[dict[str, Any]] = []
    path = os.path.join(folder, "journal.sqlite")
    if os.path.exists(path):
        journal = JournalFile(path)
        try:
            refs = Refs(store)
            branches = [unopened_facts(row, not refs.has_branch(row.repo, row.branch)) for row in journal.left()]
        finally:
            journal.close()
    return {"state": "stopped", "store": store.url, "store_id": store_id, "branches": branches}
