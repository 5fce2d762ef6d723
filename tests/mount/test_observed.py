"""What the mount sees of processes: which files the job had read that wrote a commit, without a word from anybody."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for


@pytest.fixture
def lab(mounted: Mounted) -> Mounted:
    """A mounted node with files f0 … f9 in `data`, committed, and an empty repo `models`."""
    for number in range(10):
        (mounted.path / f"data/main/f{number}").write_text(str(number))
    (mounted.path / "data/main/d").mkdir()
    (mounted.path / "data/main/d/deep").write_text("deep")
    mounted.run("commit", "data/main")
    (mounted.path / "models").mkdir()
    return mounted


def job(lab: Mounted, text: str, *words: str, program: str = sys.executable, name: str = "train.py") -> None:
    """Run a script as a job of its own, in the mountpoint."""
    script = lab.folder / name
    script.write_text(text)
    subprocess.run(
        [program, str(script), *words], cwd=lab.path, env=lab.environ, check=True, start_new_session=True, timeout=60
    )


def read_for(lab: Mounted, spec: str) -> set[str]:
    """What a file was made from, as `repo/branch/path`, one step away."""
    found = lab.facts("lineage", spec, "--depth", "1")["upstream"]
    return {f"{one['repo']}/{one['branch']}/{one['path']}" for one in found}


def command_of(lab: Mounted, spec: str) -> str:
    (by,) = {one["by"] for one in lab.facts("lineage", spec, "--depth", "1")["upstream"]}
    assert isinstance(by, str)
    return by


def test_a_commit_says_what_the_script_that_wrote_it_had_read(lab: Mounted) -> None:
    snapshot = lab.facts("show", "data/main")["id"]
    (lab.path / "data/main/f0").write_text("another")
    lab.run("commit", "data/main")
    head = lab.facts("show", "data/main")["id"]
    job(lab, f"""
open("data/main@{snapshot}/f0").read()
open("data/main/f1").read()
open("data/main/d/deep").read()
with open("models/main/.tmp", "w") as file: file.write("weights")
import os; os.rename("models/main/.tmp", "models/main/model")
""", "--password=secret")
    lab.run("commit", "models/main")
    shown = lab.facts("show", "models/main")
    assert {(one["repo"], one["commit"], one["kind"]) for one in shown["provenance"]} == {
        ("data", snapshot, "observed"), ("data", head, "observed"),
    }  # fmt: skip
    assert shown["writers"] == [
        {"command": f"{Path(sys.executable).name} train.py", "job": f"{Path(sys.executable).name} train.py",
         "complete": True},
    ]  # fmt: skip
    found = lab.facts("lineage", "models/main/model")["upstream"]
    assert {(one["commit"], one["path"]) for one in found} == {(snapshot, "f0"), (head, "f1"), (head, "d/deep")}
    down = lab.facts("lineage", "data/main/d/deep", "--down")["downstream"]
    assert [(one["repo"], one["path"]) for one in down] == [("models", "model")]
    assert lab.facts("lineage", "data/main/f5", "--down")["downstream"] == []
    assert "secret" not in json.dumps(shown) + json.dumps(found)


def test_what_workers_and_threads_read_counts_for_the_script_that_started_them(lab: Mounted) -> None:
    job(lab, """
import multiprocessing, threading
def read(name): return open(f"data/main/{name}").read()
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            pool.map(read, {"fork": ["f0", "f1"], "spawn": ["f2", "f3"]}[method])
    thread = threading.Thread(target=read, args=["f4"]); thread.start(); thread.join()
    open("models/main/model", "w").write("weights")
""")
    lab.run("commit", "models/main")
    assert read_for(lab, "models/main/model") == {f"data/main/f{number}" for number in range(5)}


def test_the_commands_of_a_shell_script_are_one_job_and_the_one_that_wrote_is_named(lab: Mounted) -> None:
    job(lab, """
cat data/main/f0 | tr 0 x > models/main/out
timeout 10 cat data/main/f1 >/dev/null
( sort data/main/f2 ) | head -1 >> models/main/out
""", program="/bin/bash", name="run.sh")  # fmt: skip
    lab.run("commit", "models/main")
    assert read_for(lab, "models/main/out") == {f"data/main/f{number}" for number in range(3)}
    writers = lab.facts("show", "models/main")["writers"]
    assert {(one["command"], one["job"]) for one in writers} == {("tr", "bash run.sh"), ("head", "bash run.sh")}


def test_what_a_script_that_has_ended_had_read_counts_for_what_it_left_running(lab: Mounted) -> None:
    job(lab, f"""
cat data/main/f0 > /dev/null
( cd {lab.folder}; while [ ! -e go ]; do sleep 0.05; done; echo x > mnt/models/main/out; touch done ) &
""", program="/bin/sh", name="run.sh")  # fmt: skip
    (lab.folder / "go").touch()
    wait_for((lab.folder / "done").exists)
    lab.run("commit", "models/main")
    assert read_for(lab, "models/main/out") == {"data/main/f0"}


def test_each_line_typed_into_a_shell_is_a_job_and_its_pipeline_is_one(lab: Mounted) -> None:
    lines = [
        "cat data/main/f0 > /dev/null",
        "cat data/main/f1 | tr 1 x > models/main/one",
        "(cat data/main/f2; cat data/main/f3) | cat > models/main/two",
        "read line < data/main/f4; echo $line > models/main/three",
        f"touch {lab.folder}/done",
    ]
    child, terminal = pty.fork()
    if not child:
        os.chdir(lab.path)
        os.execvpe("bash", ["bash", "--norc", "-i"], {**os.environ, "PS1": "$ "})
    try:
        os.write(terminal, "\n".join([*lines, ""]).encode())
        wait_for((lab.folder / "done").exists)
        os.write(terminal, b"exit\n")
        while True:
            try:
                if not os.read(terminal, 1000):
                    break
            except OSError:
                break
    finally:
        os.waitpid(child, 0)
        os.close(terminal)
    lab.run("commit", "models/main")
    assert read_for(lab, "models/main/one") == {"data/main/f1"}
    assert read_for(lab, "models/main/two") == {"data/main/f2", "data/main/f3"}
    assert read_for(lab, "models/main/three") == set()  # a shell that lives all day collects nothing itself


def test_two_jobs_in_one_commit_are_kept_apart(lab: Mounted) -> None:
    lab.run("commit", "start", "models/main")
    for number in (0, 1):
        job(lab, f'open("models/main/m{number}", "w").write(open("data/main/f{number}").read())')
    lab.run("commit", "finish", "models/main")
    for number in (0, 1):
        assert read_for(lab, f"models/main/m{number}") == {f"data/main/f{number}"}


def test_a_job_that_goes_on_is_known_by_all_that_it_has_read(lab: Mounted) -> None:
    job(lab, f"""
import subprocess
def vfsd(*words): subprocess.run([{sys.executable!r}, "-m", "vfsd", *words], check=True)
open("data/main/f0").read()
open("models/main/first", "w").write("1"); vfsd("commit", "models/main")
open("data/main/f1").read()
open("models/main/second", "w").write("2"); vfsd("commit", "models/main")
""")
    assert read_for(lab, "models/main/first") == {"data/main/f0"}
    assert read_for(lab, "models/main/second") == {"data/main/f0", "data/main/f1"}


def test_what_was_read_before_it_was_committed_is_marked_and_leads_on(lab: Mounted) -> None:
    lab.run("commit", "start", "data/main")
    job(lab, 'open("data/main/made", "w").write(open("data/main/f0").read())', name="make.py")
    job(lab, 'open("models/main/model", "w").write(open("data/main/made").read())')
    lab.run("commit", "models/main")
    lab.run("commit", "finish", "data/main")
    found = lab.facts("lineage", "models/main/model", "--depth", "1")["upstream"]
    assert {(one["path"], one["kind"]) for one in found} == {("made", "uncommitted"), ("f0", "observed")}
    assert "and uncommitted changes" in lab.run("lineage", "models/main/model").stdout
    down = lab.facts("lineage", "data/main/made", "--down")["downstream"]
    assert [one["path"] for one in down] == ["model"]


def test_a_job_that_only_changes_a_file_again_and_again_is_not_its_own_source(lab: Mounted) -> None:
    job(lab, """
for number in range(3):
    with open("data/main/f0", "r+") as file: file.read(); file.seek(0); file.write("again")
open("data/main/f0").read()
""")
    lab.run("commit", "data/main")
    shown = lab.facts("show", "data/main")
    assert (shown["provenance"], shown["writers"]) == ([], [])


def test_what_a_closed_file_was_made_from_survives_a_kill(lab: Mounted) -> None:
    lab.run("commit", "start", "models/main")
    job(lab, """
open("data/main/f0").read()
open("models/main/one", "w").write("1")
open("data/main/f1").read()
open("models/main/two", "w").write("2")
""")
    job(lab, 'open("models/main/three", "w").write(open("data/main/f2").read())', name="other.py")
    lab.kill()
    lab.mount()
    lab.run("commit", "finish", "models/main")
    assert read_for(lab, "models/main/two") == {"data/main/f0", "data/main/f1"}
    assert read_for(lab, "models/main/three") == {"data/main/f2"}
    assert command_of(lab, "models/main/three").endswith("other.py")


def test_a_file_that_a_commit_left_out_keeps_its_lineage_through_a_kill(lab: Mounted) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", """
import sys
open("data/main/f0").read()
file = open("models/main/open", "w"); file.write("closed"); file.close()
file = open("models/main/open", "a"); file.write("more"); file.flush()
open("models/main/other", "w").write("x")
print("ready", flush=True); sys.stdin.read()
"""], cwd=lab.path, start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        lab.run("commit", "models/main")
        lab.kill()
        process.communicate(b"")
    lab.mount()
    lab.run("commit", "models/main")
    for name in ("open", "other"):
        assert read_for(lab, f"models/main/{name}") == {"data/main/f0"}


def test_with_the_setting_off_nobody_is_looked_at(lab: Mounted) -> None:
    lab.umount()
    config = Path(lab.environ["VFSD_CONFIG"])
    config.write_text(config.read_text() + "observe = false\n")
    lab.mount()
    job(lab, 'open("models/main/model", "w").write(open("data/main/f0").read())')
    lab.run("commit", "models/main")
    shown = lab.facts("show", "models/main")
    assert (shown["provenance"], shown["writers"]) == ([], [])


def test_who_read_too_much_to_be_named_is_known_by_directories(lab: Mounted) -> None:
    many = lab.folder / "many"
    for folder in ("a", "b"):
        (many / folder).mkdir(parents=True)
    for number in range(10_500):
        (many / "a" / f"{number}").touch()
    (many / "b" / "one").touch()
    lab.run("put", many, "data/main/many")
    wait_for((lab.path / "data/main/many/b/one").exists)
    job(lab, """
import os
for folder in ("a", "b"):
    for name in os.listdir(f"data/main/many/{folder}"): open(f"data/main/many/{folder}/{name}").close()
open("models/main/model", "w").write("weights")
""")
    lab.run("commit", "models/main")
    assert read_for(lab, "models/main/model") == {"data/main/many/a", "data/main/many/b/one"}
    down: Any = lab.facts("lineage", "data/main/many/a/17", "--down")["downstream"]
    assert [one["path"] for one in down] == ["model"]


def test_commands_that_go_past_the_mount_are_part_of_their_job(lab: Mounted) -> None:
    vfsd = f"{sys.executable} -m vfsd"
    job(lab, f"""set -e
{vfsd} get data/main/f1 {lab.folder}/local
cat data/main/f2 >>{lab.folder}/local
{vfsd} cat data/main/d/deep | sort >>{lab.folder}/local
{vfsd} put {lab.folder}/local models/main/one
""", program="sh", name="run.sh")  # fmt: skip
    assert read_for(lab, "models/main/one") == {"data/main/f1", "data/main/f2", "data/main/d/deep"}
    job(lab, f"{vfsd} get data/main {lab.folder}/all && {vfsd} put {lab.folder}/all models/main/all",
        program="sh", name="all.sh")  # fmt: skip
    assert read_for(lab, "models/main/all/d/deep") == {"data/main/"}
    lab.run("put", lab.folder / "local", "models/main/two")  # another job, which has read nothing
    assert read_for(lab, "models/main/two") == set()
