"""kill -9 of the daemon, and of the spout itself, at random, while a spout writes files that callers wait for.

What it acknowledged is there after each kill, whole: its last acknowledged content, or what was being written when the
kill came. VFSD_KILL_SECONDS: how long; 600 when not set.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time

import pytest

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for
from tests.mount.test_spouts import spout
from tests.pipeline.test_lasting import PYTHON
from tests.servers import free_ports
from tests.slow.test_pipelines_kill import below

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("VFSD_KILL_SECONDS", "600"))
TIMES = 20_000  # that a value stands in its file, so that writing it takes a while
WRITER = f"""
import os, socket
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    visitor = listener.accept()[0]
    name, value = visitor.makefile().readline().split()
    with open(os.environ["VFSD_OUT"] + "/" + name, "w") as file:
        for _ in range(10):
            file.write(value * {TIMES // 10})
            file.flush()
    visitor.sendall(b"ok")
    visitor.close()
"""


class Caller:
    """Has one file after the other written, until stopped. files: name → what it may hold."""

    def __init__(self, port: int) -> None:
        self.files: dict[str, set[str]] = {}
        self.acknowledged = 0
        self._port = port
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            name, value = f"f{random.randrange(20)}", f"{number:08d}"
            self.files.setdefault(name, {""}).add(value)
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=20) as stream:
                    stream.sendall(f"{name} {value}\n".encode())
                    if stream.recv(10) == b"ok":
                        self.files[name] = {value}
                        self.acknowledged += 1
            except OSError:
                time.sleep(0.05)  # it is begun again

    def stop(self) -> None:
        """Once it is at no file any more."""
        self._stopped.set()
        self._thread.join()


def check(node: Mounted, caller: Caller) -> None:
    """Every file is whole, and one that it may be. "" stands for no file."""
    top = node.path / "source/main"
    for name, may_be in caller.files.items():
        path = top / name
        text = path.read_text() if path.exists() else ""
        assert text in {value * TIMES for value in may_be}, f"{name}: {len(text)} bytes, {text[:8]}, none of {may_be}"


def test_what_a_spout_acknowledged_survives_kills_anywhere_and_nothing_is_half_written(mounted: Mounted) -> None:
    inner, outer = free_ports(2)
    transform = {"cmd": [PYTHON, "-IS", "-c", WRITER], "env": {"PORT": str(inner)}}
    port = {"service": {"internal_port": inner, "external_port": outer}}
    spout(mounted, "", spout=port, transform=transform)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}, {SECONDS:g} s")
    chance = random.Random(seed)
    killed = {"daemon": 0, "spout": 0}
    acknowledged = 0
    files: dict[str, set[str]] = {}
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        caller = Caller(outer)
        caller.files = files
        had = caller.acknowledged
        wait_for(lambda: caller.acknowledged > had, 60)  # noqa: B023
        time.sleep(chance.uniform(0, 1))
        if chance.random() < 0.5:
            mounted.kill()
            killed["daemon"] += 1
            mounted.mount()
        else:
            victims = below(mounted.pid)
            os.kill(chance.choice(victims), signal.SIGKILL)
            killed["spout"] += 1
        caller.stop()
        acknowledged += caller.acknowledged
        wait_for(lambda: mounted.facts("status")["jobs"], 60)
        time.sleep(0.2)  # what was closed by the kernel
        check(mounted, caller)
    mounted.run("pipeline", "stop", "source")
    wait_for(lambda: not mounted.facts("status")["jobs"], 60)
    check(mounted, caller)
    mounted.run("commit", "source/main", check=False)
    for name, may_be in files.items():
        text = mounted.run("cat", f"source/main/{name}", check=False).stdout
        assert text in {value * TIMES for value in may_be}, name
    print(f"killed {killed['daemon']} daemons, {killed['spout']} processes of the spout; {acknowledged} acknowledged")
    mounted.run("fsck")
