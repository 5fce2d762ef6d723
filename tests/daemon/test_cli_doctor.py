"""`vfsd doctor`: what this machine and the store need."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.program import Done, Program
from tests.servers import BUCKET, S3Server, free_ports

LOCAL = ["state", "cache", "fuse", "fusermount3", "sandbox"]
STORE = ["store", "rights", "conditional writes", "clock", "speed"]


def checks(done: Done) -> dict[str, Any]:
    return {finding["check"]: finding for finding in done.json}


def tree(folder: Path) -> list[str]:
    """All that is in a store but for the locks, which stay."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts
    )


def test_a_good_store_and_machine_get_a_line_each_and_nothing_changes(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    before = tree(vfsd.store)
    done = vfsd.ok("doctor")
    assert tree(vfsd.store) == before
    assert [line[len("FAIL  ") :].partition(":")[0] for line in done.lines] == STORE + LOCAL
    assert all(line.startswith(("ok    ", "warn  ")) for line in done.lines)
    assert done.lines[0] == f"ok    store: file://{vfsd.store} answers, and may be shared between nodes"
    assert not (vfsd.folder / "cache").exists()


def test_a_bucket_is_looked_at_more_closely(moto: S3Server, s3_credentials: None, tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.environ |= {"VFSD_STORE": f"s3://{BUCKET}/{tmp_path.name}", "VFSD_S3_ENDPOINT": moto.endpoint}
    before = checks(program.spawn("doctor", "--json"))
    assert (before["store"]["state"], before["store"]["remedy"]) == ("warn", "vfsd init makes it one")
    assert before["conditional writes"]["state"] == "ok"
    assert program.spawn("init").code == 0
    done = program.spawn("doctor", "--json")
    assert done.code == 0
    assert list(checks(done)) == [*STORE[:2], "uploads", *STORE[2:], "checksums", *LOCAL]
    assert set(done.json[0]) == {"check", "state", "text", "remedy"}
    assert program.spawn("ls").code == 0


def test_a_directory_that_is_no_store_stays_as_it_is(bare: Program) -> None:
    done = bare.ok("doctor")
    assert done.lines[0] == f"warn  store: file://{bare.store} is not a vfsd store: vfsd init makes it one"
    assert [line.split()[1] for line in done.lines[1:]] == [f"{name}:" for name in LOCAL]
    assert not bare.store.exists()


def test_a_store_that_cannot_be_reached_fails_and_the_rest_is_looked_at(tmp_path: Path, s3_credentials: None) -> None:
    program = Program(tmp_path)
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    done = program.spawn("--store", "s3://some-bucket", "doctor", VFSD_S3_ENDPOINT=endpoint)
    assert done.code == 1
    assert done.err == "vfsd: this does not work: store\n"
    assert done.lines[0].startswith(f"FAIL  store: {endpoint} cannot be reached")
    assert len(done.lines) == 1 + len(LOCAL)


def test_credentials_without_rights_fail(s3_url: str, tmp_path: Path) -> None:
    done = Program(tmp_path).spawn("--store", s3_url, "doctor", "--json", AWS_SECRET_ACCESS_KEY="wrong")
    assert done.code == 1
    assert (checks(done)["store"]["state"], "rights" in checks(done)) == ("fail", False)
    assert "set AWS_ACCESS_KEY_ID" in checks(done)["store"]["text"]


def test_a_wrong_setting_is_an_error_of_usage(bare: Program) -> None:
    bare.file("config.toml", 's3_addressing = "dns"')
    done = bare("doctor")
    assert done.code == 2
    assert done.error.startswith(f"{bare.folder}/config.toml: s3_addressing: 'dns' is not known")


def test_a_state_directory_that_cannot_be_is_named(bare: Program) -> None:
    bare.file("file")
    bare.environ["VFSD_STATE_DIR"] = f"{bare.folder}/file/state"
    done = bare("doctor", "--json")
    assert done.code == 1
    state = checks(done)["state"]
    assert (state["state"], "set VFSD_STATE_DIR" in state["remedy"]) == ("fail", True)
    assert state["text"].startswith(f"{bare.folder}/file/state: no file can be made in {bare.folder}/file")


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="/dev/shm is no filesystem of its own here")
def test_state_in_memory_is_warned_of_and_a_cache_there_is_not(bare: Program) -> None:
    for variable in ("VFSD_STATE_DIR", "VFSD_CACHE_DIR"):
        bare.environ[variable] = "/dev/shm/vfsd-tests-nothing"
    found = checks(bare.ok("doctor", "--json"))
    assert (found["state"]["state"], found["cache"]["state"]) == ("warn", "ok")
    assert "(tmpfs), and lost at the next start" in found["state"]["text"]
    assert not os.path.exists("/dev/shm/vfsd-tests-nothing")


def test_programs_that_are_missing_are_named_with_their_packages(bare: Program) -> None:
    bare.environ["PATH"] = str(bare.folder)
    done = bare.spawn("doctor", "--json")
    found = checks(done)
    assert done.code == 1
    assert (found["fusermount3"]["state"], found["fusermount3"]["remedy"]) == ("fail", "install the package fuse3")
    assert found["sandbox"]["state"] == "warn" and "package bubblewrap" in found["sandbox"]["remedy"]
    assert json.loads(done.out)
