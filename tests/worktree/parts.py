"""One branch's head over a real journal and staging folder, committed as the daemon does it, step by step."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path as FilePath
from typing import NamedTuple

import pytest
import trio

from tests.repo.parts import make_branch, open_repository
from vfsd.index.journal import JournalFile
from vfsd.model.entry import Chunk, Entry, Kind
from vfsd.model.errors import NotCached
from vfsd.model.ids import CommitId
from vfsd.repo.chunklist import content_of
from vfsd.repo.content import read_content
from vfsd.repo.diff import diff
from vfsd.repo.refs import Head
from vfsd.repo.repository import Repository, empty_root
from vfsd.repo.tree import apply, find, walk
from vfsd.store.api import ObjectStore
from vfsd.store.blob import read_chunk
from vfsd.store.memory import MemoryStore
from vfsd.worktree.adopt import Stale, adopt
from vfsd.worktree.branch import CommitTiming, LiveBranch
from vfsd.worktree.freeze import Frozen, Storer, as_before, forget_unused, freeze, keep_records, thaw
from vfsd.worktree.live import LiveBranches
from vfsd.worktree.node import WorkNode
from vfsd.worktree.replay import replay, staged_names
from vfsd.worktree.staging import Staging
from vfsd.worktree.worktree import Worktree

Path = tuple[bytes, ...]


class Seen:
    """One path as a user sees it."""

    def __init__(self, kind: int, mode: int, data: bytes, xattrs: dict[bytes, bytes], link: int = 0) -> None:
        self.kind, self.mode, self.data, self.xattrs, self.link = kind, mode, data, dict(xattrs), link

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"{Kind(self.kind).name} {self.mode:o} {self.data!r} {sorted(self.xattrs.items())}"


class Bench:
    """A branch with a head that can be committed and can crash."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.store = MemoryStore()
        self.repository = open_repository(self.store, FilePath(self.folder.name) / "index")
        self.head: Head = make_branch(self.repository)
        self.open()

    def open(self) -> None:
        """As a daemon that starts."""
        self.journal = JournalFile(os.path.join(self.folder.name, "journal.sqlite"))
        self.staging = Staging(os.path.join(self.folder.name, "staging"))
        self.staging.clean({row.id: staged_names(self.journal.records(row.id)) for row in self.journal.branches()})
        row = self.journal.branch("r", "main", self.head.commit or "")
        self.at_commit = row.base
        self.base = self.root_of(CommitId(row.base) if row.base else None)
        self.tree = Worktree(
            row, self.base, nodes=self.repository.nodes, blocking=self.repository.nodes, chunks=self.many,
            journal=self.journal, staging=self.staging, numbers=itertools.count(2), number=1, on_change=lambda: None,
        )  # fmt: skip
        self.row = row
        self.done = 0 if replay(self.tree, self.adopt) else self.tree.last_record
        self.staging.opened(row.id)
        self.head = self.repository.refs.head("r", "main")
        if (self.head.commit or "") != self.at_commit:
            self.follow()

    def many(self, chunks: Sequence[Chunk], *, small: bool) -> list[bytes]:
        """A ChunkSource."""
        return [read_chunk(self.store, chunk) for chunk in chunks]

    def crash(self) -> None:
        """kill -9, and a new daemon."""
        self.staging.close()
        self.journal.close()
        self.open()

    def close(self) -> None:
        self.staging.close()
        self.journal.close()
        self.repository.close()
        self.folder.cleanup()

    def root_of(self, commit: CommitId | None) -> Entry:
        return empty_root() if commit is None else self.repository.commits.get(commit).root

    # Committing, as LiveBranches does

    def freeze(self) -> Frozen | None:
        frozen = freeze(self.tree)
        if frozen is not None:
            keep_records(self.tree, frozen)
        return frozen

    def store_commit(self, frozen: Frozen) -> Head:
        """Store and commit what was frozen, and tell nobody."""
        with closing(self.repository.writer()) as writer:
            sub = Storer(self.repository.chunker, writer, self.repository.nodes, self.many).changes(frozen)
            made = self.repository.commit(
                "r", "main", lambda root, sink: apply(self.repository.nodes, sink, root, sub), writer=writer,
                message="", author="",
            )  # fmt: skip
        return made.head if made else self.repository.refs.head("r", "main")

    def finish(self, frozen: Frozen) -> Stale:
        """Commit what was frozen."""
        head = self.store_commit(frozen)
        root = self.root_of(head.commit)
        changes = list(diff(self.repository.nodes, self.base, root))
        changes += as_before(self.repository.nodes, root, frozen, changes)
        thaw(self.tree, frozen, committed=True)
        stale = adopt(self.tree, root, changes, frozenset(node.ino for node, _, _ in frozen.nodes))
        forget_unused(self.tree, frozen)
        self.base, self.head, self.at_commit = root, head, head.commit or ""
        self.done = frozen.upto
        self.journal.committed(self.row.id, frozen.upto, self.at_commit)
        self.staging.committed(frozen.upto)
        return stale

    def commit(self) -> Stale | None:
        frozen = self.freeze()
        return None if frozen is None else self.finish(frozen)

    def follow(self) -> Stale:
        """Go where the branch stands now, as when another node committed."""
        self.head = self.repository.refs.head("r", "main")
        stale = self.adopt(self.head.commit or "")
        if self.tree.last_record > self.done:
            self.tree.rebased(self.at_commit)
        else:
            self.journal.committed(self.row.id, 0, self.at_commit)
        return stale

    def adopt(self, commit: str) -> Stale:
        """Have the head over another commit."""
        root = self.root_of(CommitId(commit) if commit else None)
        stale = adopt(self.tree, root, list(diff(self.repository.nodes, self.base, root)), frozenset())
        self.base, self.at_commit = root, commit
        return stale

    # Looking

    def at(self, path: Path) -> WorkNode:
        node = self.tree.root
        for name in path:
            found = self.tree.lookup(node, name)
            assert found is not None, path
            node = found
        return node

    def seen(self) -> dict[Path, Seen]:
        """Every path of the head."""
        found: dict[Path, Seen] = {}

        def walk(node: WorkNode, path: Path) -> None:
            for name, _ in list(self.tree.listing(node, None)):
                child = self.tree.lookup(node, name)
                assert child is not None
                data = self.tree.read(child, 0, 1 << 20) if child.kind == Kind.FILE else child.target
                assert child.size == len(data) or child.kind == Kind.DIR
                found[(*path, name)] = Seen(child.kind, child.mode, data, child.xattrs, child.ino)
                if child.kind == Kind.DIR:
                    walk(child, (*path, name))

        walk(self.tree.root, ())
        return found

    def entry(self, path: Path) -> Entry:
        """What the commit that the branch stands at has there."""
        return find(self.repository.nodes, self.root_of(self.repository.refs.head("r", "main").commit), path)

    def committed(self) -> dict[Path, Seen]:
        """Every path of the commit that the branch stands at."""
        found: dict[Path, Seen] = {}
        for path, entry in walk(self.repository.nodes, self.root_of(self.repository.refs.head("r", "main").commit)):
            data = entry.more.target
            if entry.kind == Kind.FILE:
                data = read_content(self.repository.nodes, self.many, content_of(entry), 0, entry.size)
            found[path] = Seen(entry.kind, entry.mode, data, entry.more.xattrs, entry.more.link)
        return found

    # Doing things in one call

    def write(self, path: Path, data: bytes) -> WorkNode:
        """Create or overwrite a file, and close it. The kernel knows it from then on."""
        parent = self.at(path[:-1])
        node = self.tree.lookup(parent, path[-1])
        if node is None:
            node = self.tree.make(parent, path[-1], Kind.FILE, 0o644, 0, 0)
        self.tree.opened(node, write=True, truncate=True)
        self.tree.write(node, 0, data)
        self.close_file(node)
        node.lookups = 1
        return node

    def close_file(self, node: WorkNode) -> None:
        self.tree.flushed(node)
        self.tree.released(node, write=True)

    def forget_all(self) -> None:
        """As a kernel that runs out of memory: children first."""

        def walk(node: WorkNode) -> None:
            for child in list(node.children.values()):
                walk(child)
                child.lookups = 0
                self.tree.forget(child)

        walk(self.tree.root)


class Committing(NamedTuple):
    """A branch as a daemon has it, r/main, which is committed when it is asked for."""

    repository: Repository
    journal: JournalFile
    branches: LiveBranches
    live: LiveBranch


@asynccontextmanager
async def committing(
    store: ObjectStore, folder: FilePath, staging: Staging | None = None
) -> AsyncIterator[Committing]:
    """An empty branch on `store`; all else is in `folder`, unless a staging area is given."""
    repository = open_repository(store, folder / "index")
    make_branch(repository)
    with closing(repository), closing(JournalFile(str(folder / "journal.sqlite"))) as journal:
        async with trio.open_nursery() as nursery:
            branches = LiveBranches(
                repository, journal, staging or Staging(str(folder / "staging")), nursery=nursery,
                inline_chunks=lambda _: b"", chunks=lambda _: b"", timing=CommitTiming(quiet_s=3600), author="",
                on_stale=lambda _: None, on_commit=lambda _: None, on_reset=_nobody,
            )  # fmt: skip
            with pytest.raises(NotCached) as missing:
                branches.get("r", "main")
            missing.value.load()
            yield Committing(repository, journal, branches, branches.get("r", "main"))
            nursery.cancel_scope.cancel()


async def _nobody(*_: object) -> None:
    """There is no kernel to tell."""
