"""Which commits to drop: by name, between two others, or by rules that a repo or a branch has. See repo/drops.py.

    retention/repos/<repo>              RetentionObject: for all branches that have no rules of their own
    retention/branches/<repo>/<branch>  the same for one branch

A commit belongs to the branch on which it was made, and that one's rules decide on it. What a branch or a tag names,
and what the head of a branch was made from, is never dropped.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from vfsd.model.commit import decode, encode
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.names import check_label, from_key_part, key_part
from vfsd.repo.refs import nonce
from vfsd.repo.repository import Repository
from vfsd.store.api import ObjectStore

PREFIX = "retention/"
MIN_AGE_S = 86400.0  # what is younger is dropped by no rule: jobs may be reading it

# Rules


class KeepRules(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a branch; all else is dropped. last: so many commits. hourly, daily, weekly, monthly, yearly: of
    the last so many hours, days, ISO weeks, months or years (UTC) that have commits, the last commit each. within_s:
    what is not older than the newest by more than so many seconds."""

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within_s: float = 0.0

    def check(self) -> KeepRules:
        """InvalidArgument unless something is kept."""
        if self == KeepRules():
            raise InvalidArgument("no rule says what to keep: give at least one, such as --keep-last 10")
        if min(msgspec.structs.astuple(self)) < 0:
            raise InvalidArgument("a rule keeps 0 or more")
        return self


_PERIODS = {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m", "yearly": "%Y"}


def kept(history: Iterable[tuple[CommitId, int]], rules: KeepRules) -> dict[CommitId, list[str]]:
    """commit → the rules that keep it, of (commit, its time in ns), the newest first."""
    found: dict[CommitId, list[str]] = {}
    last: dict[str, str] = {}  # rule → the period that it kept a commit of last
    left = {rule: getattr(rules, rule) for rule in _PERIODS}
    newest: int | None = None
    for number, (commit, time) in enumerate(history):
        newest = time if newest is None else newest
        reasons = []
        if number < rules.last:
            reasons.append("last")
        if newest - time <= rules.within_s * 1e9 and rules.within_s:
            reasons.append("within")
        moment = datetime.fromtimestamp(time // 1_000_000_000, UTC)
        for rule, form in _PERIODS.items():
            period = moment.strftime(form)
            if left[rule] and last.get(rule) != period:
                last[rule] = period
                left[rule] -= 1
                reasons.append(rule)
        if reasons:
            found[commit] = reasons
    return found


# Where rules lie


class RetentionObject(msgspec.Struct, frozen=True, kw_only=True):
    """The content of an object under `retention/`. updated: ns since 1970."""

    format: int = 1
    nonce: str
    updated: int
    author: str
    keep: KeepRules


class Rules:
    """The rules of one store. branch None stands for all branches of a repo that have none of their own."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def set(self, repo: str, branch: str | None, keep: KeepRules, *, now: int, author: str) -> None:
        """Make rules, in place of those there are."""
        value = RetentionObject(nonce=nonce(), updated=now, author=author, keep=keep.check())
        self._store.put(_key(repo, branch), encode(value))

    def get(self, repo: str, branch: str | None) -> RetentionObject:
        """NotFound."""
        key = _key(repo, branch)
        try:
            return decode(self._store.get(key)[0], RetentionObject, key)
        except NotFound:
            where = repo if branch is None else f"{repo}/{branch}"
            raise NotFound(f"{where} has no rules of its own") from None

    def delete(self, repo: str, branch: str | None) -> None:
        """NotFound."""
        self.get(repo, branch)
        self._store.delete(_key(repo, branch))

    def delete_repo(self, repo: str) -> None:
        """Delete all rules of a repo and its branches."""
        for stat in list(self._store.list(_key(repo, None))):
            if stat.key == _key(repo, None):
                self._store.delete(stat.key)
        for stat in list(self._store.list(f"{PREFIX}branches/{key_part(repo)}/")):
            self._store.delete(stat.key)

    def all(self) -> Iterator[tuple[str, str | None, RetentionObject]]:
        """(repo, branch, rules) of all there are: those of repos first."""
        for prefix in (f"{PREFIX}repos/", f"{PREFIX}branches/"):
            for stat in self._store.list(prefix):
                repo, *rest = map(from_key_part, stat.key.removeprefix(prefix).split("/"))
                yield repo, rest[0] if rest else None, self.get(repo, rest[0] if rest else None)


def _key(repo: str, branch: str | None) -> str:
    check_label("repo", repo)
    if branch is None:
        return f"{PREFIX}repos/{key_part(repo)}"
    check_label("branch", branch)
    return f"{PREFIX}branches/{key_part(repo)}/{key_part(branch)}"


# What to drop


def protected(repository: Repository) -> dict[CommitId, str]:
    """commit → why it is not dropped, of all that is named by a ref, or that a branch was made from."""
    found: dict[CommitId, str] = {}
    for repo in list(repository.refs.repos()):
        for name, tag in repository.refs.tags(repo):
            found.setdefault(tag.commit, f"tag {name} of {repo} names it")
    for repo, branch, _ in list(repository.refs.branches()):
        try:
            head = repository.refs.head(repo, branch).commit
        except NotFound:
            continue  # deleted just now
        if head is not None:
            found[head] = f"{repo}/{branch} stands at it"
            for edge in repository.commits.get(head).header.provenance:
                if not edge.kind:  # what was only seen binds nobody
                    found.setdefault(edge.commit, f"{repo}/{branch} was made from it")
    return found


def check_droppable(repository: Repository, commits: Iterable[CommitId]) -> None:
    """Refused names a commit that is not dropped, and why."""
    reasons = protected(repository)
    for commit in commits:
        if commit in reasons:
            raise Refused(errno.EBUSY, f"commit {commit[:SHORT]} cannot be dropped: {reasons[commit]}")


def between(repository: Repository, older: CommitId | None, newer: CommitId) -> list[CommitId]:
    """The commits behind `older` (None: from the first one) and before `newer`, along first parents, the newest first,
    without those that were dropped. InvalidArgument when `older` is no ancestor of `newer`."""
    found: list[CommitId] = []
    commits = repository.commits
    since = None if older is None else commits.get(older).header.time
    for commit in commits.undropped(newer) if older is None else commits.log(newer):
        if commit.id == older:
            return found
        if since is not None and commit.header.time < since:
            break  # no commit is older than its parent
        if commit.id != newer and repository.drops.find(commit.id) is None:
            found.append(commit.id)
    if older is not None:
        raise InvalidArgument(f"commit {older[:SHORT]} is no ancestor of {newer[:SHORT]}: name the older one first")
    return found


def drop(repository: Repository, commits: Iterable[CommitId], *, now: int, author: str, reason: str) -> int:
    """Drop the contents of commits that may be dropped; how many. Those of one call go together, or in parts of
    drops.PART."""
    return repository.drops.add(
        (repository.commits.header(commit) for commit in commits), time=now, author=author, reason=reason
    )


class BranchPlan(msgspec.Struct, frozen=True):
    """What the rules do to one branch. keep: the rules that keep each commit, newest first. drop: what goes."""

    repo: str
    branch: str
    rules: KeepRules
    keep: dict[CommitId, list[str]]
    drop: list[CommitId]


def plan(
    repository: Repository, now: int, *, min_age_s: float = MIN_AGE_S, only: Sequence[tuple[str, str | None]] = ()
) -> list[BranchPlan]:
    """What the rules would drop now (ns since 1970) of all branches that have some, or of those that `only` names.

    NotFound when it names one without rules, or one that is not there.
    """
    repository.drops.refresh()
    rules = {(repo, branch): value.keep for repo, branch, value in Rules(repository.store).all()}
    for repo, branch in only:
        _check_named(repository, repo, branch, rules)
    branches: dict[str, set[str]] = {}
    for repo, branch, _ in repository.refs.branches():
        branches.setdefault(repo, set()).add(branch)
    reasons = protected(repository)
    limit = now - int(min_age_s * 1e9)
    plans: list[BranchPlan] = []
    for repo, names in branches.items():
        for branch in sorted(names):
            keep = rules.get((repo, branch)) or rules.get((repo, None))
            if keep is not None and (not only or (repo, None) in only or (repo, branch) in only):
                plans.append(_plan_branch(repository, repo, branch, keep, names - {branch}, reasons, limit))
    wanted = {commit for one in plans for commit in one.keep}  # of a branch that is gone, several may have a part
    return [msgspec.structs.replace(one, drop=[each for each in one.drop if each not in wanted]) for one in plans]


def _check_named(
    repository: Repository, repo: str, branch: str | None, rules: Mapping[tuple[str, str | None], KeepRules]
) -> None:
    repository.refs.repo(repo)
    if branch is not None:
        repository.refs.head(repo, branch)
    has_some = any(owner == repo and (branch is None or of in {branch, None}) for owner, of in rules)
    if not has_some:
        where = repo if branch is None else f"{repo}/{branch}"
        raise NotFound(f"{where} has no rules: `vfsd retention set` makes some")


def _plan_branch(
    repository: Repository, repo: str, branch: str, rules: KeepRules, others: set[str],
    reasons: Mapping[CommitId, str], limit: int,
) -> BranchPlan:
    head = repository.refs.head(repo, branch).commit
    own = [
        (commit.id, commit.header.time)
        for commit in (() if head is None else repository.commits.undropped(head))
        if commit.header.branch not in others
    ]
    ruled = kept(own, rules)
    keep: dict[CommitId, list[str]] = {}
    for commit, time in own:
        why = [*ruled.get(commit, ()), *([reasons[commit]] if commit in reasons else ())]
        if not why and time > limit:
            why = ["too young"]
        if why:
            keep[commit] = why
    return BranchPlan(repo, branch, rules, keep, [commit for commit, _ in own if commit not in keep])
