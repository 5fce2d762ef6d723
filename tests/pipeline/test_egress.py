"""What a job wrote goes where its spec says: folders of this machine, buckets, tables of a database."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
import trio

from tests import servers
from tests.pipeline.workshop import Workshop, spec
from vfsd.model.errors import InvalidArgument, Unavailable
from vfsd.model.job import DatumCounts, JobState
from vfsd.pipeline import egress
from vfsd.pipeline.egress import Reach
from vfsd.pipeline.egress_files import Bucket, Folder, Outgoing
from vfsd.pipeline.egress_sql import send_rows
from vfsd.pipeline.records import JobRecord
from vfsd.pipeline.runner import JobRun
from vfsd.repo.repository import now_ns
from vfsd.store.s3_options import S3Options

COPY = 'cp -r "$texts" "$VFSD_OUT/$(basename "$texts")"'


def create(shop: Workshop, target: dict[str, Any], cmd: str = COPY, name: str = "count") -> None:
    shop.registry.create(spec(name, cmd=cmd, egress=target), now_ns())


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder that pipelines may write to."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is tried again at once."""
    monkeypatch.setattr(egress, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(egress, "LAST_RETRY_S", 0.001)


class Held:
    """Every egress into a folder waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.reached = threading.Event()
        put = Folder.put

        def held(folder: Folder, file: Outgoing) -> None:
            self.reached.set()
            while not self.go.wait(0.02):
                file.read(0, 1)  # which says when it is to stop
            put(folder, file)

        monkeypatch.setattr(Folder, "put", held)

    async def wait(self) -> None:
        """Until one has begun."""
        await trio.to_thread.run_sync(self.reached.wait, abandon_on_cancel=True)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held(monkeypatch)
    yield made
    made.go.set()


# Files


async def test_what_a_job_wrote_is_in_the_folder_before_it_succeeds_and_nothing_is_deleted_there(
    shop: Workshop, out: Path
) -> None:
    (out / "old").write_text("of somebody else")
    shop.put({"a": "one", "d/b": "two", "d/ä b": b"\xff"})
    create(shop, {"URL": f"file://{out}/deep/er"}, COPY + '; ln -s a "$VFSD_OUT/link-$(basename "$texts")"')
    async with shop.service(reach=Reach(folders=(str(out),))) as running:
        job = await running.job()
        assert (job.state, job.reason) == (JobState.SUCCESS, "")
        files = {"deep/er/a": b"one", "deep/er/d/b": b"two", "deep/er/d/ä b": b"\xff"}
        assert tree(out) == {"old": b"of somebody else", **files}
        before = os.stat(out / "deep/er/d/b").st_ino
        shop.put({"a": None, "d/ä b": "changed"})
        await running.job()
    assert tree(out) == {"old": b"of somebody else", **files, "deep/er/d/ä b": b"changed"}
    assert os.stat(out / "deep/er/d/b").st_ino == before, "it was the same, and has been written again"


async def test_an_egress_that_fails_fails_the_job_and_the_commit_stays(shop: Workshop, out: Path) -> None:
    shop.put({"a": "one"})
    (out / "a").mkdir()
    create(shop, {"object_storage": {"url": f"file://{out}"}})
    shop.registry.create(spec("behind", "count", cmd='cp "$count" "$VFSD_OUT"'), now_ns())
    async with shop.service(reach=Reach(folders=(str(out),))) as running:
        job, behind = sorted(await running.jobs(2), key=lambda record: record.pipeline, reverse=True)
        assert job.state is JobState.FAILURE
        assert job.reason == f"egress: {out}/a: Is a directory: something else is there"
        head = shop.head("count")
        assert head is not None and head.id == job.output
        assert (behind.state, shop.files("behind")) == (JobState.SUCCESS, {"a": b"one"})  # it has all that it needs
        (out / "a").rmdir()
        shop.registry.run("count")
        again = await running.job()
    assert (again.state, again.datums) == (JobState.SUCCESS, DatumCounts(total=1, skipped=1))
    assert tree(out) == {"a": b"one"}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc", "may not be written by pipelines here: the setting egress_folders lists"),
        ("file://{out}/link", "may not be written by pipelines here"),
        ("file://{shop}/store/packs", "lie in one another"),
        ("file://{shop}", "lie in one another"),
    ],
)
async def test_where_nothing_may_be_written_nothing_is(shop: Workshop, out: Path, url: str, why: str) -> None:
    (out / "link").symlink_to("/etc")
    shop.put({"a": "one"})
    create(shop, {"URL": url.format(out=out, shop=shop.folder)})
    async with shop.service(reach=Reach(folders=(str(out), str(shop.folder)))) as running:
        job = await running.job()
    assert job.state is JobState.FAILURE
    assert why in job.reason
    assert not (shop.folder / "a").exists()


async def test_what_fails_for_a_moment_is_tried_again(
    shop: Workshop, out: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failures = Folder.put, [Unavailable("away"), Unavailable("away still")]

    def fails(folder: Folder, file: Outgoing) -> None:
        if failures:
            raise failures.pop()
        put(folder, file)

    monkeypatch.setattr(Folder, "put", fails)
    shop.put({"a": "one", "b": "two"})
    create(shop, {"URL": f"file://{out}"})
    async with shop.service(reach=Reach(folders=(str(out),))) as running:
        assert (await running.job()).state is JobState.SUCCESS
        assert tree(out) == {"a": b"one", "b": b"two"}
        failures += [Unavailable("away for good")] * 1000
        shop.put({"c": "three"})
        job = await running.job()
    assert (job.state, job.reason) == (JobState.FAILURE, "egress: away for good")


async def test_a_job_that_egresses_says_so_and_can_be_stopped(shop: Workshop, out: Path, held: Held) -> None:
    shop.put({"a": "one"})
    create(shop, {"URL": f"file://{out}"})
    async with shop.service(reach=Reach(folders=(str(out),))) as running:
        await held.wait()
        (there,) = shop.records.known("count")
        head = shop.head("count")
        assert head is not None
        assert (there.state, there.output) == (JobState.EGRESSING, head.id)
        shop.registry.stop_job("count", there.id)
        job = await running.job()
    assert (job.state, job.reason, job.output) == (JobState.KILLED, "stopped by a user", head.id)
    assert tree(out) == {}


@pytest.mark.parametrize("noted", [True, False])
async def test_an_egress_that_was_interrupted_is_done_by_the_next_run_and_no_datum_again(
    shop: Workshop, out: Path, held: Held, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    """noted: it was written down that the commit is there."""
    shop.put({"a": "one"})
    create(shop, {"URL": f"file://{out}/to"}, 'cat /proc/sys/kernel/random/uuid >"$VFSD_OUT/id"')
    reach = Reach(folders=(str(out),))
    if not noted:
        monkeypatch.setattr(JobRun, "_announce", forgetful(held))
    async with shop.service(reach=reach):
        await held.wait()
    monkeypatch.undo()
    written = shop.files("count")
    async with shop.service(reach=reach) as running:
        job = await running.job()
    assert (job.state, job.datums.success) == (JobState.SUCCESS, 1)
    assert tree(out) == {"to/id": written["id"]}
    assert [record.id for record in shop.records.known("count")] == [job.id]


def forgetful(held: Held) -> Any:
    """JobRun._announce that is killed once the job has its commit."""
    announce = JobRun._announce

    def announced(run: JobRun, record: JobRecord) -> None:
        if record.state is not JobState.EGRESSING:
            announce(run, record)
            return
        held.reached.set()
        raise Unavailable("killed")

    return announced


# Buckets


@pytest.fixture
def bucket(seaweedfs: servers.S3Server, s3_credentials: None) -> Iterator[Any]:
    made = boto3.client("s3", endpoint_url=seaweedfs.endpoint, region_name="us-east-1")
    yield made
    made.close()


async def test_files_of_any_size_and_name_are_in_the_bucket(
    shop: Workshop, seaweedfs: servers.S3Server, bucket: Any
) -> None:
    large = os.urandom(1 << 20) * 9
    shop.put({"a": "one", "d/e/ü x": "two", "empty": "", "large": large})
    prefix = f"egress-{now_ns()}"
    create(shop, {"URL": f"s3://{servers.BUCKET}/{prefix}/"}, 'cp -r "$texts" "$VFSD_OUT"')
    reach = Reach(S3Options(endpoint=seaweedfs.endpoint, multipart=5 << 20))
    async with shop.service(reach=reach) as running:
        job = await running.job()
        assert (job.state, job.reason) == (JobState.SUCCESS, "")
        listed = bucket.list_objects_v2(Bucket=servers.BUCKET, Prefix=prefix + "/")["Contents"]
        keys = {item["Key"].removeprefix(prefix + "/") for item in listed}
        assert keys == {"a", "d/e/ü x", "empty", "large"}
        for key, content in (("d/e/ü x", b"two"), ("large", large), ("empty", b"")):
            found = bucket.get_object(Bucket=servers.BUCKET, Key=f"{prefix}/{key}")["Body"].read()
            assert found == content
        shop.put({"b\udcff": "x"})
        assert (await running.job()).reason == r"egress: b\xff: its name is not UTF-8, and keys of objects are"


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/store/", "s3://bucket/store/packs"])
def test_the_stores_own_place_in_the_bucket_is_no_target(url: str) -> None:
    with pytest.raises(InvalidArgument, match="lie in one another"):
        Bucket(url, "s3://bucket/store", S3Options(), ())
    Bucket("s3://bucket/store-of-others", "s3://bucket/store", S3Options(), ()).close()


# Tables


@pytest.fixture
def database(out: Path) -> Iterator[sqlite3.Connection]:
    """An SQLite file with the tables `people` and `log`, each with a row."""
    with closing(sqlite3.connect(out / "there.sqlite", isolation_level=None)) as made:
        made.execute("CREATE TABLE people (name TEXT, born DATE, height REAL, photo BLOB, happy BOOLEAN)")
        made.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
        made.execute("INSERT INTO people VALUES ('old', NULL, NULL, NULL, NULL)")
        made.execute("INSERT INTO log VALUES (1, 'old')")
        yield made


def tables(out: Path, kind: str, *columns: str) -> dict[str, Any]:
    form = {"type": kind, "columns": list(columns)}
    return {"sql_database": {"url": f"sqlite:///{out}/there.sqlite", "file_format": form}}


async def egressed(shop: Workshop, out: Path, target: dict[str, Any]) -> JobRecord:
    create(shop, target, 'cp -r "$texts" "$VFSD_OUT"')
    async with shop.service(reach=Reach(folders=(str(out),))) as running:
        return await running.job()


async def test_rows_of_csv_files_take_the_place_of_what_was_in_their_table(
    shop: Workshop, out: Path, database: sqlite3.Connection
) -> None:
    shop.put({
        "people/1.csv": 'happy,name,born\ntrue,"Ada ""L."", of\nLondon",1815-12-10\n\nF,"",\r\n',
        "people/2.csv": "name,happy,born\nBob,,2000-02-29",
    })
    job = await egressed(shop, out, tables(out, "CSV", "name", "born", "happy"))
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert list(database.execute("SELECT * FROM people ORDER BY born DESC, name")) == [
        ("Bob", "2000-02-29", None, None, None), ('Ada "L.", of\nLondon', "1815-12-10", None, None, 1),
        ("", None, None, None, 0),
    ]
    assert list(database.execute("SELECT * FROM log")) == [(1, "old")]  # no file names it


async def test_csv_files_without_a_first_row_of_names_have_all_columns(
    shop: Workshop, out: Path, database: sqlite3.Connection
) -> None:
    shop.put({"log": "2,b\n1,a\n"})  # a file in the root is named like its table
    job = await egressed(shop, out, tables(out, "CSV"))
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert list(database.execute("SELECT * FROM log ORDER BY id")) == [(1, "a"), (2, "b")]


async def test_rows_of_json_files_may_lack_fields_and_have_others(
    shop: Workshop, out: Path, database: sqlite3.Connection
) -> None:
    rows = [{"name": "Ada", "height": 1, "photo": "AAE=", "zzz": []}, {"name": 7, "happy": True}]
    many = "".join(json.dumps({"text": f"{number}" * 9, "id": number}) for number in range(2500))
    shop.put({"people/x": "\n\n".join(json.dumps(row, indent=1) for row in rows), "log/many": many})
    job = await egressed(shop, out, tables(out, "JSON"))
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert list(database.execute("SELECT * FROM people ORDER BY name")) == [
        ("7", None, None, None, 1), ("Ada", None, 1.0, b"\0\1", None),
    ]
    assert list(database.execute("SELECT count(*), max(id) FROM log")) == [(2500, 2499)]


async def test_what_a_database_fills_itself_is_left_to_it_and_nothing_is_null_in_every_column(
    shop: Workshop, out: Path, database: sqlite3.Connection
) -> None:
    database.execute("CREATE TABLE made (a TEXT, j JSON, loud TEXT GENERATED ALWAYS AS (upper(a)) STORED)")
    shop.put({"made/x": '{"a": "x", "j": {"b": 1}} {"a": "y"} {"a": "z", "j": null}'})
    job = await egressed(shop, out, tables(out, "JSON"))
    assert (job.state, job.reason) == (JobState.SUCCESS, "")
    assert list(database.execute("SELECT * FROM made ORDER BY a")) == [
        ("x", '{"b": 1}', "X"), ("y", None, "Y"), ("z", None, "Z"),
    ]


@pytest.mark.parametrize(
    ("files", "target", "why"),
    [
        ({"people/1": "name\nAda\n", "nobody/1": "name\n"}, ("CSV", "name"), "there is no table nobody: the first"),
        ({"people/1": "name\nAda\n"}, ("CSV", "nome"), "file_format.columns: table people has no column nome, it has"),
        ({"people/1": "born\n1999-01-01\n1999-13-01\n"}, ("CSV", "born"),
         "people/1: row 3: '1999-13-01' is no value for column born, DATE"),
        ({"people/1": "nome\nAda\n"}, ("CSV", "name"), "people/1: its first row names nome, the spec name"),
        ({"people/1": 'name\n"Ada\n'}, ("CSV", "name"), "people/1: a quote has no end"),
        ({"people/1": 'name\nA"da"\n'}, ("CSV", "name"), "people/1: row 2: a quote stands within a field"),
        ({"log/1": "1,a\n2\n"}, ("CSV",), "log/1: row 2 has 1 fields, where 2 are wanted"),
        ({"log/1": "1,a\n1,b\n"}, ("CSV",), "UNIQUE constraint failed: log.id"),
        ({"log/1": b"1,a\n2,\xff\n"}, ("CSV",), "log/1: behind row 0: it is not UTF-8"),
        ({"log/1": '{"id": 1, "text": "a"} [1]'}, ("JSON",), "log/1: row 2: it is no JSON object"),
        ({"log/1": '{"id": 1, "text": "a"} {"id"'}, ("JSON",), "log/1: row 2: "),
        ({"log/1": '{"id": 1.5, "text": "a"}'}, ("JSON",), "log/1: row 1: '1.5' is no value for column id, INTEGER"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_written_leave_every_table_as_it_was(
    out: Path, database: sqlite3.Connection, files: Any, target: tuple[str, ...], why: str
) -> None:
    assert why in refusal(files, tables(out, *target), out)
    assert list(database.execute("SELECT name FROM people")) == [("old",)]
    assert list(database.execute("SELECT id FROM log")) == [(1,)]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:////etc/passwd", "/etc/passwd may not be written by pipelines here"),
        ("sqlite://", "a file is named by its absolute path"),
        ("sqlite:///{out}/new.sqlite", "there is no such file"),
        ("postgresql:///people", "no host stands in it"),
        ("postgresql://somebody@here/people?host=/var/run", "a path of the node stands in it"),
        ("nonesuch://somebody@here/people", "this node has no driver for it"),
    ],
)
def test_a_database_that_is_not_for_pipelines_is_not_asked(out: Path, url: str, why: str) -> None:
    target = {"sql_database": {"url": url.format(out=out), "file_format": {"type": "CSV"}}}
    assert why in refusal({"log/1": "1,a\n"}, target, out)
    assert not (out / "new.sqlite").exists()


async def test_why_rows_cannot_be_written_is_the_jobs_reason(
    shop: Workshop, out: Path, database: sqlite3.Connection
) -> None:
    shop.put({"nobody/1": "name\n"})
    job = await egressed(shop, out, tables(out, "CSV", "name"))
    assert job.state is JobState.FAILURE
    where = f"egress: sqlite:///{out}/there.sqlite"
    assert job.reason == f"{where}: there is no table nobody: the first part of a path names one"


def refusal(files: dict[str, str | bytes], target: dict[str, Any], out: Path) -> str:
    """Why rows cannot be written, in one line."""

    def outgoing() -> Iterator[Outgoing]:
        for path, text in sorted(files.items()):
            data = text.encode() if isinstance(text, str) else text
            read = partial(lambda data, offset, size: data[offset : offset + size], data)
            yield Outgoing(tuple(path.encode().split(b"/")), len(data), 0o644, read)

    wanted = spec(egress=target).egress
    assert wanted is not None and wanted.sql_database is not None
    with pytest.raises(InvalidArgument) as caught:
        send_rows(outgoing(), wanted.sql_database, None, (str(out),))
    assert "\n" not in str(caught.value)
    return str(caught.value)
