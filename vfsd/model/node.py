"""Tree nodes: how directories and long chunk lists are cut, encoded and named. Byte by byte in docs/format.md.

A directory is a sorted map name → entry, stored as a prolly tree (Dolt, "Prolly Trees"; Auvolat and Taïani, "Merkle
Search Trees", 2019). Where a node ends depends on the names alone: a name whose BLAKE3 ends in k·7 zero bits ends its
node on the k lowest levels. So the shape is a function of the set of names, one changed name rewrites one node a level,
equal directories have equal nodes, and times or contents never move a boundary. Nodes hold 128 entries on average.

A chunk list is cut in the same way by its chunk ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vfsd.model.entry import Chunk, Entry, Ref, identity, likeness
from vfsd.model.errors import Damaged
from vfsd.model.ids import Digest, NodeId, hash_bytes

BITS = 7  # zero bits a level: 128 entries a node on average
INLINE_CHUNKS = 16  # a longer chunk list becomes a tree


class Child(msgspec.Struct, array_like=True, gc=False, frozen=True):
    """In an inner node of a directory: a node one level down, and the last name below it."""

    last: bytes
    ref: Ref


class Leaf(msgspec.Struct, array_like=True, frozen=True):
    """The lowest level of a directory: entries in order of their names."""

    items: list[Entry]


class Inner(msgspec.Struct, array_like=True, frozen=True):
    """A higher level of a directory. level: 1 above the leaves, and so on."""

    level: int
    items: list[Child]


class ChunkLeaf(msgspec.Struct, array_like=True, frozen=True):
    """The lowest level of a long chunk list."""

    items: list[Chunk]


class ChunkInner(msgspec.Struct, array_like=True, frozen=True):
    """A higher level of a long chunk list."""

    level: int
    items: list[Ref]


Node = Leaf | Inner | ChunkLeaf | ChunkInner

_TYPES: dict[type, bytes] = {Leaf: b"L", Inner: b"I", ChunkLeaf: b"C", ChunkInner: b"D"}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Node]] = {
    letter[0]: msgspec.msgpack.Decoder(kind) for kind, letter in _TYPES.items()
}
_ENCODE = msgspec.msgpack.Encoder().encode


def _zero_bits(hashed: bytes) -> int:
    tail = int.from_bytes(hashed[-8:], "big")
    return 64 if tail == 0 else (tail & -tail).bit_length() - 1


def name_level(name: bytes) -> int:
    """On how many levels, counted from the leaves, `name` ends its node."""
    return _zero_bits(hash_bytes(name)) // BITS


def chunk_level(chunk: bytes) -> int:
    """On how many levels a chunk of this id ends its node."""
    return _zero_bits(chunk) // BITS


def encode_node(node: Node) -> bytes:
    """The node with its hints, as it is stored (before compression)."""
    return _TYPES[type(node)] + _ENCODE(node)


def decode_node(data: bytes) -> Node:
    """What `encode_node` gave; Damaged when it is something else."""
    try:
        return _DECODERS[data[0]].decode(memoryview(data)[1:])
    except (KeyError, IndexError, msgspec.MsgspecError) as error:
        raise Damaged(f"a tree node cannot be decoded: {error}") from None


def node_id(node: Node) -> NodeId:
    """BLAKE3-256 of the identity bytes: type letter, then the items without places."""
    match node:
        case Leaf(items):
            body = _ENCODE([identity(entry) for entry in items])
        case Inner(level, children):
            body = _ENCODE((level, [(child.last, child.ref.id) for child in children]))
        case ChunkLeaf(chunks):
            body = _ENCODE([(chunk.id, chunk.size) for chunk in chunks])
        case ChunkInner(level, refs):
            body = _ENCODE((level, [(ref.id, ref.size) for ref in refs]))
    return NodeId(hash_bytes(_TYPES[type(node)] + body))


def node_digest(node: Leaf | Inner) -> Digest:
    """The content digest of a directory node: over names, kinds, exec bits and contents only."""
    if isinstance(node, Leaf):
        return Digest(hash_bytes(b"d" + _ENCODE([likeness(entry) for entry in node.items])))
    return Digest(hash_bytes(b"e" + _ENCODE([child.ref.digest for child in node.items])))


def check_node(node: Node, wanted: bytes) -> None:
    """Damaged when the node's identity is not `wanted`."""
    if node_id(node) != wanted:
        raise Damaged(f"tree node {wanted.hex()[:12]}: its bytes belong to another node")


def cut(levels: Sequence[int], at: int) -> list[slice]:
    """Cut a run of items into nodes of level `at` (0 is the leaves): a slice ends behind each item whose boundary
    level exceeds `at`; the last slice may end without one."""
    slices = []
    start = 0
    for position, level in enumerate(levels, 1):
        if level > at:
            slices.append(slice(start, position))
            start = position
    if start < len(levels):
        slices.append(slice(start, len(levels)))
    return slices
