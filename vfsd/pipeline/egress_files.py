"""Files of an output commit, written into a bucket or into a folder of this machine. Blocks."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

import msgspec

from vfsd.model.errors import InvalidArgument
from vfsd.repo.ingest import local_errors
from vfsd.repo.tree import Path, show
from vfsd.store.local import sync_folder
from vfsd.store.s3_options import S3Options

if TYPE_CHECKING:
    from vfsd.store.s3_target import S3Target

AT_ONCE = 16  # small files on their way
SMALL = 4 << 20  # bytes: larger files go one after the other
_PIECE = 4 << 20  # bytes that are written at once


class Outgoing(msgspec.Struct, frozen=True):
    """A file that is to be sent. mode: its permissions. read: (offset, size) → bytes."""

    path: Path
    size: int
    mode: int
    read: Callable[[int, int], bytes]


class Target(Protocol):
    """What takes files."""

    def put(self, file: Outgoing) -> None:
        """Write a file in the place of what is there; durable, and as a whole."""

    def close(self) -> None:
        """Give back what it holds."""


def send_files(files: Iterable[Outgoing], target: Target) -> None:
    """Write all of them. VfsdError of the first that cannot be; others may be there then."""
    going: set[Future[None]] = set()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vfsd-egress") as pool:
        try:
            for file in files:
                if file.size > SMALL:
                    target.put(file)
                    continue
                going.add(pool.submit(target.put, file))
                if len(going) >= 2 * AT_ONCE:
                    done, going = wait(going, return_when=FIRST_COMPLETED)
                    for one in done:
                        one.result()
            for one in going:
                one.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class Bucket:
    """Objects below `s3://bucket/prefix`. InvalidArgument where that would be within the store itself."""

    def __init__(self, url: str, store_url: str, s3: S3Options, _: tuple[str, ...]) -> None:
        from vfsd.store.s3_target import S3Target  # noqa: PLC0415  (boto3 is slow to import)

        if _overlap(url, store_url):
            raise InvalidArgument(f"{url} and the store itself, {store_url}, lie in one another: give it another place")
        bucket, _slash, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._target: S3Target = S3Target(bucket, s3)

    def put(self, file: Outgoing) -> None:
        """See Target."""
        try:
            key = self._prefix + b"/".join(file.path).decode()
        except UnicodeDecodeError:
            raise InvalidArgument(f"{show(file.path)}: its name is not UTF-8, and keys of objects are") from None
        self._target.put(key, file.size, file.read)

    def close(self) -> None:
        """See Target."""
        self._target.close()


class Folder:
    """Files below `file:///folder`, which the node has to allow. A file appears when it is whole."""

    def __init__(self, url: str, store_url: str, _: S3Options, allowed: tuple[str, ...]) -> None:
        place = allowed_place(url.removeprefix("file://"), allowed)
        if _overlap(f"file://{place}", store_url):
            raise InvalidArgument(f"{url} and the store itself, {store_url}, lie in one another: give it another place")
        self._folder = os.fsencode(place)

    def put(self, file: Outgoing) -> None:
        """See Target."""
        path = b"/".join((self._folder, *file.path))
        above = os.path.dirname(path)
        part = above + b"/.vfsd-" + secrets.token_hex(8).encode()
        with local_errors(path):
            try:
                os.makedirs(above, exist_ok=True)
            except (NotADirectoryError, FileExistsError):
                raise InvalidArgument(f"{os.fsdecode(above)}: Not a directory: something else is there") from None
            try:
                with open(part, "xb") as out:
                    out.writelines(file.read(offset, _PIECE) for offset in range(0, file.size, _PIECE))
                    os.fchmod(out.fileno(), file.mode & 0o777)
                    out.flush()
                    os.fsync(out.fileno())
                os.replace(part, path)
                sync_folder(above)
            except IsADirectoryError as error:
                raise InvalidArgument(f"{os.fsdecode(path)}: {error.strerror}: something else is there") from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(part)

    def close(self) -> None:
        """See Target."""


def allowed_place(path: str, allowed: tuple[str, ...]) -> str:
    """The path without symbolic links; InvalidArgument when it is not below one of the folders that are allowed."""
    place = os.path.realpath(path)
    if not any(_is_below(place, os.path.realpath(folder)) for folder in allowed):
        have = f"lists {', '.join(allowed)}" if allowed else "lists none"
        raise InvalidArgument(f"{path} may not be written by pipelines here: the setting egress_folders {have}")
    return place


def _overlap(one: str, other: str) -> bool:
    return _is_below(one, other) or _is_below(other, one)


def _is_below(path: str, folder: str) -> bool:
    return (path.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")
