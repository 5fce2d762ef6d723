"""A daemon that has no descriptor left goes on when there are some again."""

from __future__ import annotations

import itertools
import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack

from tests.mount.conftest import Mounted
from tests.mount.test_namespace import wait_for

MOST = 256


def test_commands_are_answered_again_once_there_are_descriptors(node: Mounted) -> None:
    node.run("mount", node.path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST)))
    (node.path / "data").mkdir()
    path = os.fsdecode(os.getxattr(node.path, b"user.vfsd.control"))
    folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    descriptors = f"/proc/{node.pid}/fd"
    with ExitStack() as idle:
        idle.callback(os.close, folder)
        calls = itertools.count()

        def is_full() -> bool:
            if len(os.listdir(descriptors)) == MOST:
                return True
            if next(calls) < MOST:  # more are not needed, however late the daemon takes them
                connection = idle.enter_context(socket.socket(socket.AF_UNIX))
                connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
            return False

        wait_for(is_full)
        with subprocess.Popen(
            [sys.executable, "-m", "vfsd", "--json", "status"], env=node.environ, stdout=subprocess.PIPE
        ) as asking:
            wait_for(lambda: "no descriptor is left" in node.log())
            assert asking.poll() is None
            idle.close()
            assert asking.wait(120) == 0
    (node.path / "data/main/a").write_text("x")
    node.run("commit", "data/main")
    assert node.log().count("no descriptor is left") == 1
    assert "Traceback" not in node.log()
