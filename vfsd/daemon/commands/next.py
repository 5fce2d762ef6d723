"""`vfsd next`."""

from __future__ import annotations

import os
import socket

import click

from vfsd.model.errors import InvalidArgument, NotFound


@click.group("next")
def next_() -> None:
    """Within a pipeline: ask for the next datum.

    For commands of pipelines with `transform.datum_batching`, which work on many datums.

    \b
    Example:
      while vfsd next datum; do . /pfs/.env; convert "$images" "/pfs/out/${images##*/}"; done
    """


@next_.command()
@click.option("--error", metavar="TEXT", default="", help="Say that the last datum failed, and why.")
def datum(error: str) -> None:
    """Be done with the last datum, and wait for the next one.

    When it returns, /pfs holds the next datum, and /pfs/.env its variables. Exits with 1, and says nothing, when there
    is none left: then the command is to end.

    \b
    Examples:
      vfsd next datum
      vfsd next datum --error "not an image"
    """
    place = os.environ.get("VFSD_NEXT")
    if not place:
        raise InvalidArgument("VFSD_NEXT is not set: this is for commands of pipelines with datum_batching")
    line = " ".join(error.split()).encode(errors="replace")[:4000] + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as talk:
        try:
            talk.connect(place)
            talk.sendall(line)
            answer = talk.recv(16)
        except OSError as problem:
            raise NotFound(f"{place}: {problem.strerror}: nobody gives out datums there") from None
    if answer != b"ok\n":
        raise click.exceptions.Exit(1)
