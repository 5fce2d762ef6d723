"""Tree nodes lie together in containers (packs, commit objects): who wants a second one soon gets the whole container.

A walk over a tree then costs a request a pack, not one a node. Where the store is local a range costs no round trip, so
that nothing is read which was not asked for.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from concurrent.futures import Future

from vfsd.model.entry import Place
from vfsd.model.errors import VfsdError
from vfsd.store.api import ObjectStore
from vfsd.store.blob import FRAME, container_key, read_stored

LIMIT = 64 << 20  # bytes of whole containers kept: a few packs of nodes
LARGEST = 64 << 20  # bytes; a reach beyond this is no pack of nodes, and is read by range
WINDOW = 8  # a container is read whole when it was wanted before among as many different ones
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
        self._lock = threading.Lock()

    def read(self, place: Place) -> bytes:
        """The stored blob at `place`. Damaged names the object when it is gone or too short."""
        container = place.container
        if not self._store.is_local and place.offset >= 0 and FRAME <= place.length <= LARGEST - place.offset:
            with self._lock:
                data = self._whole.get(container)
                near = data is not None or container in self._wanted or len(container) == _COMMIT
                if not near:
                    self._wanted.append(container)
            if near:
                stored = (data or self._read_whole(container))[place.offset : place.offset + place.length]
                if len(stored) == place.length:
                    return stored
        return read_stored(self._store, place)

    def keep(self, container: bytes, data: bytes) -> None:
        """A container that was read whole for another reason."""
        if not self._store.is_local and len(data) <= self._limit:
            with self._lock:
                self._put(container, data)

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
