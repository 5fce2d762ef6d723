"""Starts processes that are to die with this one.

Such a process dies with the *thread* that started it (prctl(2), PR_SET_PDEATHSIG), and the threads of trio come and
go. The one here stays.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import trio

_SPAWNER = ThreadPoolExecutor(1, "vfsd-spawn")


async def spawn(
    argv: Sequence[bytes], *, env: Mapping[bytes, bytes], cwd: bytes, stdin: int, stdout: int, stderr: int
) -> subprocess.Popen[bytes]:
    """Fork and exec, which wait, in a thread; the process leads a session. Not to be cancelled half-way. OSError."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )

    done = trio.Event()
    token = trio.lowlevel.current_trio_token()
    future = _SPAWNER.submit(start)
    future.add_done_callback(lambda _: token.run_sync_soon(done.set))
    with trio.CancelScope(shield=True):
        await done.wait()
    return future.result()
