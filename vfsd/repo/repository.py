"""The version store as one object: an object store and this node's index of it. Blocks; safe from any thread."""

from __future__ import annotations

import itertools
import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from vfsd.index.index import Index
from vfsd.model.commit import (
    ANCESTORS,
    CHUNK_SIZE,
    LARGEST_CHUNKS,
    SMALLEST_CHUNKS,
    BranchHead,
    Commit,
    Provenance,
    RootAttributes,
    StoreFormat,
    commit_id_of,
    decode,
    encode,
)
from vfsd.model.entry import Entry, Ref, directory, same
from vfsd.model.errors import AlreadyExists, Conflict, Damaged, InvalidArgument, NotFound, Unavailable, VfsdError
from vfsd.model.ids import SHORT, CommitId, GlobalId, JobId, hash_bytes
from vfsd.model.location import Location
from vfsd.model.rev import HEAD
from vfsd.repo.chunker import Chunker
from vfsd.repo.commit_object import CommitObject, build, parse_head
from vfsd.repo.commits import Commits, commit_key
from vfsd.repo.containers import Containers
from vfsd.repo.gather import is_full
from vfsd.repo.guard import BeingDeleted, Guard
from vfsd.repo.holds import Holds
from vfsd.repo.nodes import InlineNodes, Nodes
from vfsd.repo.observations import Observations, store_observation
from vfsd.repo.refs import Head, Refs, check_writable
from vfsd.repo.resolve import resolve
from vfsd.repo.writer import BlobWriter
from vfsd.store.api import ObjectStore
from vfsd.store.probe import probe_conditional_writes

FORMAT_KEY = "format"
OWNER_KEY = "owner"  # the one node of a store that cannot be shared
COMMIT_TRIES = 64  # lost races before a commit gives up; each waits longer
Build = Callable[[Entry, BlobWriter], Entry]


class Committed(msgspec.Struct, frozen=True):
    """A commit that was made, and the branch head that stands at it."""

    commit: CommitObject
    head: Head


def now_ns() -> int:
    """The time that commits are stamped with: ns since 1970."""
    return time.time_ns()


def new_global_id() -> GlobalId:
    """A fresh global id."""
    return GlobalId(secrets.token_hex(16))


def empty_root() -> Entry:
    """The root of a branch before its first commit: it belongs to whoever runs this process."""
    return directory(b"", None, uid=os.geteuid(), gid=os.getegid())


def init_store(store: ObjectStore, chunk_size: int = CHUNK_SIZE) -> StoreFormat:
    """Make `store` a vfsd store; AlreadyExists when it is one. Finds out whether several nodes may share it.

    chunk_size: bytes of a chunk on average, for all that is ever written there. InvalidArgument.
    """
    if not SMALLEST_CHUNKS <= chunk_size <= LARGEST_CHUNKS:
        raise InvalidArgument(f"chunks of {chunk_size} bytes: {SMALLEST_CHUNKS} to {LARGEST_CHUNKS} on average can be")
    try:
        store.get(FORMAT_KEY)
    except NotFound:
        pass
    else:
        raise AlreadyExists(f"{store.url} is a vfsd store already")
    probe = probe_conditional_writes(store)
    if not probe.usable:
        raise Unavailable(f"{store.url} cannot hold a vfsd store: {'; '.join(probe.problems)}")
    value = StoreFormat(
        id=secrets.token_hex(16), created=now_ns(), chunk_min=chunk_size // 4, chunk_avg=chunk_size,
        chunk_max=chunk_size * 4, shared=probe.shared,
    )  # fmt: skip
    try:
        store.put_if_absent(FORMAT_KEY, encode(value))
    except Conflict:
        raise AlreadyExists(f"{store.url} was made a vfsd store by somebody else just now") from None
    return value


def read_format(store: ObjectStore) -> StoreFormat:
    """The store's format; NotFound when it is not a vfsd store, Damaged when this vfsd cannot read it."""
    try:
        data, _ = store.get(FORMAT_KEY)
    except NotFound:
        raise NotFound(f"{store.url} is not a vfsd store: `vfsd init` makes it one") from None
    value = decode(data, StoreFormat, f"{store.url}/{FORMAT_KEY}")
    if value.vfsd != 1:
        raise Damaged(f"{store.url} has format {value.vfsd}, this vfsd knows format 1: update vfsd")
    return value


def claim(store: ObjectStore, store_format: StoreFormat, node: str) -> None:
    """Refuse `node` a store that another one uses and that cannot be shared; costs nothing where it can."""
    if store_format.shared:
        return
    try:
        owner = store.get(OWNER_KEY)[0].decode(errors="replace")
    except NotFound:
        store.put(OWNER_KEY, node.encode())
        return
    if owner != node:
        raise Conflict(
            f"{store.url} does not keep the conditions that several nodes need, and {owner} uses it: use it from "
            f"there, or delete the object {OWNER_KEY} in it when that node is gone"
        )


class Repository:
    """Repos, branches, commits and trees of one store."""

    def __init__(self, store: ObjectStore, index: Index, store_format: StoreFormat) -> None:
        self.store = store
        self.index = index
        self.format = store_format
        containers = Containers(store)
        self.nodes = Nodes(containers, index)
        self.inline = InlineNodes(self.nodes)
        self.refs = Refs(store)
        self.commits = Commits(store, index, containers)
        self.drops = self.commits.drops
        self.observations = Observations(store)
        self.guard = Guard(store, index, self.nodes)
        self.holds = Holds(store)
        self.chunker = Chunker(store_format)

    def close(self) -> None:
        """Give back what the store and the index hold."""
        self.nodes.save()
        self.index.close()
        self.store.close()

    def writer(self) -> BlobWriter:
        """A writer for new blobs; close it when done."""
        return BlobWriter(
            self.store, self.index, self.nodes, refresh=self.guard.refresh_sometimes, work=self.holds.begin()
        )

    def resolve(self, where: Location, *, header: bool = False) -> CommitObject | None:
        """The commit that a location is in; None on a branch without commits. header: nothing but the header is wanted,
        so a commit whose contents were dropped will do; else that is NotFound."""
        rev = where.rev or HEAD
        found = resolve(self.refs, self.commits, where.repo, where.branch, rev)
        if found is not None and not header and (rev.back or rev.prefix or rev.time_ns is not None):
            self.drops.check(found.id)
        return found

    def root(self, where: Location) -> Entry:
        """The root directory of the commit that a location is in; an empty one before the first commit."""
        commit = self.resolve(where)
        return empty_root() if commit is None else commit.root

    def create_branch(self, repo: str, branch: str, commit: CommitId, now: int) -> Head:
        """A new branch at a commit. AlreadyExists; NotFound when the commit is gone, or going."""
        head = self.refs.create_branch(repo, branch, commit, now)
        self._keep(commit, lambda: self._take_back(head))
        return head

    def _take_back(self, head: Head) -> None:
        """Remove a branch that was just made, unless somebody has moved it since: then it is theirs."""
        if self.refs.head(head.repo, head.branch).etag == head.etag:
            self.refs.delete_branch(head.repo, head.branch)

    def move_branch(self, old: Head, commit: CommitId, now: int) -> Head:
        """Move a branch to a commit that is there already. Conflict when somebody else moved or deleted it; NotFound
        when the commit is gone, or going."""
        head = self.refs.move(old, commit, now)
        self._keep(commit, lambda: self.refs.move(head, old.commit, now))
        return head

    def leads_elsewhere(self, head: Head) -> bool:
        """Whether another branch or a tag of the repo leads to where a branch stands, so that it may be moved away."""
        repo, commit = head.repo, head.commit
        if commit is None:
            return True
        others = (name for _, name, _ in self.refs.branches(repo) if name != head.branch)
        ends = itertools.chain(
            (self.refs.head(repo, name).commit for name in others), (tag.commit for _, tag in self.refs.tags(repo))
        )
        return any(end is not None and self.commits.leads_to(end, commit) for end in ends)

    def create_tag(self, repo: str, tag: str, commit: CommitId, now: int, message: str = "") -> None:
        """A name for a commit. AlreadyExists; NotFound when the commit is gone, or going."""
        self.refs.create_tag(repo, tag, commit, now, message)
        self._keep(commit, lambda: self.refs.delete_tag(repo, tag))

    def _keep(self, commit: CommitId, undo: Callable[[], object]) -> None:
        """After a ref was made that leads to a commit: have what gc condemned of its history stay, or take it back."""
        try:
            self.drops.check(commit)
            self.guard.keep_history(
                (bytes.fromhex(found.id), found.root.node)
                for found in self.commits.log(commit)
                if self.drops.find(found.id) is None
            )
        except BeingDeleted:
            undo()
            what = f"commit {commit[:SHORT]} is being deleted by `vfsd gc`, because no ref led to it"
            raise NotFound(what) from None
        except Unavailable as error:
            try:
                undo()
            except VfsdError:
                left = "what was made is there, and what it leads to may be deleted: make it again, or delete it"
            else:
                left = "nothing was made"
            what = f"it is not known whether commit {commit[:SHORT]} is being deleted by `vfsd gc`"
            raise Unavailable(f"{what}, because the store did not answer; {left} ({error})") from None
        except VfsdError:
            undo()
            raise

    def commit(
        self,
        repo: str,
        branch: str,
        change: Build,
        *,
        writer: BlobWriter,
        message: str,
        author: str,
        global_id: GlobalId | None = None,
        provenance: Sequence[Provenance] = (),
        pipeline: str = "",
        job: JobId | None = None,
        lineage: bytes = b"",
        head: Head | None = None,
        allow_same: bool = False,
        admit: Callable[[Head], None] = lambda _: None,
        before_move: Callable[[CommitId], None] = lambda _: None,
        mark: Callable[[BranchHead], BranchHead] = lambda head: head,
        gave_way: Callable[[], Sequence[bytes]] = tuple,
    ) -> Committed | None:
        """Make one commit of what `change` makes of the head's root; None when that changes nothing.

        `change(root, writer)` is called again on the new head whenever another writer was faster. `head`: the branch
        as last seen, to save reading it. Durable, and visible to all, when this returns. NotFound, Conflict; ReadOnly
        for a branch that is not for users, without a `pipeline`.
        lineage: a lineage object to go with it (see repo.observations), empty for none. `admit(head)` is called
        with each head that the branch may be moved from, and refuses by an error.
        `gave_way()`, asked after `change`, names what of others it put something else in the place of.
        `mark(head)`, asked after `change`, says what else of the head changes with the commit.
        `before_move(id)` is called before the branch is moved to a commit: with any error, the history tells whether it
        was.
        """
        gid = global_id or new_global_id()
        tried: set[CommitId] = set()
        for attempt in range(COMMIT_TRIES):
            current = head or self.refs.head(repo, branch)
            head = None
            if not pipeline:
                check_writable(current)
            admit(current)
            parent = None
            if current.commit is not None:
                parent = self.commits.get(current.commit)
            if parent is not None:
                # The answer to a write that landed may be lost, and somebody else may have gone on from it.
                for commit in tried.intersection((parent.id, *parent.ancestors)):
                    return Committed(self.commits.get(commit), current)
            old_root = empty_root() if parent is None else parent.root
            root = change(old_root, writer)
            if not allow_same and same(root, old_root):
                return None
            header = _header(repo, branch, root, parent, message, author, gid, provenance, pipeline, job, lineage)
            encoded = encode(header)
            tried.add(commit_id_of(encoded))
            before_move(commit_id_of(encoded))
            try:
                marked = msgspec.structs.replace(current, head=mark(current.head))
                return self._store_commit(header, encoded, root, parent, marked, writer, lineage, gave_way())
            except Conflict:
                writer.not_embedded()
                time.sleep(random.uniform(0, min(2.0, 0.005 * 2**attempt)))
        raise Conflict(f"{repo}/{branch}: other writers were faster {COMMIT_TRIES} times: try again")

    def _store_commit(
        self, header: Commit, encoded: bytes, root: Entry, parent: CommitObject | None, current: Head,
        writer: BlobWriter, lineage: bytes, gave_way: Sequence[bytes],
    ) -> Committed:
        """Blobs, commit object and global record first, the ref last: a crash leaves garbage, never a broken branch."""
        commit = commit_id_of(encoded)
        ancestors: list[CommitId] = []
        if parent is not None:
            ancestors = [parent.id, *parent.ancestors][:ANCESTORS]
        top, window = _gathered(root.node, parent, writer)
        pending = writer.embeddable()
        if not window and top is not None and top.place.container:
            window = [top.place.container]  # the pack that has the upper nodes
        place = None if top is None else top.place
        data, head_bytes, frames = build(encoded, place, ancestors, pending, window, gave_way)
        with ThreadPoolExecutor(2, thread_name_prefix="vfsd-commit") as pool:
            record = pool.submit(
                self.refs.record_global, header.global_id, header.repo, header.branch, commit, header.time
            )
            condemned = pool.submit(self.guard.fetch)  # after the head was read: docs/invariants.md
            self.store.put(commit_key(commit), data)
            if lineage:
                store_observation(self.store, commit, lineage)  # after it: what has no commit is garbage
            record.result()
        if top is not None:
            writer.pointers.note_ref(top)
        self.guard.admit(condemned.result(), writer.pointers, bytes.fromhex(commit))
        moved = self.refs.move(current, commit, header.time)
        writer.embedded(frames)
        writer.settled()
        made = parse_head(head_bytes, commit)
        self.commits.keep(made, head_bytes)
        return Committed(made, moved)


def _gathered(top: Ref | None, parent: CommitObject | None, writer: BlobWriter) -> tuple[Ref | None, list[bytes]]:
    """The root of a new tree, and the window of its commit, as in repo/gather.py; an empty one if it was gathered."""
    window = [] if parent is None else parent.window
    if top is None:
        return None, []
    if writer.has_packs_of_nodes or is_full(window) or writer.reaches_beyond(window, top):
        return writer.gather(top), []
    return top, window


def _header(
    repo: str, branch: str, root: Entry, parent: CommitObject | None, message: str, author: str, gid: GlobalId,
    provenance: Sequence[Provenance], pipeline: str, job: JobId | None, lineage: bytes,
) -> Commit:
    stamp = now_ns() // 1000 * 1000  # microseconds, as times are shown and asked for
    if parent is not None:
        stamp = max(stamp, parent.header.time + 1000)
    node = root.node
    return Commit(
        repo=repo,
        branch=branch,
        tree="" if node is None else node.id.hex(),
        digest=root.digest.hex(),
        root=RootAttributes(root.mode, root.uid, root.gid, root.mtime),
        files=0 if node is None else node.count,
        size=root.size,
        linked=0 if node is None else node.linked,
        directories=0 if node is None else node.directories,
        parents=() if parent is None else (parent.id,),
        author=author,
        time=stamp,
        message=message,
        global_id=gid,
        provenance=tuple(provenance),
        pipeline=pipeline,
        job=job,
        lineage=hash_bytes(lineage).hex() if lineage else "",
    )
