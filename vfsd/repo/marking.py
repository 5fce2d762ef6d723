"""Marks what trees need: containers, tree nodes, and where it is asked for bytes. In memory that does not grow with the
store (index.survey). For one thread; a pool does the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby

from vfsd.index.survey import LeadRow, PendingRow, Survey
from vfsd.index.verdicts import WHOLE, Blob
from vfsd.model.entry import Place, Ref
from vfsd.model.errors import Conflict, Damaged, NotFound
from vfsd.model.ids import CommitId, PackId, hash_bytes
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import CommitObject, parse
from vfsd.repo.condemned import Condemned
from vfsd.repo.guard import pointers_of
from vfsd.repo.node_walk import AT_ONCE, MOST_HOPS, NodeWalk, Whereabouts, decoded_node
from vfsd.store.api import ObjectStore
from vfsd.store.blob import container_key
from vfsd.store.moved import moved_key
from vfsd.store.pack import NODE, read_directory

PACK, COMMIT = 16, 32  # bytes of the id of a pack and of a commit
REMEMBERED = 100_000  # containers that are known to be marked without SQL


class Marking:
    """measure: whether bytes are counted (Survey.live_bytes), which takes some 50 bytes of disk for each blob.

    lost: how many chunks are not where pointers say, which is no reason to delete anything else.
    """

    def __init__(
        self, store: ObjectStore, survey: Survey, pool: ThreadPoolExecutor, *, measure: bool,
        progress: Callable[[str, int], None],
    ) -> None:
        self._store = store
        self._survey = survey
        self._pool = pool
        self._measure = measure
        self._whereabouts = Whereabouts(store, survey)
        self._walk = NodeWalk(store, survey, pool, self._take, progress)
        self._plain: set[bytes] = set()  # containers that are there and marked
        self._twice: set[bytes] = set()  # containers that are there and have a map
        self._lenient = False
        self.lost = 0

    # Roots

    def note_maps(self) -> None:
        """After maps were listed: where one leads is needed as long as its container is, which may go any moment."""
        new = self._survey.twice() - self._twice
        self._twice |= new
        for container in new:
            if self._survey.is_marked(container):
                self._mark(container)
                live = self._survey.live_blobs(container)
                for lead in self._survey.leads(container):
                    if lead.offset in live:
                        self._survey.add_live(map(_row, self._places(_there(lead))))
                    if lead.kind == NODE and self._survey.is_needed(container, lead.offset):
                        for place in self._places(_there(lead)):
                            self._survey.need_node(place.container, place.offset)

    @contextmanager
    def lenient(self) -> Iterator[None]:
        """In the block, what cannot be read leads nowhere: no ref leads to it. A commit that could not be made, because
        what it shared was deleted, leaves such behind."""
        self._lenient = True
        try:
            yield
        finally:
            self._lenient = False

    def need(self, container: bytes) -> None:
        """A container is needed for itself: the object of a commit."""
        self._mark(container)

    def need_tree(self, ref: Ref, why: str) -> None:
        """A tree is needed. Damaged when its root is not there; `why` says what leads to it."""
        self._node(ref.id, ref.place, why)

    def need_nodes(self, container: bytes, size: int) -> None:
        """Everything is needed that the nodes of a container lead to, a pack of `size` bytes; nothing for a pack of
        chunks, or for one whose directory is damaged: no ref can lead there."""
        try:
            blobs = read_directory(self._store, PackId(container), size)
        except (Damaged, NotFound):  # the latter: another run was faster
            return
        for blob in blobs:
            if blob.kind == NODE:
                self._node(blob.id, Place(container, blob.offset, blob.length), container_key(container))

    def visit(self, container: bytes, data: bytes) -> None:
        """Take the nodes in line in a container whose bytes are `data`."""
        self._walk.visit(container, 0, len(data), data)

    def drain(self) -> None:
        """Follow all that is in line. Damaged names a node that cannot be read: what it leads to is not known."""
        self._walk.drain()

    # Following

    def _node(self, node: bytes, place: Place, why: str) -> None:
        found = self._places(place)
        if not found:
            if self._lenient:
                return
            self.check_there(place.container)
            raise _unreadable(f"{_key(place)} does not have a tree node that {why} leads to")
        here = found[0]
        if self._survey.need_node(here.container, here.offset):
            self._survey.add_pending(PendingRow(here.container, here.offset, here.length, 0, node))
            for one in found:
                self._survey.need_node(one.container, one.offset)
                self._mark(one.container)
            if self._measure:
                self._survey.add_live(map(_row, found))

    def _take(self, row: PendingRow, stored: bytes) -> None:
        key = container_key(row.container)
        try:
            node = decoded_node(stored, row.expected)
        except Damaged as error:
            if self._lenient:
                return
            if not stored:
                self.check_there(row.container)
            raise _unreadable(f"{key} is damaged at offset {row.offset}: {error}") from None
        places, refs = pointers_of(node)
        for ref in refs:
            self._node(ref.id, ref.place, key)
        live: list[tuple[bytes, int, int]] = []
        for place in places:
            if place.container in self._plain and not self._measure:
                continue
            found = self._places(place)
            if not found:
                self.lost += 1
                continue
            if found == [place]:
                if len(self._plain) >= REMEMBERED:
                    self._plain.clear()
                if place.container not in self._plain:
                    self._plain.add(place.container)
                    self._mark(place.container)
            else:
                for one in found:
                    self._mark(one.container)
            if self._measure:
                live += map(_row, found)
        if live:
            self._survey.add_live(live)

    def _mark(self, container: bytes) -> None:
        """A container is needed. If a map of it is there already, so is what that leads to, for all that it holds: it
        may be needed any moment, and the container be gone."""
        self._survey.mark(container)
        if container in self._twice and self._whereabouts.has_map(container):
            for lead in self._survey.leads(container):
                for place in self._places(_there(lead)):
                    self._survey.mark(place.container)

    def _places(self, place: Place) -> list[Place]:
        """Where the bytes of a blob are, none when they are nowhere: the one that is read first, and as long as that is
        to go, where its map leads. The maps are needed."""
        found: list[Place] = []
        while len(found) < MOST_HOPS:
            here, hops = self._whereabouts.find(place)
            if here is None:
                break
            for hop in hops:
                self._survey.mark(hop)
            found.append(here)
            if here.container not in self._twice or not self._whereabouts.has_map(here.container):
                break
            lead = self._survey.lead(here.container, here.offset)
            if lead is None:
                break
            place = _there(lead)
        return found

    def check_there(self, container: bytes) -> None:
        """Conflict when a container was there as this began, and is not any more, or was moved since: another run was
        faster."""
        if len(container) not in {PACK, COMMIT}:
            return
        is_listed = self._survey.container_size(container) is not None
        try:
            self._store.stat(container_key(container) if is_listed else moved_key(container))
            is_there = True
        except NotFound:
            is_there = False
        if is_there != is_listed and not self._survey.is_moved(container):
            by = "was deleted or moved by another run of `vfsd gc` or `vfsd compact`: run this again"
            raise Conflict(f"{container_key(container)} {by}")

    # Names

    def under_all_names(self, lines: Iterable[Condemned]) -> Iterator[Condemned]:
        """The lines of a list, and behind them what maps call the same blobs: whoever knows one by where it lay before
        it was moved has to find it condemned, too. No line of these has the offset HEADER."""
        self._whereabouts.read_maps(self._pool)
        self._survey.clear_doomed()
        for line in lines:
            self._survey.add_doomed(line.container, line.offsets or (WHOLE,))
            yield line
        for container, blobs in groupby(self._survey.doomed_elsewhere(), lambda blob: blob[0]):
            yield Condemned(container, [offset for _, offset in blobs])

    def wherever_moved(self, blobs: Iterable[Blob]) -> Iterator[Blob]:
        """These blobs, by the names that are given and by where maps say that they lie."""
        for container, offset in blobs:
            for _ in range(MOST_HOPS):
                yield container, offset
                if not self._whereabouts.has_map(container):
                    break
                lead = self._survey.lead(container, offset)
                if lead is None:
                    break
                container, offset = lead.there, lead.now  # noqa: PLW2901

    # Afterwards

    def note_commit(self, commit: CommitObject) -> None:
        """Which nodes lie in a commit's object, needed or not."""
        container = bytes.fromhex(commit.id)
        if self._survey.is_first(_noted(container)):
            self._survey.add_nodes(container, [blob.offset for blob in commit.hints.blobs if blob.kind == NODE])

    def unneeded_nodes(self) -> Iterator[tuple[bytes, int]]:
        """(container, offset) of all tree nodes to which nothing leads and which lie in containers that are needed."""
        self._read_directories()
        yield from self._survey.unneeded_nodes()

    def _read_directories(self) -> None:
        """Of all containers that are needed and may hold nodes, each once."""
        packs = [
            (container, self._survey.container_size(container)) for container in self._survey.node_containers()
            if len(container) == PACK and not self._survey.has(_noted(container))
        ]  # fmt: skip
        for (container, _), offsets in ahead(self._pool, self._nodes_in, packs, AT_ONCE):
            self._survey.is_first(_noted(container))
            self._survey.add_nodes(container, offsets)
        unknown = [
            row.id for row in self._survey.marked()
            if len(row.id) == COMMIT and not row.moved and not self._survey.has(_noted(row.id))
        ]  # fmt: skip
        for _, commit in ahead(self._pool, self._commit, unknown, AT_ONCE):
            self.note_commit(commit)

    def _nodes_in(self, pack: tuple[bytes, int | None]) -> list[int]:
        container, size = pack
        try:
            blobs = read_directory(self._store, PackId(container), size or 0)
        except NotFound:
            raise _rewritten(container) from None
        return [blob.offset for blob in blobs if blob.kind == NODE]

    def _commit(self, container: bytes) -> CommitObject:
        try:
            return parse(self._store.get(container_key(container))[0], CommitId(container.hex()))[0]
        except NotFound:
            raise _rewritten(container) from None


def _row(place: Place) -> tuple[bytes, int, int]:
    return place.container, place.offset, place.length


def _there(lead: LeadRow) -> Place:
    return Place(lead.there, lead.now, lead.length)


def _noted(container: bytes) -> bytes:
    return hash_bytes(b"noted" + container)[:16]


def _rewritten(container: bytes) -> Conflict:
    """What of it is not needed, and is copied all the same, could not be told from what is."""
    return Conflict(f"{container_key(container)} was rewritten by `vfsd compact` just now: run this again")


def _unreadable(what: str) -> Damaged:
    return Damaged(f"{what}, so it is not known what is needed: nothing is deleted; `vfsd fsck` says more")


def _key(place: Place) -> str:
    try:
        return container_key(place.container)
    except Damaged:
        return "the store"
