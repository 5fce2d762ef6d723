"""Lineage through datums: what one read, and which ones read a file. Blocks.

Which datums read a file is not looked up in the ledger, which has them by id: they are formed anew, as those that there
would not be if the file were not there. That costs what forming a change costs, whatever the number of outputs, and
works alike for crosses, joins and groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vfsd.lineage.graph import Point
from vfsd.model.entry import Entry, Kind, Place, Ref
from vfsd.model.errors import NotFound, Refused
from vfsd.model.ids import CommitId, DatumId
from vfsd.model.names import split_path
from vfsd.model.node import Node, node_id
from vfsd.model.observation import Path
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.formation import Done, Formation, Roots
from vfsd.pipeline.ledger import LedgerReader
from vfsd.pipeline.outcome import commits_read
from vfsd.pipeline.records import JobRecord, JobRecords
from vfsd.pipeline.registry import Registry
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.directory import lookup
from vfsd.repo.nodes import NodeSource
from vfsd.repo.repository import Repository
from vfsd.repo.tree import apply, change_set, find, walk
from vfsd.repo.writer import pointer_to


class DatumLineage:
    """A vfsd.lineage.graph.DatumSource: from an output commit over its job to the datums."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._records = JobRecords(repository)
        self._registry = Registry(repository)
        self._reader = LedgerReader(repository)
        self._jobs: dict[CommitId, JobRecord | None] = {}

    def inputs(self, repo: str, branch: str, commit: CommitId, origin: bytes) -> Sequence[Point]:
        """The inputs in the commits that the output commit was made from: a skipped datum read the same bytes under
        the same names in an earlier one. None for a commit that no job made, and when its job's record is lost."""
        record = self._job(commit)
        datum = None if record is None else lookup(self._repository.nodes, record.ledger, origin.hex().encode())
        if datum is None:
            return ()
        header = self._repository.commits.get(commit).header
        read_from = {(edge.name, edge.repo, edge.branch): edge for edge in header.provenance}
        return [
            Point(edge.repo, edge.branch, edge.commit, split_path(one.path))
            for one in self._reader.inputs(datum)
            if (edge := read_from.get((one.name, one.repo, one.branch))) is not None
        ]

    def outputs(self, commit: CommitObject, read: Point) -> Iterator[Path] | None:
        """The files that datums wrote which read what is at `read`; None when the job's record, its spec, or the
        contents of a commit that it read are gone."""
        record = self._job(commit.id)
        if record is None:
            return None
        try:
            spec = self._registry.spec(record.pipeline, record.version)
            commits = commits_read(spec, record)
            roots = tuple(None if one is None else self._root(one) for one in commits)
        except NotFound:
            return None
        return self._outputs(record, spec, commits, roots, read)

    def _root(self, commit: CommitId) -> Entry:
        self._repository.drops.check(commit)
        return self._repository.commits.get(commit).root

    def _outputs(
        self, record: JobRecord, spec: PipelineSpec, commits: tuple[CommitId | None, ...], roots: Roots, read: Point
    ) -> Iterator[Path]:
        nodes = self._repository.nodes
        for datum in _reading(nodes, spec, commits, roots, read):
            entry = lookup(nodes, record.ledger, datum.encode())
            out = None if entry is None else self._reader.output(entry)
            if out is not None:
                for path, inner in walk(nodes, out):
                    if inner.kind != Kind.DIR:
                        yield path

    def _job(self, commit: CommitId) -> JobRecord | None:
        """The job that made a commit; None when none did, or its record is lost."""
        if commit not in self._jobs:
            header = self._repository.commits.get(commit).header
            try:
                self._jobs[commit] = self._records.get(header.pipeline, header.job) if header.job else None
            except NotFound:
                self._jobs[commit] = None
        return self._jobs[commit]


def _reading(
    nodes: NodeSource, spec: PipelineSpec, commits: tuple[CommitId | None, ...], roots: Roots, read: Point
) -> Iterator[DatumId]:
    """The datums that what is at `read` is part of: those that come when it is put into trees without it."""
    overlay = _Overlay(nodes)
    before = []
    for pfs, commit, root in zip(spec.pfs_inputs(), commits, roots, strict=True):
        affected = root is not None and (pfs.repo, pfs.branch, commit) == (read.repo, read.branch, read.commit)
        before.append(_without(overlay, root, read.path) if affected and root is not None else root)
    formation = Formation(overlay, spec, commits, roots, Done(set(), tuple(before), 0, {}, frozenset()))
    more = True
    while more:
        batch = formation.batch()
        more = batch.more
        for work in batch.work:
            yield work.datum.id


def _without(overlay: _Overlay, root: Entry, path: Path) -> Entry | None:
    """A tree without what is at a path; None for no tree when that is all of it."""
    if not path:
        return None
    try:
        find(overlay, root, path)
    except (NotFound, Refused):
        return root
    return apply(overlay, overlay, root, change_set([(path, None)]))


class _Overlay:
    """Nodes of the store, and those of trees that are never stored."""

    def __init__(self, nodes: NodeSource) -> None:
        self._nodes = nodes
        self._own: dict[bytes, Node] = {}

    def get(self, ref: Ref) -> Node:
        """See NodeSource."""
        return self._own.get(ref.id) or self._nodes.get(ref)

    def add_node(self, node: Node) -> Ref:
        """See NodeSink."""
        name = node_id(node)
        self._own[name] = node
        return pointer_to(node, name, Place())
