"""A piece of a benchmark in a process of its own, so that one that hangs can be ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from scripts.benchmarks.peers import Failed, TooLong

T = TypeVar("T")


def in_child(work: Callable[[Path, T], float | None], where: Path, load: T, limit: float) -> float:
    """What it gives, or 0; raises Failed if it fails, TooLong if it takes more than `limit` seconds."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, where, load, theirs))
    child.start()
    theirs.close()
    try:
        if not ours.poll(limit):
            raise TooLong(f"not done within {limit:.0f} s")
        found = ours.recv()
    except EOFError:
        raise Failed("the measuring process died") from None
    finally:
        if child.is_alive() and child.pid:
            child.join(1)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # its session: it may wait for a cp
    if isinstance(found, str):
        raise Failed(found)
    return float(found)


def _child(work: Callable[[Path, T], float | None], where: Path, load: T, answer: Connection) -> None:
    os.setsid()
    try:
        answer.send(work(where, load) or 0.0)
    except Failed as error:
        answer.send(str(error))
    except OSError as error:
        answer.send(f"{error.strerror}: {Path(error.filename or '?').name}")
