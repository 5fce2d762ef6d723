"""Whether the store has what a pointer leads to, as far as sizes of objects and maps tell: no data is read."""

from __future__ import annotations

from vfsd.model.entry import Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.repo.node_walk import MOST_HOPS
from vfsd.store.api import ObjectStore
from vfsd.store.blob import FRAME, container_key
from vfsd.store.moved import Maps


class Presence:
    """Asks the store once for each container. store: without maps."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._maps = Maps(store)
        self._sizes: dict[bytes, int | None] = {}

    def has(self, place: Place) -> bool:
        """Whether so many bytes are there."""
        here: Place | None = place
        for _ in range(MOST_HOPS + 1):
            if here is None or here.offset < 0 or here.length < FRAME:
                return False
            size = self._size(here.container)
            if size is not None:
                return here.offset + here.length <= size
            here = self._lead(here)
        return False

    def _size(self, container: bytes) -> int | None:
        if container not in self._sizes:
            try:
                self._sizes[container] = self._store.stat(container_key(container)).size
            except (Damaged, NotFound):
                self._sizes[container] = None
        return self._sizes[container]

    def _lead(self, place: Place) -> Place | None:
        try:
            return self._maps.get(place.container).find(place)
        except (Damaged, NotFound):
            return None
