"""Lineage objects, `lineage/<commit id>/<id>`: what was seen of the processes that wrote a commit (model.observation).

Named by the commit and by their content, written after the commit's object and before a ref leads to it, and kept as
long as its header is, also when its contents were dropped. Then repo/leftovers.py deletes them.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId, hash_bytes
from vfsd.model.observation import MAX_OBSERVATION, Observation, decode_observation
from vfsd.repo.commit_object import CommitObject
from vfsd.store.api import ObjectStore
from vfsd.store.blob import decode_blob, encode_blob

PREFIX = "lineage/"
REMEMBERED = 16  # the last ones that were read


def observation_key(commit: CommitId, lineage: str) -> str:
    """The key of a commit's lineage object."""
    return f"{PREFIX}{commit}/{lineage}"


def store_observation(store: ObjectStore, commit: CommitId, data: bytes) -> None:
    """Store the plain bytes of a commit's lineage object."""
    store.put(observation_key(commit, hash_bytes(data).hex()), encode_blob(data))


class Observations:
    """The lineage objects of one store; blocks, safe from any thread."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: OrderedDict[str, Observation] = OrderedDict()
        self._lock = Lock()

    def get(self, commit: CommitObject) -> Observation:
        """What was seen of the writers of a commit; nothing where its object is gone. Damaged."""
        lineage = commit.header.lineage
        if not lineage:
            return Observation(())
        with self._lock:
            if lineage in self._read:
                self._read.move_to_end(lineage)
                return self._read[lineage]
        for key in (observation_key(commit.id, lineage), PREFIX + lineage):  # the latter in stores of before
            try:
                stored, _ = self._store.get(key)
                break
            except NotFound:
                continue
        else:
            return Observation(())
        found = decode_observation(decode_blob(stored, MAX_OBSERVATION), lineage)
        with self._lock:
            self._read[lineage] = found
            if len(self._read) > REMEMBERED:
                self._read.popitem(last=False)
        return found
