"""What whoever writes asks before a ref moves: whether new pointers lead to something that is condemned.

The one way in which deleting and writing meet. See repo/condemned.py for what is condemned, and docs/invariants.md for
why asking once, after the branch was read and before it is moved, is enough.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby

import msgspec

from vfsd.index.index import Index
from vfsd.index.verdicts import WHOLE, Blob, ListRow, Standing
from vfsd.model.entry import Entry, Place, Ref
from vfsd.model.errors import Damaged, NotFound, Unavailable
from vfsd.model.node import ChunkInner, ChunkLeaf, Inner, Leaf, Node
from vfsd.repo.condemned import (
    HEADER,
    INLINE,
    KEEP_S,
    STATE,
    Condemned,
    GcState,
    Phase,
    change_state,
    read_list,
    read_pardons,
    read_state,
    write_list,
)
from vfsd.repo.holds import since_boot
from vfsd.repo.nodes import Nodes
from vfsd.store.api import ObjectStore

_log = logging.getLogger(__name__)
FRESH_S = 60.0  # how old what is known may be for a writer that shares blobs; asked again before its ref moves
OLD_S = KEEP_S - 86400.0  # how long ago a writer may have begun: all lists are known of what was condemned since then

_PUT_BACK = (
    "an older copy was put in the place of the store: try again, and what is not in it is stored anew"
)
_DELETED = (
    "what is to be shared with earlier commits is being deleted by `vfsd gc` or `vfsd compact`: try again, and it is"
    " stored anew"
)


def pointers_of(node: Node) -> tuple[list[Place], list[Ref]]:
    """The chunks and the nodes that a node points to."""
    match node:
        case Leaf(items):
            return [chunk.place for entry in items for chunk in entry.chunks], [
                entry.node for entry in items if entry.node is not None
            ]
        case Inner(_, children):
            return [], [child.ref for child in children]
        case ChunkLeaf(chunks):
            return [chunk.place for chunk in chunks], []
        case ChunkInner(_, refs):
            return [], refs


_NOTHING = GcState(nonce="")


def _is_later(state: GcState, known: Standing) -> bool:
    return state.version > known.version or (state.version == known.version and not known.nonce and state.nonce != "")


def _is_put_back(state: GcState, known: Standing) -> bool:
    """Whether a state that was read after another was known is none that can come after that."""
    return state.version < known.version or (state.version == known.version and state.nonce != known.nonce)


class BeingDeleted(Unavailable):
    """What somebody wants to share is being deleted, or may be: it has to be stored anew."""


class Pointers:
    """What a writer's nodes point to and it did not store itself. own: packs that it stored. begun: when it began, by
    `since_boot`. For one thread."""

    def __init__(self) -> None:
        self.begun = since_boot()
        self.chunks: dict[bytes, array[int]] = {}  # container → offsets: 8 bytes a pointer
        self.nodes: dict[Blob, Ref] = {}
        self.own: set[bytes] = set()

    def note(self, node: Node) -> None:
        """Take in what a new node points to."""
        places, refs = pointers_of(node)
        for place in places:
            container = place.container
            if container and container not in self.own:
                offsets = self.chunks.get(container)
                if offsets is None:
                    offsets = self.chunks[container] = array("Q")
                offsets.append(place.offset)
        for ref in refs:
            self.note_ref(ref)

    def note_ref(self, ref: Ref) -> None:
        """Take in one pointer to a node."""
        place = ref.place
        if place.container and place.container not in self.own:
            self.nodes[place.container, place.offset] = ref

    def containers(self) -> set[bytes]:
        """All that is pointed into, its own packs included."""
        return self.own | self.chunks.keys() | {container for container, _ in self.nodes}


class Guard:
    """Knows what is condemned in one store, in the index and as often as needed anew. Blocks; safe from any thread."""

    def __init__(self, store: ObjectStore, index: Index, nodes: Nodes) -> None:
        self._store = store
        self._verdicts = index.verdicts
        self._index = index
        self._nodes = nodes
        self._lock = threading.Lock()  # of taking in
        self._asked = -FRESH_S
        self._put_back = self._verdicts.standing().put_back  # how often an older copy was put in the store's place
        self._put_back_at = -math.inf  # when this process heard of it last, by `since_boot`

    # Knowing

    def fetch(self) -> GcState | None:
        """Ask the store what is condemned now: one request."""
        return read_state(self._store)

    def refresh(self) -> GcState | None:
        """Ask, and take in what is new."""
        state = self.fetch()
        self.take_in(state)
        return state

    def refresh_sometimes(self) -> None:
        """The same, unless that was done a moment ago."""
        if time.monotonic() - self._asked > FRESH_S:
            self.refresh()

    def take_in(self, state: GcState | None) -> None:
        """Let the index know what is condemned, if it knows less; costs a request for each list that is new. When an
        older copy was put in the store's place, the index forgets what that may not have. Damaged names a list that
        cannot be read."""
        self._asked = time.monotonic()
        self._follow(state or _NOTHING)
        put_back = self._verdicts.standing().put_back
        if put_back != self._put_back:  # this process noticed, or another one
            self._put_back, self._put_back_at = put_back, since_boot()

    def _follow(self, state: GcState) -> None:
        while True:
            with self._lock:
                before = self._verdicts.standing()  # asked each time: another process may have emptied the index
                if not _is_later(state, before):
                    if state.version == before.version and state.nonce == before.nonce:
                        return
                    state = self.fetch() or _NOTHING  # of several who asked, a later answer was here first
                    if _is_put_back(state, before):
                        _log.warning("%s: an older copy was put in its place: forgetting what it had", self._store.url)
                        self._verdicts.forget_all(before)
                        self._nodes.clear()
                    continue
                try:
                    lists = self._new(state)
                except NotFound as gone:
                    newer = self.fetch()  # it was decided, or forgotten, since
                    if newer is None or newer.version <= state.version:
                        remedy = "`vfsd fsck --repair` sets the list aside"
                        raise Damaged(f"{gone}, which {STATE} names: {remedy}") from None
                    state = newer
                    continue
                done, stale = self._verdicts.follow(
                    before, state.version, state.nonce, number=state.number, forgotten=state.forgotten, lists=lists
                )
            if stale:
                self._nodes.clear()
            if done:
                return

    def _new(self, state: GcState) -> list[ListRow]:
        """The lists of a state, with the blobs of those that are not here as they are now."""
        known = self._verdicts.known()
        found = []
        for verdict in state.lists:
            parts = " ".join(verdict.parts)
            old_parts, old_pardons = known.get(verdict.number, (None, None))
            blobs: Iterator[Blob] | None = None
            if old_parts != parts:
                lines = read_list(self._store, verdict)
                blobs = ((line.container, offset) for line in lines for offset in line.offsets or (WHOLE,))
            pardoned = None if old_pardons == verdict.pardons else list(read_pardons(self._store, verdict))
            found.append(ListRow(verdict.number, parts, verdict.pardons, blobs, pardoned))
        return found

    # Asking

    def admit(self, state: GcState | None, pointers: Pointers, made: bytes = b"") -> None:
        """Make sure that everything that new nodes point to stays. state: as fetched after the branch was read. made:
        the object of the commit that is to have them.

        Unavailable when something of it is being deleted already: then it has to be stored anew.
        """
        self.take_in(state)
        if pointers.begun <= self._put_back_at:
            self._nodes.clear()
            raise Unavailable(_PUT_BACK)
        if state is not None and state.forgotten and since_boot() - pointers.begun > OLD_S:
            raise self._deleted()  # perhaps: nobody knows any more
        if not self._verdicts.any():
            return
        touched = self._verdicts.among(pointers.containers())
        if touched & pointers.own or (made and self._verdicts.numbers(made, HEADER)):
            raise self._deleted()
        chunks = ((one, offset) for one in touched for offset in set(pointers.chunks.get(one, ())))
        blobs = [blob for blob in chunks if self._verdicts.numbers(*blob)]
        refs = [ref for ref in pointers.nodes.values() if ref.place.container in touched]
        self.pardon(blobs, [ref for ref in refs if self.is_condemned(ref.place)])

    def keep_history(self, history: Iterable[tuple[bytes, Ref | None]]) -> None:
        """After a ref was made that was not there: have what is condemned of a history stay, of which each commit is
        given by its id and its tree, the newest first. BeingDeleted: then take the ref back.
        """
        self.refresh()
        headers: list[Blob] = []
        trees: list[Ref] = []
        for header, tree in history if self._verdicts.any() else ():
            lost = self._verdicts.numbers(header, HEADER)
            if lost:
                headers.append((header, HEADER))
            if tree is not None and self.is_condemned(tree.place):
                trees.append(tree)
            elif not lost:
                break  # and nothing before it is, because this one is not
        self.pardon(headers, trees)

    def keep_trees(self, trees: Iterable[Ref]) -> None:
        """The same for trees that an object names which was not there before."""
        self.refresh()
        self.pardon([], [tree for tree in trees if self.is_condemned(tree.place)])

    def is_condemned(self, place: Place) -> bool:
        """Whether a blob is condemned, as far as is known here."""
        return bool(self._verdicts.numbers(place.container, place.offset))

    def is_sound(self, entries: Iterable[Entry]) -> bool:
        """Whether nothing in these trees is condemned, however deep: for what was kept outside the store for long."""
        if not self._verdicts.any():
            return True
        leaf = Leaf(list(entries))
        return not any(self._condemned_below(leaf, met=set()))

    def _condemned_below(self, node: Node, met: set[Blob]) -> Iterator[Blob]:
        places, refs = pointers_of(node)
        for place in places:
            if self.is_condemned(place):
                yield place.container, place.offset
        for ref in refs:
            blob = (ref.place.container, ref.place.offset)
            if blob in met:
                continue
            met.add(blob)
            if self.is_condemned(ref.place):
                yield blob
                return
            yield from self._condemned_below(self._nodes.stored(ref), met)

    # Pardons

    def pardon(self, blobs: Iterable[Blob], refs: Iterable[Ref]) -> None:
        """Have condemned blobs stay: chunks and headers as such, nodes with all below them. Unavailable when any of it
        is being deleted already."""
        wanted, waiting = set(blobs), list(refs)
        if not wanted and not waiting:
            return
        roots = {(ref.place.container, ref.place.offset) for ref in waiting}
        state = read_state(self._store) or GcState(nonce="")
        self._pardoned(state, self._lists_of(wanted | roots), {})
        try:
            while waiting:
                ref = waiting.pop()
                blob = (ref.place.container, ref.place.offset)
                if blob not in wanted:
                    wanted.add(blob)
                    places, below = pointers_of(self._nodes.stored(ref))
                    wanted.update((place.container, place.offset) for place in places if self.is_condemned(place))
                    waiting += [child for child in below if self.is_condemned(child.place)]
        except (Damaged, NotFound):
            raise self._deleted() from None
        lists = self._lists_of(wanted)
        there = {verdict.number: len(verdict.pardoned) for verdict in state.lists}
        parts = {number: self._write_pardons(blobs, there.get(number, 0)) for number, blobs in lists.items()}
        self.take_in(change_state(self._store, lambda state: self._pardoned(state, lists, parts)))

    def _lists_of(self, blobs: Iterable[Blob]) -> dict[int, set[Blob]]:
        """number of a list → the blobs that it condemns."""
        lists: dict[int, set[Blob]] = {}
        for blob in blobs:
            for number in self._verdicts.numbers(*blob):
                lists.setdefault(number, set()).add(blob)
        return lists

    def _write_pardons(self, blobs: set[Blob], there: int) -> tuple[str, ...]:
        """Objects with pardons that are too many for the state itself, which has some already."""
        if len(blobs) + there <= INLINE:
            return ()
        lines = groupby(sorted(blobs), key=lambda blob: blob[0])
        return write_list(
            self._store, (Condemned(container, [offset for _, offset in group]) for container, group in lines)
        )

    def _pardoned(
        self, state: GcState, lists: dict[int, set[Blob]], parts: dict[int, tuple[str, ...]]
    ) -> GcState:
        for number, blobs in lists.items():
            verdict = state.find(number)
            if verdict is None and number > state.forgotten:
                continue  # it was withdrawn
            if verdict is None or verdict.phase in {Phase.SWEEPING, Phase.SWEPT}:
                raise self._deleted()
            if parts.get(number):
                verdict = msgspec.structs.replace(
                    verdict, pardon_parts=tuple(sorted({*verdict.pardon_parts, *parts[number]}))
                )
            else:
                found = {(container.hex(), offset) for container, offset in blobs}
                verdict = msgspec.structs.replace(verdict, pardoned=tuple(sorted({*verdict.pardoned, *found})))
            state = state.with_list(verdict)
        return state

    def _deleted(self) -> BeingDeleted:
        """The error, with everything forgotten that might have led there: nodes in memory may be copies from trees that
        were dropped, which point elsewhere than the live ones."""
        self._nodes.clear()
        return BeingDeleted(_DELETED)
