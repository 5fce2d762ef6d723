"""What every repair does: it says what it does, writes only what is not there or is still as it was read, and keeps
what it replaces. A dry run only says.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from vfsd.model.errors import Conflict, NotFound
from vfsd.repo.aside import Aside
from vfsd.store.api import ObjectStore


class Step(msgspec.Struct, frozen=True):
    """Something that was repaired, would be, or cannot be. where: a key or a SPEC. what: a sentence without its full
    stop, that follows on `where`. done: False when it cannot be."""

    where: str
    what: str
    done: bool

class Mending:
    """The writing side of one repair. store: without maps. tell: called with each step."""

    def __init__(self, store: ObjectStore, tell: Callable[[Step], None], *, dry_run: bool) -> None:
        self.store = store
        self.dry_run = dry_run
        self.aside = Aside(store)
        self._told = tell

    def did(self, where: str, what: str) -> None:
        """Tell what was done, or would be."""
        self._told(Step(where, what, True))

    def cannot(self, where: str, what: str) -> None:
        """Tell what cannot be."""
        self._told(Step(where, what, False))

    def put_new(self, key: str, data: bytes, what: str) -> bool:
        """Write an object that was not there."""
        try:
            if not self.dry_run:
                self.store.put_if_absent(key, data)
        except Conflict:
            return False  # somebody else was faster
        self.did(key, f"is written again: it {what}")
        return True

    def replace(self, key: str, data: bytes, what: str) -> None:
        """Write an object in the place of one that is kept."""
        if not self.dry_run:
            _, etag = self.aside.keep(key)
            self.store.put_if_match(key, data, etag)
        self.did(key, f"{what}; as it was, it is kept below {self.aside.folder}/")

    def get(self, key: str) -> bytes | None:
        """An object; None when it is not there."""
        try:
            return self.store.get(key)[0]
        except NotFound:
            return None

    def is_there(self, key: str) -> bool:
        """Whether an object is there."""
        try:
            self.store.stat(key)
        except NotFound:
            return False
        return True
