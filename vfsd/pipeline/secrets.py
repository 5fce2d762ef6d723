"""Secrets of a node: files that only its user can read, which commands get as variables or as files.

    <secrets_dir>/<name>/<key>       mode 0600

A spec names them; what they hold is read when a job begins, goes to its datums by memory alone, and is in no commit, no
record and, where a command prints it, not in its log.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence

import msgspec

from vfsd.model.errors import InvalidArgument
from vfsd.model.spec_transform import Secret

MASKED = 4  # bytes that a secret has at least, to be taken out of logs: shorter ones stand in any text
_READABLE = stat.S_IRWXG | stat.S_IRWXO

Files = tuple[tuple[bytes, bytes], ...]  # (name, content)


class Given(msgspec.Struct, frozen=True):
    """What a job's commands get. folders: by their paths. env: variables. masked: what no log is to show."""

    folders: tuple[tuple[bytes, Files], ...] = ()
    env: dict[bytes, bytes] = {}
    masked: tuple[bytes, ...] = ()


class Secrets:
    """The secrets below a directory, which need not be there. Blocks."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def give(self, wanted: Sequence[Secret]) -> Given:
        """What a spec asks for. InvalidArgument says which is not there, or open to others."""
        folders: dict[bytes, dict[bytes, bytes]] = {}
        env: dict[bytes, bytes] = {}
        values: set[bytes] = set()
        for secret in wanted:
            for key in [secret.key] if secret.key else self._keys(secret.name):
                value = self._read(secret.name, key)
                values.add(value.strip())
                if secret.env_var:
                    env[os.fsencode(secret.env_var)] = _as_text(secret, value)
                else:
                    folders.setdefault(os.fsencode(secret.mount_path.rstrip("/")), {})[os.fsencode(key)] = value
        laid_out = tuple((folder, tuple(sorted(files.items()))) for folder, files in sorted(folders.items()))
        masked = sorted((value for value in values if len(value) >= MASKED), key=len, reverse=True)
        return Given(laid_out, env, tuple(masked))

    def _keys(self, name: str) -> Iterable[str]:
        try:
            return sorted(os.listdir(os.path.join(self._folder, name)))
        except OSError as error:
            raise self._not_there(name, error) from None

    def _read(self, name: str, key: str) -> bytes:
        path = os.path.join(self._folder, name, key)
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                if mode & _READABLE:
                    raise InvalidArgument(
                        f"secret {name}/{key}: {path} is open to others (mode {stat.S_IMODE(mode):04o}): chmod 600 it"
                    )
                return file.read()
        except OSError as error:
            raise self._not_there(f"{name}/{key}", error) from None

    def _not_there(self, what: str, error: OSError) -> InvalidArgument:
        path = os.path.join(self._folder, what)
        return InvalidArgument(f"secret {what}: {path}: {error.strerror}: each node that runs pipelines needs it")


def _as_text(secret: Secret, value: bytes) -> bytes:
    value = value.removesuffix(b"\n")  # as editors leave it
    if b"\0" in value:
        raise InvalidArgument(f"secret {secret.name}/{secret.key}: a variable cannot hold a NUL: give it a mount_path")
    return value
