"""What the tests of collecting, compacting, repairing and dropping share: nodes on one store, files that go into packs,
a clock of the store that can be set, and looking at what is left."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.repo.parts import Path_, open_repository, read_files
from vfsd.model.commit import encode
from vfsd.model.entry import Ref
from vfsd.model.errors import Damaged
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo import compact as compact_module
from vfsd.repo.compact import CompactResult
from vfsd.repo.fsck import fsck
from vfsd.repo.gc import GcResult, collect
from vfsd.repo.reach import IsKept
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.api import ObjectStore
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore

HOUR = 3600.0


def node_on(store: ObjectStore, index: Path) -> Repository:
    """A node, which knows what its index holds, and reads what was moved."""
    return open_repository(MovedStore(store), index)


def much(seed: int, count: int = 100, size: int = 4000) -> dict[Path_, bytes]:
    """Files that go into packs."""
    dice = random.Random(seed)
    return {(b"d%d" % (number % 5), b"f%d" % number): dice.randbytes(size) for number in range(count)}


def drop(repository: Repository, *commits: CommitId) -> None:
    """Drop the contents of commits, whatever names them."""
    headers = [encode(repository.commits.get(one).header) for one in commits]
    repository.drops.add(headers, time=now_ns(), author="tester", reason="")


def no_trees(is_kept: IsKept) -> Iterable[tuple[str, Ref]]:
    """Nothing but refs leads to trees."""
    return ()


def age(store: MemoryStore, seconds: float) -> None:
    """Let everything in the store be older."""
    with store._lock:
        for key, held in list(store._objects.items()):
            store._objects[key] = msgspec.structs.replace(held, modified=held.modified - seconds)


def gc(repository: Repository, *, delete: bool = True, grace: float = 0.0) -> GcResult:
    """Collect."""
    return collect(repository, no_trees, delete=delete, author="tester", grace_s=grace)


def compact(repository: Repository, *, rewrite: bool = True, grace: float = 0.0, below: float = 0.5) -> CompactResult:
    """Compact."""
    return compact_module.compact(
        repository, no_trees, rewrite=rewrite, author="tester", below=below, grace_s=grace
    )


def keys(store: MemoryStore, *prefixes: str) -> set[str]:
    """The keys of the objects under some prefixes."""
    return {stat.key for prefix in prefixes for stat in store.list(prefix)}


def blobs(store: MemoryStore) -> set[str]:
    """The keys of what holds blobs."""
    return keys(store, "packs/", "commits/", "moved/")


def content(repository: Repository, where: str = "r/main") -> dict[Path_, bytes]:
    """path → bytes of the files at a location."""
    return read_files(repository, repository.root(parse_location(where)))


def check(repository: Repository) -> None:
    """Nothing is wrong with the store."""

    def tell(problem: object) -> None:
        raise Damaged(str(problem))

    fsck(repository, tell, read_data=True)
