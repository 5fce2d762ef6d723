"""What a killed process was writing is taken back: a file is what it was before, also after a crash."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worktree.parts import Bench
from vfsd.model.entry import Kind
from vfsd.worktree.node import WorkNode
from vfsd.worktree.torn import forsake

PATH = (b"f",)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def tear(bench: Bench, node: WorkNode, *, flushed: bool, truncate: bool) -> None:
    """Write half of something and be killed. flushed: a duplicate of the descriptor was closed before."""
    bench.tree.opened(node, write=True, truncate=truncate)
    bench.tree.write(node, 0, b"HALF")
    if flushed:
        bench.tree.flushed(node)
        bench.tree.write(node, 4, b" of it")
    forsake(bench.tree, node)
    bench.tree.released(node, write=True)


def content(bench: Bench) -> dict[bytes, bytes]:
    return {path[-1]: seen.data for path, seen in bench.seen().items()}


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("crash", [False, True])
def test_a_new_file_is_gone(bench: Bench, flushed: bool, crash: bool) -> None:
    node = bench.tree.make(bench.tree.root, b"f", Kind.FILE, 0o644, 0, 0)
    tear(bench, node, flushed=flushed, truncate=False)
    if crash:
        bench.crash()
    assert content(bench) == {}
    bench.commit()
    assert bench.committed() == {}


@pytest.mark.parametrize("truncate", [False, True])
@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("crash", [False, True])
@pytest.mark.parametrize("is_committed", [False, True])
def test_a_file_is_what_it_was(bench: Bench, truncate: bool, flushed: bool, crash: bool, is_committed: bool) -> None:
    bench.write(PATH, b"whole")
    if is_committed:
        bench.commit()
    before = bench.seen()
    tear(bench, bench.at(PATH), flushed=flushed, truncate=truncate)
    if crash:
        bench.crash()
    assert content(bench) == {b"f": b"whole"}
    bench.commit()
    assert {path: seen.data for path, seen in bench.committed().items()} == {PATH: b"whole"}
    bench.write(PATH, b"new")
    bench.commit()
    assert {path: seen.data for path, seen in bench.committed().items()} == {PATH: b"new"}
    assert before.keys() == {PATH}


def test_a_large_file_that_was_changed_in_place_before_its_first_commit_stays(bench: Bench) -> None:
    bench.write(PATH, bytes(4 << 20))
    tear(bench, bench.at(PATH), flushed=False, truncate=False)
    bench.commit()
    assert bench.committed()[PATH].data[:6] == b"HALF\0\0"


def test_what_was_closed_before_is_not_touched(bench: Bench) -> None:
    node = bench.write(PATH, b"whole")
    bench.tree.opened(node, write=True, truncate=False)
    assert not forsake(bench.tree, node).inodes
    bench.tree.released(node, write=True)
    assert content(bench) == {b"f": b"whole"}
