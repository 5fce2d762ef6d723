"""Asking the daemon: one JSON object a line, question and answer, on a Unix socket in its state directory.

Only for what no ref can say: the state of this process, and "commit now". Answers: {"ok": …}, or {"error": text,
"exit": code}. The daemon's end is daemon.control_server.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import msgspec

from vfsd.model.errors import Unavailable, VfsdError

Facts = dict[str, Any]
TIMEOUT_S = 600.0  # a commit may upload much


class Failed(VfsdError):
    """The daemon said no; its line and exit code."""


def socket_path(node_dir: str) -> str:
    """Where the daemon of a state directory listens."""
    return os.path.join(node_dir, "control")


def ask(path: str, question: str, **words: Any) -> Any:
    """Ask the daemon that listens at `path`; None when none does. Failed has its line when it says no."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            connection.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except PermissionError:
            raise Unavailable(f"{path}: the daemon belongs to another user") from None
        finally:
            os.close(folder)
        try:
            connection.sendall(msgspec.json.encode({"ask": question, **words}) + b"\n")
            with connection.makefile("rb") as lines:
                data = lines.readline()
        except OSError as error:
            raise Unavailable(f"the daemon did not answer: {error}") from None
    if not data:
        raise Unavailable("the daemon ended before it answered")
    answer = msgspec.json.decode(data, type=Facts)
    if "error" in answer:
        failed = Failed(answer["error"])
        failed.exit_code = answer.get("exit", 1)
        raise failed
    return answer["ok"]
