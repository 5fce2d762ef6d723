"""Packs on their way to the store, a few at a time, which bounds the memory that they take; it is used again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from vfsd.model.errors import Unavailable
from vfsd.store.api import ObjectStore
from vfsd.store.blob import container_key
from vfsd.store.pack import NODE, PackBuilder

AT_ONCE = 3  # packs on their way: bounds memory to a few packs


class Uploads:
    """Of one writer. For one thread at a time. Once one has failed, every call raises: what it had is lost to the
    writer, and places were handed out that point nowhere."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._running: list[Future[None]] = []
        self._spare: list[bytearray] = []  # memory of packs that are stored
        self._pool: ThreadPoolExecutor | None = None
        self._failed: BaseException | None = None

    def builder(self) -> PackBuilder:
        """A pack for chunks, in memory that was used before if there is some."""
        try:
            buffer = self._spare.pop()
            buffer.append(0)
        except (IndexError, BufferError):  # there is none, or somebody holds a view of it yet
            return PackBuilder()
        return PackBuilder(buffer)

    def send(self, pack: PackBuilder, then: Callable[[PackBuilder], None]) -> None:
        """Have a pack stored, once there is room for one more. then: is called in a thread when it is durable."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vfsd-upload")
        self.wait(AT_ONCE - 1)
        self._running.append(self._pool.submit(self._send, pack, then))

    def _send(self, pack: PackBuilder, then: Callable[[PackBuilder], None]) -> None:
        self._store.put(container_key(pack.id), pack.finish())
        then(pack)
        if pack.blobs[0].kind != NODE:
            self._spare.append(pack.buffer)

    def wait(self, left: int) -> None:
        """Wait until no more than `left` are under way."""
        while len(self._running) > left:
            try:
                self._running.pop(0).result()
            except BaseException as error:
                self._failed = error
                raise
        self.check()

    def check(self) -> None:
        """Unavailable when one has failed."""
        if self._failed is not None:
            raise Unavailable(f"an upload failed before, so nothing more is stored: {self._failed}") from self._failed

    def close(self) -> None:
        """Wait for what is under way, and end the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
