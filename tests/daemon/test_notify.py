"""The daemon says when it is ready, also when nobody waits for that any more."""

from __future__ import annotations

import os

from vfsd.daemon.notify import READY_FD, tell_parent


def test_who_waits_gets_one_line() -> None:
    reading, writing = os.pipe()
    environ = {READY_FD: str(writing)}
    tell_parent(environ, "ready")
    assert os.read(reading, 100) == b"ready\n" and os.read(reading, 100) == b""
    assert environ == {}
    os.close(reading)


def test_a_daemon_outlives_who_gave_up_waiting() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    tell_parent({READY_FD: str(writing)}, "ready")
