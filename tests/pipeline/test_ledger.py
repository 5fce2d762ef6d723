from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.lineage.test_graph import downstream, upstream
from tests.pipeline.workshop import Workshop, spec
from vfsd.lineage.graph import Point
from vfsd.model.commit import Provenance
from vfsd.model.datum import Datum, DatumInput, DatumState
from vfsd.model.errors import Ambiguous, Damaged, NotFound
from vfsd.model.ids import CommitId, DatumId, Digest, GlobalId, JobId
from vfsd.model.job import DatumCounts, JobState
from vfsd.pipeline import ledger as ledgers
from vfsd.pipeline.datum_lineage import DatumLineage
from vfsd.pipeline.ledger import (
    DatumResult,
    DatumStats,
    LedgerReader,
    datum_result,
    datum_results,
    edited,
    encode_result,
    job_datums,
    names,
)
from vfsd.pipeline.records import JobRecord, JobRecords, is_current, restore_jobs
from vfsd.repo.directory import entries
from vfsd.repo.repository import now_ns

JOB = JobId("1" * 32)
COMMIT = CommitId("c" * 64)
INPUT = DatumInput("texts", "texts", "main", COMMIT, b"/d/\xff", False, Digest(b"\x01" * 32), 5)
DATUM = Datum(DatumId("ab" * 32), (INPUT,))
STATS = DatumStats(JOB, DatumState.SUCCESS, 2, 10, 20, 0, "")


def record(job: str = JOB, **more: object) -> JobRecord:
    plain = JobRecord(
        id=JobId(job), pipeline="count", version=1, state=JobState.SUCCESS, global_id=GlobalId("2" * 32),
        inputs=(Provenance("texts", "main", COMMIT, "texts"),), created=15, finished=30,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **more)


def test_a_datum_comes_back_as_it_was_entered(shop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "d").mkdir(parents=True)
    (out / "d" / "x").write_text("result")
    log = tmp_path / "log"
    log.write_bytes(b"said\xff something")
    writer = shop.repository.writer()
    result = datum_result(shop.repository, writer, DATUM, STATS, str(log).encode(), str(out).encode())
    entry = result.entry
    writer.flush()
    writer.close()
    assert (entry.name, entry.mtime) == (b"ab" * 32, 20)
    reader = LedgerReader(shop.repository)
    assert reader.inputs(entry) == DATUM.inputs
    assert reader.stats(entry) == STATS
    assert b"".join(reader.log(entry)) == b"said\xff something"
    output = reader.output(entry)
    assert output is not None
    assert shop.tree(output) == {"d/x": b"result"}
    assert result.out == output
    assert result.files == list(entries(shop.repository.nodes, output.node))
    assert reader.shown(entry) == "texts:/d/\\xff"


def test_a_datum_without_output_or_log_has_none(shop: Workshop) -> None:
    writer = shop.repository.writer()
    entry = datum_result(shop.repository, writer, DATUM, STATS, b"/nowhere/log", None).entry
    writer.flush()
    writer.close()
    reader = LedgerReader(shop.repository)
    assert reader.output(entry) is None
    assert list(reader.log(entry)) == []
    with pytest.raises(Damaged, match="stats of datum abababababab is not in its ledger"):
        reader.stats(msgspec.structs.replace(entry, node=None))


def test_a_ledger_edited_in_parts_is_the_one_edited_at_once(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = shop.repository.writer()
    entry = datum_result(shop.repository, writer, DATUM, STATS, None, None).entry
    some = [(b"%064x" % number, msgspec.structs.replace(entry, name=b"%064x" % number)) for number in range(1000)]
    at_once = edited(shop.repository, writer, None, some)
    monkeypatch.setattr(ledgers, "EDIT", 64)
    in_parts = edited(shop.repository, writer, None, some)
    assert in_parts is not None
    assert at_once is not None
    assert in_parts.id == at_once.id
    fewer = edited(shop.repository, writer, in_parts, ((name, None) for name, _ in some[5:]))
    assert list(names(shop.repository, fewer)) == [name for name, _ in some[:5]]
    writer.close()


def test_results_of_a_job_in_flight_are_found_in_order_until_it_ends(shop: Workshop) -> None:
    writer = shop.repository.writer()
    entry = datum_result(shop.repository, writer, DATUM, STATS, None, None).entry
    writer.flush()
    writer.close()
    records = JobRecords(shop.repository)
    records.note(record(finished=0))
    results = [("b" * 64, DatumResult(DatumState.FAILED, entry)), ("a" * 64, DatumResult(DatumState.SUCCESS, entry))]
    shop.repository.index.add_datum_results(JOB, [(datum, encode_result(result)) for datum, result in results])
    assert list(datum_results(shop.repository, JOB)) == results[::-1]
    assert [datum.state for datum in job_datums(shop.repository, record(finished=0))] == ["success", "failed"]
    assert records.in_flight("count") == [record(finished=0)]
    assert records.last("count") is None
    records.finish(record())
    assert records.in_flight("count") == []
    assert records.last("count") == record()
    assert list(datum_results(shop.repository, JOB)) == []


def test_a_datum_that_ended_before_the_job_began_was_skipped(shop: Workshop) -> None:
    writer = shop.repository.writer()
    entry = datum_result(shop.repository, writer, DATUM, STATS, None, None).entry
    root = edited(shop.repository, writer, None, [(entry.name, entry)])
    writer.flush()
    writer.close()
    for created, state in ((19, DatumState.SUCCESS), (21, DatumState.SKIPPED)):
        (datum,) = job_datums(shop.repository, record(created=created, ledger=root))
        assert (datum.id, datum.state, datum.finished) == (DATUM.id, state, 20)


def test_jobs_come_back_from_the_store(shop: Workshop) -> None:
    records = JobRecords(shop.repository)
    jobs = [
        record(f"{number:032x}", created=number, pipeline=pipeline, datums=DatumCounts(total=number))
        for number, pipeline in enumerate(("count", "count", "other"), 1)
    ]
    for job in jobs:
        records.finish(job)
    shop.repository.index.close()
    shop.open_index("fresh.sqlite")
    assert list(shop.records.all()) == []
    assert shop.records.last("other") == jobs[2]
    assert restore_jobs(shop.repository) == 2
    assert restore_jobs(shop.repository) == 0
    assert list(shop.records.all()) == jobs[::-1]
    assert list(shop.records.all("count")) == jobs[1::-1]


def test_jobs_are_found_by_the_beginning_of_their_ids(shop: Workshop) -> None:
    records = JobRecords(shop.repository)
    for job in ("aa" + "0" * 30, "ab" + "0" * 30):
        records.finish(record(job))
    assert records.find("ab").id == "ab" + "0" * 30
    with pytest.raises(Ambiguous, match="2 jobs begin with a: give more digits"):
        records.find("a")
    for nothing in ("b", "ac", "%", ""):
        with pytest.raises(NotFound):
            records.find(nothing)
    shop.repository.index.close()
    shop.open_index("fresh.sqlite")
    assert shop.records.find("aa").id == "aa" + "0" * 30


def test_a_pipeline_is_done_when_its_last_job_was_over_this_commit_and_version(shop: Workshop) -> None:
    head = shop.registry.create(spec(), now_ns())
    inputs = record().inputs
    assert is_current(None, head, ())
    assert not is_current(None, head, inputs)
    assert is_current(record(), head, inputs)
    assert is_current(record(state=JobState.FAILURE), head, inputs)
    assert not is_current(record(), head, (Provenance("texts", "main", CommitId("d" * 64), "texts"),))
    assert not is_current(record(), head, (*inputs, Provenance("labels", "main", COMMIT, "labels")))
    assert not is_current(record(), msgspec.structs.replace(head, version=2), inputs)
    assert not is_current(record(), msgspec.structs.replace(head, run="x"), inputs)


async def test_lineage_leads_from_an_output_file_to_the_files_its_datum_read_and_back(shop: Workshop) -> None:
    shop.put({"a": "1", "b": "2"})
    shop.registry.create(spec(cmd='cp "$texts" "$VFSD_OUT/$(basename "$texts").out"'), now_ns())
    total = spec("total", "count", "/", cmd='cat "$count"/* > "$VFSD_OUT/all"')
    shop.registry.create(total, now_ns())
    async with shop.service() as running:
        await running.job("total")
        source = shop.put({"b": "3"})  # so that the datum of `a` is a skipped one
        await running.job("total")
    middle, last = shop.head("count"), shop.head("total")
    assert middle is not None
    assert last is not None
    lineage = DatumLineage(shop.repository)

    count_a = Point("count", "main", middle.id, (b"a.out",))
    up = upstream(shop.repository, middle, (b"a.out",), lineage)
    assert (up.point, [step.point for step in up.next]) == (count_a, [Point("texts", "main", source.id, (b"a",))])

    whole = upstream(shop.repository, last, (b"all",), lineage)
    assert [step.point for step in whole.next] == [Point("count", "main", middle.id)]

    down = downstream(shop.repository, source, (b"a",), lineage)
    assert [step.point for step in down.next] == [count_a]
    assert [step.point for step in down.next[0].next] == [Point("total", "main", last.id, (b"all",))]


def test_a_commit_that_no_job_made_has_no_datums(shop: Workshop) -> None:
    commit = shop.put({"a": "1"})
    assert DatumLineage(shop.repository).inputs("texts", "main", commit.id, b"\x01" * 32) == ()
