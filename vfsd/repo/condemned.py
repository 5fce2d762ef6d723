"""What is condemned: blobs that nothing may be made to point to any more, so that they can be deleted.

    gc/state            GcState: which lists there are; moved by compare-and-swap, with a nonce as in BranchHead
    gc/lists/<hex>      a blob of msgpack: [[container, [offset, ...]], ...]; no offsets: the whole container. Of lists,
                        and of pardons where they are many

Blobs that are not condemned point to no condemned ones: whoever makes a list sees to that (repo/gc.py). Whoever writes
nodes asks first (repo/guard.py). Why this suffices is in docs/invariants.md.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

import msgspec

from vfsd.index.verdicts import Blob
from vfsd.model.commit import decode, encode
from vfsd.model.errors import Conflict, Damaged, NotFound
from vfsd.repo.refs import nonce
from vfsd.store.api import ETag, ObjectStore
from vfsd.store.blob import decode_blob, encode_blob

STATE = "gc/state"
LISTS = "gc/lists/"
PART = 200_000  # containers and offsets in one object of a list: some 1 to 8 MB
INLINE = 500  # pardons of a list that stand in `gc/state` itself, which every commit reads
HEADER = 1  # the offset that stands for the header of a commit's object: blobs begin behind it
KEEP_S = 30 * 86400.0  # seconds for which lists are known, at least: then those that were carried out are forgotten
CAS_TRIES = 64
_MAX_PART = 1 << 30


class Kind(StrEnum):
    """What becomes of the containers of a list."""

    DELETE = "delete"  # whole ones are deleted; single blobs lie in containers that stay
    REWRITE = "rewrite"  # what is not condemned in them is copied elsewhere


class Phase(StrEnum):
    """How far a list is. Only in the first two may blobs be pardoned."""

    PROPOSED = "proposed"  # published; what was needed all the same is still to be taken out
    CONDEMNED = "condemned"  # decided; waits for its grace period
    SWEEPING = "sweeping"  # is being carried out
    SWEPT = "swept"  # was carried out; known for a while, so that nodes forget what lay there


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A list. parts: keys of its objects. containers, size: whole containers and their bytes. pardoned: blobs of it
    that are needed all the same, as container in hex and offset, HEADER for a commit object's header; pardon_parts:
    keys of objects with more of them."""

    number: int
    kind: Kind
    phase: Phase
    parts: tuple[str, ...]
    containers: int
    size: int
    pardoned: tuple[tuple[str, int], ...] = ()
    pardon_parts: tuple[str, ...] = ()

    @property
    def pardons(self) -> str:
        """Which pardons there are, for whoever has taken in some: they only ever become more."""
        return f"{len(self.pardoned)} {' '.join(self.pardon_parts)}"


class GcState(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `gc/state`. version: counts its changes. number: of the last list there was. forgotten: lists up
    to this number that were carried out may not be here any more. lists: by number."""

    format: int = 1
    nonce: str
    version: int = 0
    number: int = 0
    forgotten: int = 0
    lists: tuple[Verdict, ...] = ()

    def find(self, number: int) -> Verdict | None:
        """The list of that number."""
        return next((one for one in self.lists if one.number == number), None)

    def with_list(self, verdict: Verdict) -> GcState:
        """With a list put in, or in place of the one of its number."""
        others = [one for one in self.lists if one.number != verdict.number]
        lists = tuple(sorted([*others, verdict], key=lambda one: one.number))
        return msgspec.structs.replace(self, number=max(self.number, verdict.number), lists=lists)

    def without(self, number: int) -> GcState:
        """Without a list."""
        lists = tuple(one for one in self.lists if one.number != number)
        return msgspec.structs.replace(self, lists=lists)


class Condemned(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One line of a list: a whole container, or blobs in it by their offsets."""

    container: bytes
    offsets: list[int] = []


_PART = msgspec.msgpack.Decoder(list[Condemned])


def read_state(store: ObjectStore) -> GcState | None:
    """What there is now; None where nothing was ever condemned."""
    found = _read(store)
    return None if found is None else found[0]


def _read(store: ObjectStore) -> tuple[GcState, ETag] | None:
    try:
        data, etag = store.get(STATE)
    except NotFound:
        return None
    return decode(data, GcState, STATE), etag


def change_state(store: ObjectStore, change: Callable[[GcState], GcState]) -> GcState:
    """Move `gc/state` on; `change` is called again when somebody else was faster, and may raise. The state as it is
    then. Conflict."""
    for attempt in range(CAS_TRIES):
        found = _read(store)
        old = GcState(nonce="") if found is None else found[0]
        new = change(old)
        if new == old:
            return old
        new = msgspec.structs.replace(new, nonce=nonce(), version=old.version + 1)
        try:
            if found is None:
                store.put_if_absent(STATE, encode(new))
            else:
                store.put_if_match(STATE, encode(new), found[1])
        except Conflict:
            time.sleep(random.uniform(0, min(2.0, 0.005 * 2**attempt)))
            continue
        return new
    raise Conflict(f"{STATE} is being changed by others all the time: try again")


def write_list(store: ObjectStore, lines: Iterable[Condemned]) -> tuple[str, ...]:
    """Write the objects of a list, of any length; their keys."""
    keys = []
    for part in _parts(lines):
        key = LISTS + secrets.token_hex(16)
        store.put(key, encode_blob(msgspec.msgpack.encode(part)))
        keys.append(key)
    return tuple(keys)


def _parts(lines: Iterable[Condemned]) -> Iterator[list[Condemned]]:
    part, size = [], 0
    for line in lines:
        part.append(line)
        size += 1 + len(line.offsets)
        if size >= PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def read_list(store: ObjectStore, verdict: Verdict) -> Iterator[Condemned]:
    """The lines of a list, whose objects are read first. Damaged; NotFound when it was forgotten just now."""
    return _read_parts(store, verdict.parts)


def read_pardons(store: ObjectStore, verdict: Verdict) -> Iterator[Blob]:
    """The pardoned blobs of a list. Damaged; NotFound when it was forgotten just now."""
    more = _read_parts(store, verdict.pardon_parts)
    yield from ((bytes.fromhex(container), offset) for container, offset in verdict.pardoned)
    yield from ((line.container, offset) for line in more for offset in line.offsets)


def _read_parts(store: ObjectStore, keys: Iterable[str]) -> Iterator[Condemned]:
    stored = [(key, store.get(key)[0]) for key in keys]
    return (line for key, data in stored for line in _lines(key, data))


def _lines(key: str, data: bytes) -> list[Condemned]:
    try:
        return _PART.decode(decode_blob(data, _MAX_PART))
    except (msgspec.MsgspecError, Damaged) as error:
        raise Damaged(f"{key}: this list cannot be read: {error}") from None
