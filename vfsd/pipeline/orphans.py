"""Ends what a killed bubblewrap leaves: a child that waits for its word before it does anything, and would for ever.

bubblewrap ties that child to itself only later. It is known by its arguments: the directory of a job's view is in the
scratch directory of one node.
"""

from __future__ import annotations

import itertools
import os
import signal


def end_orphans(views: bytes) -> None:
    """Kill each bubblewrap that was started to make a view whose path begins with `views`. Blocks. For when none of
    them is at work."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            watched = os.pidfd_open(int(name))
        except ProcessLookupError:
            continue
        try:
            if _makes(f"/proc/{name}/cmdline", views):
                signal.pidfd_send_signal(watched, signal.SIGKILL)
        except (ProcessLookupError, FileNotFoundError):
            pass
        finally:
            os.close(watched)


def _makes(cmdline: str, views: bytes) -> bool:
    with open(cmdline, "rb") as file:
        program, *words = file.read().split(b"\0")
    pairs = itertools.pairwise(words)
    return os.path.basename(program) == b"bwrap" and any(
        option == b"--tmpfs" and path.startswith(views) and path.endswith(b".view") for option, path in pairs
    )
