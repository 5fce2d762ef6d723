"""Tells the kernel what it holds that is not so any more, beside the event loop: it may wait for answers meanwhile."""

from __future__ import annotations

import trio

from vfsd.serve.fuse.channel import Channel


class Kernel:
    """What the kernel is told in threads. For the event loop."""

    def __init__(self, channel: Channel, nursery: trio.Nursery) -> None:
        self._channel = channel
        self._nursery = nursery
        self._untold: set[trio.Event] = set()

    def tell(self, messages: list[bytes]) -> None:
        """Notify it soon."""
        done = trio.Event()
        self._untold.add(done)
        self._nursery.start_soon(self._tell, messages, done)

    async def told(self) -> None:
        """Return when it knows all that it was to be told until now."""
        for done in tuple(self._untold):
            await done.wait()

    async def _tell(self, messages: list[bytes], done: trio.Event) -> None:
        try:
            await trio.to_thread.run_sync(self._channel.notify, messages)
        finally:
            self._untold.discard(done)
            done.set()
