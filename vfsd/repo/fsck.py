"""Checks a whole store, or parts of it, as `vfsd fsck` does: refs, commits, trees, chunks.

Takes refs as they are at the start. All that they lead to was written before them, so that writers may go on meanwhile;
nothing is changed. Each thing is looked at once, in memory that does not grow with the store (index.survey).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import msgspec

from vfsd.index.survey import Survey
from vfsd.model.commit import BranchHead, Commit, GlobalRecord, RepoObject, Tag, decode
from vfsd.model.entry import EMPTY_DIR, Ref
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import SHORT, CommitId, hash_bytes, is_global_id
from vfsd.model.location import Location
from vfsd.model.names import from_key_part, is_label, key_part
from vfsd.repo import drops
from vfsd.repo.ahead import ahead
from vfsd.repo.commit_object import CommitObject, parse
from vfsd.repo.commits import commit_key
from vfsd.repo.condemned import STATE, read_list, read_pardons, read_state
from vfsd.repo.node_walk import AT_ONCE
from vfsd.repo.refs import global_key
from vfsd.repo.repository import Repository
from vfsd.repo.tree import find
from vfsd.repo.tree_check import WRITTEN_WRONG, BadBlob, Problem, TreeCheck, back_from_backup
from vfsd.store.api import Stat
from vfsd.store.moved import PREFIX as MOVED
from vfsd.store.moved import without_maps

Reader = Callable[[str, bytes], Iterable[tuple[str, Ref]]]  # (key, content) → what to call each tree it points to
Progress = Callable[[str, int], None]  # called with (what was looked at, how many since the last call)
WAVE = 64  # commits read one behind another

_HEX32 = re.compile(r"[0-9a-f]{32}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_KINDS: dict[str, type[BranchHead | Tag | RepoObject | GlobalRecord]] = {
    "refs/": BranchHead, "tags/": Tag, "repos/": RepoObject, "globals/": GlobalRecord,
}  # fmt: skip


class FsckResult(msgspec.Struct, frozen=True):
    """What was looked at. refs: small objects: branches, tags, repos, global ids and the like. chunks: pointers to
    chunks, or where data was read, chunks. bytes: read from the store. problems: how many there were."""

    refs: int
    commits: int
    nodes: int
    chunks: int
    bytes: int
    problems: int


def fsck(
    repository: Repository,
    tell: Callable[[Problem], None],
    *,
    specs: Sequence[Location] = (),
    read_data: bool = False,
    others: Mapping[str, Reader] | None = None,
    progress: Progress = lambda what, count: None,
    findings: Findings | None = None,
) -> FsckResult:
    """Check everything, or what `specs` name: a branch with its history, one commit with `@REV`, what is at a path.

    tell: called with each problem as it is found. others: prefix of keys → who reads such objects (Damaged).
    findings: takes in what repo.repair may do something about. Raises
    NotFound for a spec that names nothing, Unavailable and the like when the store does not answer, NoSpace when the
    temporary directory is full.
    """
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vfsd-fsck") as pool, Survey() as survey:
        work = _Fsck(repository, survey, pool, tell, progress, read_data=read_data, findings=findings or Findings())
        if specs:
            work.resolve(specs)
        else:
            work.small_objects()
        work.records()
        work.list_containers()
        work.commits()
        if not specs:
            work.other_objects(others or {})
            work.lists()
        work.trees.drain()
        if read_data:
            work.trees.read_chunks()
            work.trees.check_directories()
        return work.result()


class Findings:
    """What of a check's problems could be repaired: blobs that are lost or damaged, so many at most; commits whose
    objects are; branches whose ref, or the commit that it names, cannot be read; packs whose directory cannot; commits
    without a global record; repos without a record; lists of gc that cannot be read."""

    MOST = 500_000

    def __init__(self) -> None:
        self.blobs: list[BadBlob] = []
        self.commits: list[CommitId] = []
        self.branches: list[tuple[str, str]] = []
        self.directories: list[bytes] = []
        self.records: list[Commit] = []
        self.repos: list[str] = []
        self.lists = False

    def add_blob(self, blob: BadBlob) -> None:
        """The rest is for another time."""
        if len(self.blobs) < self.MOST:
            self.blobs.append(blob)


class _Wanted(msgspec.Struct, frozen=True):
    """A commit to check. by: who names it. alone: its parents are not checked after it."""

    id: CommitId
    by: str
    alone: bool = False


class _Fsck:
    def __init__(
        self, repository: Repository, survey: Survey, pool: ThreadPoolExecutor, tell: Callable[[Problem], None],
        progress: Progress, *, read_data: bool, findings: Findings,
    ) -> None:
        self._repository = repository
        self._findings = findings
        self._store = without_maps(repository.store)
        self._drops = repository.drops
        self._named: set[str] = set()  # commits that a branch or tag names: these cannot be dropped
        self._survey = survey
        self._pool = pool
        self._told = tell
        self._progress = progress
        self._queue: deque[_Wanted] = deque()
        self._is_whole_store = False
        self._refs = self._commits = self._bytes = self._problems = 0
        self.trees = TreeCheck(
            self._store, repository.index, survey, pool, read_data=read_data, tell=self._tell, progress=progress,
            bad=findings.add_blob, bad_directory=findings.directories.append,
        )  # fmt: skip

    def result(self) -> FsckResult:
        trees = self.trees
        return FsckResult(
            self._refs, self._commits, trees.nodes, trees.chunks, self._bytes + trees.bytes_read, self._problems
        )

    def _tell(self, problem: Problem) -> None:
        self._problems += 1
        self._told(problem)

    # What was asked for

    def resolve(self, specs: Sequence[Location]) -> None:
        # Branches first: a commit that was met is not met again, and theirs bring their history along.
        for spec in sorted(specs, key=lambda one: one.rev is not None):
            self._refs += spec.rev is None
            try:
                commit = self._repository.resolve(spec)
                if commit is None:
                    continue
                if spec.path:
                    entry = find(self._repository.nodes, commit.root, spec.path)
                    self.trees.add_entry("/".join((_label(commit), *map(_text, spec.path))), entry)
                elif self._is_first(commit.id):
                    self._queue.append(_Wanted(commit.id, str(spec), alone=spec.rev is not None))
            except Damaged as error:
                self._tell(Problem(str(spec), str(error), "`vfsd fsck` without a SPEC checks all that leads there"))

    # Small objects

    def small_objects(self) -> None:
        """Branches before repos: who makes a repo makes it first. Global records last: they are there before refs."""
        self._is_whole_store = True
        repos: dict[str, str] = {}  # repo → key of something in it
        for prefix, kind in _KINDS.items():
            for stat, data in self._read(prefix):
                value = self._decoded(stat.key, data, kind)
                if value is None:
                    continue
                names = stat.key.removeprefix(prefix).split("/")
                if kind is RepoObject:
                    repos.pop(from_key_part(names[0]), None)
                elif kind is GlobalRecord:  # it may name a commit that nothing came of
                    self._survey.is_first(_record_key(stat.key))
                else:
                    repos.setdefault(from_key_part(names[0]), stat.key)
                    commit = value.commit  # type: ignore[union-attr]
                    if commit is not None:
                        self._named.add(commit)
                        if self._is_first(commit):
                            self._queue.append(_Wanted(commit, stat.key))
        for repo, key in repos.items():
            if self._is_there(key) and not self._is_there(f"repos/{key_part(repo)}"):
                remedy = f"{back_from_backup(f'repos/{key_part(repo)}')}, or `vfsd fsck --repair` makes a new one"
                self._findings.repos.append(repo)
                self._tell(Problem(key, f"its repo {repo} has no record of its own", remedy))

    def records(self) -> None:
        """What was dropped. A record that cannot be read hides only that."""
        for stat, data in self._read(drops.PREFIX):
            try:
                drops.decode_record(stat.key, data)
            except Damaged as error:
                self._bad_object(stat.key, str(error))
        try:
            self._drops.refresh()
        except Damaged:
            pass  # told above

    def lists(self) -> None:
        """What gc has condemned: a list that cannot be read keeps writers from asking."""
        try:
            state = read_state(self._store)
        except Damaged as error:
            self._findings.lists = True
            self._tell(Problem(STATE, str(error).removeprefix(f"{STATE} "), "`vfsd fsck --repair` begins it anew"))
            return
        for verdict in state.lists if state is not None else ():
            try:
                deque(chain(read_list(self._store, verdict), read_pardons(self._store, verdict)), maxlen=0)
            except (Damaged, NotFound) as error:
                if read_state(self._store) == state:
                    self._findings.lists = True
                    what = f"list {verdict.number} cannot be read: {error}"
                    self._tell(Problem(STATE, what, "`vfsd fsck --repair` takes it out"))

    def other_objects(self, readers: Mapping[str, Reader]) -> None:
        for prefix, reader in readers.items():
            for stat, data in self._read(prefix):
                try:
                    for where, ref in reader(stat.key, data):
                        self.trees.add_tree(where, ref)
                except Damaged as error:
                    self._bad_object(stat.key, str(error))

    def _read(self, prefix: str) -> Iterator[tuple[Stat, bytes]]:
        for stat, data in ahead(self._pool, self._get, self._store.list(prefix), 2 * AT_ONCE):
            if data is not None:
                self._refs += 1
                self._bytes += len(data)
                self._progress("refs", 1)
                yield stat, data

    def _get(self, stat: Stat) -> bytes | None:
        """In a thread: None for what was deleted meanwhile."""
        try:
            return self._store.get(stat.key)[0]
        except NotFound:
            return None

    def _is_there(self, key: str) -> bool:
        try:
            self._store.stat(key)
        except NotFound:
            return False
        return True

    def _decoded(
        self, key: str, data: bytes, kind: type[BranchHead | Tag | RepoObject | GlobalRecord]
    ) -> BranchHead | Tag | RepoObject | GlobalRecord | None:
        try:
            value = decode(data, kind, key)
        except Damaged as error:
            self._bad_object(key, str(error))
            return None
        if not _is_named_well(key):
            self._tell(Problem(key, "no ref can have this key", "delete the object, if nothing of yours made it"))
            return None
        commit, nonce = getattr(value, "commit", None), getattr(value, "nonce", "0" * 32)
        if (commit is not None and not _HEX64.fullmatch(commit)) or not _HEX32.fullmatch(nonce):
            self._bad_object(key, "its commit or its nonce is none")
            return None
        return value

    def _bad_branch(self, key: str) -> None:
        """A ref, or what it leads to, cannot be read."""
        if key.startswith("refs/") and _is_named_well(key):
            _, repo, branch = key.split("/")
            self._findings.branches.append((from_key_part(repo), from_key_part(branch)))

    def _bad_object(self, key: str, what: str) -> None:
        remedy = back_from_backup(key)
        if key.startswith("refs/"):
            self._bad_branch(key)
            remedy += "; without one, delete the object and make the branch again at the commit it should stand at"
        self._tell(Problem(key, what.removeprefix(f"{key} ").removeprefix(f"{key}: "), remedy))

    # Commits

    def list_containers(self) -> None:
        for prefix, pattern in (("packs/", _HEX32), ("commits/", _HEX64)):
            names = ((stat.key.rpartition("/")[2], stat) for stat in self._store.list(prefix))
            rows = (
                (bytes.fromhex(name), stat.size, stat.modified) for name, stat in names if pattern.fullmatch(name)
            )
            self._survey.add_containers(rows)
        listed = ((stat.key.removeprefix(MOVED), stat) for stat in self._store.list(MOVED))
        self._survey.add_moved(
            (bytes.fromhex(name), stat.size, stat.modified)
            for name, stat in listed
            if _HEX32.fullmatch(name) or _HEX64.fullmatch(name)
        )

    def commits(self) -> None:
        """The commits in line, the newest of each branch first, and their ancestors."""
        while self._queue:
            wave = [self._queue.popleft() for _ in range(min(WAVE, len(self._queue)))]
            for wanted, found in ahead(self._pool, self._load, wave, AT_ONCE):
                if found is None or isinstance(found, Damaged):
                    self._findings.commits.append(wanted.id)
                    self._bad_branch(wanted.by)
                if found is None:
                    key = commit_key(wanted.id)
                    self._tell(Problem(wanted.by, f"{key} is gone, which it leads to", back_from_backup(key)))
                elif isinstance(found, Damaged):
                    key = commit_key(wanted.id)
                    what = str(found).removeprefix(f"{key}: ")
                    self._tell(Problem(key, f"{what} (needed by {wanted.by})", back_from_backup(key)))
                else:
                    self._commit(*found, alone=wanted.alone)

    def _load(self, wanted: _Wanted) -> tuple[CommitObject, bytes] | Damaged | None:
        try:
            data, _ = self._store.get(commit_key(wanted.id))
            return parse(data, wanted.id)[0], data
        except NotFound:
            if self._drops.find(wanted.id) is None:
                return None
            return self._repository.commits.get(wanted.id), b""
        except Damaged as error:
            return error

    def _commit(self, commit: CommitObject, data: bytes, *, alone: bool) -> None:
        label = _label(commit)
        self._commits += 1
        self._bytes += len(data)
        self._progress("commits", 1)
        fault = _header_fault(commit.header)
        if fault:
            self._tell(Problem(label, fault, WRITTEN_WRONG))
            return
        lost = sum(not any(blob.id) for blob in commit.hints.blobs)
        if lost:
            what = f"{lost} blobs in its object were nowhere when it was repaired"
            self._tell(Problem(label, what, "`vfsd fsck --read-data` names them, and so repairs them on other nodes"))
        for edge in commit.header.provenance:
            if not self._has_commit(edge.commit):
                what = f"it was made from {edge.repo}/{edge.branch}@{edge.commit}, which is gone"
                self._tell(Problem(label, what, back_from_backup(commit_key(edge.commit))))
        parents = commit.header.parents
        if alone:
            for parent in parents:
                if not self._has_commit(parent):
                    what = f"its parent {parent} is gone"
                    self._tell(Problem(label, what, back_from_backup(commit_key(parent))))
        else:
            if list(commit.ancestors[:1]) != list(parents[:1]):
                self._tell(Problem(label, "its hints name other ancestors than its header", WRITTEN_WRONG))
            # Hints only where history is new, or every commit would ask for its 64 ancestors.
            new = [parent for parent in parents if self._is_first(parent)]
            new += [other for other in (commit.ancestors if new else ()) if self._is_first(other)]
            self._queue.extend(_Wanted(one, label) for one in new)
        if commit.id in self._named or self._drops.find(commit.id) is None:
            self._check_record(commit, label)
            if commit.root.node is not None:
                self.trees.add_tree(label, commit.root.node)
            self.trees.visit(bytes.fromhex(commit.id), 0, len(data), data)

    def _check_record(self, commit: CommitObject, label: str) -> None:
        """Commits are found by their global ids too, where all records were read."""
        header = commit.header
        key = global_key(header.global_id, header.repo, header.branch)
        if self._is_whole_store and not self._survey.has(_record_key(key)):
            self._findings.records.append(header)
            self._tell(Problem(label, f"{key} is gone, which names it", "`vfsd fsck --repair` writes it again"))

    def _has_commit(self, commit: str) -> bool:
        if not _HEX64.fullmatch(commit):
            return False
        return self.trees.size_of(bytes.fromhex(commit)) is not None or self._drops.find(CommitId(commit)) is not None

    def _is_first(self, commit: CommitId) -> bool:
        return self._survey.is_first(hash_bytes(b"commit" + commit.encode())[:16])


def _record_key(key: str) -> bytes:
    return hash_bytes(b"record" + key.encode())[:16]


def _label(commit: CommitObject) -> str:
    return f"{commit.header.repo}/{commit.header.branch}@{commit.id[:SHORT]}"


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def _header_fault(header: Commit) -> str | None:
    """What is wrong with a commit's header in itself, if anything."""
    if not is_label(header.repo) or not is_label(header.branch):
        return "its repo or its branch cannot have that name"
    if not all(_HEX64.fullmatch(parent) for parent in header.parents):
        return "a parent is named by what is no commit id"
    if not _HEX64.fullmatch(header.digest) or not (_HEX64.fullmatch(header.tree) or header.tree == ""):
        return "its tree or its digest is no id"
    if not header.tree and (header.digest, header.files, header.size) != (EMPTY_DIR.hex(), 0, 0):
        return "it has no tree, but its digest, files or size are those of one"
    if not is_global_id(header.global_id):
        return "its global id is none"
    return None


def _is_named_well(key: str) -> bool:
    """Whether a key is one that a ref, tag, repo or global record has."""
    prefix, *parts = key.split("/")
    if prefix == "globals":
        if not is_global_id(parts[0]):
            return False
        parts = parts[1:]
    names = [from_key_part(part) for part in parts]
    return len(parts) == (1 if prefix == "repos" else 2) and all(
        is_label(name) and key_part(name) == part for name, part in zip(names, parts, strict=True)
    )
