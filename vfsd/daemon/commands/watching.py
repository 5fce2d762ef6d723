"""`vfsd watch`: an ordinary directory that a branch follows."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import closing

import click
import trio

from vfsd.daemon.config import Settings
from vfsd.daemon.invocation import Invocation, StoreCommand
from vfsd.daemon.notify import notify
from vfsd.daemon.session import Session, session
from vfsd.daemon.specs import SPEC, Spec, writable_head
from vfsd.model.errors import InvalidArgument, NotFound
from vfsd.repo.follow import Follower, Timing
from vfsd.repo.mirror import Mirror
from vfsd.repo.tree import show
from vfsd.serve.fuse.mount import mounts

log = logging.getLogger(__name__)


@click.command(cls=StoreCommand)
@click.argument("folder", metavar="DIR")
@click.argument("spec", type=SPEC, metavar="REPO/BRANCH[/PATH]")
@click.option("--delete", is_flag=True, help="Also remove what is not in DIR.")
@click.option("--once", is_flag=True, help="Compare, commit what differs, and end.")
@click.pass_obj
def watch(invocation: Invocation, folder: str, spec: Spec, delete: bool, once: bool) -> None:
    """Commit what happens in a local directory.

    DIR is an ordinary directory, on a fast local disk for example. It is compared with the branch and then followed:
    closed writes become commits as in the mount. A file that is being written is waited for. SIGTERM or Ctrl-C commits
    what is closed and ends it. With a PATH, that directory of the branch gets what is in DIR.

    What is removed from DIR stays in the branch. With --delete it goes there too, and so does whatever else is not in
    DIR; earlier commits keep it.

    \b
    Examples:
      vfsd watch /scratch/checkpoints models/main
      vfsd watch --delete /srv/incoming texts/main/incoming
      vfsd watch --once /scratch/checkpoints models/main
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of every event
    with session(invocation) as opened:
        top = _checked(folder, opened)
        writable_head(opened.repository, spec.where)
        author = opened.settings.author
        with closing(Mirror(opened.repository, top, spec.where, delete=delete, author=author)) as mirror:
            mirror.destination(opened.repository.root(spec.where))
            if once:
                _once(mirror)
            else:
                _follow(mirror, opened.settings)


def _once(mirror: Mirror) -> None:
    for path, why in mirror.once().obstacles.items():
        log.warning("%s: left out: %s", show((mirror.top, *path)), why)


def _follow(mirror: Mirror, settings: Settings) -> None:
    follower = Follower(mirror, Timing(settings.quiet_s, settings.max_wait_s))

    async def run() -> Exception | None:
        async with trio.open_nursery() as nursery:
            await nursery.start(_stop_at_signal, follower)
            error = await follower.run(_say_ready)
            nursery.cancel_scope.cancel()
        return error

    error = trio.run(run)
    if error is not None:
        raise error


def _say_ready() -> None:
    notify(os.environ, "READY=1")


async def _stop_at_signal(
    follower: Follower, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            notify(os.environ, "STOPPING=1")
            follower.stop()


def _checked(folder: str, opened: Session) -> bytes:
    """The real path of a directory that can be followed; NotFound, InvalidArgument."""
    if not os.path.exists(folder):
        raise NotFound(f"{folder} is not there: make the directory first")
    if not os.path.isdir(folder):
        raise InvalidArgument(f"{folder} is not a directory")
    top = os.path.realpath(folder)
    for mountpoint in (row.mountpoint for row in mounts() if row.source.startswith("vfsd:")):
        if _is_in(top, mountpoint):
            raise InvalidArgument(f"{folder} is in the mount {mountpoint}, where writes become commits anyway")
        if _is_in(mountpoint, top):
            raise InvalidArgument(f"{folder} has the mount {mountpoint} in it: choose one without")
    store = opened.repository.store
    own = [opened.settings.state_dir, opened.settings.cache_dir]
    for path in map(os.path.realpath, [*own, store.url.removeprefix("file://")] if store.is_local else own):
        if _is_in(top, path):
            raise InvalidArgument(f"{folder} is in {path}, where vfsd keeps its own files: choose another directory")
        if _is_in(path, top):
            raise InvalidArgument(f"{folder} has {path} in it, where vfsd keeps its own files: choose one without")
    return os.fsencode(top)


def _is_in(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip("/") + "/")
