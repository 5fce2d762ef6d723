"""Files that are stored from their beginning on while they are written."""

from __future__ import annotations

import os
import random
import resource
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.collecting import gc
from tests.repo.parts import SMALL_CHUNKS, Blobs
from tests.worktree.parts import Committing, committing
from vfsd.model.entry import Chunk, Kind
from vfsd.repo import writer
from vfsd.repo.chunker import Chunker
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.tree import find
from vfsd.store.blob import read_chunk
from vfsd.store.faulty import Fault, FaultyStore, Request, no_faults
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK
from vfsd.worktree import beginning, early, staged
from vfsd.worktree.node import WorkNode
from vfsd.worktree.staged import StagedFile
from vfsd.worktree.staging import Staging

CHUNKER = Chunker(SMALL_CHUNKS)
MIB = 1 << 20

changes = st.one_of(
    st.tuples(st.just("append"), st.just(0), st.integers(1, 2000)),
    st.tuples(st.sampled_from(["write", "zero"]), st.integers(0, 9000), st.integers(1, 700)),
    st.tuples(st.just("truncate"), st.integers(0, 9000), st.just(0)),
    st.tuples(st.sampled_from(["begin", "read", "end"]), st.just(0), st.just(0)),
)


@settings(max_examples=300)
@given(steps=st.lists(changes, max_size=25), seed=st.integers(0, 100))
def test_whatever_is_written_beside_a_step_the_file_is_cut_as_it_is(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    dice, blobs = random.Random(seed), Blobs()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged, "SMALL", 64)
        for name, value in (("FROM", 1000), ("STEP", 500), ("MOST", 1500)):
            patch.setattr(beginning, name, value)
        staging = Staging(folder)
        told: list[StagedFile] = []
        staging.on_growth = told.append
        file = StagedFile(staging)
        step = Step(file, blobs)
        for kind, at, size in steps:
            match kind:
                case "append":
                    file.write(file.size, dice.randbytes(size))
                case "write":
                    file.write(at, dice.randbytes(size))
                case "zero":
                    file.zero(min(at, file.size), min(at + size, file.size))
                case "truncate":
                    file.truncate(at)
                case "begin" if told and not step.under_way:
                    told.clear()
                    step.begin()
                case "read":
                    step.read()
                case "end":
                    step.end()
        step.end()
        data = file.read(0, file.size, lambda *_: b"")
        begun = [] if file.beginning is None else list(file.beginning.chunks(blobs))
        found = CHUNKER.cut_reader(lambda at, size: data[at : at + size], len(data), blobs, blobs, begun)
        assert found == CHUNKER.cut_bytes(data, blobs, blobs)
        staging.close()


class Step:
    """What Early does in a step, one thing after the other."""

    def __init__(self, file: StagedFile, blobs: Blobs) -> None:
        self.file = file
        self.blobs = blobs
        self.fd = -1
        self.span: tuple[int, int] | None = None
        self.chunks: list[Chunk] | None = None

    @property
    def under_way(self) -> bool:
        return self.fd >= 0

    def begin(self) -> None:
        self.fd = self.file.duplicate()
        if self.under_way and self.file.beginning is not None:
            self.span = self.file.beginning.begin_step(self.file.size)
            self.chunks = None

    def read(self) -> None:
        if self.under_way and self.span is not None:
            self.chunks = CHUNKER.cut_on(lambda at, size: os.pread(self.fd, size, at), *self.span, self.blobs)

    def end(self) -> None:
        if self.under_way:
            if self.chunks is None:
                self.read()
            if self.file.beginning is not None:
                self.file.beginning.end_step(self.chunks or ())
            os.close(self.fd)
            self.fd, self.span = -1, None


class Far(FaultyStore):
    """A store for which it is worth it."""

    @property
    def is_local(self) -> bool:
        return False


class Branch:
    """A branch in this process, of which files of a MiB and more are stored early."""

    def __init__(self, store: Far, made: Committing) -> None:
        self.store = store
        self.repository, _, self.branches, self.live = made

    def open(self, name: bytes) -> WorkNode:
        tree = self.live.tree
        node = tree.make(tree.root, name, Kind.FILE, 0o644, 0, 0)
        tree.opened(node, write=True, truncate=False)
        return node

    def write(self, node: WorkNode, offset: int, data: bytes) -> None:
        self.live.tree.write(node, offset, data)

    async def close(self, node: WorkNode) -> None:
        """Close and commit."""
        self.live.tree.released(node, write=True)
        assert await self.branches.commit(self.live) is not None

    def committed(self, name: bytes) -> bytes:
        """What the branch has."""
        commit = self.repository.refs.head("r", "main").commit
        assert commit is not None
        nodes = self.repository.nodes
        entry = find(nodes, self.repository.commits.get(commit).root, (name,))
        return b"".join(read_chunk(self.store, chunk) for _, chunk in iter_chunks(nodes, content_of(entry)))

    @property
    def is_writing(self) -> bool:
        """Whether some writer is at work."""
        return bool(self.repository.holds._works)

    def stored(self) -> int:
        """Bytes of packs in the store."""
        return sum(stat.size for stat in self.store.list("packs/"))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(60):
        while not condition():
            await trio.sleep(0.01)


@pytest.fixture
async def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Branch]:
    monkeypatch.setattr(beginning, "FROM", MIB)
    monkeypatch.setattr(beginning, "STEP", MIB // 2)
    monkeypatch.setattr(early, "IDLE_S", 0.05)
    store = Far(MemoryStore())
    async with committing(store, tmp_path) as made:
        yield Branch(store, made)


async def test_a_file_that_grows_is_in_the_store_before_it_is_closed_and_is_sent_once(branch: Branch) -> None:
    data, node = os.urandom(4 * MIB), branch.open(b"f")
    for at in range(0, len(data), 100_000):
        branch.write(node, at, data[at : at + 100_000])
        await trio.lowlevel.checkpoint()
    await until(lambda: branch.stored() > 3 * MIB)
    await branch.close(node)
    assert branch.committed(b"f") == data
    assert branch.stored() < 1.4 * len(data), "small chunks take a line each, too"


async def test_what_is_written_over_what_is_stored_is_what_is_committed(branch: Branch) -> None:
    data, node = os.urandom(3 * MIB), branch.open(b"f")
    branch.write(node, 0, data)
    await until(lambda: branch.stored() > 2 * MIB)
    branch.write(node, 1_000_000, b"changed")
    branch.write(node, len(data), b"more")
    await branch.close(node)
    assert branch.committed(b"f") == data[:1_000_000] + b"changed" + data[1_000_007:] + b"more"


async def test_a_small_file_that_is_never_closed_is_not_stored(branch: Branch) -> None:
    node, other = branch.open(b"small"), branch.open(b"other")
    branch.write(node, 0, os.urandom(MIB - 1))
    branch.write(other, 0, os.urandom(2 * MIB))
    await until(lambda: branch.stored() > MIB)
    assert branch.stored() < 2.8 * MIB


async def test_a_store_that_is_away_meanwhile_costs_nothing(branch: Branch) -> None:
    tried: list[Request] = []

    def away(request: Request) -> Fault | None:
        if not (request.kind.startswith("put") and request.key.startswith("packs/")):
            return None
        tried.append(request)
        return Fault.FAIL

    branch.store.plan = away
    data, node = os.urandom(4 * MIB), branch.open(b"f")
    branch.write(node, 0, data[: 2 * MIB])
    await until(lambda: len(tried) > 0)
    branch.store.plan = no_faults
    branch.write(node, 2 * MIB, data[2 * MIB :])
    await branch.close(node)
    assert branch.committed(b"f") == data


async def test_a_pack_that_could_not_be_stored_early_fails_no_commit(
    branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unmounting tries once."""
    monkeypatch.setitem(writer.PACK_SIZE, CHUNK, MIB)
    monkeypatch.setattr(early, "IDLE_S", 3600)
    failed, go_on = threading.Event(), threading.Event()

    def away(request: Request) -> Fault | None:
        if not request.key.startswith("packs/"):
            return None
        failed.set()
        go_on.wait(30)
        return Fault.FAIL

    branch.store.plan = away
    data, node = os.urandom(3 * MIB // 2), branch.open(b"f")
    branch.write(node, 0, data)
    await trio.to_thread.run_sync(failed.wait)
    await trio.testing.wait_all_tasks_blocked()
    go_on.set()
    branch.store.plan = no_faults
    await branch.close(node)
    assert branch.committed(b"f") == data


async def test_a_branch_that_is_deleted_while_a_commit_waits_for_a_step_leaves_no_writer(
    branch: Branch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`vfsd gc` would spare all that is younger than that for as long as the daemon runs."""
    monkeypatch.setitem(writer.PACK_SIZE, CHUNK, MIB)
    monkeypatch.setattr(early, "IDLE_S", 3600)
    begun, go_on = threading.Event(), threading.Event()

    def wait(request: Request) -> None:
        if request.key.startswith("packs/"):
            begun.set()
            go_on.wait(30)

    branch.store.plan = wait
    node = branch.open(b"f")
    branch.write(node, 0, os.urandom(3 * MIB // 2))
    branch.live.tree.make(branch.live.tree.root, b"d", Kind.DIR, 0o755, 0, 0)
    await trio.to_thread.run_sync(begun.wait)
    await until(lambda: node.file is not None and node.file.beginning is not None and node.file.beginning.stored > 0)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(branch.branches.commit, branch.live)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            go_on.set()
    assert not branch.is_writing


async def test_a_process_without_descriptors_to_spare_costs_nothing(branch: Branch) -> None:
    data, node = os.urandom(3 * MIB), branch.open(b"f")
    branch.write(node, 0, data[: MIB // 2])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open("/", os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare, before[1]))
    try:
        branch.write(node, MIB // 2, data[MIB // 2 : 2 * MIB])
        await trio.testing.wait_all_tasks_blocked()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        os.close(spare)
    branch.write(node, 2 * MIB, data[2 * MIB :])
    await branch.close(node)
    assert branch.committed(b"f") == data


async def test_chunks_that_gc_has_removed_meanwhile_are_stored_again(branch: Branch) -> None:
    data, node = os.urandom(2 * MIB), branch.open(b"f")
    branch.write(node, 0, data)
    await until(lambda: branch.stored() > MIB)
    await until(lambda: not branch.is_writing)
    assert gc(branch.repository).deleted.packs > 0 and branch.stored() == 0
    await branch.close(node)
    assert branch.committed(b"f") == data
