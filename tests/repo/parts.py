"""Parts that several tests of the version store use: blobs in dicts, repositories in folders, entries of few words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from vfsd.index.index import Index
from vfsd.model import node as model_node
from vfsd.model.commit import StoreFormat, encode
from vfsd.model.entry import Chunk, Entry, Kind, Place, Ref, chunks_digest
from vfsd.model.ids import ChunkId, PackId, hash_bytes
from vfsd.model.node import Node, check_node, decode_node, encode_node, node_id
from vfsd.repo.chunklist import content_of
from vfsd.repo.content import read_content
from vfsd.repo.refs import Head
from vfsd.repo.repository import FORMAT_KEY, Committed, Repository, now_ns, read_format
from vfsd.repo.tree import apply, change_set, walk
from vfsd.repo.writer import BlobWriter, pointer_to
from vfsd.store.api import ObjectStore
from vfsd.store.blob import read_chunk

Path_ = tuple[bytes, ...]
SMALL_CHUNKS = StoreFormat(id="0" * 32, created=0, chunk_min=64, chunk_avg=256, chunk_max=1024)
PLACE = Place(PackId(b"p" * 16), 8, 16)


class Blobs:
    """NodeSource and BlobSink over dicts. Nodes go through their bytes; `read` lists the ids of those that were got."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.chunks: dict[bytes, bytes] = {}
        self.read: list[bytes] = []

    def get(self, ref: Ref) -> Node:
        self.read.append(ref.id)
        node = decode_node(self.nodes[ref.id])
        check_node(node, ref.id)
        return node

    def add_node(self, node: Node) -> Ref:
        name = node_id(node)
        self.nodes[name] = encode_node(node)
        return pointer_to(node, name, PLACE)

    def add_chunks(self, chunks: Sequence[tuple[ChunkId, bytes | memoryview]]) -> list[Place]:
        for chunk, data in chunks:
            self.chunks[chunk] = bytes(data)
            assert hash_bytes(data) == chunk
        return [PLACE] * len(chunks)

    def places(self, chunks: list[ChunkId]) -> dict[ChunkId, Place]:
        return {chunk: PLACE for chunk in chunks if chunk in self.chunks}

    def chunk(self, chunk: Chunk) -> bytes:
        """A chunk's bytes."""
        return self.chunks[chunk.id]

    def many(self, chunks: Sequence[Chunk], *, small: bool) -> list[bytes]:
        """A ChunkSource."""
        return [self.chunk(chunk) for chunk in chunks]


@contextmanager
def boundary_bits(bits: int) -> Iterator[None]:
    """Cut nodes at every 2**bits-th name on average, so that small directories have many levels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_node, "BITS", bits)
        yield


def file_entry(name: bytes, data: bytes = b"", *, mode: int = 0o644, mtime: int = 0) -> Entry:
    """A file of one chunk, which is stored nowhere."""
    chunks = (Chunk(ChunkId(hash_bytes(data)), len(data), PLACE),) if data else ()
    return Entry(name, Kind.FILE, mode, 0, 0, mtime, len(data), chunks_digest(chunks), chunks)


def open_repository(store: ObjectStore, index: Path) -> Repository:
    """A repository with small chunks over `store`, which is made a vfsd store if it is none yet, and its own index."""
    if not any(True for _ in store.list("format")):
        store.put(FORMAT_KEY, encode(SMALL_CHUNKS))
    return Repository(store, Index(str(index)), read_format(store))


def make_branch(repository: Repository, repo: str = "r", branch: str = "main") -> Head:
    """An empty branch of a new repo."""
    repository.refs.create_repo(repo, now_ns())
    return repository.refs.create_branch(repo, branch, None, now_ns())


def put(files: Mapping[Path_, bytes | None], repository: Repository) -> Callable[[Entry, BlobWriter], Entry]:
    """What `Repository.commit` calls to write these files; None removes one."""

    def change(root: Entry, writer: BlobWriter) -> Entry:
        changes = []
        for path, data in files.items():
            entry = None
            if data is not None:
                content = repository.chunker.cut_bytes(data, writer, repository.nodes)
                entry = Entry(
                    path[-1], Kind.FILE, 0o644, 0, 0, 0, content.size, content.digest, content.chunks, content.node
                )
            changes.append((path, entry))
        return apply(repository.nodes, writer, root, change_set(changes), prune=True)

    return change


def commit(
    repository: Repository, files: Mapping[Path_, bytes | None], repo: str = "r", branch: str = "main"
) -> Committed | None:
    """Commit these files."""
    with closing(repository.writer()) as writer:
        return repository.commit(
            repo, branch, put(files, repository), writer=writer, message="m", author="a"
        )


def read_files(repository: Repository, root: Entry) -> dict[Path_, bytes]:
    """path → bytes of every file below `root`, read from the store by the hints alone."""

    def source(chunks: Sequence[Chunk], *, small: bool) -> list[bytes]:
        return [read_chunk(repository.store, chunk) for chunk in chunks]

    found = {}
    for path, entry in walk(repository.nodes, root):
        if entry.kind == Kind.FILE:
            found[path] = read_content(repository.nodes, source, content_of(entry), 0, entry.size)
    return found
