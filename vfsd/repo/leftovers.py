"""What lies beside blobs and belongs to nothing any more, as `vfsd gc` deletes it: lineage objects of commits that are
gone, and records of dropped commits to whose headers nothing leads.

Neither can come to be needed again. A commit's object is stored before its lineage object, and once it is deleted no
commit of that id will be made. A header is looked up by its id, which stands in headers alone: of commits that are
there, and of such as are kept here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vfsd.index.survey import Survey
from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId
from vfsd.repo.commits import commit_key
from vfsd.repo.drops import PREFIX as DROPPED
from vfsd.repo.observations import PREFIX as LINEAGE
from vfsd.repo.reach import Reach
from vfsd.repo.repository import Repository

_OF_COMMIT = re.compile(LINEAGE + "([0-9a-f]{64})/[0-9a-f]{64}")


def leftovers(repository: Repository, reach: Reach, survey: Survey, since: float) -> Iterator[str]:
    """The keys of what can be deleted, all of it older than `since` (s since 1970, by the store's clock). reach: has
    followed all refs, and all that is young."""
    drops = repository.drops
    drops.refresh()
    for stat in repository.store.list(LINEAGE):
        name = _OF_COMMIT.fullmatch(stat.key)
        if name is not None and stat.modified < since and not _has_header(repository, survey, CommitId(name[1])):
            yield stat.key
    records = drops.records()
    if not records:
        return
    reach.follow_headers()
    for stat in repository.store.list(DROPPED):
        if stat.modified < since and stat.key in records and not any(map(reach.leads_to, records[stat.key])):
            yield stat.key


def _has_header(repository: Repository, survey: Survey, commit: CommitId) -> bool:
    """Whether a commit's object is there, or was dropped and its header kept."""
    row = survey.container(bytes.fromhex(commit))
    if (row is not None and not row.moved) or repository.drops.find(commit) is not None:
        return True
    try:
        repository.store.stat(commit_key(commit))
    except NotFound:
        return False
    return True
