"""The proxy's process: a thread a connection. Standard input and output are its control channel, a line of JSON each;
it ends with whoever holds them. `python -m tests.proxy HOST:PORT` can also be spoken to by hand.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading

import msgspec

from tests.proxy import Options, Planned
from tests.proxy.connection import Connection
from tests.proxy.ledger import Ledger

SWITCH_S = 0.0005  # another thread's turn comes this soon: a copying one must not make small requests wait


def _accept(listener: socket.socket, server: tuple[str, int], ledger: Ledger) -> None:
    while True:
        client, _ = listener.accept()
        ledger.connected()
        threading.Thread(target=Connection(client, server, ledger).run, daemon=True).start()


def main() -> None:
    """Serve as the parent says: a line of JSON each, question and answer; the first says the port."""
    host, _, port = sys.argv[1].rpartition(":")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # four a connection
    sys.setswitchinterval(SWITCH_S)
    ledger = Ledger()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        threading.Thread(target=_accept, args=(listener, (host, int(port)), ledger), daemon=True).start()
        answer: object = listener.getsockname()[1]
        while True:
            sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
            sys.stdout.buffer.flush()
            line = sys.stdin.buffer.readline()
            if not line:
                os._exit(0)  # the threads may wait for ever
            answer = _control(ledger, *msgspec.json.decode(line))


def _control(ledger: Ledger, question: str, value: object) -> object:
    match question:
        case "set":
            ledger.set(msgspec.convert(value, Options))
        case "expect":
            ledger.expect(msgspec.convert(value, Planned))
        case "counts":
            return ledger.counts(reset=False)
        case "reset":
            return ledger.counts(reset=True)
    return None


if __name__ == "__main__":
    main()
