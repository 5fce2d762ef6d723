"""Watches the store's small mutable objects: through refs the parts of vfsd, and nodes, hear of each other.

The kernel tells of changes in a local folder; elsewhere they are looked for once a second. No change is missed for
good: a listing now and then finds what nobody told. What a change means is left to the receiver.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import trio
import watchfiles

from vfsd.index.index import Index
from vfsd.model.errors import InvalidArgument, NotFound, VfsdError
from vfsd.store.api import ETag, ObjectStore, Stat
from vfsd.store.keys import is_component

POLL_S = 1.0  # seconds between listings where nobody tells
SAFETY_S = 30.0  # the same where the kernel does
BACKOFF_MAX_S = 30.0
PARALLEL = 16  # objects read at once
STEP_MS = 10  # how long the kernel's notifications are gathered

_log = logging.getLogger(__name__)


class RefChange(msgspec.Struct, frozen=True):
    """An object that was created or replaced, with its ETag and content; deleted when these are None."""

    key: str
    etag: ETag | None
    data: bytes | None


class RefWatcher:
    """Tells what happens under `prefixes` (each ends in `/`) of a store. Good for one `run`.

    poll_s: seconds between listings, of one request each, where the kernel does not tell.
    index: keeps what was read, so that the next start reads only what has changed since.
    """

    def __init__(
        self,
        store: ObjectStore,
        prefixes: Sequence[str] = ("refs/",),
        *,
        poll_s: float = POLL_S,
        index: Index | None = None,
    ) -> None:
        for prefix in prefixes:
            if not prefix.endswith("/"):
                raise InvalidArgument(f"prefix {prefix!r} cannot be watched: one that ends in '/' can")
        self._store = store
        self._prefixes = tuple(prefixes)
        self._poll_s = poll_s
        self._reader = _Reader(store, self._prefixes, None if store.is_local else index)
        folder = store.url.removeprefix("file://")
        self._folder = None if folder == store.url else folder  # of a local store
        self._noticed: set[str] = set()  # keys, or folders of keys, that the kernel named since the last look
        self._nudged: set[str] = set()
        self._lock = threading.Lock()  # of the two
        self._stop = threading.Event()  # ends the thread that listens to the kernel
        self._awake = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._is_told = False  # whether the kernel tells of every change
        self._failing = False
        self._failing_kernel = False

    def nudge(self, key: str) -> None:
        """Look at `key` at once: somebody in this process has just changed it, or has seen it. When it is gone by then,
        that is told, also if it was never told that it was there. From any thread."""
        if key.startswith(self._prefixes):
            with self._lock:
                self._nudged.add(key)
            self._token_wake()

    async def run(self, send: trio.MemorySendChannel[list[RefChange]]) -> None:
        """Send batches of changes until cancelled, or until nobody receives them; `send` is closed at the end.

        The first batch is all that there is, possibly nothing. Each later one names a key once, as it is by then;
        changes gather while the receiver is busy. When the store fails, that is logged, and it is asked again.
        """
        self._token = trio.lowlevel.current_trio_token()
        try:
            async with send, trio.open_nursery() as nursery:
                if self._folder is not None:
                    nursery.start_soon(self._listen, self._folder)
                await self._send_changes(send)
                nursery.cancel_scope.cancel()
        finally:
            self._stop.set()

    # In the event loop

    async def _send_changes(self, send: trio.MemorySendChannel[list[RefChange]]) -> None:
        limiter = trio.CapacityLimiter(1)  # its own, so that a look does not queue behind large reads
        cancellable = not self._store.is_local
        list_at = trio.current_time()
        backoff = self._poll_s
        is_first = True
        while True:
            self._awake = trio.Event()
            noticed, nudged = self._take()
            whole = is_first or trio.current_time() >= list_at
            try:
                changes, has_listed = await trio.to_thread.run_sync(
                    self._look, noticed, nudged, whole, limiter=limiter, abandon_on_cancel=cancellable
                )
            except VfsdError as error:
                self._failed(error)
                list_at = trio.current_time() + backoff
                backoff = min(2 * backoff, BACKOFF_MAX_S)
            else:
                self._recovered()
                backoff = self._poll_s
                if has_listed:
                    list_at = trio.current_time() + (SAFETY_S if self._is_told else self._poll_s)
                if changes or is_first:
                    try:
                        await send.send(changes)
                    except trio.BrokenResourceError:
                        return
                    is_first = False
                    await trio.to_thread.run_sync(self._reader.save, changes, limiter=limiter)
            with trio.move_on_at(list_at):
                await self._awake.wait()

    async def _listen(self, folder: str) -> None:
        await trio.to_thread.run_sync(
            self._follow_kernel, folder, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
        )

    def _wake(self) -> None:
        self._awake.set()

    def _take(self) -> tuple[set[str], set[str]]:
        with self._lock:
            noticed, self._noticed = self._noticed, set()
            nudged, self._nudged = self._nudged, set()
        return noticed, nudged

    def _failed(self, error: VfsdError) -> None:
        if not self._failing:
            self._failing = True
            _log.warning("the store's refs cannot be read, trying on: %s", error)

    def _recovered(self) -> None:
        if self._failing:
            self._failing = False
            _log.warning("the store's refs can be read again")

    # In a thread, one look at a time

    def _look(self, noticed: set[str], nudged: set[str], whole: bool) -> tuple[list[RefChange], bool]:
        """What has changed, and whether that took a listing. What a failed look was told is lost: list after it."""
        if whole:
            return self._reader.read_all(nudged), True
        found = nudged | {key for each in noticed for key in self._reader.below(each)}
        return self._reader.read(found, nudged), False

    # In the thread that listens to the kernel

    def _follow_kernel(self, folder: str) -> None:
        """Take in what the kernel tells of the folders that hold the refs, as they come to be."""
        while not self._stop.is_set():
            there = self._folders(folder)
            self._is_told = False
            try:
                if there:
                    self._follow(folder, there)
                    continue
            except (OSError, RuntimeError) as error:  # no watches left, or a filesystem that has none
                if not self._failing_kernel:
                    self._failing_kernel = True
                    _log.warning("the kernel cannot watch %s (%s): listing it instead", folder, error)
            self._stop.wait(self._poll_s)

    def _follow(self, folder: str, there: dict[str, int]) -> None:
        """The same until other folders are there."""
        for changes in watchfiles.watch(
            *there, stop_event=self._stop, step=STEP_MS, rust_timeout=int(self._poll_s * 1000), yield_on_timeout=True,
            raise_interrupt=False, watch_filter=None,
        ):  # fmt: skip
            with self._lock:
                self._noticed.update(path[len(folder) + 1 :] for _, path in changes)
            if changes:
                self._token_wake()
            if self._folders(folder) != there:
                return
            # From the second round on the watches are surely set: the next listing is the last for a while.
            self._is_told = len(there) == len(self._prefixes)

    def _folders(self, folder: str) -> dict[str, int]:
        """The watched folders that are there, with their inode numbers: one that was made anew is another."""
        found = {}
        for prefix in self._prefixes:
            path = os.path.join(folder, prefix.rstrip("/"))
            try:
                found[path] = os.stat(path).st_ino
            except OSError:
                continue
        return found

    def _token_wake(self) -> None:
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._wake, idempotent=True)
            except trio.RunFinishedError:
                pass  # nobody is left to tell


class _Reader:
    """What the objects were when they were last read. Blocks; for one call at a time."""

    def __init__(self, store: ObjectStore, prefixes: tuple[str, ...], index: Index | None) -> None:
        self._store = store
        self._prefixes = prefixes
        self._index = index
        self._known: dict[str, ETag] = {}
        self._stale: set[str] = set()  # keys that the index has and the store does not
        self._index_fails = False

    def read_all(self, seen: Collection[str]) -> list[RefChange]:
        """List everything; what changed since the last read, and which of the `seen` are gone, in order of keys."""
        listed = {stat.key: stat.etag for stat in self._list()}
        differing = [key for key, etag in listed.items() if self._known.get(key) != etag]
        saved = {} if self._known else self._saved()
        self._stale = saved.keys() - listed.keys()
        changes = [RefChange(key, None, None) for key in (self._known.keys() | set(seen)) - listed.keys()]
        unread = []
        for key in differing:
            etag, data = saved.get(key, ("", b""))
            if etag == listed[key]:
                changes.append(RefChange(key, listed[key], data))
            else:
                unread.append(key)
        return self._note(changes + self._get_all(unread), seen)

    def _list(self) -> Iterator[Stat]:
        """What is there under the prefixes. Far away that is one listing, from the first of them to the last: in a
        vfsd store nothing else lies between."""
        if self._store.is_local or len(self._prefixes) == 1:
            for prefix in self._prefixes:
                yield from self._store.list(prefix)
            return
        last = max(self._prefixes)
        for stat in self._store.list(after=min(self._prefixes)):
            if stat.key.startswith(self._prefixes):
                yield stat
            elif stat.key > last:
                return

    def read(self, keys: Collection[str], seen: Collection[str]) -> list[RefChange]:
        """Look at these; which of them changed since the last read, and which of the `seen` are gone, in order of
        keys."""
        return self._note(self._get_all(keys), seen)

    def below(self, path: str) -> list[str]:
        """The keys that a change of the file or folder at `path` may be about: it, and what is or was in it."""
        inside = path + "/"
        found = {stat.key for stat in self._store.list(inside)} if "/" in path else set()
        found |= {key for key in self._known if key.startswith(inside)}
        if all(map(is_component, path.split("/"))) and path.startswith(self._prefixes) and not found:
            found.add(path)
        return list(found)

    def _get_all(self, keys: Collection[str]) -> list[RefChange]:
        if len(keys) < 2:
            return [self._get(key) for key in keys]
        with ThreadPoolExecutor(PARALLEL, thread_name_prefix="vfsd-refs") as pool:
            return list(pool.map(self._get, keys))

    def _get(self, key: str) -> RefChange:
        try:
            data, etag = self._store.get(key)
        except NotFound:
            return RefChange(key, None, None)
        return RefChange(key, etag, data)

    def _note(self, read: list[RefChange], seen: Collection[str]) -> list[RefChange]:
        """Those of `read` that differ from what is known, or was `seen`; they are what is known from now on."""
        changes = [
            change
            for change in read
            if self._known.get(change.key) != change.etag or (change.etag is None and change.key in seen)
        ]
        for change in changes:
            if change.etag is None:
                self._known.pop(change.key, None)
            else:
                self._known[change.key] = change.etag
        return sorted(changes, key=lambda change: change.key)

    # The index, between runs

    def _saved(self) -> dict[str, tuple[str, bytes]]:
        if self._index is None:
            return {}
        return {key: row for prefix in self._prefixes for key, row in self._index.refs(prefix).items()}

    def save(self, changes: list[RefChange]) -> None:
        """Let the index know; when it cannot, the next start reads more."""
        if self._index is None:
            return
        there = [(one.key, one.etag, one.data) for one in changes if one.etag is not None and one.data is not None]
        gone = self._stale.union(one.key for one in changes if one.etag is None)
        try:
            self._index.update_refs(there, gone)
        except VfsdError as error:
            if not self._index_fails:
                self._index_fails = True
                _log.warning("refs cannot be kept for the next start: %s", error)
