"""What was made from a file, through datums: what it costs, and through which inputs it goes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lineage.test_graph import downstream
from tests.pipeline.workshop import Workshop, spec
from vfsd.lineage.graph import Point
from vfsd.model.commit import Provenance
from vfsd.model.entry import Entry, Ref, directory
from vfsd.model.ids import GlobalId, JobId
from vfsd.model.job import JobState
from vfsd.model.node import Node
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.datum_lineage import DatumLineage
from vfsd.pipeline.formation import NOTHING_DONE, Formation
from vfsd.pipeline.ledger import edited
from vfsd.pipeline.records import JobRecord
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.directory import DirectoryBuilder
from vfsd.repo.repository import now_ns
from vfsd.repo.tree import apply, change_set
from vfsd.repo.writer import BlobWriter

JOB = JobId("1" * 32)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path)
    made.repo("count")
    yield made
    made.close()


def made_by_a_job(shop: Workshop, pipeline: PipelineSpec, source: CommitObject) -> CommitObject:
    """The output commit of a job over `source`, as a job leaves it, without running anything: each datum wrote a file
    of its input's name."""
    repository = shop.repository
    formation = Formation(repository.nodes, pipeline, (source.id,), (source.root,), NOTHING_DONE)
    writer = repository.writer()
    ledger: dict[bytes, Entry] = {}
    outputs: dict[tuple[bytes, ...], Entry] = {}
    more = True
    while more:
        batch = formation.batch()
        more = batch.more
        for work in batch.work:
            name = work.datum.inputs[0].path.rpartition(b"/")[2] or b"all"
            written = shop.entry(name.decode(), name.decode(), writer)
            assert written is not None
            out, datum = DirectoryBuilder(writer), DirectoryBuilder(writer)
            out.add(written)
            datum.add(directory(b"out", out.finish()))
            ledger[work.datum.id.encode()] = directory(work.datum.id.encode(), datum.finish(), mtime=1)
            outputs[name,] = written
    record = JobRecord(
        id=JOB, pipeline="count", version=1, state=JobState.SUCCESS, global_id=GlobalId("2" * 32), created=1,
        inputs=(Provenance("texts", "main", source.id, "texts"),), started=1, finished=2,
        ledger=edited(repository, writer, None, sorted(ledger.items())),
    )  # fmt: skip

    def change(root: Entry, sink: BlobWriter) -> Entry:
        return apply(repository.nodes, sink, root, change_set(outputs.items()))

    made = repository.commit(
        "count", "main", change, writer=writer, message="", author="", provenance=record.inputs, pipeline="count",
        job=JOB,
    )  # fmt: skip
    writer.flush()
    writer.close()
    shop.records.finish(record)
    assert made is not None
    return made.commit


class Counting:
    """Nodes that are read."""

    def __init__(self, shop: Workshop) -> None:
        self.nodes = shop.repository.nodes
        self.read = 0

    def get(self, ref: Ref) -> Node:
        self.read += 1
        return self.nodes.get(ref)


def asked(
    shop: Workshop, source: CommitObject, path: bytes, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Point], int]:
    counting = Counting(shop)
    with monkeypatch.context() as patch:
        patch.setattr(shop.repository, "nodes", counting)
        tree = downstream(shop.repository, source, (path,), DatumLineage(shop.repository))
    return [step.point for step in tree.next], counting.read


@pytest.mark.parametrize("glob", ["/*", "/"])
def test_what_was_made_from_one_of_many_files_is_found_without_a_walk_over_the_outputs(
    shop: Workshop, glob: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 3000
    source = shop.put({f"{one:05}": str(one) for one in range(number)})
    pipeline = spec(glob=glob)
    shop.registry.create(pipeline, now_ns())
    output = made_by_a_job(shop, pipeline, source)
    found, read = asked(shop, source, b"01234", monkeypatch)
    assert found == [Point("count", "main", output.id, (b"01234",) if glob == "/*" else (b"all",))]
    assert read < 100, "nodes, of some hundred that the trees and the ledger have"


async def test_a_file_of_a_cross_leads_to_the_outputs_of_its_pairs(shop: Workshop) -> None:
    for repo in ("left", "right"):
        shop.repo(repo)
    given = {"cross": [{"pfs": {"repo": repo, "glob": "/*"}} for repo in ("left", "right")]}
    shop.registry.create(spec(cmd="cat $left $right >$VFSD_OUT/${left##*/}-${right##*/}", input=given), now_ns())
    left = shop.put({"a": "1", "b": "2"}, "left")
    async with shop.service() as running:
        await running.job()
        shop.put({"x": "7", "y": "8"}, "right")
        await running.job()
    tree = downstream(shop.repository, left, (b"a",), DatumLineage(shop.repository))
    assert sorted(step.point.path[0] for step in tree.next) == [b"a-x", b"a-y"]
