"""Tells whoever started the daemon that it is ready: systemd by its socket, `vfsd mount` by a pipe.

Protocol of systemd: sd_notify(3), one datagram of KEY=VALUE lines to $NOTIFY_SOCKET.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

READY_FD = "VFSD_READY_FD"  # descriptor of the pipe to `vfsd mount`


def notify(environ: MutableMapping[str, str], state: str) -> None:
    """Send `state`, such as "READY=1" or "STOPPING=1"; nothing happens when nobody listens."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.sendall(state.encode())
        except OSError:
            return  # the manager has gone: there is nobody to tell


def tell_parent(environ: MutableMapping[str, str], line: str) -> None:
    """Write one line into the pipe that `vfsd mount` reads, and close it; nothing happens when it has gone."""
    descriptor = environ.pop(READY_FD, None)
    if descriptor is None:
        return
    with suppress(BrokenPipeError), os.fdopen(int(descriptor), "w", encoding="utf-8", errors="surrogateescape") as pipe:
        pipe.write(line + "\n")
