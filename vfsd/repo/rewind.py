"""Moves a branch whose commit is lost back to the newest ancestor that is whole, if asked; says else to which."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from vfsd.model.commit import BranchHead, decode, encode
from vfsd.model.errors import Conflict, Damaged, VfsdError
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.location import parse_location
from vfsd.repo.commit_object import parse_head
from vfsd.repo.commits import commit_key
from vfsd.repo.fsck import fsck
from vfsd.repo.mending import Mending
from vfsd.repo.refs import nonce, ref_key
from vfsd.repo.repository import Repository, now_ns


class Rewinding:
    """asked: whether branches are moved. mended: commits that were lost, and are none any more."""

    def __init__(self, repository: Repository, mending: Mending, mended: Container[CommitId], *, asked: bool) -> None:
        self._repository = repository
        self._mending = mending
        self._mended = mended
        self._rewind = asked

    def branch(self, repo: str, branch: str) -> None:
        """One branch whose ref, or the commit that it names, cannot be read."""
        key, where = ref_key(repo, branch), f"{repo}/{branch}"
        data = self._mending.get(key)
        if data is None:
            return
        try:
            old = decode(data, BranchHead, key)
        except Damaged:
            old = BranchHead(commit=None, nonce=nonce(), moved=0)
        if old.commit in self._mended:
            return
        found = self._newest_whole(repo, branch, old.commit)
        if found is None:
            self._mending.cannot(where, "no commit of it is whole")
        elif found == old.commit:
            return  # it was repaired
        elif not self._rewind:
            what = f"`vfsd fsck --repair --rewind` moves it back to {found[:SHORT]}, which is whole"
            self._mending.cannot(where, what)
        else:
            new = msgspec.structs.replace(old, commit=found, nonce=nonce(), moved=now_ns())
            try:
                self._mending.replace(key, encode(new), f"is moved back to commit {found[:SHORT]}, which is whole")
            except Conflict:
                self._mending.cannot(where, "was moved by somebody else just now: run this again")

    def _newest_whole(self, repo: str, branch: str, head: CommitId | None) -> CommitId | None:
        """Along its ancestors, as far as this node knows them; else of all commits that were made on the branch."""
        for commit in self._ancestors(head) or self._made_on(repo, branch):
            if self._is_whole(repo, branch, commit):
                return commit
        return None

    def _ancestors(self, head: CommitId | None) -> list[CommitId]:
        found: list[CommitId] = []
        while head is not None and (known := self._repository.index.commit(head)) is not None:
            found.append(head)
            parents = parse_head(known, head).header.parents
            head = parents[0] if parents else None
        return found

    def _made_on(self, repo: str, branch: str) -> list[CommitId]:
        """The newest first."""
        found: list[tuple[int, CommitId]] = []
        for stat in self._mending.store.list("commits/"):
            commit = CommitId(stat.key.rpartition("/")[2])
            try:
                header = self._repository.commits.get(commit).header
            except VfsdError:
                continue
            if (header.repo, header.branch) == (repo, branch):
                found.append((header.time, commit))
        return [commit for _, commit in sorted(found, reverse=True)]

    def _is_whole(self, repo: str, branch: str, commit: CommitId) -> bool:
        if not self._mending.is_there(commit_key(commit)):
            return False
        try:
            where = parse_location(f"{repo}/{branch}@{commit}")
            return fsck(self._repository, lambda _: None, specs=[where]).problems == 0
        except VfsdError:
            return False
