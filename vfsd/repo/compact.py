"""Compaction: packs of which little is needed are rewritten, as `vfsd compact` does. No id and no pointer changes: a
map is left in the place of each pack (store/moved.py).

What is not needed in them is condemned first, and rewriting waits for the grace period, so that it is safe beside
writers just as gc is. May be killed at any moment. Objects of commits that are not needed for themselves any more are
rewritten whatever they hold, so that they can go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import msgspec

from vfsd.index.index import PlaceRow
from vfsd.index.survey import ContainerRow, Survey
from vfsd.model.entry import Place
from vfsd.model.errors import Conflict, Damaged, NotFound
from vfsd.model.ids import CommitId, PackId, hash_bytes
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import parse
from vfsd.repo.condemned import HEADER, Condemned, Kind, Phase, Verdict, read_list, read_pardons
from vfsd.repo.condemning import GRACE_S, ORPHANED, Amount, Lists, Young, store_now, total, young_since
from vfsd.repo.marking import COMMIT
from vfsd.repo.node_walk import AT_ONCE, decoded_node
from vfsd.repo.reach import Progress, Reach, Trees
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.api import ObjectStore
from vfsd.store.blob import MAX_STORED, container_key, decode_blob
from vfsd.store.moved import Moved, MovedMap, encode_map, moved_key, read_map, read_map_version, without_maps
from vfsd.store.pack import CHUNK, NODE, Blob, PackBuilder, directory_span, read_directory_at

BELOW = 0.5  # a pack of which a smaller part is needed is rewritten
PACK_SIZE = {CHUNK: 32 << 20, NODE: 16 << 20}  # bytes at which a new pack is full
READS = 4  # containers read ahead
BLOBS = 100_000  # in them; tiny files make packs of more
DIRECTORIES = 8 << 20  # bytes of packs' directories that are read at once
GAP = 256 << 10  # bytes between two blobs that are read along, to save a request


Span = tuple[int, int]  # where a directory lies, and its length


class CompactResult(msgspec.Struct, frozen=True):
    """What there is. sparse: objects of which too little is needed; condemned for rewriting by this run if it does.
    live: bytes of them that are needed. waiting: to be rewritten, and not due yet. rewritten: due, and rewritten by
    this run if it does; freed: bytes that this gives back. next: seconds until something is due, None when nothing
    waits. problems: a sentence for each object that could not be rewritten."""

    sparse: Amount
    live: int
    waiting: Amount
    rewritten: Amount
    freed: int
    next: float | None
    problems: tuple[str, ...]


def compact(
    repository: Repository, trees: Trees, *, rewrite: bool, author: str, below: float = BELOW,
    grace_s: float = GRACE_S, progress: Progress = lambda what, count: None,
) -> CompactResult:
    """Find packs of which less than the part `below` is needed; with `rewrite`, condemn what is not needed in them, and
    rewrite those for which that was done `grace_s` ago or earlier.

    trees: what of other layers leads to trees. author: of what is noted of commits that go. Damaged when it cannot be
    said what is needed, Conflict when another run took over, Unavailable and the like: whatever was not done is done by
    the next run.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vfsd-compact") as pool, Survey() as survey:
        reach = Reach(repository, survey, pool, trees, progress, measure=True)
        return _Compaction(repository, reach, survey, pool, author, below, grace_s, progress).run(rewrite=rewrite)


class _Compaction:
    def __init__(
        self, repository: Repository, reach: Reach, survey: Survey, pool: ThreadPoolExecutor, author: str,
        below: float, grace_s: float, progress: Progress,
    ) -> None:
        self._repository = repository
        self._store = without_maps(repository.store)
        self._reach = reach
        self._survey = survey
        self._pool = pool
        self._author = author
        self._below = below
        self._grace_s = grace_s
        self._progress = progress
        self._lists = Lists(repository, Kind.REWRITE)
        self._young = Young(0.0, (), 0.0)
        self._listed: set[bytes] = set()
        self._sparse: list[ContainerRow] = []
        self._live: dict[bytes, int] = {}
        self._problems: list[str] = []

    def run(self, *, rewrite: bool) -> CompactResult:
        self._young = young_since(self._store, self._grace_s)
        state = self._repository.guard.refresh()
        for verdict in state.lists if state is not None else ():
            if verdict.phase in {Phase.CONDEMNED, Phase.SWEEPING}:
                is_rewritten = verdict.kind is Kind.REWRITE
                lines = read_list(self._store, verdict)
                self._listed.update(
                    line.container for line in lines if not line.offsets or (is_rewritten and HEADER in line.offsets)
                )
        self._reach.list_containers()
        self._reach.follow()
        self._reach.follow_young(self._young.since)
        self._find_sparse()
        sparse, live = total(self._sparse), sum(self._live[row.id] for row in self._sparse)
        if rewrite and self._sparse:
            self._lists.condemn(self._lines, lambda: total(self._sparse), self._reach.follow)
        rewritten, freed, waiting, until = self._carry_out_due(rewrite=rewrite)
        if rewrite:
            self._lists.forget(self._young.now)
        return CompactResult(sparse, live, waiting, rewritten, freed, until, tuple(self._problems))

    # What is sparse

    def _find_sparse(self) -> None:
        for container, live in self._survey.live_bytes():
            row = self._survey.container(container)
            if row is None or row.moved or row.modified >= self._young.since or container in self._listed:
                continue
            if self._is_sparse(row, live):
                self._sparse.append(row)
                self._live[container] = live

    def _is_sparse(self, row: ContainerRow, live: int) -> bool:
        if len(row.id) == COMMIT:
            return not self._reach.is_kept(CommitId(row.id.hex()))
        return live < self._below * row.size

    def _lines(self) -> Iterator[Condemned]:
        return self._reach.marking.under_all_names(self._found())

    def _found(self) -> Iterator[Condemned]:
        spans = ahead(self._pool, self._span, self._sparse, AT_ONCE)
        for (row, _), blobs in ahead(
            self._pool, lambda one: self._directory_if_there(*one), spans, AT_ONCE, _length, DIRECTORIES
        ):  # fmt: skip
            if blobs is None or isinstance(blobs, Damaged):
                continue  # rewriting it says so
            live = self._survey.live_blobs(row.id)
            # The header first, which no pack has: no line may stand for the whole container.
            yield Condemned(row.id, [HEADER, *(blob.offset for blob in blobs if blob.offset not in live)])

    def _span(self, row: ContainerRow) -> Span | None:
        """In a thread: where the directory of a pack lies; None where there is none that can be read."""
        if len(row.id) == COMMIT:
            return None
        try:
            return directory_span(self._store, PackId(row.id), row.size)
        except (Damaged, NotFound):
            return None

    def _directory(self, row: ContainerRow, span: Span | None = None) -> list[Blob] | Damaged:
        """In a thread: what lies in a container."""
        try:
            if len(row.id) == COMMIT:
                data, _ = self._store.get(container_key(row.id))
                return parse(data, CommitId(row.id.hex()))[0].hints.blobs
            pack = PackId(row.id)
            return read_directory_at(self._store, pack, *(span or directory_span(self._store, pack, row.size)))
        except Damaged as error:
            return error

    def _directory_if_there(self, row: ContainerRow, span: Span | None) -> list[Blob] | Damaged | None:
        """The same, None when another run was faster."""
        try:
            return self._directory(row, span)
        except NotFound:
            return None

    # Rewriting

    def _carry_out_due(self, *, rewrite: bool) -> tuple[Amount, int, Amount, float | None]:
        """(what is due, bytes that are given back, what waits, for how many seconds yet)"""
        rewritten, waiting, freed = Amount(), Amount(), 0
        until: float | None = None
        now = store_now(self._store)
        for verdict, left in list(self._lists.due(self._repository.guard.refresh(), self._grace_s, now)):
            rows = [row for row, _ in self._rows(verdict)]
            if left > 0:
                until = left if until is None else min(until, left)
                waiting = waiting.plus(total(rows))
                continue
            live = sum(self._survey.live_size(row.id) for row in rows)
            rewritten, freed = rewritten.plus(total(rows)), freed + sum(row.size for row in rows) - live
            if rewrite:
                current = self._lists.advance(verdict.number, Phase.SWEEPING)
                if current is not None:
                    kept = self._rewrite(current, rows)
                    self._lists.advance(verdict.number, Phase.SWEPT, kept)
        return rewritten, freed, waiting, until

    def _rows(self, verdict: Verdict) -> Iterator[tuple[ContainerRow, set[int]]]:
        """The containers of a list that are there, each with the offsets of what is condemned in it."""
        for line in read_list(self._store, verdict):
            if HEADER not in line.offsets:
                continue  # only another name of what lies in one of them
            row = self._survey.container(line.container)
            if row is not None and not row.moved:
                yield row, set(line.offsets)

    def _keep_headers(self, rows: Iterable[ContainerRow]) -> None:
        """Commits that no ref leads to, and whose objects go only now because others share blobs with them: their
        headers are kept as those of dropped ones are."""
        drops, commits = self._repository.drops, (CommitId(row.id.hex()) for row in rows if len(row.id) == COMMIT)
        headers = (self._repository.commits.header(commit) for commit in commits if drops.find(commit) is None)
        drops.add(headers, time=now_ns(), author=self._author, reason=ORPHANED)

    def _rewrite(self, verdict: Verdict, rows: list[ContainerRow]) -> list[bytes]:
        """Copy what is not condemned in these containers, or was pardoned, whether it is needed or not: whoever writes
        may share it meanwhile without asking. Leave maps, delete them. Those that stay as they are."""
        pardoned: dict[bytes, set[int]] = {}
        for container, offset in self._reach.marking.wherever_moved(read_pardons(self._store, verdict)):
            pardoned.setdefault(container, set()).add(offset)
        kept = [row.id for row in rows if self._is_commit_again(row, pardoned.get(row.id, set()))]
        staying = set(kept)
        self._keep_headers(row for row in rows if row.id not in staying)
        wanted = (
            (row, offsets - pardoned.get(row.id, set()), self._survey.live_blobs(row.id))
            for row, offsets in self._rows(verdict) if row.id not in staying
        )  # fmt: skip
        with _Copies(self._repository, self._store, self._pool) as copies:
            for (row, _, _), source in ahead(
                self._pool, lambda one: self._read(*one), wanted, READS, lambda one: len(one[1]) + len(one[2]), BLOBS
            ):  # fmt: skip
                if isinstance(source, Damaged):
                    self._problems.append(str(source))
                    kept.append(row.id)
                elif source is not None:
                    copies.add(source)
                    self._progress("rewritten", 1)
        self._shorten({row.id for row in rows}.difference(kept))
        return kept

    def _is_commit_again(self, row: ContainerRow, pardoned: set[int]) -> bool:
        """Whether a ref was made since that leads to a commit whose object was to be rewritten."""
        return len(row.id) == COMMIT and (HEADER in pardoned or self._reach.is_kept(CommitId(row.id.hex())))

    def _read(self, row: ContainerRow, condemned: set[int], live: set[int]) -> _Source | Damaged | None:
        """In a thread: the blobs of a container but for those at the offsets `condemned`, each found to be what its
        directory says. None when another run was faster."""
        key = container_key(row.id)
        try:
            return self._read_blobs(key, row, condemned, live)
        except NotFound:
            return None

    def _read_blobs(self, key: str, row: ContainerRow, condemned: set[int], live: set[int]) -> _Source | Damaged:
        blobs = self._directory(row)
        if isinstance(blobs, Damaged):
            return Damaged(f"{key} stays as it is: {blobs}")
        needed = [blob for blob in blobs if blob.offset not in condemned]
        if not live <= {blob.offset for blob in needed}:
            return Damaged(f"{key} stays as it is: pointers lead to what its directory does not have")
        pieces: list[bytes] = []
        for start, end in _spans(needed):
            data = self._store.get_range(key, start, end - start)
            here = (blob.offset - start for blob in needed if start <= blob.offset < end)
            pieces += [data[at : at + blob.length] for at, blob in zip(here, needed[len(pieces) :], strict=False)]
        for blob, piece in zip(needed, pieces, strict=True):
            if not _is_right(blob, piece):
                return Damaged(f"{key} is damaged at offset {blob.offset}, and stays as it is: `vfsd fsck` says more")
        return _Source(row.id, needed, pieces)

    def _shorten(self, gone: set[bytes]) -> None:
        """Let maps that lead into what was just rewritten lead on at once."""
        for container in self._survey.leading_into(gone):
            try:
                old, etag = read_map_version(self._store, container)
                maps = {one: read_map(self._store, one) for one in gone & {line.container for line in old.lines}}
                # Only the map that was read: after a long sleep, one that leads further may be there.
                lines = (_led_on(line, maps) for line in old.lines)
                self._store.put_if_match(moved_key(container), encode_map(lines), etag)
            except (Conflict, NotFound):
                continue


class _Source(msgspec.Struct, frozen=True):
    """A container to rewrite: the blobs that are needed, and their stored bytes."""

    container: bytes
    blobs: list[Blob]
    pieces: list[bytes]


class _Copy(msgspec.Struct, frozen=True):
    """A container whose blobs were taken over: where each of them comes to lie, and in which packs."""

    container: bytes
    blobs: list[Blob]
    places: list[Place]
    packs: set[bytes]


class _Copies:
    """Fills new packs, chunks and nodes apart; once what a container held is durable, its map is written, and then it
    is deleted. A context: at its end all are done."""

    def __init__(self, repository: Repository, store: ObjectStore, pool: ThreadPoolExecutor) -> None:
        self._repository = repository
        self._store = store
        self._pool = pool
        self._builders = {CHUNK: PackBuilder(), NODE: PackBuilder()}
        self._waiting: list[_Copy] = []
        self._stored: set[bytes] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None:
            for one in (CHUNK, NODE):
                self._store_pack(one)
            self._settle()

    def add(self, source: _Source) -> None:
        """Take over what is needed of a container."""
        copy = _Copy(source.container, source.blobs, [Place() for _ in source.blobs], set())
        for blob, piece, place in zip(source.blobs, source.pieces, copy.places, strict=True):
            builder = self._builders[blob.kind]
            builder.add(blob.kind, blob.id, piece, place)
            copy.packs.add(builder.id)
            if builder.size >= PACK_SIZE[blob.kind]:
                self._store_pack(blob.kind)
        self._waiting.append(copy)
        self._settle()

    def _store_pack(self, kind: int) -> None:
        builder = self._builders[kind]
        if builder.blobs:
            self._store.put(container_key(builder.id), builder.finish())
            self._stored.add(builder.id)
            self._builders[kind] = PackBuilder()

    def _settle(self) -> None:
        """Containers of which everything is durable elsewhere become maps."""
        done = [copy for copy in self._waiting if copy.packs <= self._stored]
        self._waiting = [copy for copy in self._waiting if not copy.packs <= self._stored]
        if not done:
            return
        maps = list(self._pool.map(self._put_map, done))
        # gc follows maps that are there. What it had not met when it made its list is pardoned now, or it is too late:
        # this run slept, and its packs are being deleted. Then the containers stay.
        guard = self._repository.guard
        guard.refresh()
        places = {(line.container, line.now) for one in maps for line in one.lines}
        guard.pardon((place for place in places if guard.is_condemned(Place(*place, 0))), ())
        list(self._pool.map(lambda copy: self._store.delete(container_key(copy.container)), done))
        self._repository.index.add_places([
            PlaceRow(line.id, line.container, line.now, line.length)
            for one in maps for line in one.lines if line.kind == CHUNK
        ])  # fmt: skip

    def _put_map(self, copy: _Copy) -> MovedMap:
        """In a thread: the map that is there then. One of a run that died is as good: it copied the same blobs. Unless
        where it leads was deleted since, because the container was still there."""
        lines = [
            Moved(blob.kind, blob.id, blob.offset, blob.length, place.container, place.offset)
            for blob, place in zip(copy.blobs, copy.places, strict=True)
        ]
        key, data = moved_key(copy.container), encode_map(lines)
        while True:
            try:
                self._store.put_if_absent(key, data)
                return MovedMap(copy.container, lines)
            except Conflict:
                pass
            try:
                there, etag = read_map_version(self._store, copy.container)
                if self._leads_somewhere(there):
                    return there
                self._store.put_if_match(key, data, etag)
                return MovedMap(copy.container, lines)
            except (Conflict, NotFound):
                continue  # it changed just now

    def _leads_somewhere(self, there: MovedMap) -> bool:
        for container in {line.container for line in there.lines}:
            for key in (container_key(container), moved_key(container)):
                try:
                    self._store.stat(key)
                    break
                except NotFound:
                    continue
            else:
                return False
        return True


def _length(one: tuple[ContainerRow, Span | None]) -> int:
    return 0 if one[1] is None else one[1][1]


def _led_on(line: Moved, maps: dict[bytes, MovedMap]) -> Moved:
    there = maps[line.container].find(line.place) if line.container in maps else None
    return line if there is None else msgspec.structs.replace(line, container=there.container, now=there.offset)


def _spans(blobs: list[Blob]) -> Iterator[tuple[int, int]]:
    """(start, end) of ranges that hold all blobs, which stand in order."""
    start = end = 0
    for blob in blobs:
        if end and (blob.offset > end + GAP or blob.offset + blob.length - start > MAX_STORED):
            yield start, end
            end = 0
        if not end:
            start = blob.offset
        end = blob.offset + blob.length
    if end:
        yield start, end


def _is_right(blob: Blob, stored: bytes) -> bool:
    """Whether these are the bytes of a blob: damage is not carried on."""
    try:
        if blob.kind == NODE:
            decoded_node(stored, blob.id)
            return True
        return hash_bytes(decode_blob(stored, MAX_STORED)) == blob.id
    except Damaged:
        return False
