"""A tree of a million files, six directories deep, as a node sees it that has nothing yet: requests counted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.repo.parts import commit, make_branch, open_repository
from tests.repo.test_gather import MOST, Far, first_byte
from vfsd.model.entry import Chunk, Entry, Kind, Ref, chunks_digest, directory
from vfsd.model.ids import ChunkId, hash_bytes
from vfsd.model.location import parse_location
from vfsd.repo.directory import DirectoryBuilder
from vfsd.repo.gather import WINDOW
from vfsd.repo.repository import Repository
from vfsd.repo.tree import walk
from vfsd.repo.writer import PACK_SIZE, BlobWriter
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import NODE

pytestmark = pytest.mark.slow
FAN, FILES = 8, 31  # directories in each directory but the lowest, files in each of these: 1,015,808 in all
NAMES = [b"%02d" % number for number in range(FILES)]
COMMITS = 400


@pytest.fixture(scope="module")
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture(scope="module")
def repository(store: MemoryStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """The tree in one commit, then one changed file in each of many."""
    with closing(open_repository(store, tmp_path_factory.mktemp("million") / "index")) as found:
        make_branch(found)
        with closing(found.writer()) as writer:
            root = directory(b"", _directory(writer, 0, itertools.count()))
            found.commit("r", "main", lambda _, sink: root, writer=writer, message="", author="a")
        dice = random.Random(1)
        for number in range(COMMITS):
            commit(found, {_some_path(dice): b"%d" % number})
        yield found


def _directory(writer: BlobWriter, depth: int, times: Iterator[int]) -> Ref | None:
    builder = DirectoryBuilder(writer)
    if depth == 5:
        data = b"data"
        chunk = ChunkId(hash_bytes(data))
        chunks = (Chunk(chunk, len(data), writer.add_chunks([(chunk, data)])[0]),)
        digest = chunks_digest(chunks)
        for name in NAMES:
            builder.add(Entry(name, Kind.FILE, 0o644, 0, 0, next(times), len(data), digest, chunks))
    else:
        for name in NAMES[:FAN]:
            builder.add(directory(name, _directory(writer, depth + 1, times)))
    return builder.finish()


def _some_path(dice: random.Random) -> tuple[bytes, ...]:
    return (*(dice.choice(NAMES[:FAN]) for _ in range(5)), dice.choice(NAMES))


def test_six_requests_lead_to_any_of_a_million_files(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    dice, counted = random.Random(2), []
    head = repository.refs.head("r", "main").commit
    assert head is not None
    history = [found.id for found in repository.commits.log(head)]
    for number in range(50):
        where = None if number % 2 else dice.choice(history)
        counted.append(first_byte(store, tmp_path / str(number), where, _some_path(dice))[1])
    print(f"requests to a first byte, at {len(history)} commits: {sorted(counted)}")
    assert max(counted) <= MOST


def test_a_fresh_node_lists_a_million_files_by_streaming_the_packs_of_their_tree(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    far = Far(store)
    fresh = open_repository(far, tmp_path / "fresh")
    with closing(fresh.index):
        far.reset()
        root = fresh.root(parse_location("r/main"))
        assert sum(entry.kind == Kind.FILE for _, entry in walk(fresh.nodes, root)) == FAN**5 * FILES
        total = far.total()
    packs = [stat.size for stat in store.list("packs/") if stat.size > PACK_SIZE[NODE] // 2]
    print(f"{total.requests} requests and {total.received >> 20} MiB for a tree in {len(packs)} packs and more")
    assert total.requests <= 3 * len(packs) + WINDOW + 2 * COMMITS // WINDOW + 8
