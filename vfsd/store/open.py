"""From what a user types to a store. Imports boto3 only when an S3 URL is opened: it takes a fifth of a second."""

from __future__ import annotations

import os
import re

from vfsd.model.errors import InvalidArgument
from vfsd.store.api import ObjectStore
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.s3_options import S3Options

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def open_store(url: str, s3: S3Options | None = None) -> ObjectStore:
    """The store that `url` names: `file:///folder`, a path, `s3://bucket/prefix` or `memory:` (a new, empty one).

    Nothing is read or made yet, but temporary files of dead writers are removed from a local store. The path of a
    `file:` URL is taken as it stands, without percent-decoding. InvalidArgument for anything else. s3: how a bucket is
    spoken to.
    """
    if url == "memory:":
        return MemoryStore()
    scheme = _SCHEME.match(url)
    if scheme is None:
        if not url:
            raise InvalidArgument("the store's URL is empty: give file:///folder, a path or s3://bucket/prefix")
        return LocalStore(os.path.expanduser(url))
    rest = url[scheme.end() :]
    match scheme[1].lower():
        case "file":
            if not rest.startswith("/"):
                raise InvalidArgument(f"store {url!r}: a file URL has an absolute path, as in file:///srv/data")
            return LocalStore(rest)
        case "s3":
            from vfsd.store.s3 import S3Store  # noqa: PLC0415  (boto3 is slow to import)

            bucket, _, prefix = rest.partition("/")
            return S3Store(bucket, prefix, options=s3)
        case other:
            raise InvalidArgument(f"store {url!r}: {other}:// is not known, file:// and s3:// are")
