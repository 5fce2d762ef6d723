from __future__ import annotations

from blake3 import blake3
from msgspec import msgpack
from msgspec.structs import replace

from vfsd.model.commit import decode, encode
from vfsd.model.datum import Datum, DatumInput, DatumState, datum_id
from vfsd.model.ids import CommitId, DatumId, Digest, GlobalId, JobId
from vfsd.model.job import DatumCounts, Job, JobState

INPUT = DatumInput("texts", "texts", "main", CommitId("c" * 64), b"/d/\xff", True, Digest(b"\x01" * 32), 7)


def test_a_datum_id_is_the_hash_of_its_documented_bytes() -> None:
    identity = ["count", "code", [["texts", b"/d/\xff", True, b"\x01" * 32]]]
    wanted = blake3(b"vfsd datum 1\0" + msgpack.encode(identity)).hexdigest()
    assert datum_id("count", "code", (INPUT,)) == wanted


def test_a_datum_id_does_not_depend_on_the_commit_that_holds_the_file() -> None:
    later = replace(INPUT, commit=CommitId("d" * 64), branch="other", repo="copy", size=8)
    assert datum_id("count", "code", (later,)) == datum_id("count", "code", (INPUT,))


def test_a_datum_id_changes_with_everything_that_the_command_could_see() -> None:
    one = datum_id("count", "code", (INPUT,))
    others = {
        datum_id("other", "code", (INPUT,)),
        datum_id("count", "other", (INPUT,)),
        datum_id("count", "code", (INPUT, INPUT)),
        datum_id("count", "code", (replace(INPUT, name="x"),)),
        datum_id("count", "code", (replace(INPUT, path=b"/e"),)),
        datum_id("count", "code", (replace(INPUT, digest=Digest(b"\x02" * 32)),)),
        datum_id("count", "code", (replace(INPUT, is_dir=False),)),
    }
    assert one not in others
    assert len(others) == 7


def test_a_datum_is_named_by_its_inputs() -> None:
    file = replace(INPUT, name="b", path=b"/x", is_dir=False)
    assert str(Datum(DatumId("0" * 64), (INPUT, file))) == "texts:/d/\\xff/ + b:/x"


def test_a_datum_survives_being_stored() -> None:
    datum = Datum(datum_id("count", "code", (INPUT,)), (INPUT,))
    assert decode(encode(datum), Datum, "datum") == datum


def test_a_job_survives_being_stored() -> None:
    job = Job(
        id=JobId("1" * 32), pipeline="count", version=1, state=JobState.RUNNING, global_id=GlobalId("2" * 32),
        inputs=(), created=1, datums=DatumCounts(total=3).plus(DatumState.SKIPPED, 2).plus(DatumState.SUCCESS),
    )  # fmt: skip
    assert job.datums.done == 3
    assert b'"state":"running"' in encode(job)
    assert decode(encode(job), Job, "job") == job


def test_final_states_are_those_that_nothing_follows() -> None:
    assert [state.value for state in JobState if state.final] == ["success", "failure", "killed", "unrunnable"]
    assert [state.value for state in DatumState if state.final] == ["success", "skipped", "failed", "recovered"]
