"""`vfsd fsck` as users run it: on directories and on S3, beside a daemon, in text and in JSON."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
from pathlib import Path

import boto3
import pytest

from tests import servers
from tests.daemon.program import Program
from tests.stores import make_store
from vfsd.model.commit import encode
from vfsd.model.ids import GlobalId, JobId
from vfsd.model.job import JobState
from vfsd.pipeline.records import JobRecord, Standing

SUMMARY = re.compile(
    r"nothing is wrong: (\d+) refs, (\d+) commits, (\d+) tree nodes, (\d+) (?:pointers to )?chunks,"
    r" [\d.]+ (?:B|KiB|MiB) read in [\d.]+ s"
)
BIG = random.Random(1).randbytes(1_000_000)


@pytest.fixture
def filled(vfsd: Program) -> Program:
    """Two commits, one of them with a pack, and a tag."""
    vfsd.put("texts/main/a/big", BIG)
    vfsd.put("texts/main/b", "b")
    vfsd.ok("tag", "create", "texts/main", "v1")
    return vfsd


def packs(program: Program) -> list[Path]:
    found = (path for path in (program.store / "packs").rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.stat().st_size)


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("options", [(), ("--read-data",)])
def test_a_whole_store_is_one_line_of_counts(filled: Program, options: tuple[str, ...]) -> None:
    done = filled.ok("fsck", *options)
    counts = SUMMARY.fullmatch(done.text.strip())
    assert counts is not None, done.text
    assert (counts[1], counts[2]) == ("5", "2")  # branch, tag, repo, two global ids
    assert done.err == ""


def test_damage_is_a_line_with_path_and_remedy_and_exit_1(filled: Program) -> None:
    flip(packs(filled)[-1], 500_000)
    assert filled("fsck").code == 0
    done = filled("fsck", "--read-data")
    assert done.code == 1
    line, repair, lost = done.lines
    key = packs(filled)[-1].relative_to(filled.store)
    where, rest = line.split(": ", 1)
    assert re.fullmatch("texts/main@[0-9a-f]{12}/a/big", where)
    assert re.fullmatch(rf"{key} .* is damaged at offset \d+: .*: copy {key} back .*", rest)
    assert repair == f"no repair: {key} lacks 1 blob that the store has nowhere else, nor this node"
    assert lost.startswith("lost: a/big in 2 commits, texts/main@")
    assert done.err == f"vfsd: 1 thing is wrong in file://{filled.store}\n"


def test_a_line_names_something_that_other_commands_take(filled: Program) -> None:
    packs(filled)[-1].unlink()
    done = filled("fsck")
    where = done.lines[0].split(": ")[0]
    assert filled.ok("stat", where, "--json").json["path"] == "a/big"
    assert filled("cat", where).code == 1


def test_names_of_any_bytes_are_named(filled: Program) -> None:
    path = os.fsdecode(b"\xff\n")
    filled.put(f"texts/main/{path}", random.Random(2).randbytes(900_000))
    packs(filled)[-2].unlink()
    done = filled("fsck")
    assert r"/\xff\n: packs/" in done.lines[0] and done.lines[-1].startswith(r"lost: \xff\n in ")
    facts = filled("fsck", "--json")
    assert facts.code == 1
    assert "where_b64" in facts.json["problems"][0]


def test_the_facts_are_counts_and_problems(filled: Program) -> None:
    facts = filled.ok("fsck", "--json", "texts/main").json
    assert (facts["refs"], facts["commits"], facts["problems"]) == (1, 2, [])
    filled.file("store/refs/texts/main", "rot")
    done = filled("fsck", "--json")
    assert done.code == 1
    (problem,) = done.json["problems"]
    assert problem["where"] == "refs/texts/main" and problem["what"] and problem["remedy"]


def test_a_spec_that_names_nothing_is_an_error_of_its_own(filled: Program) -> None:
    assert filled("fsck", "texts/nothing").error == "there is no branch nothing in repo texts"
    assert filled("fsck", "texts").code == 2
    assert SUMMARY.match(filled.ok("fsck", "texts/main@v1", "texts/main/a/big").text)


def test_pipelines_and_the_records_of_jobs_are_looked_at(filled: Program) -> None:
    spec = {"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": {"pfs": {"repo": "texts", "glob": "/"}}}
    filled.ok("pipeline", "create", "-f", filled.file("p.json", json.dumps(spec)))
    record = JobRecord(
        id=JobId("0" * 32), pipeline="p", version=1, state=JobState.RUNNING, global_id=GlobalId("0" * 32), inputs=(),
        created=1,
    )  # fmt: skip
    standing = encode(Standing(nonce="n", epoch=1, record=record))
    filled.file("store/pipelines/p/job", standing.decode())
    before = int(SUMMARY.findall(filled.ok("fsck").text)[0][0]) - 1
    keys = ["pipelines/p/head", "pipelines/p/job", "jobs/p/" + "0" * 32]
    for key in keys:
        filled.file(f"store/{key}", "rot")
    done = filled("fsck")
    assert [line.split(": ")[0] for line in done.lines] == keys
    assert before == 5 + 4  # the pipeline's head and version, its repo and branch


def test_how_far_it_is_is_shown_on_a_terminal_only(filled: Program) -> None:
    terminal, end = pty.openpty()
    try:
        done = subprocess.run(
            filled.command("fsck"), env=filled.environ, stdout=subprocess.PIPE, stderr=end, check=True, timeout=300
        )
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert "5 refs" in shown and "2 commits" in shown
    assert done.stdout.count(b"\n") == 1


# S3


def test_a_bucket_is_checked_in_the_same_way(s3_url: str, tmp_path: Path, seaweedfs: servers.S3Server) -> None:
    program = Program(tmp_path)
    program.environ["VFSD_STORE"] = s3_url
    make_store(s3_url)
    program.ok("repo", "create", "texts")
    program.put("texts/main/a/big", BIG)
    program.put("texts/main/b", "b")
    assert SUMMARY.match(program.ok("fsck", "--read-data").text)
    s3 = boto3.client(
        "s3", endpoint_url=seaweedfs.endpoint, region_name="us-east-1",
        aws_access_key_id=servers.ACCESS_KEY, aws_secret_access_key=servers.SECRET_KEY,
    )  # fmt: skip
    prefix = s3_url.removeprefix(f"s3://{servers.BUCKET}/")
    listed = s3.list_objects_v2(Bucket=servers.BUCKET, Prefix=f"{prefix}/packs/")["Contents"]
    pack = max(listed, key=lambda one: one["Size"])["Key"]
    data = bytearray(s3.get_object(Bucket=servers.BUCKET, Key=pack)["Body"].read())
    data[500_000] ^= 1
    s3.put_object(Bucket=servers.BUCKET, Key=pack, Body=bytes(data))
    assert program("fsck").code == 0
    done = program("fsck", "--read-data")
    assert done.code == 1 and re.match(r"texts/main@[0-9a-f]{12}/a/big: packs/.* is damaged at offset", done.text)
    s3.delete_object(Bucket=servers.BUCKET, Key=pack)
    done = program("fsck")
    assert done.code == 1 and re.match(r"texts/main@[0-9a-f]{12}/a/big: packs/\S+ is gone", done.text)
    s3.close()


# Repair


def test_repair_does_what_fsck_said_that_it_would(filled: Program) -> None:
    commit = filled.put("texts/main/c/d", "b")  # which brings no chunk
    path = filled.store / "commits" / commit
    path.unlink()
    done = filled("fsck")
    assert done.code == 1 and any(line.startswith(f"repair: commits/{commit}") for line in done.lines)
    assert not path.exists()
    done = filled.ok("fsck", "--repair")
    assert "checked again" in done.lines and SUMMARY.fullmatch(done.lines[-1])
    assert filled.ok("cat", "texts/main/c/d").text == "b"
    assert SUMMARY.fullmatch(filled.ok("fsck", "--repair").text.strip())
    assert filled("fsck", "--rewind").code == 2


def test_a_commit_that_is_there_again_but_for_some_bytes_stays_a_problem_until_these_are(filled: Program) -> None:
    path = filled.store / "commits" / filled.ok("show", "texts/main", "--json").json["id"]
    data = path.read_bytes()
    path.unlink()
    done = filled("fsck", "--repair")
    assert done.code == 1 and "1 blobs in its object were nowhere when it was repaired" in done.text
    assert filled("fsck").code == 1 and filled("cat", "texts/main/b").code == 1
    assert filled.ok("cat", "texts/main/a/big").out == BIG
    path.write_bytes(data)
    assert filled("fsck", "--read-data").code == 0


def test_what_cannot_be_repaired_is_told_by_paths_in_text_and_in_json(filled: Program) -> None:
    flip(packs(filled)[-1], 500_000)
    done = filled("fsck", "--read-data", "--repair")
    assert done.code == 1
    assert any(re.match(r"lost: a/big in 2 commits, texts/main@\w+ to texts/main@\w+", line) for line in done.lines)
    facts = filled("fsck", "--read-data", "--repair", "--json").json
    (lost,) = facts["lost"]
    assert (lost["path"], lost["commits"]) == ("a/big", 2)
    assert [step["done"] for step in facts["repairs"]] == [False] and len(facts["problems"]) == 1


def test_a_node_whose_cache_has_the_bytes_repairs_the_bucket(
    s3_url: str, tmp_path: Path, seaweedfs: servers.S3Server
) -> None:
    program = Program(tmp_path)
    program.environ["VFSD_STORE"] = s3_url
    make_store(s3_url)
    program.ok("repo", "create", "texts")
    program.put("texts/main/a/big", BIG)
    program.ok("cache", "warm", "texts/main")
    s3 = boto3.client(
        "s3", endpoint_url=seaweedfs.endpoint, region_name="us-east-1",
        aws_access_key_id=servers.ACCESS_KEY, aws_secret_access_key=servers.SECRET_KEY,
    )  # fmt: skip
    prefix = s3_url.removeprefix(f"s3://{servers.BUCKET}/")
    listed = s3.list_objects_v2(Bucket=servers.BUCKET, Prefix=f"{prefix}/packs/")["Contents"]
    pack = max(listed, key=lambda one: one["Size"])["Key"]
    data = s3.get_object(Bucket=servers.BUCKET, Key=pack)["Body"].read()
    for damage in ("flipped", "gone"):
        if damage == "gone":
            s3.delete_object(Bucket=servers.BUCKET, Key=pack)
        else:
            s3.put_object(Bucket=servers.BUCKET, Key=pack, Body=data[:500_000] + b"???" + data[500_003:])
        (tmp_path / damage).mkdir()
        stranger = Program(tmp_path / damage)
        stranger.environ["VFSD_STORE"] = s3_url
        assert any(line.startswith("lost: a/big") for line in stranger("fsck", "--read-data", "--repair").lines)
        assert SUMMARY.fullmatch(program.ok("fsck", "--read-data", "--repair").lines[-1])
        assert SUMMARY.fullmatch(stranger.ok("fsck", "--read-data").text.strip())
    kept = s3.list_objects_v2(Bucket=servers.BUCKET, Prefix=f"{prefix}/aside/")["Contents"]
    assert len(kept) == 1 and kept[0]["Key"].endswith(pack.removeprefix(f"{prefix}/"))
    s3.close()
