"""Two real mounts over one store: the node that has the pipelines is killed in the middle of a job, and the other one
goes on with it, running nothing again that the store was told of. Takes a quarter of a minute each."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import QUIET_S, Mounted
from tests.mount.test_namespace import wait_for

pytestmark = pytest.mark.slow
LEASE_S = 3.0
SHARED_S = 30.0  # for the store to be told of results
MORE_S = 15.0  # beyond the lease, on a loaded machine
COMMAND = """exec 3<>/dev/tcp/127.0.0.1/$PORT
echo "${data##*/}" >&3
read answer <&3
cat "$data" >"/pfs/out/${data##*/}"
"""
SPOUT = """while true; do
for n in 1 2 3; do id=$(cat /proc/sys/kernel/random/uuid); echo $id >/pfs/out/$id; done
sleep 1
done"""


class Desk:
    """Where datums say that they run, and wait to be let go on."""

    def __init__(self) -> None:
        self.began: Counter[str] = Counter()
        self.held: set[str] = set()  # names that are not let go on when they come
        self._waiting: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self._listener.accept()
            except OSError:
                return
            name = visitor.makefile().readline().strip()
            if name in self.held:
                self._waiting.append(visitor)
            else:
                visitor.sendall(b"go\n")
                visitor.close()
            self.began[name] += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for visitor in self._waiting:
            visitor.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


@pytest.fixture(params=["local", "s3"])
def nodes(request: pytest.FixtureRequest) -> Iterator[tuple[Mounted, Mounted]]:
    """Two nodes with state of their own over one store, both mounted."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    with tempfile.TemporaryDirectory(prefix="vfsd-takeover-") as folder:
        top = Path(folder)
        store = f"file://{top}/store" if request.param == "local" else request.getfixturevalue("s3_url")
        pair = Mounted(top / "one", store, quiet_s=QUIET_S), Mounted(top / "two", store, quiet_s=QUIET_S)
        pair[0].run("init")
        try:
            for node in pair:
                with (node.folder / "config.toml").open("a") as config:
                    config.write(f"lease_s = {LEASE_S}\n")
                node.mount()
            yield pair
        finally:
            for node in pair:
                node.close()


def create(node: Mounted, name: str, spec: dict[str, object]) -> None:
    path = node.folder / f"{name}.json"
    path.write_text(json.dumps({"pipeline": {"name": name}, **spec}))
    node.run("pipeline", "create", "-f", path)


def test_a_job_of_a_killed_node_goes_on_at_the_other_and_what_is_done_is_not_done_again(
    nodes: tuple[Mounted, Mounted], desk: Desk
) -> None:
    one, two = nodes
    desk.held = {"last"}
    (one.path / "data").mkdir()
    create(one, "copy", {
        "input": {"pfs": {"repo": "data", "glob": "/*"}}, "parallelism_spec": {"constant": 8},
        "transform": {"cmd": ["bash", "-ec", COMMAND], "env": {"PORT": str(desk.port)}},
    })  # fmt: skip
    done = [f"file-{number}" for number in range(5)]
    for name in (*done, "last"):
        (one.path / "data/main" / name).write_text(name)
    one.run("commit", "data/main")
    wait_for(lambda: len(desk.began) == 6, SHARED_S)
    holder, other = (one, two) if one.facts("status")["jobs"] else (two, one)
    wait_for(lambda: other.facts("job", "list", "copy")[0]["datums"]["success"] == 5, SHARED_S)
    (job,) = other.facts("job", "list", "copy")
    desk.held = set()
    began = time.monotonic()
    kill(holder)
    other.run("job", "wait", job["id"])
    took = time.monotonic() - began
    assert dict(desk.began) == {**dict.fromkeys(done, 1), "last": 2}
    (ended,) = other.facts("job", "list", "copy")
    assert (ended["id"], ended["state"], ended["datums"]["success"]) == (job["id"], "success", 6)
    assert sorted(other.run("ls", "copy/main").stdout.split()) == sorted([*done, "last"])
    assert took < LEASE_S + MORE_S
    print(f"taken over and done {took:.1f} s after the kill")


def test_a_spout_of_a_killed_node_goes_on_at_the_other_and_nothing_that_it_closed_is_lost(
    nodes: tuple[Mounted, Mounted]
) -> None:
    one, two = nodes
    create(one, "source", {"spout": {}, "transform": {"cmd": ["sh", "-ec", SPOUT]}})
    wait_for(lambda: one.facts("status")["jobs"] or two.facts("status")["jobs"], SHARED_S)
    holder, other = (one, two) if one.facts("status")["jobs"] else (two, one)
    wait_for(lambda: len(os.listdir(holder.path / "source/main")) > 8, SHARED_S)
    closed = set(os.listdir(holder.path / "source/main"))
    kill(holder)
    wait_for(lambda: other.facts("status")["jobs"], LEASE_S + MORE_S)
    there = len(os.listdir(other.path / "source/main"))
    wait_for(lambda: len(os.listdir(other.path / "source/main")) > there + 3, MORE_S)
    holder.mount()  # what it had acknowledged and not committed comes with it
    other.run("pipeline", "stop", "source")
    wait_for(lambda: closed <= set(os.listdir(other.path / "source/main")), MORE_S)
    wait_for(lambda: not other.facts("status")["jobs"], MORE_S)
    for name in os.listdir(other.path / "source/main"):
        assert (other.path / "source/main" / name).read_text() == f"{name}\n"


def kill(node: Mounted) -> None:
    """kill -9 of the daemon, as if the machine were gone: its mount is taken away."""
    assert node.pid > 1
    node.kill()
    os.system(f"fusermount3 -uz {node.path}")
