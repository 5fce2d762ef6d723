"""What a job that failed had written so far, as a commit that can be looked at: `repo/branch@job-<id>`, a tag.

The output branch does not move. Only the newest job of a pipeline that failed has one: the one before it goes then.
"""

from __future__ import annotations

from collections.abc import Iterable

from vfsd.model.entry import Entry, directory
from vfsd.model.errors import AlreadyExists, NotFound
from vfsd.model.ids import SHORT
from vfsd.pipeline.merge import Merger, Output
from vfsd.pipeline.records import JobRecord
from vfsd.repo.directory import edit
from vfsd.repo.repository import Repository, empty_root, now_ns
from vfsd.repo.writer import BlobWriter

_SAYS = "partial output of a job: "  # how the messages of these tags begin


def partial_tag(record: JobRecord) -> str:
    """The name of the tag."""
    return f"job-{record.id}"


def keep_partial(
    repository: Repository, record: JobRecord, author: str, outputs: Iterable[Output], writer: BlobWriter
) -> None:
    """Make the commit and its tag, when anything was written. Datums that write the same path stand side by side then,
    each in a directory named by its id."""
    found = list(outputs)
    if not found:
        return
    refs, name, repo = repository.refs, partial_tag(record), record.pipeline
    root = _tree(repository, found, writer)
    try:
        head = refs.create_branch(repo, name, None, now_ns())
    except AlreadyExists:  # left by a crash
        head = refs.head(repo, name)
    made = repository.commit(
        repo, name, lambda _, __: root, writer=writer, message=f"partial output of job {record.id[:SHORT]}",
        author=author, provenance=record.inputs, pipeline=repo, job=record.id, head=head, allow_same=True,
    )  # fmt: skip
    assert made is not None
    for tag, value in list(refs.tags(repo)):
        if value.message.startswith(_SAYS):
            refs.delete_tag(repo, tag)
    refs.create_tag(repo, name, made.commit.id, now_ns(), _SAYS + record.reason)
    try:
        refs.delete_branch(repo, name)
    except NotFound:
        pass


def _tree(repository: Repository, outputs: list[Output], writer: BlobWriter) -> Entry:
    nodes = repository.nodes
    try:
        merger = Merger(nodes, writer, lambda datum: datum[:SHORT], writer.flush)
        return merger.merge(empty_root(), (), outputs)
    except AlreadyExists:
        each: dict[bytes, Entry | None] = {
            one.datum[:SHORT].encode(): directory(one.datum[:SHORT].encode(), one.entry.node) for one in outputs
        }
        return directory(b"", edit(nodes, writer, None, each))
