"""Holds: a process that stores blobs for long says so, so that nothing which it has stored is taken for garbage.

    gc/holds/<32 hex digits>    Hold: written anew every hour or so, deleted at the end

What counts is when the store says that it was written: nothing younger than that, less `age_s`, is condemned as long as
the hold is not itself older than LIFE_S. A process that dies leaves one behind, which lapses.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time

import msgspec

from vfsd.model.commit import encode
from vfsd.model.errors import VfsdError
from vfsd.repo.refs import nonce
from vfsd.store.api import ObjectStore

PREFIX = "gc/holds/"
AFTER_S = 1800.0  # seconds that a writer works before it needs a hold; shorter than any sensible grace period
RENEW_S = 1800.0  # seconds between two writes of one hold
LIFE_S = 6 * 3600.0  # seconds after which a hold that was not renewed is a dead process's
MARGIN_S = 300.0  # seconds that `age_s` is rounded up by

_log = logging.getLogger(__name__)


def since_boot() -> float:
    """Seconds, those included for which the machine slept, as a laptop does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a hold. age_s: for how many seconds its oldest writer had been at work. by: host and process, for
    people."""

    format: int = 1
    nonce: str
    age_s: float
    by: str


class Work:
    """One writer at work."""

    def __init__(self, holds: Holds) -> None:
        self.begun = since_boot()
        self._holds = holds

    def goes_on(self) -> None:
        """Something was stored."""
        self._holds.renew()

    def end(self) -> None:
        """The writer has ended."""
        self._holds.ended(self)


class Holds:
    """The hold of one process on one store, there while a writer has been at work for long. Safe from any thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()  # held for no request: writers begin in event loops, too
        self._works: set[Work] = set()
        self._key: str | None = None
        self._written = -math.inf

    def begin(self) -> Work:
        """A writer begins."""
        with self._lock:
            work = Work(self)
            self._works.add(work)
            return work

    def ended(self, work: Work) -> None:
        """A writer has ended; the hold goes when no other one needs it."""
        with self._lock:
            self._works.discard(work)
            if self._key is None or self._age() >= AFTER_S:
                return
            key, self._key = self._key, None
        self._delete(key)

    def renew(self) -> None:
        """Write the hold if one is needed and was not written lately. To be called every few minutes as long as there
        are writers. Trouble with the store is logged: whoever commits finds out whether anything was condemned."""
        with self._lock:
            now, age = since_boot(), self._age()
            if age < AFTER_S or (self._key is not None and now - self._written < RENEW_S):
                return
            key = self._key = self._key or PREFIX + nonce()
            before, self._written = self._written, now
        value = Hold(nonce=nonce(), age_s=age + MARGIN_S, by=f"{os.uname().nodename}:{os.getpid()}")
        try:
            self._store.put(key, encode(value))
        except VfsdError as error:
            self._written = before
            _log.warning("cannot tell `vfsd gc` that this process works on: %s", error)
        if self._key != key:
            self._delete(key)  # the last writer ended meanwhile

    def _delete(self, key: str) -> None:
        try:
            self._store.delete(key)
        except VfsdError as error:
            _log.warning("%s stays until it lapses: %s", key, error)

    def _age(self) -> float:
        """For how long the oldest writer has been at work."""
        now = since_boot()
        return now - min((work.begun for work in self._works), default=now)
