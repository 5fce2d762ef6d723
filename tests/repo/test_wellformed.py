"""What a tree node may not hold, and that whatever the builders make holds none of it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repo.parts import PLACE, Blobs, boundary_bits, file_entry
from vfsd.model.entry import Chunk, Digest, Entry, Extra, Kind, Ref, directory, special_digest, symlink_digest
from vfsd.model.ids import ChunkId, NodeId, hash_bytes
from vfsd.model.node import Child, ChunkLeaf, Inner, Leaf, Node
from vfsd.repo.chunklist import ChunkListBuilder
from vfsd.repo.directory import DirectoryBuilder
from vfsd.repo.wellformed import Expected, children, entry_fault, faults
from vfsd.repo.writer import pointer_to

FILE = file_entry(b"a", b"bytes")
LINK = Entry(b"l", Kind.SYMLINK, 0o777, 0, 0, 0, 2, symlink_digest(b"up"), extra=Extra(target=b"up"))
FIFO = Entry(b"p", Kind.FIFO, 0o600, 0, 0, 0, 0, special_digest(Kind.FIFO, 0))
NODE = Ref(NodeId(b"n" * 32), Digest(b"d" * 32), 1, 5, 0, 0, PLACE)


def changed(entry: Entry, **fields: object) -> Entry:
    return msgspec.structs.replace(entry, **fields)


def faults_below(blobs: Blobs, expected: Expected) -> list[tuple[bytes, str]]:
    node = blobs.get(expected.ref)
    found = list(faults(node, expected))
    for _, child in children(node, expected.after):
        found += faults_below(blobs, child)
    return found


@given(st.sets(st.binary(min_size=1, max_size=4).filter(lambda name: not set(name) & set(b"/\0."))))
def test_a_directory_as_it_is_built_has_no_fault(names: set[bytes]) -> None:
    blobs = Blobs()
    with boundary_bits(1):
        builder = DirectoryBuilder(blobs)
        for name in sorted(names):
            builder.add(file_entry(name, name))
        root = builder.finish()
    assert (root is None) == (not names)
    if root is not None:
        assert faults_below(blobs, Expected(root, True)) == []
        assert entry_fault(directory(b"d", root)) is None


@pytest.mark.parametrize("count", [0, 16, 17, 2000])
def test_a_file_as_it_is_built_has_no_fault(count: int) -> None:
    blobs = Blobs()
    builder = ChunkListBuilder(blobs)
    for number in range(count):
        builder.add(Chunk(ChunkId(hash_bytes(b"%d" % number)), 7, PLACE))
    content = builder.finish(blobs)
    entry = Entry(b"f", Kind.FILE, 0, 0, 0, 0, content.size, content.digest, content.chunks, content.node)
    assert entry_fault(entry) is None
    assert (content.node is None) == (count <= 16)
    if content.node is not None:
        assert faults_below(blobs, Expected(content.node, False)) == []


@pytest.mark.parametrize("entry", [FILE, LINK, FIFO, file_entry(b"e"), directory(b"d", NODE), directory(b"d", None)])
def test_an_entry_of_each_kind_has_no_fault(entry: Entry) -> None:
    assert entry_fault(entry) is None


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (changed(FILE, name=b".."), "cannot be a file name"),
        (changed(FILE, kind=9), "unknown kind 9"),
        (changed(FILE, mode=0o100644), "mode 100644"),
        (changed(FILE, uid=-1), "owner -1:0"),
        (changed(FILE, size=6), "said to be 6 bytes, its contents have 5"),
        (changed(FILE, digest=b"x" * 32), "its digest is not that of its contents"),
        (changed(FILE, node=NODE), "two chunk lists"),
        (changed(FILE, chunks=FILE.chunks * 17), "too long"),
        (changed(FILE, chunks=(changed(FILE.chunks[0], size=0),)), "without bytes"),  # type: ignore[arg-type]
        (changed(FILE, extra=Extra(origin=b"short")), "datum's id"),
        (changed(LINK, extra=Extra(target=b"elsewhere")), "said to be 2 bytes, its contents have 9"),
        (changed(LINK, chunks=FILE.chunks), "a symlink with contents"),
        (changed(FIFO, extra=Extra(rdev=5)), "its digest is not that of its contents"),
        (changed(directory(b"d", NODE), size=4), "said to be 4 bytes, its contents have 5"),
        (changed(directory(b"d", None), digest=b"x" * 32), "its digest is not that of its contents"),
    ],
)
def test_an_entry_that_contradicts_itself_is_described(entry: Entry, said: str) -> None:
    fault = entry_fault(entry)
    assert fault is not None and said in fault


def pointer(node: Node, **more: object) -> Expected:
    return msgspec.structs.replace(
        Expected(pointer_to(node, NodeId(b"i" * 32), PLACE), isinstance(node, Leaf | Inner)), **more
    )


LEAF = Leaf([file_entry(b"a"), file_entry(b"c"), file_entry(b"b")])
GOOD = Leaf([file_entry(b"a", b"x"), file_entry(b"b")])
INNER = Inner(1, [Child(b"b", NODE), Child(b"f", NODE)])


@pytest.mark.parametrize(
    ("node", "expected", "said"),
    [
        (LEAF, pointer(LEAF), "behind a later one"),
        (Leaf([FILE, FILE]), pointer(Leaf([FILE, FILE])), "or twice"),
        (GOOD, pointer(GOOD, after=b"a"), "behind a later one"),
        (GOOD, pointer(GOOD, last=b"c"), "ends with another name"),
        (GOOD, pointer(GOOD, level=1), "level 0 stands where one of level 1"),
        (GOOD, pointer(GOOD, directory=False), "leads to a chunk list"),
        (Leaf([]), pointer(Leaf([])), "without entries"),
        (INNER, pointer(INNER, level=0), "level 1 stands where one of level 0"),
        (Inner(1, INNER.items[:1]), pointer(Inner(1, INNER.items[:1])), "only one node below"),
        (Inner(1, INNER.items[::-1]), pointer(Inner(1, INNER.items[::-1])), "behind a later one"),
        (ChunkLeaf([*FILE.chunks]), pointer(ChunkLeaf([*FILE.chunks])), "of 1 chunks has a tree of its own"),
    ],
)
def test_a_node_that_is_not_as_it_should_be_is_described(node: Node, expected: Expected, said: str) -> None:
    assert any(said in fault for _, fault in faults(node, expected))


@pytest.mark.parametrize("said", [{"digest": b"x" * 32}, {"count": 3}, {"size": 9}, {"linked": 1}, {"directories": 1}])
def test_a_pointer_that_says_something_else_than_its_node_is_noticed(said: dict[str, object]) -> None:
    good = pointer(GOOD)
    other = msgspec.structs.replace(good, ref=msgspec.structs.replace(good.ref, **said))
    assert list(faults(GOOD, good)) == []
    assert [name for name, _ in faults(GOOD, other)] == [b""]
