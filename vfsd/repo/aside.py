"""What a repair replaces is kept: a copy of each object as it was, before anything is written in its place.

    aside/<time>-<8 hex digits>/<key>       the bytes that lay at <key>; time: UTC, such as 20260102T030405Z
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from vfsd.store.api import ETag, ObjectStore

PREFIX = "aside/"


class Aside:
    """The objects that one repair keeps. Nothing reads them but people, and nothing deletes them."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.folder = f"{PREFIX}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"

    def keep(self, key: str) -> tuple[bytes, ETag]:
        """Keep a copy of an object; what it holds, and which version of it that is. NotFound."""
        data, etag = self._store.get(key)
        self._store.put(f"{self.folder}/{key}", data)
        return data, etag
