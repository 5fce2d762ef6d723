"""Spouts: a command writes into its output branch for as long as it is there, and what it has closed is committed."""

from __future__ import annotations

import errno
import json
import os
import socket
from typing import Any

import pytest

from tests.mount.conftest import Mounted, commits_by_itself
from tests.mount.test_namespace import wait_for
from tests.pipeline.test_lasting import PYTHON
from tests.servers import free_ports

pytestmark = commits_by_itself
BARE = """cd "$VFSD_OUT"
for n in 1 2 3; do echo $n >$n; done
mkdir d; echo 1 >d/a; echo 2 >>d/a; echo 3 >b; mv b d/c; rm d/c
echo ready; exec sleep 1000"""


def spout(mounted: Mounted, cmd: str, name: str = "source", **more: Any) -> None:
    spec = {"pipeline": {"name": name}, "spout": {}, "transform": {"cmd": ["sh", "-ec", cmd]}, **more}
    path = mounted.folder / f"{name}.json"
    path.write_text(json.dumps(spec))
    mounted.run("pipeline", "create", "-f", path)


def committed(mounted: Mounted, spec: str) -> str | None:
    done = mounted.run("cat", spec, check=False)
    return done.stdout if done.returncode == 0 else None


def test_what_a_spout_closes_is_committed_and_drives_what_reads_it(mounted: Mounted) -> None:
    spout(mounted, BARE)
    upper = {"pipeline": {"name": "count"}, "input": {"pfs": {"repo": "source", "glob": "/"}},
             "transform": {"cmd": ["sh", "-c", "cat /pfs/source/[0-9] /pfs/source/d/* >/pfs/out/all"]}}  # fmt: skip
    (mounted.folder / "count.json").write_text(json.dumps(upper))
    mounted.run("pipeline", "create", "-f", mounted.folder / "count.json")
    wait_for(lambda: committed(mounted, "count/main/all") == "1\n2\n3\n1\n2\n")
    (job,) = mounted.facts("job", "list", "source")
    assert (job["state"], job["datums"]["total"], job["output"]) == ("running", 1, None)
    commit = mounted.facts("show", "source/main")
    assert (commit["pipeline"], commit["job"], commit["provenance"]) == ("source", job["id"], [])
    assert mounted.facts("pipeline", "inspect", "source")["kind"] == "spout"
    assert "ready\n" in mounted.run("job", "logs", job["id"]).stdout
    with pytest.raises(OSError) as caught:
        (mounted.path / "source/main/mine").write_text("x")
    assert caught.value.errno == errno.EROFS
    done = mounted.run("rm", "source/main/d/a", check=False)
    assert "is the output of pipeline source" in done.stderr
    done = mounted.run("job", "wait", "--pipeline", "source", check=False)
    assert done.stderr == "vfsd: pipeline source is a spout, which goes on until it is stopped\n"
    assert mounted.run("lineage", "source/main/d/a").stdout


def test_a_stopped_spout_keeps_what_was_closed_and_not_what_it_was_writing(mounted: Mounted) -> None:
    script = 'exec 3>"$VFSD_OUT/half"; echo half >&3; echo whole >"$VFSD_OUT/whole"; sleep 1000'
    spout(mounted, script)
    live = mounted.path / "source/main"
    wait_for((live / "whole").exists)
    assert (live / "half").read_text() == "half\n"
    mounted.run("pipeline", "stop", "source")
    wait_for(lambda: mounted.facts("job", "list", "source")[0]["state"] == "success")
    wait_for(lambda: os.listdir(live) == ["whole"])
    assert committed(mounted, "source/main/whole") == "whole\n"
    assert committed(mounted, "source/main/half") is None
    assert mounted.run("commit", "source/main").stderr == "nothing new to commit\n"
    assert mounted.facts("status")["branches"][0]["error"] is None
    assert "not committed yet" not in mounted.log() and "cannot commit" not in mounted.log()
    mounted.run("pipeline", "start", "source")
    wait_for((live / "half").exists)  # it runs again


# Each line that comes is a file, and is acknowledged once that is closed.
LISTENING = """
import os, socket
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    visitor = listener.accept()[0]
    line = visitor.makefile("rb").readline()
    with open(f"{os.environ['VFSD_OUT']}/{line.decode().strip()}", "wb") as file:
        file.write(line)
    print("wrote", line.decode(), end="", flush=True)
    visitor.sendall(b"ok")
    visitor.close()
"""


def say(port: int, line: str) -> None:
    """Return once the spout has acknowledged a line."""

    def acknowledged() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port)) as stream:
                stream.sendall(line.encode())
                return stream.recv(10) == b"ok"
        except OSError:
            return False

    wait_for(acknowledged)


def is_free(port: int) -> bool:
    """Whether nobody listens; nobody is visited to find out."""
    with socket.create_server(("127.0.0.1", port)):
        return True


def log_lines(mounted: Mounted, job: str) -> list[str]:
    """What a job printed, less the line that names its datum."""
    return mounted.run("job", "logs", job).stdout.splitlines(keepends=True)[1:]


def test_what_a_spout_has_closed_and_printed_survives_a_kill_of_the_daemon_and_it_goes_on(mounted: Mounted) -> None:
    inner, outer = free_ports(2)
    transform = {"cmd": [PYTHON, "-IS", "-c", LISTENING], "env": {"PORT": str(inner)}}
    port = {"service": {"internal_port": inner, "external_port": outer}}
    spout(mounted, "", spout=port, transform=transform)
    lines = [f"{number}\n" for number in range(30)]
    for line in lines:
        say(outer, line)
    (job,) = mounted.facts("job", "list", "source")
    assert mounted.facts("pipeline", "inspect", "source")["port"] == f"127.0.0.1:{outer}"
    mounted.kill()
    wait_for(lambda: is_free(inner))  # nothing of the spout is left
    mounted.mount()
    say(outer, "last\n")
    printed = [f"wrote {line}" for line in [*lines, "last\n"]]
    wait_for(lambda: log_lines(mounted, job["id"]) == printed)
    mounted.run("job", "stop", job["id"])
    wait_for(lambda: mounted.facts("job", "list", "source")[0]["state"] == "killed")
    kept = {path.name: path.read_text() for path in (mounted.path / "source/main").iterdir()}
    assert kept == {line.strip(): line for line in [*lines, "last\n"]}
    assert sorted(mounted.run("ls", "source/main").stdout.split()) == sorted(kept)
    (same,) = mounted.facts("job", "list", "source")
    assert (same["id"], same["reason"]) == (job["id"], "stopped by a user")
    assert log_lines(mounted, job["id"]) == printed
