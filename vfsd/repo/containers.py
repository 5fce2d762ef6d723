"""Tree nodes lie together in containers (packs, commit objects): who wants a second one soon gets the whole container.

A walk over a tree then costs a request a pack, not one a node, and a way down a tree one a cluster (repo/gather.py): a
range is read with what lies before it, where a node's children are. Containers that belong together are read together.
Where the store is local a range costs no round trip, so that nothing is read which was not asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from vfsd.model.entry import Place
from vfsd.model.errors import VfsdError
from vfsd.store.api import ObjectStore
from vfsd.store.blob import FRAME, container_key, read_stored

LIMIT = 64 << 20  # bytes of whole containers kept: a few packs of nodes
LARGEST = 64 << 20  # bytes; a reach beyond this is no pack of nodes, and is read by range
WINDOW = 8  # a container is read whole when it was wanted before among as many different ones
RUN = 512 << 10  # bytes that are read of a pack at first, up to the end of what is wanted
RUNS = 4  # a part of what is kept is kept for these
TOGETHER = 4096  # containers of which it is known what they belong to
_COMMIT = 32  # bytes of the name of a commit object, which is small


class Containers:
    """Reads stored blobs by place; blocks, safe from any thread. What it gives is not checked yet."""

    def __init__(self, store: ObjectStore, limit: int = LIMIT) -> None:
        self._store = store
        self._limit = limit
        self._whole: OrderedDict[bytes, bytes] = OrderedDict()
        self._size = 0
        self._wanted: deque[bytes] = deque(maxlen=WINDOW)
        self._loading: dict[bytes, Future[bytes]] = {}
        self._runs_size = 0
        self._runs: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()  # the last one of a pack, and where it starts
        self._together: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, place: Place) -> bytes:
        """The stored blob at `place`. Damaged names the object when it is gone or too short."""
        if not self._store.is_local and place.offset >= 0 and FRAME <= place.length <= LARGEST - place.offset:
            stored = self._read_far(place)
            if len(stored) == place.length:
                return stored
        return read_stored(self._store, place)

    def belong_together(self, containers: Sequence[bytes]) -> None:
        """Who wants a blob of one of these soon wants some of the others."""
        if len(containers) > 1 and not self._store.is_local:
            group = tuple(containers)
            with self._lock:
                for container in containers:
                    self._together[container] = group
                    self._together.move_to_end(container)
                while len(self._together) > TOGETHER:
                    self._together.popitem(last=False)

    def _read_far(self, place: Place) -> bytes:
        """The stored blob, or fewer bytes when it cannot be had."""
        container, end = place.container, place.offset + place.length
        with self._lock:
            data = self._whole.get(container)
            start, run = self._runs.get(container, (0, b""))
            group = self._together.get(container, (container,))
            is_wanted = len(group) > 1 or container in self._wanted or len(container) == _COMMIT
            if data is None and not start <= place.offset < end <= start + len(run) and not is_wanted:
                self._wanted.append(container)
        if data is not None:
            return data[place.offset : end]
        if start <= place.offset < end <= start + len(run):
            return run[place.offset - start : end - start]
        return self._read_group(container, group)[place.offset : end] if is_wanted else self._read_run(place)

    def _read_run(self, place: Place) -> bytes:
        end = place.offset + place.length
        start = max(0, min(place.offset, end - RUN))
        try:
            run = self._store.get_range(container_key(place.container), start, end - start)
        except VfsdError:
            return b""
        with self._lock:
            self._runs_size += len(run) - len(self._runs.pop(place.container, (0, b""))[1])
            self._runs[place.container] = (start, run)
            while self._runs_size > self._limit // RUNS:
                self._runs_size -= len(self._runs.popitem(last=False)[1][1])
        return run[place.offset - start :]

    def _read_group(self, container: bytes, group: Sequence[bytes]) -> bytes:
        """One container's bytes, and those of its group that are not here are brought meanwhile."""
        with self._lock:
            lacking = [one for one in group if one not in self._whole]
        if len(lacking) < 2:
            return self._read_whole(container)
        with ThreadPoolExecutor(len(lacking), thread_name_prefix="vfsd-window") as pool:
            list(pool.map(self._read_whole, lacking))
        return self._read_whole(container)

    def keep(self, container: bytes, data: bytes) -> None:
        """A container that was read whole for another reason."""
        if not self._store.is_local and len(data) <= self._limit:
            with self._lock:
                self._put(container, data)

    def forget(self, container: bytes) -> None:
        """Read a container again when it is wanted next: it was damaged, and may be mended by then."""
        with self._lock:
            self._size -= len(self._whole.pop(container, b""))
            self._runs_size -= len(self._runs.pop(container, (0, b""))[1])

    def _read_whole(self, container: bytes) -> bytes:
        """The container's bytes, or none when it cannot be had: then reading the range says why."""
        with self._lock:
            data = self._whole.get(container)
            if data is not None:
                self._whole.move_to_end(container)
                return data
            shared = self._loading.get(container)
            if shared is None:
                mine = self._loading[container] = Future()
        if shared is not None:
            return shared.result()
        data = b""
        try:
            data, _ = self._store.get(container_key(container))
        except VfsdError:
            pass
        finally:
            with self._lock:
                self._put(container, data)
                del self._loading[container]
            mine.set_result(data)
        return data

    def _put(self, container: bytes, data: bytes) -> None:
        if not data or container in self._whole:
            return
        self._whole[container] = data
        self._size += len(data)
        while self._size > self._limit and len(self._whole) > 1:
            self._size -= len(self._whole.popitem(last=False)[1])
