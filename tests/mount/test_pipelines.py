"""Data does the driving: a write in the mount runs the pipelines, and their outputs are in the mount."""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for

UPPER = {"cmd": ["sh"], "stdin": ['tr a-z A-Z <"$data" >"/pfs/out/${data##*/}"']}


def create(mounted: Mounted, name: str, repo: str, glob: str, transform: dict[str, Any], **more: Any) -> None:
    spec = {"pipeline": {"name": name}, "input": {"pfs": {"repo": repo, "glob": glob}}, "transform": transform, **more}
    path = mounted.folder / f"{name}.json"
    path.write_text(json.dumps(spec))
    mounted.run("pipeline", "create", "-f", path)


def write(mounted: Mounted, **files: str) -> str:
    for name, text in files.items():
        (mounted.path / "data/main" / name).write_text(text)
    return mounted.run("commit", "data/main").stdout.strip()


def outputs(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_write_runs_the_pipeline_and_the_one_behind_it(mounted: Mounted) -> None:
    create(mounted, "upper", "data", "/*", UPPER)
    create(mounted, "joined", "upper", "/", {"cmd": ["sh"], "stdin": ["cat /pfs/upper/* >/pfs/out/all"]})
    write(mounted, a="one ", b="two")
    mounted.run("job", "wait", "--pipeline", "joined")
    assert outputs(mounted.path / "upper/main") == {"a": "ONE ", "b": "TWO"}
    assert outputs(mounted.path / "joined/main") == {"all": "ONE TWO"}


def test_only_the_changed_datum_runs_again_and_a_removed_input_takes_its_output(mounted: Mounted) -> None:
    create(mounted, "upper", "data", "/*", UPPER)
    write(mounted, a="one", b="two", c="three")
    mounted.run("job", "wait", "--pipeline", "upper")
    (mounted.path / "data/main/c").unlink()
    write(mounted, b="changed")
    mounted.run("job", "wait", "--pipeline", "upper")
    assert outputs(mounted.path / "upper/main") == {"a": "ONE", "b": "CHANGED"}
    newest = mounted.facts("job", "list", "upper")[0]
    assert (newest["state"], newest["datums"]["success"], newest["datums"]["skipped"]) == ("success", 1, 1)


def test_input_and_output_share_the_global_id_and_lineage_leads_to_the_files(mounted: Mounted) -> None:
    create(mounted, "upper", "data", "/*", UPPER)
    commit = write(mounted, a="one", b="two")
    mounted.run("job", "wait", "--pipeline", "upper")
    gid = mounted.facts("show", "data/main")["global_id"]
    assert mounted.facts("show", "upper/main")["global_id"] == gid
    assert (mounted.path / f"@{gid}/upper/a").read_text() == "ONE"
    assert (mounted.path / f"@{gid}/data/a").read_text() == "one"
    found = mounted.facts("lineage", "upper/main/a")
    assert [step["id"] for step in found["upstream"]] == [f"data/main@{commit}/a"]
    found = mounted.facts("lineage", "data/main/b", "--down")
    assert [step["path"] for step in found["downstream"]] == ["b"]


def test_user_code_sees_its_inputs_read_only_and_nothing_of_the_mount(mounted: Mounted) -> None:
    lines = [
        "touch /pfs/data/new 2>/dev/null && echo wrote >/pfs/out/bad",
        'echo x >>"$data" 2>/dev/null && echo wrote >/pfs/out/bad',
        f"ls {mounted.path} >/pfs/out/mount 2>/dev/null",
        f"ls {mounted.folder}/store >/pfs/out/store 2>/dev/null",
        "ls -R /pfs >/pfs/out/seen",
        "env | sort >/pfs/out/env",
    ]
    create(mounted, "look", "data", "/dir/*", {"cmd": ["sh"], "stdin": [*lines, "true"], "env": {"COLOUR": "green"}})
    (mounted.path / "data/main/dir").mkdir()
    (mounted.path / "data/main/dir/one").write_text("1")
    (mounted.path / "data/main/other").write_text("2")
    commit = mounted.run("commit", "data/main").stdout.strip()
    mounted.run("job", "wait", "--pipeline", "look")
    found = outputs(mounted.path / "look/main")
    assert "bad" not in found
    assert found["mount"] == found["store"] == ""
    assert "one" in found["seen"] and "other" not in found["seen"]
    environ = dict(line.split("=", 1) for line in found["env"].splitlines() if "=" in line)
    assert environ["data"] == "/pfs/data/dir/one"
    assert environ["data_COMMIT"] == commit
    assert environ["COLOUR"] == "green"
    assert {"PACH_JOB_ID", "VFSD_JOB_ID", "PACH_DATUM_ID", "VFSD_DATUM_ID"} <= environ.keys()


def test_commands_have_as_many_descriptors_as_the_daemon_was_started_with(node: Mounted) -> None:
    node.run("mount", node.path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 600)))
    (node.path / "data").mkdir()
    script = ["ulimit -Sn >/pfs/out/soft; ulimit -Hn >/pfs/out/hard"]
    create(node, "limits", "data", "/*", {"cmd": ["sh"], "stdin": script})
    write(node, a="one")
    node.run("job", "wait", "--pipeline", "limits")
    assert outputs(node.path / "limits/main") == {"soft": "300\n", "hard": "600\n"}


def test_a_failing_datum_is_tried_again_then_fails_the_job_and_leaves_the_branch(mounted: Mounted) -> None:
    script = ['echo tried >&2; [ "$(cat "$data")" = good ] && cp "$data" /pfs/out/']
    create(mounted, "picky", "data", "/*", {"cmd": ["sh"], "stdin": script}, datum_tries=2)
    write(mounted, a="good")
    mounted.run("job", "wait", "--pipeline", "picky")
    write(mounted, b="bad")
    assert mounted.run("job", "wait", "--pipeline", "picky", check=False).returncode == 1
    job = mounted.facts("job", "list", "picky")[0]
    assert job["state"] == "failure"
    assert outputs(mounted.path / "picky/main") == {"a": "good"}
    assert mounted.run("job", "logs", job["id"]).stdout.count("tried") >= 1
    (mounted.path / "data/main/b").unlink()
    write(mounted, c="good")
    mounted.run("job", "wait", "--pipeline", "picky")
    assert outputs(mounted.path / "picky/main") == {"a": "good", "c": "good"}


def test_an_output_branch_takes_no_user_writes(mounted: Mounted) -> None:
    create(mounted, "upper", "data", "/*", UPPER)
    write(mounted, a="one")
    mounted.run("job", "wait", "--pipeline", "upper")
    with pytest.raises(OSError) as caught:
        (mounted.path / "upper/main/mine").write_text("x")
    assert caught.value.errno == errno.EROFS
    done = mounted.run("rm", "upper/main/a", check=False)
    assert done.returncode == 1 and "output of pipeline upper" in done.stderr


@pytest.fixture
def gate() -> Iterator[Path]:
    """A fifo that datums see: not below /tmp or /var/tmp, of which each has its own, and where nobody may go too."""
    with tempfile.TemporaryDirectory(dir="/srv" if os.geteuid() == 0 else Path.home()) as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "gate"
        os.mkfifo(path)
        yield path


def writer_of(gate: Path) -> int:
    """A descriptor that writes to the fifo, once somebody reads it: once a datum of the job runs."""
    found: list[int] = []

    def opened() -> bool:
        try:
            found.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
        return bool(found)

    wait_for(opened)
    return found[0]


def test_a_job_that_was_killed_with_the_daemon_is_done_by_the_next_one(mounted: Mounted, gate: Path) -> None:
    create(mounted, "slow", "data", "/*", {"cmd": ["sh"], "stdin": [f'read x <{gate}; cp "$data" /pfs/out/']})
    write(mounted, a="one", b="two")
    descriptor = writer_of(gate)
    mounted.kill()
    os.close(descriptor)
    gate.unlink()
    gate.write_text("open\n")
    mounted.mount()
    mounted.run("job", "wait", "--pipeline", "slow")
    assert outputs(mounted.path / "slow/main") == {"a": "one", "b": "two"}


def test_a_specs_typo_is_named_and_nothing_is_made(mounted: Mounted) -> None:
    path = mounted.folder / "typo.json"
    path.write_text(
        '{"pipeline": {"name": "p"}, "input": {"pfs": {"repo": "data", "glub": "/*"}}, "transform": {"cmd": ["true"]}}'
    )
    done = mounted.run("pipeline", "create", "-f", path, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "typo.json" in done.stderr and "glub" in done.stderr
    assert not (mounted.path / "p").exists()


def test_a_mount_with_running_jobs_can_be_unmounted(mounted: Mounted, gate: Path) -> None:
    create(mounted, "slow", "data", "/*", {"cmd": ["sh"], "stdin": [f'exec <"$data"; read x <{gate}; cat >/pfs/out/a']})
    write(mounted, a="one")
    descriptor = writer_of(gate)
    mounted.umount()
    os.close(descriptor)
    assert not mounted.is_mounted()


def test_no_process_of_a_datum_outlives_a_killed_daemon_and_no_half_output_is_taken(
    mounted: Mounted, gate: Path
) -> None:
    mark = f"98765.{os.getpid()}"
    script = [f"echo half >/pfs/out/x; setsid sleep {mark} & read x <{gate}; echo whole >/pfs/out/x"]
    create(mounted, "slow", "data", "/*", {"cmd": ["sh"], "stdin": script})
    write(mounted, a="one")
    descriptor = writer_of(gate)
    wait_for(lambda: sleepers(mark))
    running = [os.pidfd_open(pid) for pid in sleepers(mark)]
    mounted.kill()
    for pidfd in running:
        assert select.select([pidfd], [], [], 30)[0], "it still runs"
        os.close(pidfd)
    os.close(descriptor)
    gate.unlink()
    gate.write_text("open\n")
    mounted.mount()
    mounted.run("job", "wait", "--pipeline", "slow")
    assert outputs(mounted.path / "slow/main") == {"x": "whole\n"}
    assert sleepers(mark) == []


def sleepers(mark: str) -> list[int]:
    """Processes that sleep for so long."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == b"sleep\0%s\0" % mark.encode():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_joined_crossed_grouped_and_united_branches_follow_what_is_written_to_any_of_them(mounted: Mounted) -> None:
    (mounted.path / "labels").mkdir()
    data, labels = ({"pfs": {"repo": repo, "glob": "/(*)-*", "join_on": "$1", "group_by": "$1"}} for repo in (
        "data", "labels"))  # fmt: skip
    show = "ls /pfs/data /pfs/labels 2>/dev/null | grep -v : | sort | tr '\\n' ' ' >/pfs/out/$PACH_DATUM_ID"
    for kind in ("join", "cross", "group", "union"):
        spec = {
            "pipeline": {"name": f"by-{kind}"}, "input": {kind: [data, labels]},
            "transform": {"cmd": ["sh"], "stdin": [show]},
        }  # fmt: skip
        path = mounted.folder / f"{kind}.json"
        path.write_text(json.dumps(spec))
        mounted.run("pipeline", "create", "-f", path)

    def found() -> dict[str, list[str]]:
        seen = {}
        for kind in ("join", "cross", "group", "union"):
            mounted.run("job", "wait", "--pipeline", f"by-{kind}")
            texts = outputs(mounted.path / f"by-{kind}/main").values()
            seen[kind] = sorted(text.replace("\n", " ").strip() for text in texts)
        return seen

    (mounted.path / "labels/main/1-x").write_text("x")
    mounted.run("commit", "labels/main")
    write(mounted, **{"1-a": "a", "2-b": "b"})
    assert found() == {
        "join": ["1-a 1-x"],
        "cross": ["1-a 1-x", "1-x 2-b"],
        "group": ["1-a 1-x", "2-b"],
        "union": ["1-a", "1-x", "2-b"],
    }
    (mounted.path / "labels/main/1-x").rename(mounted.path / "labels/main/2-y")
    mounted.run("commit", "labels/main")
    assert found() == {
        "join": ["2-b 2-y"],
        "cross": ["1-a 2-y", "2-b 2-y"],
        "group": ["1-a", "2-b 2-y"],
        "union": ["1-a", "2-b", "2-y"],
    }
    sources = mounted.facts("show", "by-join/main")["provenance"]
    assert sorted(source["repo"] for source in sources) == ["data", "labels"]


def test_the_log_of_a_running_datum_is_followed_and_its_job_watched(mounted: Mounted, gate: Path) -> None:
    create(mounted, "slow", "data", "/*", {"cmd": ["sh"], "stdin": [f"echo before; read x <{gate}; echo after"]})
    write(mounted, a="one")
    descriptor = writer_of(gate)
    (job,) = mounted.facts("job", "list", "slow")
    assert (job["state"], job["datums"]["success"]) in {("running", 0), ("starting", 0)}
    words = [sys.executable, "-m", "vfsd", "job"]
    pipe: dict[str, Any] = {"env": mounted.environ, "stdout": subprocess.PIPE}
    with (
        subprocess.Popen([*words, "logs", job["id"], "--follow"], **pipe) as following,
        subprocess.Popen([*words, "list", "--watch", "--json"], **pipe) as watching,
    ):
        try:
            assert following.stdout is not None and watching.stdout is not None
            assert following.stdout.readline().startswith(b"==> datum ")
            assert following.stdout.readline() == b"before\n"
            os.close(descriptor)
            assert following.stdout.read() == b"after\n"
            assert following.wait(60) == 0
            for line in watching.stdout:
                if json.loads(line)["state"] == "success":
                    break
        finally:
            following.kill()
            watching.kill()
