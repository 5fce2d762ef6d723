"""Gathers tree nodes that many small commits have scattered: a copy of a branch's tree, whose nodes lie together in
packs and point to each other, beside the one there is. No id changes; the commit's hints name the copy first.

Each small commit carries its few new nodes in its own object. After some hundreds of them a walk over the tree asks for
as many objects; a gathered tree is read by a request a pack. Later commits go on from the copy.
"""

from __future__ import annotations

import msgspec

from vfsd.model.entry import Entry, Place, Ref
from vfsd.model.errors import Conflict, NotFound
from vfsd.model.ids import CommitId
from vfsd.model.node import ChunkInner, Inner, Leaf, Node
from vfsd.repo.commit_object import parse_head, with_copy
from vfsd.repo.commits import commit_key
from vfsd.repo.guard import Pointers
from vfsd.repo.nodes import stored_form
from vfsd.repo.refs import Head
from vfsd.repo.repository import Repository
from vfsd.store.blob import container_key
from vfsd.store.moved import without_maps
from vfsd.store.pack import NODE, PackBuilder

SCATTERED = 256  # small commits after which a tree is gathered
PACK_SIZE = 16 << 20  # bytes at which a new pack is full
SMALL = 4 << 20  # bytes; nodes in smaller packs are scattered too
_COMMIT = 32  # bytes of a commit's id


class Scattered(msgspec.Struct, frozen=True):
    """A branch whose tree's nodes lie in many objects. commits: small ones since the tree was gathered, or began."""

    head: Head
    commits: int


def scattered(repository: Repository, head: Head, least: int = SCATTERED) -> Scattered | None:
    """Whether `least` small commits or more have added to a branch's tree since it was gathered last."""
    if head.commit is None:
        return None
    small = 0
    for commit in repository.commits.log(repository.commits.get(head.commit, copies=head.head.copies).id):
        if commit.hints.copies:
            break
        small += any(blob.kind == NODE for blob in commit.hints.blobs)
    return Scattered(head, small) if small >= least else None


def gather(repository: Repository, head: Head) -> int:
    """Gather the tree of a branch; how many nodes were copied. 0 also when the branch was moved meanwhile, which does
    no harm. May be killed at any moment; safe beside writers and garbage collection."""
    if head.commit is None:
        return 0
    commit = repository.commits.get(head.commit, copies=head.head.copies)
    root = commit.root.node
    if root is None:
        return 0
    work = _Gathering(repository)
    place = work.node(root)
    if place is None:
        return 0
    work.store()
    return work.copied if _name_copy(repository, head, commit.id, place, work.pointers) else 0


def _name_copy(repository: Repository, head: Head, commit: CommitId, place: Place, pointers: Pointers) -> bool:
    """Have the commit's hints name the copy. Whether the branch still stood at it."""
    store, refs = without_maps(repository.store), repository.refs
    try:
        current = refs.head(head.repo, head.branch)
        if current.commit != commit:
            return False
        # As for any new nodes: nothing that they point to may be condemned.
        repository.guard.admit(repository.guard.fetch(), pointers)
        data, head_bytes = with_copy(store.get(commit_key(commit))[0], commit, place)
        store.put(commit_key(commit), data)
        repository.index.forget_commit(commit)
        made = parse_head(head_bytes, commit)
        repository.commits.keep(made, head_bytes)
        refs.touch(current, copies=len(made.hints.copies))
    except (Conflict, NotFound):
        return False  # it was moved or deleted: its next commit goes on from the old nodes, which are all there
    return True


class _Gathering:
    def __init__(self, repository: Repository) -> None:
        self._nodes = repository.nodes
        self._store = without_maps(repository.store)
        self._done: dict[tuple[bytes, int], Place | None] = {}  # where a node was copied to; None: it stays
        self._sizes: dict[bytes, int] = {}
        self._builder = PackBuilder()
        self.pointers = Pointers()
        self.copied = 0

    def node(self, ref: Ref) -> Place | None:
        """Copy what is scattered below a node; where it lies then, None when nothing was."""
        key = (ref.place.container, ref.place.offset)
        if key not in self._done:
            node = self._nodes.stored(ref)
            moved = self._with_copies(node)
            self._done[key] = self._add(ref, moved or node) if moved is not None or self._is_loose(key[0]) else None
        return self._done[key]

    def _with_copies(self, node: Node) -> Node | None:
        """The node with pointers to copies; None when nothing below it was copied."""
        match node:
            case Leaf(items):
                entries = [self._entry(entry) for entry in items]
                return Leaf(entries) if any(new is not old for new, old in zip(entries, items, strict=True)) else None
            case Inner(level, children):
                refs = [self._ref(child.ref) for child in children]
                if all(new is child.ref for new, child in zip(refs, children, strict=True)):
                    return None
                pairs = zip(children, refs, strict=True)
                return Inner(level, [msgspec.structs.replace(child, ref=ref) for child, ref in pairs])
            case ChunkInner(level, below):
                refs = [self._ref(ref) for ref in below]
                return ChunkInner(level, refs) if any(a is not b for a, b in zip(refs, below, strict=True)) else None
        return None

    def _entry(self, entry: Entry) -> Entry:
        if entry.node is None:
            return entry
        ref = self._ref(entry.node)
        return entry if ref is entry.node else msgspec.structs.replace(entry, node=ref)

    def _ref(self, ref: Ref) -> Ref:
        place = self.node(ref)
        return ref if place is None else msgspec.structs.replace(ref, place=place)

    def _is_loose(self, container: bytes) -> bool:
        if len(container) == _COMMIT:
            return True
        if container not in self._sizes:
            try:
                self._sizes[container] = self._store.stat(container_key(container)).size
            except NotFound:
                self._sizes[container] = 0  # it was moved: the copy need not go by the map
        return self._sizes[container] < SMALL

    def _add(self, ref: Ref, node: Node) -> Place:
        place = Place()
        self.pointers.own.add(self._builder.id)
        self.pointers.note(node)
        self._builder.add(NODE, ref.id, stored_form(node), place)
        self.copied += 1
        if self._builder.size >= PACK_SIZE:
            self.store()
        return place

    def store(self) -> None:
        """Store what was copied so far. What a node points to is stored no later than the node."""
        if self._builder.blobs:
            self._store.put(container_key(self._builder.id), self._builder.finish())
            self._builder = PackBuilder()
