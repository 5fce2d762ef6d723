"""Composition root: one process that serves one store at one mountpoint: filesystem, committer, ref watcher, pipelines.

Order of shutdown: no more jobs, no more requests from the kernel, commit what is closed, let go of the lock. What
cannot be committed in time stays in the journal and is committed by the next run.
"""

from __future__ import annotations

import fcntl
import gc
import itertools
import logging
import os
import resource
import signal
from typing import Any

import msgspec
import trio

from vfsd import __version__
from vfsd.cache.chunk_cache import ChunkCache
from vfsd.daemon import control, control_server
from vfsd.daemon.branch_questions import BranchQuestions, branch_facts
from vfsd.daemon.config import Settings
from vfsd.daemon.event_sender import EventSender
from vfsd.daemon.heap import limit_heaps
from vfsd.daemon.lineage_events import LineageEvents
from vfsd.daemon.notify import notify, tell_parent
from vfsd.daemon.read_questions import ReadQuestions
from vfsd.daemon.session import open_made_store
from vfsd.daemon.unopened import unopened_facts, what_to_do
from vfsd.index.index import Index
from vfsd.index.journal import JournalFile
from vfsd.model.errors import AlreadyExists, NotFound, VfsdError
from vfsd.model.rev import rfc3339
from vfsd.pipeline.egress import Reach
from vfsd.pipeline.service import PipelineService
from vfsd.repo.refs import Head, kept_from_users, ref_key
from vfsd.repo.repository import Committed, Repository, claim, now_ns
from vfsd.repo.watch import RefChange, RefWatcher
from vfsd.serve.fuse import mount as fuse
from vfsd.serve.fuse.channel import Channel
from vfsd.serve.fuse.kernel import Kernel
from vfsd.serve.fuse.operations import Operations
from vfsd.serve.loads import AHEAD, AHEAD_HERE, Loads
from vfsd.serve.names import Names
from vfsd.serve.observer import Observer
from vfsd.serve.outlets import Outlets
from vfsd.serve.readahead import Readahead
from vfsd.serve.trail import Trails
from vfsd.serve.view import View
from vfsd.worktree.adopt import Stale
from vfsd.worktree.branch import CommitTiming, LiveBranch
from vfsd.worktree.left import recover
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.node import WorkNode
from vfsd.worktree.staging import Staging

log = logging.getLogger(__name__)
LAST_COMMIT_S = 60.0  # how long shutdown waits for the last commits
GARBAGE = 20_000  # objects made before Python looks for cycles: thousands of chunks are kept that have none
SHOW_S = 10.0  # how long a job waits for the mount
HOLD_S = 300.0  # how often `vfsd gc` is told of work that takes long
WATCHED = ("refs/", "repos/", "pipelines/", "runners/")


class MountOptions(msgspec.Struct, frozen=True):
    """What `vfsd mount` was asked for. mountpoint: absolute, without symbolic links. options: words of -o."""

    mountpoint: str
    read_only: bool = False
    options: tuple[str, ...] = ()


class Node:
    """Everything one daemon holds, opened in order and closed in reverse."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store, self.format = open_made_store(settings)
        claim(self.store, self.format, settings.node_name)
        self.folder = settings.node_dir(self.format.id)
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        self._lock = lock_node(self.folder)
        self.repository = Repository(self.store, Index(settings.index_path(self.format.id)), self.format)
        self.journal = JournalFile(os.path.join(self.folder, "journal.sqlite"))
        self.descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # commands that this starts get no more
        self.staging = Staging(os.path.join(self.folder, "staging"), settings.staging_disk, _descriptors() // 2)
        self.unfinished = recover(self.journal, self.staging)  # branches that have something of an earlier run
        cache_folder = None if self.store.is_local else settings.cache_folder(self.format.id)
        self.chunks = ChunkCache(
            self.store, self.repository.index, cache_folder,
            memory_limit=settings.cache_memory, disk_limit=settings.cache_disk,
        )
        self.numbers = itertools.count(2)

    def live(self, nursery: trio.Nursery, **callbacks: Any) -> LiveBranches:
        """The writable branches of this node."""
        return LiveBranches(
            self.repository, self.journal, self.staging, nursery=nursery, inline_chunks=self.chunks.at_hand,
            chunks=self.chunks.get_many, numbers=self.numbers,
            timing=CommitTiming(self.settings.quiet_s, self.settings.max_wait_s), author=self.settings.author,
            **callbacks,
        )

    def close(self) -> None:
        """Give everything back; the lock last."""
        self.staging.close()
        self.journal.close()
        self.chunks.close()
        self.repository.close()
        os.close(self._lock)


def _descriptors() -> int:
    """How many this process may have from now on: as many as it may give itself. A large file that no commit has yet
    takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def lock_node(folder: str) -> int:
    """Hold a state directory for this process until the descriptor is closed; AlreadyExists when another has it."""
    fd = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyExists(
            f"a vfsd daemon uses {folder} already: `vfsd status` shows it; another one needs its own VFSD_STATE_DIR"
        ) from None
    return fd


class Daemon:
    """The running daemon."""

    def __init__(self, node: Node, options: MountOptions) -> None:
        self._node = node
        self._options = options
        self._started = now_ns()
        self._loads = Loads(ahead=AHEAD_HERE if node.store.is_local else AHEAD)
        self._is_unmounted = False
        self._nursery: trio.Nursery
        self._live: LiveBranches
        self._view: View
        self._operations: Operations
        self._reads: ReadQuestions
        self._channel: Channel
        self._kernel: Kernel
        self._watcher: RefWatcher
        self._gone: set[tuple[str, str]] = set()  # branches that were deleted, maybe with changes
        self._seen: dict[str, RefChange] = {}  # refs and pipelines as last seen, for a service that starts later
        target = node.settings.openlineage
        self._events = LineageEvents(EventSender(target), node.repository) if target else None
        self._pipelines: PipelineService | None = None
        self._pipelines_scope = trio.CancelScope()
        self._pipelines_ended = trio.Event()

    async def run(self) -> None:
        """Serve until unmounted or told to stop by a signal."""
        node, options = self._node, self._options
        loads = self._loads
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._live = node.live(
                nursery, read_only=options.read_only, on_stale=self._on_stale, on_commit=self._on_commit,
                on_reset=self._on_reset,
            )  # fmt: skip
            self._watcher = RefWatcher(node.store, WATCHED, poll_s=node.settings.poll_s, index=node.repository.index)
            names = Names(node.repository.refs, self._watcher.nudge)
            self._view = View(
                node.repository, names, self._live, node.chunks.at_hand, node.numbers, read_only=options.read_only,
                staging_folder=node.staging.folder,
                facts={
                    b"user.vfsd.control": os.fsencode(control.socket_path(node.folder)),
                    b"user.vfsd.pid": str(os.getpid()).encode(),
                    b"user.vfsd.store": node.store.url.encode(),
                },
            )
            readahead = Readahead(
                node.repository.nodes, node.chunks.lacking, node.chunks.fetch, loads, nursery.start_soon
            )
            trails = Trails(node.repository.inline, readahead)
            observer = Observer(self._live, node.repository.commits, own=os.getpid()) if node.settings.observe else None
            self._reads = ReadQuestions(observer)
            self._view.outlets = Outlets(self._live, loads, self._on_stale)
            self._operations = Operations(self._view, loads, readahead, trails, observer)
            channel = self._channel = fuse.mount(
                options.mountpoint, f"vfsd:{node.store.url}", set(options.options), read_only=options.read_only
            )
            self._kernel = Kernel(channel, nursery)
            unmount_too = True
            try:
                await nursery.start(self._watch)
                nursery.start_soon(self._stop_at_signal)
                nursery.start_soon(self._hold)
                nursery.start_soon(control_server.serve, control.socket_path(node.folder), self._handlers())
                for name in node.unfinished:
                    await self._bring_back(*name)
                await self._resume({})
                nursery.start_soon(self._say_ready)
                await channel.serve(self._operations.handlers(), self._loads.any_running)
                unmount_too = fuse.mounted_at(options.mountpoint) is not None
            finally:
                with trio.CancelScope(shield=True):
                    notify(os.environ, "STOPPING=1")
                    self._is_unmounted = True
                    fuse.close(channel, options.mountpoint, unmount_too=unmount_too)
                    await self._pause({})
                    await self._commit_all()
                    if self._events is not None:
                        await trio.to_thread.run_sync(self._events.close)
            nursery.cancel_scope.cancel()

    async def _say_ready(self) -> None:
        notify(os.environ, f"READY=1\nSTATUS=serving {self._node.store.url} at {self._options.mountpoint}")
        tell_parent(os.environ, "ready")

    async def _hold(self) -> None:
        """What jobs and long commits have stored is no garbage."""
        while True:
            await trio.sleep(HOLD_S)
            await trio.to_thread.run_sync(self._node.repository.holds.renew, abandon_on_cancel=True)

    async def _stop_at_signal(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number != signal.SIGHUP:
                    await self._pause({})
                    self._channel.stop()
                    return

    async def _bring_back(self, repo: str, branch: str) -> None:
        """Open a branch that has something of an earlier run, or of an earlier branch of its name: changes are
        committed at once."""
        self._gone.discard((repo, branch))
        try:
            await self._loads.run(lambda: self._live.get(repo, branch))
        except NotFound:
            self._gone.add((repo, branch))
            log.warning("%s/%s: it is deleted, and has changes here: %s", repo, branch, what_to_do(repo, branch))
        except (VfsdError, OSError) as error:
            # Other branches can be used; this one is opened, or not, when it is looked at.
            log.error("changes of %s/%s stay in the journal for now: %s", repo, branch, error)

    async def _commit_all(self) -> None:
        if self._options.read_only:
            return
        with trio.move_on_after(LAST_COMMIT_S) as scope:
            for live in self._live.all():
                if live.held is not None or (live.tree.read_only and not live.is_changed):
                    continue
                try:
                    await self._live.commit(live)
                except Exception as error:
                    # Also what nobody foresaw: the other branches are committed all the same.
                    foreseen = isinstance(error, VfsdError | OSError)
                    log.error(
                        "%s: not committed, stays in the journal: %s", live.name, error, exc_info=not foreseen
                    )
        if scope.cancelled_caught:
            log.error("not everything was committed in %d s; the next mount goes on", LAST_COMMIT_S)

    # What happens

    async def _watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the store's refs; started once what there is is known."""
        send, receive = trio.open_memory_channel[list[RefChange]](0)
        self._nursery.start_soon(self._watcher.run, send)
        async with receive:
            async for changes in receive:
                for change in changes:
                    self._ref_changed(change)
                if self._pipelines is not None:
                    self._pipelines.changed(changes)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED

    def _ref_changed(self, change: RefChange) -> None:
        if change.data is None:
            self._seen.pop(change.key, None)
        else:
            self._seen[change.key] = change
        about = self._view.names.seen(change.key, change.data)
        if about is None:
            return
        live = self._live.known(*about)
        if live is None:
            if change.data is not None and about in self._gone:
                self._nursery.start_soon(self._bring_back, *about)
            return
        if change.data is None:
            self._gone.add(about)
            self._live.close(live)
            return
        head = self._view.names.branches(about[0])[about[1]]
        if head.commit != live.head.commit or kept_from_users(*about, head) != live.tree.read_only:
            self._nursery.start_soon(self._follow, *about)

    async def _follow(self, repo: str, branch: str) -> None:
        try:
            await self._live.head_moved(repo, branch)
        except Exception as error:
            # Also what nobody foresaw: the filesystem beside must not end with it.
            foreseen = isinstance(error, VfsdError | OSError)
            log.warning(
                "%s/%s: cannot follow the branch, will try at its next move: %s", repo, branch, error,
                exc_info=not foreseen,
            )  # fmt: skip

    def _on_stale(self, stale: Stale) -> None:
        if (stale.names or stale.inodes) and not self._is_unmounted:
            self._kernel.tell(self._operations.notifications(stale))

    def _on_commit(self, committed: Committed) -> None:
        head = committed.head
        self._view.names.moved(head.repo, head.branch, head.head)
        self._watcher.nudge(ref_key(head.repo, head.branch))
        log.info("%s/%s: commit %s", head.repo, head.branch, committed.commit.id[:12])
        if self._events is not None and committed.commit.header.lineage and not self._is_unmounted:
            self._nursery.start_soon(trio.to_thread.run_sync, self._events.committed, committed.commit)

    async def _on_reset(self, live: LiveBranch, old: WorkNode, new: WorkNode | None) -> None:
        """A branch's inodes are not its head any more: the kernel looks their names up again."""
        names = [(old.ino, name) for name in old.children]
        repo = self._view.known_repo(live.row.repo)
        if new is not None:
            self._operations.replace(old, new)
        elif repo is not None:
            names.insert(0, (repo.ino, live.row.branch.encode()))
        if not self._is_unmounted:
            messages = self._operations.notifications(Stale(names, [old.ino]))
            await trio.to_thread.run_sync(self._channel.notify, messages)

    # Pipelines

    async def _show(self, head: Head) -> None:
        """A job has moved its branch: whoever looks once the job has ended is to find what it wrote."""
        self._view.names.moved(head.repo, head.branch, head.head)
        with trio.move_on_after(SHOW_S):
            await self._live.head_moved(head.repo, head.branch)
            await self._kernel.told()

    async def _run_pipelines(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run pipelines until paused; jobs in flight go on when they are run again."""
        node = self._node
        mountpoint = self._options.mountpoint  # not looked at here: the kernel would ask this very thread
        hidden = [node.folder, node.settings.cache_dir, node.settings.secrets_dir]
        if node.store.is_local:
            hidden.append(node.store.url.removeprefix("file://"))
        service = self._pipelines = PipelineService(
            node.repository,
            mount=mountpoint,
            snapshot=lambda repo, branch, commit: os.fsencode(f"{mountpoint}/{repo}/{branch}@{commit}"),
            outlets=self._view.outlets,
            descriptors=node.descriptors,
            scratch=os.path.join(node.folder, "scratch"),
            runner_file=os.path.join(node.folder, "runner"),
            life_s=node.settings.lease_s,
            most=node.settings.running_datums,
            hidden=[mountpoint, *(os.path.realpath(path) for path in hidden if os.path.isdir(path))],
            author=node.settings.author,
            users=node.settings.pipeline_users,
            secrets=node.settings.secrets_dir,
            reach=Reach(node.settings.s3, node.settings.egress_folders),
            tell=self._watcher.nudge,
            show=self._show,
            on_begin=lambda record: None if self._events is None else self._events.began(record),
            on_job=lambda record: None if self._events is None else self._events.ended(record),
        )
        service.changed(self._seen.values())
        self._pipelines_ended = trio.Event()
        try:
            with trio.CancelScope() as self._pipelines_scope:
                await service.run(task_status=task_status)
        finally:
            self._pipelines = None
            self._pipelines_ended.set()

    async def _pause(self, _: dict[str, Any]) -> dict[str, Any]:
        """End what runs in the mount, so that it can be unmounted."""
        if self._pipelines is not None:
            self._pipelines_scope.cancel()
            await self._pipelines_ended.wait()
        return {}

    async def _resume(self, _: dict[str, Any]) -> dict[str, Any]:
        if self._pipelines is None and not self._options.read_only and self._node.settings.run_pipelines:
            await self._nursery.start(self._run_pipelines)
        return {}

    async def _logs(self, question: dict[str, Any]) -> dict[str, Any]:
        """Where the logs of a job's running datums grow."""
        return dict(self._pipelines.logs(question["job"])) if self._pipelines is not None else {}

    # What the control socket asks

    def _handlers(self) -> dict[str, control_server.Handler]:
        own = {"status": self._status, "pause": self._pause, "resume": self._resume, "logs": self._logs}
        return {**own, **self._reads.handlers(), **BranchQuestions(self._live, self._loads).handlers()}

    async def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        return {
            "state": "running",
            "pid": os.getpid(),
            "version": __version__,
            "store": self._node.store.url,
            "store_id": self._node.format.id,
            "mountpoint": self._options.mountpoint,
            "read_only": self._options.read_only,
            "started": rfc3339(self._started),
            "staging": {"used": self._node.staging.used, "limit": self._node.staging.limit},
            "branches": [
                *map(branch_facts, self._live.all()),
                *(unopened_facts(row, (row.repo, row.branch) in self._gone) for row in self._live.unopened()),
            ],
            "sandbox": (self._pipelines.sandbox_problem or "bubblewrap") if self._pipelines else None,
            "limits": (self._pipelines.limits_problem or "cgroup") if self._pipelines else None,
            "jobs": [record.id for record in self._pipelines.running] if self._pipelines else [],
        }


async def _nobody_to_tell(*_: object) -> None:
    """There is no kernel that knows inodes."""


async def ask_without_daemon(settings: Settings, question: str, branch: str, message: str) -> dict[str, Any]:
    """Answer one of `BranchQuestions` in this process, which holds the state directory meanwhile."""
    node = Node(settings)
    try:
        async with trio.open_nursery() as nursery:
            live = node.live(nursery, on_stale=lambda _: None, on_commit=lambda _: None, on_reset=_nobody_to_tell)
            handler = BranchQuestions(live, Loads()).handlers()[question]
            answer: dict[str, Any] = await handler({"branch": branch, "message": message})
            nursery.cancel_scope.cancel()
    except* VfsdError as group:
        raise _first(group) from None
    finally:
        node.close()
    return answer


def _first(group: BaseExceptionGroup[VfsdError]) -> VfsdError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, VfsdError)
    return error


def run_daemon(settings: Settings, options: MountOptions) -> None:
    """Serve until unmounted; VfsdError when that cannot begin."""
    limit_heaps()
    gc.set_threshold(GARBAGE)
    node = Node(settings)
    os.chdir("/")  # no folder is kept in use; all that was named from where the user is has been found
    try:
        trio.run(Daemon(node, options).run)
    except* VfsdError as group:
        raise _first(group) from None
    finally:
        node.close()
