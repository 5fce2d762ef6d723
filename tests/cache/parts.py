"""Chunks to be cached, and a look at the files that they are cached in."""

from __future__ import annotations

import random
from pathlib import Path

from vfsd.model.entry import Chunk, Place
from vfsd.model.ids import ChunkId, hash_bytes
from vfsd.store.api import ObjectStore, Plain
from vfsd.store.blob import container_key, encode_blob
from vfsd.store.pack import CHUNK, PackBuilder

KIB = 1024
MIB = 1024 * KIB


def store_chunks(store: ObjectStore, count: int, size: int, seed: int = 0) -> list[Chunk]:
    """Chunks of random bytes, in one pack."""
    dice = random.Random(seed)
    pack, chunks = PackBuilder(), []
    for _ in range(count):
        data = dice.randbytes(size)
        place = Place()
        pack.add(CHUNK, hash_bytes(data), encode_blob(data), place)
        chunks.append(Chunk(ChunkId(hash_bytes(data)), size, place))
    store.put(container_key(pack.id), pack.finish())
    return chunks


def is_right(chunk: Chunk, data: Plain) -> bool:
    return hash_bytes(data) == chunk.id


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def held(folder: Path) -> int:
    """Bytes of the cache's files."""
    return sum(file.stat().st_size for file in files_in(folder))
