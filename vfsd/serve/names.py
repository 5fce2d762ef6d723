"""Which repos and branches there are, and where they stand: the store's refs as last seen by the watcher."""

from __future__ import annotations

from collections.abc import Callable

from vfsd.model.commit import BranchHead, decode
from vfsd.model.errors import Damaged, NotCached, NotFound
from vfsd.model.names import from_key_part, is_label
from vfsd.repo.refs import Refs, ref_key


class Names:
    """A table in memory. A name that is not in it is asked of the store before it is called missing. learnt: told the
    key of each branch that the store was asked for: its end may come before the watcher has seen it."""

    def __init__(self, refs: Refs, learnt: Callable[[str], None] = lambda key: None) -> None:
        self._refs = refs
        self._learnt = learnt
        self._heads: dict[str, dict[str, BranchHead]] = {}

    def repos(self) -> list[str]:
        """Names, sorted."""
        return sorted(self._heads)

    def branches(self, repo: str) -> dict[str, BranchHead]:
        """branch → head."""
        return self._heads.get(repo, {})

    def seen(self, key: str, data: bytes | None) -> tuple[str, str] | None:
        """The watcher saw this object (None: gone). The branch it is about, when it is about one."""
        folder, _, rest = key.partition("/")
        if folder == "repos":
            repo = from_key_part(rest)
            if data is None:
                self._heads.pop(repo, None)
            else:
                self._heads.setdefault(repo, {})
            return None
        if folder != "refs" or "/" not in rest:
            return None
        repo, branch = (from_key_part(part) for part in rest.split("/", 1))
        if data is None:
            self._heads.get(repo, {}).pop(branch, None)
        else:
            try:
                self._heads.setdefault(repo, {})[branch] = decode(data, BranchHead, key)
            except Damaged:
                return None
        return repo, branch

    def moved(self, repo: str, branch: str, head: BranchHead) -> None:
        """This process moved a branch: known before the watcher sees it."""
        self._heads.setdefault(repo, {})[branch] = head

    def need_repo(self, repo: str) -> None:
        """NotFound, or NotCached while the store has to be asked."""
        if repo not in self._heads:
            if not is_label(repo):
                raise NotFound(f"there is no repo {repo!r}")
            raise NotCached(("repo", repo), lambda: self._ask_repo(repo))

    def need_branch(self, repo: str, branch: str) -> BranchHead:
        """The head as last seen; NotFound, or NotCached while the store has to be asked."""
        self.need_repo(repo)
        head = self._heads[repo].get(branch)
        if head is None:
            if not is_label(branch):
                raise NotFound(f"there is no branch {branch!r} in repo {repo}")
            raise NotCached(("ref", ref_key(repo, branch)), lambda: self._ask_branch(repo, branch))
        return head

    def refresh(self, repo: str) -> None:
        """Read the branches of a repo from the store, or with "" the repos. Blocks."""
        if not repo:
            found = set(self._refs.repos())
            for name in found - self._heads.keys():
                self._heads[name] = {}
            for name in self._heads.keys() - found:
                del self._heads[name]
            return
        listed = {branch for _, branch, _ in self._refs.branches(repo)}
        known = self._heads.setdefault(repo, {})
        for branch in listed - known.keys():
            known[branch] = self._refs.head(repo, branch).head
            self._learnt(ref_key(repo, branch))
        for branch in known.keys() - listed:
            del known[branch]

    def _ask_repo(self, repo: str) -> None:
        self._refs.repo(repo)
        self._heads.setdefault(repo, {})

    def _ask_branch(self, repo: str, branch: str) -> None:
        head = self._refs.head(repo, branch)
        self._heads.setdefault(repo, {})[branch] = head.head
        self._learnt(ref_key(repo, branch))
