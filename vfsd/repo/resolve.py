"""What a rev means: `model.rev` parses it, this finds the commit."""

from __future__ import annotations

from vfsd.model.errors import Ambiguous, NotFound
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.rev import Rev, rfc3339
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.commits import Commits
from vfsd.repo.refs import Refs

_CANDIDATES = 64  # commits of one prefix that are looked at: hex digits make more than that unlikely


def resolve(refs: Refs, commits: Commits, repo: str, branch: str, rev: Rev) -> CommitObject | None:
    """The commit that `rev` names on a branch; None for the head of a branch without commits.

    NotFound (also of repo and branch) and Ambiguous say what was looked for and where.
    """
    if rev.prefix:
        start = _by_prefix(commits, repo, rev.prefix).id
        refs.repo(repo)
    elif rev.tag:
        refs.head(repo, branch)
        start = refs.tag(repo, rev.tag).commit
    else:
        head = refs.head(repo, branch).commit
        if head is None:
            if rev.time_ns is None and not rev.back:
                return None
            raise NotFound(f"{repo}/{branch} has no commits yet")
        start = head if rev.time_ns is None else _by_time(commits, head, rev.time_ns, f"{repo}/{branch}").id
    return commits.back(start, rev.back) if rev.back else commits.get(start)


def _by_prefix(commits: Commits, repo: str, prefix: str) -> CommitObject:
    ids = [CommitId(prefix)] if len(prefix) == 64 else commits.with_prefix(prefix, _CANDIDATES)
    found = []
    for commit in ids:
        try:
            candidate = commits.get(commit)
        except NotFound:
            continue
        if candidate.header.repo == repo:
            found.append(candidate)
    if not found:
        raise NotFound(f"no commit of repo {repo} begins with {prefix}")
    if len(found) > 1:
        some = ", ".join(commit.id[:SHORT] for commit in found[:4])
        raise Ambiguous(f"{len(found)} commits of repo {repo} begin with {prefix}: {some}: give more digits")
    return found[0]


def _by_time(commits: Commits, head: CommitId, time_ns: int, where: str) -> CommitObject:
    for commit in commits.log(head):
        if commit.header.time <= time_ns:
            return commit
    raise NotFound(f"{where} had no commit yet at {rfc3339(time_ns)}")
