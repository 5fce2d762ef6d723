"""Ids, each a type of its own so that they cannot be mixed up.

Binary ids (chunks, nodes, packs) stay bytes, as they are on disk; ids that people type are lower-case hex text.
"""

from __future__ import annotations

import re
from typing import NewType

from blake3 import blake3

from vfsd.model.errors import InvalidArgument

ChunkId = NewType("ChunkId", bytes)  # 32 bytes: BLAKE3-256 of the plain bytes
NodeId = NewType("NodeId", bytes)  # 32 bytes: BLAKE3-256 of a tree node's identity bytes
Digest = NewType("Digest", bytes)  # 32 bytes: content of a file or directory, without times and owners
PackId = NewType("PackId", bytes)  # 16 random bytes, chosen before the pack is filled
CommitId = NewType("CommitId", str)  # 64 hex digits: BLAKE3-256 of the commit's header
GlobalId = NewType("GlobalId", str)  # 32 hex digits: random; shared by a commit and all that it causes
DatumId = NewType("DatumId", str)  # 64 hex digits
JobId = NewType("JobId", str)  # 32 hex digits: random

SHORT = 12  # hex digits of an id that listings show
MIN_PREFIX = 4  # fewest hex digits that name a commit

_COMMIT = re.compile(r"[0-9a-f]{64}")
_GLOBAL = re.compile(r"[0-9a-f]{32}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


def hash_bytes(data: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3-256 of `data`: 32 bytes."""
    return blake3(data).digest()


def is_commit_prefix(text: str) -> bool:
    """Whether `text` could name a commit: 4 to 64 lower-case hex digits."""
    return _PREFIX.fullmatch(text) is not None


def commit_id(text: str) -> CommitId:
    """`text` as a whole commit id; InvalidArgument when it is not one."""
    if _COMMIT.fullmatch(text) is None:
        raise InvalidArgument(f"{text!r} is not a commit id: 64 lower-case hex digits are")
    return CommitId(text)


def global_id(text: str) -> GlobalId:
    """`text` as a global id; InvalidArgument when it is not one."""
    if _GLOBAL.fullmatch(text) is None:
        raise InvalidArgument(f"{text!r} is not a global id: 32 lower-case hex digits are")
    return GlobalId(text)


def is_global_id(text: str) -> bool:
    """Whether `text` is a whole global id."""
    return _GLOBAL.fullmatch(text) is not None
