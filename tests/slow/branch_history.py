"""Every version that the commits of a branch hold, and which of those that writers closed have to be among them."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from tests.slow.racer import Change
from vfsd.index.index import Index
from vfsd.model.entry import Kind
from vfsd.repo.diff import diff
from vfsd.repo.repository import Repository, read_format
from vfsd.store.moved import MovedStore
from vfsd.store.open import open_store

Version = tuple[str, str]  # path, digest of the content
Span = tuple[int, int]  # ns of the monotonic clock


def versions(url: str, index: Path, repo: str, branch: str) -> list[set[Version]]:
    """What each commit of the branch, the oldest first, has that the one before did not have so."""
    found = []
    with closing(open_store(url)) as store:
        repository = Repository(MovedStore(store), Index(str(index)), read_format(store))
        with closing(repository.index):
            head = repository.refs.head(repo, branch).commit
            commits = [] if head is None else list(repository.commits.log(head))
            before = None
            for commit in reversed(commits):
                assert commit.header.parents == (() if before is None else (before.id,))
                changes = diff(repository.nodes, None if before is None else before.root, commit.root)
                found.append(
                    {
                        (b"/".join(path).decode(), new.digest.hex())
                        for path, _, new in changes
                        if new is not None and new.kind == Kind.FILE
                    }
                )
                before = commit
    return found


def closed(changes: Iterable[Change]) -> Iterator[tuple[Version, Span]]:
    """The versions that one writer closed, with the time from then until it began to change the path, or something
    above it, anew."""
    now: dict[str, tuple[str, int]] = {}
    for change in changes:
        for path in [path for path in now if any(_meet(path, touched) for touched in change.touched)]:
            digest, since = now.pop(path)
            yield (path, digest), (since, change.begun)
        if change.ended:
            now |= {path: (digest, change.ended) for path, digest in change.made.items()}
    for path, (digest, since) in now.items():
        yield (path, digest), (since, 1 << 63)


def _meet(path: str, other: str) -> bool:
    return f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/")


def due(changes: Iterable[Change], commits: list[Span]) -> Iterator[Version]:
    """The versions that some commit must hold, because the node answered to `vfsd commit` while they were there: what
    its writer changes anew before that may be in none. commits: when each was asked for and answered, in order."""
    asked = [begun for begun, _ in commits]
    for version, (since, until) in closed(changes):
        at = bisect.bisect_left(asked, since)
        if at < len(commits) and commits[at][1] <= until:
            yield version
