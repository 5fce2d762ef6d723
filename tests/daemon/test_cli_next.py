"""`vfsd next datum`, against a socket that answers as a datum's first process does."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from tests.daemon.program import Program


@pytest.mark.parametrize(("words", "line"), [((), b"\n"), (("--error", "not an\nimage"), b"not an image\n")])
@pytest.mark.parametrize(("answer", "code"), [(b"ok\n", 0), (b"none\n", 1), (b"", 1)])
def test_the_next_datum_is_asked_for_and_waited_for(
    bare: Program, tmp_path: Path, words: tuple[str, ...], line: bytes, answer: bytes, code: int
) -> None:
    place = tmp_path / "next"
    heard = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen()

        def give() -> None:
            client, _ = listener.accept()
            with client:
                heard.append(client.recv(100))
                client.sendall(answer)

        giving = threading.Thread(target=give)
        giving.start()
        bare.environ["VFSD_NEXT"] = str(place)
        done = bare("next", "datum", *words)
        giving.join()
    assert (done.code, done.out, done.err) == (code, b"", "")
    assert heard == [line]


def test_outside_of_a_pipeline_there_is_nothing_to_ask_for(bare: Program, tmp_path: Path) -> None:
    assert bare("next", "datum").error.startswith("VFSD_NEXT is not set")
    bare.environ["VFSD_NEXT"] = str(tmp_path / "none")
    done = bare("next", "datum")
    assert done.error == f"{tmp_path}/none: No such file or directory: nobody gives out datums there"
