"""What must hold of a tree node and of the pointer to it, beyond its id: docs/format.md, "Tree nodes". No I/O.

Where nodes are cut is not looked at: it follows from the names, which the id holds, and no reader depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import msgspec

from vfsd.model.entry import (
    EMPTY_DIR,
    Chunk,
    Entry,
    Kind,
    Ref,
    chunks_digest,
    count_below,
    linked_below,
    special_digest,
    symlink_digest,
)
from vfsd.model.errors import InvalidArgument
from vfsd.model.ids import Digest
from vfsd.model.names import check_name
from vfsd.model.node import INLINE_CHUNKS, ChunkInner, ChunkLeaf, Inner, Leaf, Node, node_digest

_KINDS = frozenset(Kind)
_SUMS = ("entries", "bytes", "names of hard-linked files", "directories")


class Expected(msgspec.Struct, array_like=True, frozen=True):
    """What a pointer says of the node it points to.

    directory: whether it is one of a directory or of a chunk list. level: of the node, None for a root, which may have
    any. after: the last name before it, last: its own last name; None where nothing says.
    """

    ref: Ref
    directory: bool
    level: int | None = None
    after: bytes | None = None
    last: bytes | None = None


def children(node: Node, after: bytes | None = None) -> Iterator[tuple[bytes, Expected]]:
    """(name, pointer) of each node that `node` points to; the name is empty where the node goes on with the same
    directory or file. after: as in Expected, of `node`."""
    match node:
        case Leaf(entries):
            for entry in entries:
                if entry.node is not None:
                    yield entry.name, Expected(entry.node, entry.kind == Kind.DIR)
        case Inner(level, items):
            for child in items:
                yield b"", Expected(child.ref, True, level - 1, after, child.last)
                after = child.last
        case ChunkInner(level, refs):
            for ref in refs:
                yield b"", Expected(ref, False, level - 1)


def chunks(node: Node) -> Iterator[tuple[bytes, Chunk]]:
    """(name, chunk) of each chunk that `node` points to, named as in `children`."""
    if isinstance(node, Leaf):
        for entry in node.items:
            for chunk in entry.chunks:
                yield entry.name, chunk
    elif isinstance(node, ChunkLeaf):
        for chunk in node.items:
            yield b"", chunk


def faults(node: Node, expected: Expected) -> Iterator[tuple[bytes, str]]:
    """(name of the entry or empty, what is wrong with it) of a node whose id is right."""
    if isinstance(node, Leaf | Inner) != expected.directory:
        yield b"", "a pointer to a directory leads to a chunk list, or the other way round"
        return
    level = node.level if isinstance(node, Inner | ChunkInner) else 0
    if expected.level is not None and level != expected.level:
        yield b"", f"a tree node of level {level} stands where one of level {expected.level} belongs"
    if not node.items:
        yield b"", "a tree node without entries"
        return
    if expected.level is None and level and len(node.items) == 1:
        yield b"", "the root of a tree has only one node below it"
    yield from _sums(node, expected.ref)
    match node:
        case Leaf(entries):
            yield from _order([entry.name for entry in entries], expected)
            for entry in entries:
                fault = entry_fault(entry)
                if fault:
                    yield entry.name, fault
        case Inner(_, items):
            yield from _order([child.last for child in items], expected)
        case ChunkLeaf(items):
            if not all(map(_is_chunk, items)):
                yield b"", "a chunk without an id or without bytes"
            if expected.level is None and len(items) <= INLINE_CHUNKS:
                yield b"", f"a chunk list of {len(items)} chunks has a tree of its own"


def entry_fault(entry: Entry) -> str | None:
    """What is wrong with an entry in itself, if anything."""
    try:
        check_name(entry.name)
    except InvalidArgument as error:
        return str(error)
    if entry.kind not in _KINDS:
        return f"an entry of the unknown kind {entry.kind}"
    if not 0 <= entry.mode <= 0o7777 or entry.uid < 0 or entry.gid < 0:
        return f"mode {entry.mode:o} or owner {entry.uid}:{entry.gid} cannot be"
    if len(entry.more.origin) not in {0, 32}:
        return "its datum's id does not have 32 bytes"
    if entry.kind != Kind.FILE and (entry.chunks or (entry.node and entry.kind != Kind.DIR)):
        return f"a {Kind(entry.kind).name.lower()} with contents"
    if entry.node and entry.chunks:
        return "a file with two chunk lists"
    if len(entry.chunks) > INLINE_CHUNKS or not all(map(_is_chunk, entry.chunks)):
        return "a chunk list that is too long, or a chunk without an id or without bytes"
    size, digest = _content(entry)
    if entry.size != size:
        return f"its size is said to be {entry.size} bytes, its contents have {size}"
    if entry.digest != digest:
        return "its digest is not that of its contents"
    return None


def _content(entry: Entry) -> tuple[int, Digest]:
    """Size and digest as they follow from what the entry points to."""
    match entry.kind:
        case Kind.FILE if entry.node is None:
            return sum(chunk.size for chunk in entry.chunks), chunks_digest(entry.chunks)
        case Kind.FILE | Kind.DIR:
            return (0, EMPTY_DIR) if entry.node is None else (entry.node.size, entry.node.digest)
        case Kind.SYMLINK:
            return len(entry.more.target), symlink_digest(entry.more.target)
    return 0, special_digest(entry.kind, entry.more.rdev)


def _is_chunk(chunk: Chunk) -> bool:
    return len(chunk.id) == 32 and chunk.size > 0


def _sums(node: Node, ref: Ref) -> Iterator[tuple[bytes, str]]:
    """Digest and sums of the pointer against those of the node."""
    digest = node_digest(node) if isinstance(node, Leaf | Inner) else Digest(ref.id)
    if digest != ref.digest:
        yield b"", "the digest in the pointer to a tree node is not that of its contents"
    match node:
        case Leaf(entries):
            parts = [
                (count_below(entry), entry.size, linked_below(entry), int(entry.kind == Kind.DIR)) for entry in entries
            ]
        case Inner(_, items):
            parts = [(child.ref.count, child.ref.size, child.ref.linked, child.ref.directories) for child in items]
        case ChunkLeaf(chunks_in):
            parts = [(1, chunk.size, 0, 0) for chunk in chunks_in]
        case ChunkInner(_, below):
            parts = [(one.count, one.size, one.linked, one.directories) for one in below]
    sums = (ref.count, ref.size, ref.linked, ref.directories)
    for what, said, column in zip(_SUMS, sums, zip(*parts, strict=True), strict=True):
        if sum(column) != said:
            yield b"", f"the pointer to a tree node counts {said} {what} in it, there are {sum(column)}"


def _order(names: list[bytes], expected: Expected) -> Iterator[tuple[bytes, str]]:
    """Names stand in byte order, each once, within the bounds of the pointer."""
    if expected.after is not None and names[0] <= expected.after:
        yield names[0], "the name stands behind a later one"
    for one, other in pairwise(names):
        if one >= other:
            yield other, "the name stands behind a later one, or twice"
    if expected.last is not None and names[-1] != expected.last:
        yield names[-1], "a tree node ends with another name than the pointer to it says"
