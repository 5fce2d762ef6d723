"""New blobs: each once, readable by their places once the writer is done, embedded while they are few."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.repo.parts import file_entry, open_repository
from vfsd.index.index import Index
from vfsd.model.entry import Chunk, Place
from vfsd.model.errors import Unavailable
from vfsd.model.ids import ChunkId, PackId, hash_bytes
from vfsd.model.node import ChunkLeaf, Leaf, decode_node, node_id
from vfsd.repo import chunker
from vfsd.repo import writer as writer_module
from vfsd.repo.chunklist import iter_chunks
from vfsd.repo.commit_object import build
from vfsd.repo.repository import Repository
from vfsd.repo.uploads import AT_ONCE
from vfsd.store.blob import decode_blob, read_chunk, read_stored
from vfsd.store.faulty import Fault, FaultyStore, Request
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK, NODE, read_directory


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    with closing(open_repository(FaultyStore(MemoryStore()), tmp_path / "index")) as found:
        yield found


def chunk_of(data: bytes, place: Place) -> Chunk:
    return Chunk(ChunkId(hash_bytes(data)), len(data), place)


def packs(repository: Repository) -> list[tuple[int, bytes]]:
    """(kind, id) of every blob in every pack."""
    found = []
    for stat in repository.store.list("packs/"):
        pack = PackId(bytes.fromhex(stat.key.rpartition("/")[2]))
        found += [(blob.kind, blob.id) for blob in read_directory(repository.store, pack, stat.size)]
    return found


def small_packs(monkeypatch: pytest.MonkeyPatch, *, embed: int, pack: int) -> None:
    monkeypatch.setattr(writer_module, "EMBED", embed)
    monkeypatch.setattr(writer_module, "PACK_SIZE", {CHUNK: pack, NODE: pack})


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    blobs=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=40),
    embed=st.sampled_from([0, 200, 1 << 20]),
    pack=st.sampled_from([50, 400, 1 << 20]),
)
def test_everything_is_readable_after_the_end_and_stored_once(
    tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], embed: int, pack: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        small_packs(patch, embed=embed, pack=pack)
        folder = tmp_path_factory.mktemp("writer")
        with closing(open_repository(MemoryStore(), folder / "index")) as repository:
            with closing(repository.writer()) as writer:
                chunks = [chunk_of(data, writer.add_chunks([(ChunkId(hash_bytes(data)), data)])[0]) for data in blobs]
                ref = writer.add_node(ChunkLeaf(chunks))
                pending = writer.embeddable()
                data, _, frames = build(b"{}", ref.place, [], pending)
                repository.store.put(f"commits/{hash_bytes(b'{}').hex()}", data)
                writer.embedded(frames)
                stored = [*packs(repository), *((blob.kind, blob.id) for blob in pending)]
                assert len(stored) == len(set(stored)) == len(set(blobs)) + 1
            assert [read_chunk(repository.store, chunk) for chunk in chunks] == blobs
            node = decode_node(decode_blob(read_stored(repository.store, ref.place), 1 << 20))
            assert node == ChunkLeaf(chunks), "as stored, it points to where the chunks are"
            assert sum(len(frame) for frame in frames) <= embed
            assert embed < 1 << 20 or not list(repository.store.list("packs/"))


def test_few_bytes_are_embedded_and_more_go_into_packs(repository: Repository) -> None:
    with closing(repository.writer()) as writer:
        data = random.Random(1).randbytes(writer_module.EMBED - 100)
        writer.add_chunks([(ChunkId(hash_bytes(data)), data)])
        pending = writer.embeddable()
        assert len(pending) == 1
        assert packs(repository) == []
        writer.add_chunks([(ChunkId(hash_bytes(b"x" * 200)), random.Random(2).randbytes(200))])
        assert writer.embeddable() == []
        assert len(packs(repository)) == 2


def test_what_the_index_knows_is_not_stored_again(repository: Repository) -> None:
    data = b"once"
    places = []
    for _ in range(3):
        with closing(repository.writer()) as writer:
            places.append(writer.add_chunks([(ChunkId(hash_bytes(data)), data)])[0])
            writer.flush()
    assert places[0] == places[1] == places[2]
    assert len(packs(repository)) == 1
    with closing(repository.writer()) as writer:
        writer.add_chunks([(ChunkId(hash_bytes(data)), data)])
        assert writer.bytes_added == 0


def test_chunks_and_nodes_go_into_packs_of_their_own(repository: Repository) -> None:
    with closing(repository.writer()) as writer:
        place = writer.add_chunks([(ChunkId(hash_bytes(b"data")), b"data")])[0]
        entry = file_entry(b"f", b"data")
        writer.add_node(Leaf([entry]))
        writer.flush()
        assert place.length > 0
    sizes = [stat.key for stat in repository.store.list("packs/")]
    assert len(sizes) == 2
    assert sorted(kind for kind, _ in packs(repository)) == [CHUNK, NODE]


def test_threads_may_add_the_same_blobs_at_once(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, embed=1000, pack=5000)
    blobs = [random.Random(number).randbytes(200) for number in range(150)]
    found: dict[int, list[Chunk]] = {}
    with closing(repository.writer()) as writer:

        def add(number: int) -> None:
            order = random.Random(number).sample(blobs, len(blobs))
            places = writer.add_chunks([(ChunkId(hash_bytes(data)), data) for data in order])
            found[number] = [chunk_of(data, place) for data, place in zip(order, places, strict=True)]

        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush()
    for chunks in found.values():
        assert {read_chunk(repository.store, chunk) for chunk in chunks} == set(blobs)


def test_packs_are_uploaded_beside_one_another_while_more_is_cut(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_packs(monkeypatch, embed=0, pack=64 << 10)
    monkeypatch.setattr(chunker, "RUN", 16 << 10)
    store = repository.store
    assert isinstance(store, FaultyStore)
    under_way = threading.Barrier(AT_ONCE)
    first = threading.Semaphore(AT_ONCE)

    def plan(request: Request) -> Fault | None:
        if request.key.startswith("packs/") and first.acquire(blocking=False):
            under_way.wait(60)  # each of the first ones waits until as many are on their way
        return None

    data = random.Random(0).randbytes(2 * AT_ONCE * (64 << 10))
    store.plan = plan
    with closing(repository.writer()) as writer:
        content = repository.chunker.cut_reader(
            lambda offset, size: data[offset : offset + size], len(data), writer, repository.nodes
        )
        writer.flush()
    read = [read_chunk(store, chunk) for _, chunk in iter_chunks(repository.nodes, content)]
    assert b"".join(read) == data


def test_a_failed_upload_is_told_at_the_end_and_nothing_believes_in_it(repository: Repository) -> None:
    store = repository.store
    assert isinstance(store, FaultyStore)
    store.plan = lambda request: Fault.FAIL if request.key.startswith("packs/") else None
    with closing(repository.writer()) as writer:
        place = writer.add_chunks([(ChunkId(hash_bytes(b"data")), b"data")])[0]
        ref = writer.add_node(ChunkLeaf([Chunk(ChunkId(hash_bytes(b"data")), 4, place)]))
        with pytest.raises(Unavailable):
            writer.flush()
    store.plan = lambda request: None
    assert repository.index.place(hash_bytes(b"data")) is None
    assert repository.nodes.cached(ref) is None
    with closing(repository.writer()) as writer:
        again = writer.add_chunks([(ChunkId(hash_bytes(b"data")), b"data")])[0]
        writer.flush()
    assert read_chunk(store, chunk_of(b"data", again)) == b"data"


def test_a_writer_whose_upload_failed_stores_nothing_more(repository: Repository) -> None:
    """It handed out places in a pack that is not there, also to who comes only later."""
    store = repository.store
    assert isinstance(store, FaultyStore)
    store.plan = lambda request: Fault.FAIL if request.key.startswith("packs/") else None
    with closing(repository.writer()) as writer:
        writer.add_chunks([(ChunkId(hash_bytes(b"data")), b"data")])
        with pytest.raises(Unavailable):
            writer.flush()
        store.plan = lambda request: None
        again = [(ChunkId(hash_bytes(b"data")), b"data")]
        for act in (writer.flush, writer.embeddable, lambda: writer.add_chunks(again)):
            with pytest.raises(Unavailable, match="an upload failed before"):
                act()


def test_nodes_of_a_writer_that_gave_up_are_forgotten(repository: Repository) -> None:
    """Their places point nowhere: a later tree must not take them over from memory."""
    with closing(repository.writer()) as writer:
        ref = writer.add_node(Leaf([file_entry(b"f", b"data")]))
        assert repository.nodes.get(ref) == Leaf([file_entry(b"f", b"data")])
    assert repository.nodes.cached(ref) is None


def test_a_fresh_index_stores_again_and_both_copies_can_be_read(repository: Repository, tmp_path: Path) -> None:
    places = []
    for name in ("index", "other"):
        one = Repository(repository.store, Index(str(tmp_path / name)), repository.format)
        with closing(one.writer()) as writer:
            places.append(writer.add_chunks([(ChunkId(hash_bytes(b"data")), b"data")])[0])
            writer.flush()
        one.index.close()
    assert places[0] != places[1]
    assert [read_chunk(repository.store, chunk_of(b"data", place)) for place in places] == [b"data"] * 2


def test_a_pointer_has_counts_and_sizes_of_what_is_below(repository: Repository) -> None:
    with closing(repository.writer()) as writer:
        node = Leaf([file_entry(b"a", b"12"), file_entry(b"b", b"345")])
        ref = writer.add_node(node)
        assert (ref.id, ref.count, ref.size) == (node_id(node), 2, 5)
