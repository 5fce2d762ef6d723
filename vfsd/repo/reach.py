"""Everything that refs lead to: commits with their histories, trees, and what else keeps blobs in the store.

Branches and tags lead to commits, commits to their parents, and those that were not dropped to their trees. Objects of
other layers lead to trees. What is young counts as reachable with all below it: somebody may be about to need it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec

from vfsd.index.survey import Survey
from vfsd.model.commit import BranchHead, Tag, decode
from vfsd.model.entry import Ref
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import SHORT, CommitId, commit_id, hash_bytes
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import CommitObject, header_of, parse
from vfsd.repo.commits import commit_key
from vfsd.repo.marking import COMMIT, PACK, Marking
from vfsd.repo.node_walk import AT_ONCE
from vfsd.repo.repository import Repository
from vfsd.store.api import Stat
from vfsd.store.moved import PREFIX as MOVED
from vfsd.store.moved import without_maps

WAVE = 64  # commits read one behind another
IsKept = Callable[[CommitId], bool]
Trees = Callable[[IsKept], Iterable[tuple[str, Ref]]]  # (what leads there, tree), given which commits have contents
Progress = Callable[[str, int], None]  # called with (what was looked at, how many since the last call)


class _Read(msgspec.Struct, frozen=True):
    """A commit as the store has it; data None: only its header is left."""

    commit: CommitObject
    data: bytes | None


class Reach:
    """One walk over a store, which may be gone on with when refs have moved. Raises Damaged when something is missing
    or damaged that leads on to others: then nothing can be said to be unreachable.

    trees: what of other layers leads to trees. measure: as of Marking.
    """

    def __init__(
        self, repository: Repository, survey: Survey, pool: ThreadPoolExecutor, trees: Trees, progress: Progress, *,
        measure: bool = False,
    ) -> None:
        self._repository = repository
        self._store = without_maps(repository.store)
        self._drops = repository.drops
        self._survey = survey
        self._pool = pool
        self._trees = trees
        self._progress = progress
        self._queue: deque[CommitId] = deque()
        self._has_listed = False
        self.named: set[CommitId] = set()  # by a branch or a tag: these are never dropped
        self.marking = Marking(self._store, survey, pool, measure=measure, progress=progress)

    # Containers

    def list_containers(self) -> None:
        """What there is, before anything is followed: whatever is written later is not looked at."""
        for prefix, size in (("packs/", PACK), ("commits/", COMMIT)):
            self._survey.add_containers(_listed(self._store.list(prefix), {size}))
        self._list_maps()

    def _list_maps(self) -> None:
        self._survey.add_moved(_listed(self._store.list(MOVED), {PACK, COMMIT}))
        self.marking.note_maps()

    # Following

    def follow(self) -> None:
        """Follow all refs as they are now; again, with what compact has done meanwhile."""
        self._drops.refresh()
        if self._has_listed:
            self._list_maps()
        self._has_listed = True
        kinds: tuple[tuple[str, type[BranchHead | Tag]], ...] = (("refs/", BranchHead), ("tags/", Tag))
        for prefix, kind in kinds:
            for _, data in ahead(self._pool, self._get, self._store.list(prefix), 2 * AT_ONCE):
                if data is not None:
                    self._progress("refs", 1)
                    commit = decode(data[1], kind, data[0]).commit
                    if commit is not None:
                        self._name(commit_id(commit))
        self._follow_commits()
        for where, ref in self._trees(self.is_kept):
            self.marking.need_tree(ref, where)
        self.marking.drain()

    def follow_young(self, since: float) -> None:
        """Follow what no ref leads to and is younger than `since` (s since 1970, by the store's clock)."""
        young = [row for row in self._survey.unmarked() if row.modified >= since and not row.moved]
        with self.marking.lenient():
            for row in young:
                if len(row.id) == PACK:
                    self.marking.need_nodes(row.id, row.size)
                elif self._drops.find(CommitId(row.id.hex())) is None:
                    self._want(CommitId(row.id.hex()))
            self._follow_commits(lenient=True)
            self.marking.drain()

    def is_kept(self, commit: CommitId) -> bool:
        """Whether a commit is reachable with its contents."""
        return self._survey.has(_key(b"kept", commit))

    def _name(self, commit: CommitId) -> None:
        """A ref names a commit: if it was met before as a dropped one, it is none."""
        if commit not in self.named:
            self.named.add(commit)
            if self._drops.find(commit) is not None or self._survey.is_first(_key(b"commit", commit)):
                self._queue.append(commit)

    def _want(self, commit: CommitId) -> None:
        if self._survey.is_first(_key(b"commit", commit)):
            self._queue.append(commit)

    def _get(self, stat: Stat) -> tuple[str, bytes] | None:
        """In a thread: None for what was deleted meanwhile."""
        try:
            return stat.key, self._store.get(stat.key)[0]
        except NotFound:
            return None

    # Commits

    def _follow_commits(self, *, lenient: bool = False) -> None:
        """The commits in line and their ancestors. lenient: no ref leads to them, so such as cannot be read lead
        nowhere."""
        while self._queue:
            wave = [self._queue.popleft() for _ in range(min(WAVE, len(self._queue)))]
            for one, found in ahead(self._pool, self._load, wave, AT_ONCE):
                if not isinstance(found, Damaged):
                    self._commit(found)
                elif not lenient:
                    self.marking.check_there(bytes.fromhex(one))
                    raise Damaged(f"{found}: nothing is deleted; `vfsd fsck` says more")

    def _load(self, wanted: CommitId) -> _Read | Damaged:
        """In a thread of the pool."""
        try:
            data, _ = self._store.get(commit_key(wanted))
            return _Read(parse(data, wanted)[0], data)
        except NotFound:
            if self._drops.find(wanted) is None:
                return Damaged(f"{commit_key(wanted)} is gone, which others lead to")
            return _Read(self._repository.commits.get(wanted), None)
        except Damaged as error:
            return error

    def _commit(self, found: _Read) -> None:
        commit, data = found.commit, found.data
        self._progress("commits", 1)
        if data is not None:
            self.marking.note_commit(commit)
        if commit.id in self.named or self._drops.find(commit.id) is None:
            if data is None:
                raise Damaged(f"{commit_key(commit.id)} is gone, which a ref names: `vfsd fsck` says more")
            self._survey.is_first(_key(b"kept", commit.id))
            self.marking.need(bytes.fromhex(commit.id))
            if commit.root.node is not None:
                self.marking.need_tree(commit.root.node, f"commit {commit.id[:SHORT]}")
            self.marking.visit(bytes.fromhex(commit.id), data)
        for other in (*commit.header.parents, *commit.ancestors):
            self._want(other)
        self._survey.add_edges(edge.commit for edge in commit.header.provenance)

    # Headers

    def follow_headers(self) -> None:
        """Follow what only headers lead to: of commits that are there though no ref leads to them, and of those that
        others were made from. What cannot be read leads nowhere."""
        rows = list(self._survey.unmarked())
        waiting = [CommitId(row.id.hex()) for row in rows if len(row.id) == COMMIT and not row.moved]
        waiting += [CommitId(commit) for commit in self._survey.edges()]
        while waiting:
            wave = [one for one in waiting if not self.leads_to(one) and self._survey.is_first(_key(b"header", one))]
            waiting = []
            for _, found in ahead(self._pool, self._load, wave, AT_ONCE):
                if not isinstance(found, Damaged):
                    header = found.commit.header
                    waiting += [*header.parents, *(edge.commit for edge in header.provenance)]

    def leads_to(self, commit: CommitId) -> bool:
        """Whether anything that was followed has this commit's id, or is it."""
        return self._survey.has(_key(b"commit", commit)) or self._survey.has(_key(b"header", commit))

    # Lineage

    def orphans(self, search: bytes) -> Iterator[tuple[CommitId, bytes]]:
        """(id, header) of the commits that reachable ones were made from, with their ancestors, to which nothing else
        leads: when their objects go, their headers have to be kept elsewhere. Such as are gone already, or dropped, are
        left out. search: another one each time."""
        edges = self._survey.edges()
        waiting = [CommitId(commit) for commit in edges if not self._survey.has(_key(b"commit", commit))]
        while waiting:
            commit = waiting.pop()
            if not self._survey.is_first(_key(search, commit)) or self._drops.find(commit) is not None:
                continue
            found = self._load(commit)
            if isinstance(found, Damaged) or found.data is None:
                continue
            yield commit, header_of(found.data)
            header = found.commit.header
            others = (*header.parents, *(edge.commit for edge in header.provenance))
            waiting += [other for other in others if not self._survey.has(_key(b"commit", other))]


def _listed(stats: Iterable[Stat], sizes: set[int]) -> Iterator[tuple[bytes, int, float]]:
    for stat in stats:
        try:
            container = bytes.fromhex(stat.key.rpartition("/")[2])
        except ValueError:
            continue  # not a container: fsck says so
        if len(container) in sizes:
            yield container, stat.size, stat.modified


def _key(kind: bytes, commit: str) -> bytes:
    return hash_bytes(kind + commit.encode())[:16]
