"""Room in the staging area: writers are slowed down before there is none."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

import trio

from vfsd.model.errors import Refused
from vfsd.worktree.branch import LiveBranch
from vfsd.worktree.staging import Staging

log = logging.getLogger(__name__)
CROWDED = 0.75  # of the staging area: from here on writers are slowed down
SLOWEST_S_A_MIB = 0.1
WAIT_FOR_ROOM_S = 30.0


class Room:
    """Of one node. `hurry` has what waits for its commits committed at once, and says which branches those are."""

    def __init__(self, staging: Staging, hurry: Callable[[], list[LiveBranch]]) -> None:
        self._staging = staging
        self._hurry = hurry
        self._told: set[str] = set()

    @property
    def is_crowded(self) -> bool:
        """Whether writers must go through `make`: most of the staging area is used."""
        return self._staging.fullness > CROWDED

    async def make(self, size: int) -> None:
        """Slow a writer of `size` bytes down while commits give room back; Refused(ENOSPC) when none does."""
        self._hurry()
        staging = self._staging
        share = (staging.fullness - CROWDED) / (1 - CROWDED)  # below 0 where a commit gave room just now
        await trio.sleep(max(0.0, min(1.0, share)) * SLOWEST_S_A_MIB * size / (1 << 20))
        deadline = trio.current_time() + WAIT_FOR_ROOM_S
        while not staging.has_room(size):
            waited_for = self._hurry()
            if not waited_for or trio.current_time() >= deadline:
                both = (f"{staging.files} files", "the limit of open files"), (f"{staging.limit} bytes", "staging_disk")
                what, how = both[staging.used + size > staging.limit]
                text = f"{staging.folder}: {what} wait for their commits already: raise {how}"
                if text not in self._told:
                    self._told.add(text)
                    log.warning("%s", text)
                raise Refused(errno.ENOSPC, text)
            with trio.move_on_at(deadline):
                await waited_for[0].attempted.wait()
        self._told.clear()
