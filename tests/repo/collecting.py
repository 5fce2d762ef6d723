"""What the tests of garbage collection share: a clock of the store that can be set, and looking at what is left."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tests.repo.parts import Path_, read_files
from vfsd.model.entry import Ref
from vfsd.model.errors import Damaged
from vfsd.model.location import parse_location
from vfsd.repo.fsck import fsck
from vfsd.repo.gc import GcResult, collect
from vfsd.repo.reach import IsKept
from vfsd.repo.repository import Repository
from vfsd.store.memory import MemoryStore

HOUR = 3600.0


def no_trees(is_kept: IsKept) -> Iterable[tuple[str, Ref]]:
    """Nothing but refs leads to trees."""
    return ()


def age(store: MemoryStore, seconds: float) -> None:
    """Let everything in the store be older."""
    for key, held in list(store._objects.items()):
        store._objects[key] = msgspec.structs.replace(held, modified=held.modified - seconds)


def gc(repository: Repository, *, delete: bool = True, grace: float = 0.0) -> GcResult:
    """Collect."""
    return collect(repository, no_trees, delete=delete, author="tester", grace_s=grace)


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
