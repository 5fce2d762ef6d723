"""A far store is asked for tree nodes by the container, and what is wrong with one is said as by the range."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.repo.parts import boundary_bits, commit, make_branch, open_repository
from vfsd.model.entry import Kind, Place
from vfsd.model.errors import Damaged, NotFound
from vfsd.model.ids import PackId
from vfsd.repo import writer
from vfsd.repo.containers import Containers
from vfsd.repo.tree import walk
from vfsd.store.api import ObjectStore
from vfsd.store.counting import CountingStore
from vfsd.store.memory import MemoryStore

FILES = 500


class Far(CountingStore):
    """A store that a request takes a while to reach."""

    @property
    def is_local(self) -> bool:
        return False


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """One commit of many files with long names, in packs; then two small ones."""
    monkeypatch.setattr(writer, "EMBED", 10_000)
    store = MemoryStore()
    with boundary_bits(4):
        repository = open_repository(store, tmp_path / "first")
        make_branch(repository)
        words = random.Random(1)
        commit(repository, {(b"%02d" % (n % 40), words.randbytes(100).hex().encode()): b"x" for n in range(FILES)})
        commit(repository, {(b"07", b"new"): b"y"})
        commit(repository, {(b"08", b"new"): b"z"})
        repository.index.close()
    return store


def tree(store: ObjectStore, index: Path) -> list[tuple[bytes, ...]]:
    repository = open_repository(store, index)
    root = repository.commits.get(repository.refs.head("r", "main").head.commit).root  # type: ignore[arg-type]
    found = [path for path, entry in walk(repository.nodes, root) if entry.kind == Kind.FILE]
    repository.index.close()
    return found


def test_a_walk_over_a_far_tree_costs_requests_by_the_container(filled: MemoryStore, tmp_path: Path) -> None:
    near, far = CountingStore(filled), Far(filled)
    assert tree(near, tmp_path / "near") == tree(far, tmp_path / "far")
    assert len(tree(filled, tmp_path / "again")) == FILES + 2
    assert near.total().requests > 60  # a node each
    assert far.total().requests < 15  # ref, format, three commits, and each pack by range and then whole


def test_a_tree_that_was_mended_is_read_as_it_is_now(filled: MemoryStore, tmp_path: Path) -> None:
    repository = open_repository(Far(filled), tmp_path / "index")
    root = repository.commits.get(repository.refs.head("r", "main").head.commit).root  # type: ignore[arg-type]
    whole = {stat.key: filled.get(stat.key)[0] for stat in filled.list("packs/")}
    for key, data in whole.items():
        filled.put(key, bytes(len(data)))
    for _ in range(4):
        with pytest.raises(Damaged):
            list(walk(repository.nodes, root))
    for key, data in whole.items():
        filled.put(key, data)
    assert sum(entry.kind == Kind.FILE for _, entry in walk(repository.nodes, root)) == FILES + 2
    repository.index.close()


def test_threads_that_want_one_container_share_its_request(filled: MemoryStore) -> None:
    pack = next(stat for stat in filled.list("packs/") if stat.size > 10_000)
    name = PackId(bytes.fromhex(pack.key.rpartition("/")[2]))
    far = Far(filled)
    containers = Containers(far)
    places = [Place(name, 8 + 10 * n, 10) for n in range(64)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(containers.read, places))
    whole, _ = filled.get(pack.key)
    assert found == [whole[place.offset : place.offset + 10] for place in places]
    assert far.traffic()["get"].requests == 1


def test_only_so_much_is_kept_and_everything_is_still_read(tmp_path: Path) -> None:
    store = MemoryStore()
    names = [PackId(bytes([n]) * 16) for n in range(6)]
    for name in names:
        store.put(f"packs/{name.hex()[:2]}/{name.hex()}", name * 64)
    far = Far(store)
    containers = Containers(far, limit=2 * 1024)
    for _ in range(3):
        for name in names:
            assert containers.read(Place(name, 1008, 16)) == name
    assert far.traffic()["get"].received >= 2 * 6 * 1024  # six do not fit, so they were read again


@pytest.mark.parametrize("place", [Place(PackId(b"n" * 16), 8, 10), Place(PackId(b"n" * 32), 8, 10)])
def test_a_container_that_is_gone_is_named(place: Place) -> None:
    containers = Containers(Far(MemoryStore()))
    for _ in range(2):
        with pytest.raises((Damaged, NotFound), match=place.container.hex()):
            containers.read(place)


def test_a_container_that_is_cut_off_is_named() -> None:
    store = MemoryStore()
    place = Place(PackId(b"c" * 16), 8, 100)
    store.put(f"packs/63/{place.container.hex()}", b"short")
    containers = Containers(Far(store))
    for _ in range(2):
        with pytest.raises(Damaged, match=place.container.hex()):
            containers.read(place)
