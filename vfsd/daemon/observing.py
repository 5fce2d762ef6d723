"""Commands that go past the mount: the daemon is told what they read, and says what their job had read.

`vfsd get` and `vfsd cat` tell it before they hand anything out, `vfsd put` asks before it commits. Which process that
is the kernel says of the socket; what job it belongs to, and what that has read through the mount besides, the observer
knows. Where no daemon of the user's runs, or it observes nobody, nothing is recorded, and no command fails for it.
"""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import msgspec

from vfsd.daemon import control
from vfsd.daemon.session import Session
from vfsd.model.commit import Provenance
from vfsd.model.entry import Kind
from vfsd.model.errors import VfsdError
from vfsd.model.ids import hash_bytes
from vfsd.model.location import Location
from vfsd.model.observation import Folder, Observation, decode_observation, encode_observation, folders_of
from vfsd.repo.tree import Path
from vfsd.worktree.runs import NOTHING_SEEN, Observed


class Seen(msgspec.Struct, frozen=True):
    """An answer to `had_read`. data: of the lineage object, in base64."""

    provenance: tuple[Provenance, ...] = ()
    data: str = ""


def has_read(opened: Session, where: Location, kind: int) -> None:
    """Tell the daemon that this process reads what is at a location: a file, or a directory with all that is below."""
    if kind not in {Kind.FILE, Kind.DIR}:
        return
    with contextlib.suppress(VfsdError):  # what cannot be told is not recorded
        commit = opened.repository.resolve(where, header=True)
        if commit is not None:
            header = commit.header
            _ask(
                opened, "has_read", repo=header.repo, branch=header.branch, commit=commit.id, names=_words(where.path),
                whole=kind == Kind.DIR,
            )  # fmt: skip


def had_read(opened: Session, where: Location, path: Path, kind: int) -> Observed:
    """What this process's job had read before it wrote a file or directory to a branch."""
    with contextlib.suppress(VfsdError):
        answer = _ask(opened, "had_read", repo=where.repo, branch=where.branch, names=_words(path))
        if answer is not None:
            seen = msgspec.convert(answer, Seen)
            if seen.data:
                data = base64.b64decode(seen.data)
                wrote = (Folder(path),) if kind == Kind.DIR else folders_of([path])
                return Observed(seen.provenance, _by(decode_observation(data, hash_bytes(data).hex()), wrote))
    return NOTHING_SEEN


def _by(observation: Observation, wrote: tuple[Folder, ...]) -> bytes:
    """The observation with these as what was written."""
    replace = msgspec.structs.replace
    jobs = (
        replace(job, writers=tuple(replace(writer, wrote=wrote) for writer in job.writers)) for job in observation.jobs
    )
    return encode_observation(Observation(tuple(jobs)))


def _ask(opened: Session, question: str, **words: Any) -> Any:
    folder = opened.settings.node_dir(opened.repository.format.id)
    return control.ask(control.socket_path(folder), question, **words)


def _words(path: Path) -> list[str]:
    return [base64.b64encode(name).decode() for name in path]


def path_of(words: list[str]) -> Path:
    """The names of a path, as a question has them."""
    return tuple(base64.b64decode(word) for word in words)
