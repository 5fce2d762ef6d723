"""Making stores, rebuilding the index, and stores that are not as they should be."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.daemon.program import Program
from tests.servers import BUCKET, S3Server
from tests.store.gateway import Answer, Request, gateway_to


def index_file(program: Program) -> Path:
    """The only index file that there is."""
    (path,) = (program.folder / "state").rglob("index.sqlite")
    return path


def test_a_new_store_says_what_it_is(bare: Program) -> None:
    facts = bare.ok("init", "--json").json
    assert facts["store"] == f"file://{bare.store}"
    assert facts["shared"] is True and facts["problems"] == []
    assert json.loads((bare.store / "format").read_text())["id"] == facts["id"]
    assert bare.ok("repo", "list", "--json").json == []


def test_a_store_is_cut_into_chunks_of_the_size_that_it_was_made_with(bare: Program) -> None:
    assert bare.ok("init", "--chunk-size", "8 KiB", "--json").json["chunk_size"] == 8192
    bare.ok("repo", "create", "r")
    bare.put("r/main/large", random.Random(0).randbytes(200_000))
    assert 15 <= bare.ok("stat", "r/main/large", "--json").json["chunks"] <= 40


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("1KiB", "chunks of 1024 bytes: 4096 to 4194304 on average can be"),
        ("8MiB", "chunks of 8388608 bytes: 4096 to 4194304 on average can be"),
        ("apple", "'apple' is no size: say bytes, or KiB, MiB, GiB, TiB"),
    ],
)
def test_a_size_that_chunks_cannot_have_is_refused(bare: Program, size: str, said: str) -> None:
    done = bare("init", "--chunk-size", size)
    assert (done.code, done.error) == (2, said)
    assert not bare.store.exists()


def test_a_store_is_not_made_twice(bare: Program) -> None:
    assert bare.ok("init").lines[0] == f"made the store file://{bare.store}"
    done = bare("init")
    assert (done.code, done.error) == (1, f"file://{bare.store} is a vfsd store already")


def test_the_store_may_be_named_before_or_behind_the_command(bare: Program, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    bare.ok("--store", other, "init")
    bare.ok("repo", "create", "there", "--store", other)
    assert bare.ok("ls", "--store", other).lines == ["there/"]
    assert bare.ok("--store", str(tmp_path / "nowhere"), "ls", "--store", other).lines == ["there/"]


@pytest.mark.parametrize(
    ("store", "code", "said"),
    [
        ("FOLDER/nothing", 1, "file://FOLDER/nothing is not a vfsd store: `vfsd init` makes it one"),
        ("FOLDER", 1, "file://FOLDER is not a vfsd store: `vfsd init` makes it one"),
        ("FOLDER/config.toml", 2, "FOLDER/config.toml is not a directory, so no store can be in it"),
        ("", 2, "the store's URL is empty"),
        ("file://relative", 2, "a file URL has an absolute path"),
        ("ftp://host/x", 2, "ftp:// is not known"),
        ("s3://", 2, "cannot be the name of a bucket"),
    ],
)
def test_what_is_no_store_is_refused(bare: Program, store: str, code: int, said: str) -> None:
    done = bare("--store", store.replace("FOLDER", str(bare.folder)), "repo", "list")
    assert done.code == code
    assert said.replace("FOLDER", str(bare.folder)) in done.error
    assert not (bare.folder / "state").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "cannot be read"), ('{"vfsd": 9, "id": "x", "created": 1}', "has format 9, this vfsd knows format 1")],
)
def test_a_store_that_cannot_be_read_says_so(bare: Program, content: str, said: str) -> None:
    bare.file("store/format", content)
    assert said in bare("ls").error


# The index


def test_a_node_without_its_index_finds_everything_again(vfsd: Program) -> None:
    commit = vfsd.put("texts/main/a", "a")
    shutil.rmtree(vfsd.folder / "state")
    assert vfsd.ok("log", "texts/main", "--json").json[0]["id"] == commit
    assert vfsd.ok("cat", "texts/main/a").out == b"a"


def test_a_rebuilt_index_says_what_it_read(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    vfsd.put("texts/main/a", "b")
    facts = vfsd.ok("index", "rebuild", "--json").json
    assert (facts["path"], facts["aside"]) == (str(index_file(vfsd)), None)
    assert (facts["commits"], facts["refs"], facts["problems"]) == (2, 1, [])
    assert vfsd.ok("cat", "texts/main@~1/a").out == b"a"


def test_an_index_that_is_no_index_is_named_and_then_replaced(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    path = index_file(vfsd)
    path.write_bytes(b"this is no database, but it is long enough to be taken for one" * 100)
    done = vfsd("log", "texts/main")
    assert done.code == 1
    assert done.error.startswith(str(path)) and done.error.endswith("run `vfsd index rebuild`")
    facts = vfsd.ok("index", "rebuild", "--json").json
    assert Path(facts["aside"]).read_bytes().startswith(b"this is no database")
    assert vfsd.ok("cat", "texts/main/a").out == b"a"


def test_an_index_of_a_newer_vfsd_is_left_alone_until_it_is_rebuilt(vfsd: Program) -> None:
    vfsd.ok("ls")
    db = sqlite3.connect(index_file(vfsd))
    db.execute("PRAGMA user_version = 999")
    db.close()
    assert "was written by a newer vfsd" in vfsd("ls").error
    assert vfsd.ok("index", "rebuild", "--json").json["aside"]
    assert vfsd.ok("ls").lines == ["texts/"]


def test_damage_in_the_store_is_named_by_a_rebuild(vfsd: Program) -> None:
    commit = vfsd.put("texts/main/a", "a")
    vfsd.put("texts/main/a", "b")
    (vfsd.store / "commits" / commit).write_bytes(b"rot")
    done = vfsd("index", "rebuild")
    assert done.code == 1
    assert any(line.startswith(f"damaged: commits/{commit}") for line in done.lines)
    assert done.err.startswith("vfsd: ") and done.err.count("\n") == 1
    assert vfsd.ok("cat", "texts/main/a").out == b"b"


# S3


def test_everything_works_in_a_bucket(bare: Program, s3_url: str, tmp_path: Path) -> None:
    program = Program(tmp_path)  # once more: now the server's address and credentials are in the environment
    program.environ["VFSD_STORE"] = s3_url
    assert program.spawn("init", "--json").json["shared"] is True
    assert program.spawn("repo", "create", "texts").code == 0
    assert program.spawn("put", "-", "texts/main/a", stdin=b"in a bucket").code == 0
    shutil.rmtree(program.folder / "state")
    assert program.spawn("cat", "texts/main/a").out == b"in a bucket"
    assert len(program.spawn("log", "texts/main", "--json").json) == 1
    assert program.spawn("index", "rebuild", "--json").json["commits"] == 1


def test_a_bucket_that_is_not_there_is_named(s3_url: str, tmp_path: Path) -> None:
    program = Program(tmp_path)
    for command in ("init", "ls"):
        done = program.spawn("--store", "s3://no-such-bucket/x", command)
        assert done.code == 1
        assert "bucket 'no-such-bucket' is not there" in done.error


@pytest.mark.parametrize(
    ("key", "secret"), [("vfsd-access-key", "wrong"), ("nobody", "vfsd-secret-key")], ids=["secret", "key"]
)
def test_wrong_credentials_are_told_from_everything_else(s3_url: str, tmp_path: Path, key: str, secret: str) -> None:
    program = Program(tmp_path)
    done = program.spawn("--store", s3_url, "ls", AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)
    assert done.code == 1
    assert "accepts no credentials from here" in done.error
    assert secret not in done.err


def test_a_server_that_is_not_there_is_named(tmp_path: Path, s3_credentials: None) -> None:
    program = Program(tmp_path)
    endpoint = f"http://127.0.0.1:{servers.free_ports(1)[0]}"
    done = program.spawn("--store", "s3://some-bucket", "ls", VFSD_S3_ENDPOINT=endpoint)
    assert done.code == 1
    assert f"{endpoint} cannot be reached" in done.error


def test_on_a_store_that_keeps_no_conditions_the_one_node_loses_nothing(
    s3_credentials: None, moto: S3Server, bare: Program
) -> None:
    def careless(request: Request, ask: Callable[[], Answer]) -> Answer:
        for condition in ("if-match", "if-none-match"):
            request.headers.pop(condition, None)
        return ask()

    with gateway_to(moto) as gateway:
        gateway.meddle = careless
        bare.environ |= {"VFSD_STORE": f"s3://{BUCKET}/careless", "VFSD_S3_ENDPOINT": gateway.endpoint}
        assert bare.ok("init", "--json").json["shared"] is False
        bare.ok("repo", "create", "texts")
        assert "exists already" in bare("repo", "create", "texts").error
        files = [bare.file(f"f{number}", f"content {number}") for number in range(3)]
        running = [
            subprocess.Popen(bare.command("put", path, "texts/main/"), env=bare.environ, stdout=subprocess.DEVNULL)
            for path in files
        ]
        assert [process.wait(300) for process in running] == [0] * len(files)
        assert bare.ok("ls", "texts/main").lines == ["f0", "f1", "f2"]
        assert "exists already" in bare("branch", "create", "texts/main").error
        assert len(bare.ok("log", "texts/main").lines) == 3
