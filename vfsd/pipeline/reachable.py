"""What jobs keep in the store beside their output commits: the ledgers of their datums, with logs and outputs.

A job's ledger stays as long as the commit that it made does; that of a job which made none, as long as a commit that it
read. The newest job of a pipeline that has ended keeps its own in any case: the next one starts from it.
"""

from __future__ import annotations

from collections.abc import Iterator

from vfsd.model.entry import Ref
from vfsd.pipeline.records import PREFIX, JobRecord, JobRecords, restore_jobs
from vfsd.repo.reach import IsKept, Trees
from vfsd.repo.repository import Repository


def job_trees(repository: Repository) -> Trees:
    """The trees of jobs that are kept, for `vfsd.repo.reach`."""

    def trees(is_kept: IsKept) -> Iterator[tuple[str, Ref]]:
        restore_jobs(repository)
        # Not what only this node knows: a pipeline may have been deleted elsewhere, and the trees of its jobs.
        there = {stat.key.rpartition("/")[2] for stat in repository.store.list(PREFIX)}
        newest: set[str] = set()
        for record in JobRecords(repository).all():  # newest first
            if not record.finished or record.id not in there:
                continue  # what a job in flight stored is young, or held
            if record.pipeline in newest and not _is_needed(record, is_kept):
                continue
            newest.add(record.pipeline)
            for name, ref in record.trees:
                yield f"the {name} of job {record.id}", ref

    return trees


def _is_needed(record: JobRecord, is_kept: IsKept) -> bool:
    if record.output is not None:
        return is_kept(record.output)
    return any(is_kept(edge.commit) for edge in record.inputs)
