"""Every repo as it stood when a global id was made."""

from __future__ import annotations

from vfsd.model.commit import GlobalRecord
from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId, GlobalId
from vfsd.model.names import DEFAULT_BRANCH
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository


def as_of_global(repository: Repository, gid: GlobalId, repo: str | None) -> CommitObject | None:
    """The commit of `repo` at a global id; with `repo` None only whether there is such an id. NotFound.

    A repo's own commit of that id comes first, then the one that the provenance of the others leads to, then the last
    one before the id was made. Where several branches of a repo have one, the default branch does, then the first.
    NotFound also when the contents of that commit were dropped.
    """
    records = repository.refs.global_records(gid)
    if not records:
        raise NotFound(f"there is no global id {gid}")
    if repo is None:
        return None
    found = _commit(repository, gid, repo, records)
    repository.drops.check(found.id)
    return found


def _commit(
    repository: Repository, gid: GlobalId, repo: str, records: dict[tuple[str, str], GlobalRecord]
) -> CommitObject:
    own = {branch: record.commit for (owner, branch), record in records.items() if owner == repo}
    if own:
        return repository.commits.get(own.get(DEFAULT_BRANCH) or own[min(own)])
    found = _by_provenance(repository, [record.commit for record in records.values()], repo)
    if found is not None:
        return found
    when = min(record.time for record in records.values())
    head = repository.refs.head(repo, DEFAULT_BRANCH).commit
    if head is not None:
        for commit in repository.commits.log(head):
            if commit.header.time <= when:
                return commit
    raise NotFound(f"repo {repo} had no commit yet at global id {gid}")


def _by_provenance(repository: Repository, starts: list[CommitId], repo: str) -> CommitObject | None:
    seen: set[CommitId] = set()
    queue = list(starts)
    while queue:
        commit = repository.commits.get(queue.pop(0))
        for edge in commit.header.provenance:
            if edge.repo == repo:
                return repository.commits.get(edge.commit)
            if edge.commit not in seen:
                seen.add(edge.commit)
                queue.append(edge.commit)
    return None
