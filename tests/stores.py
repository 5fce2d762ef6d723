"""Stores that are there from the beginning. `vfsd init`, which has tests of its own, asks a server many questions."""

from __future__ import annotations

import secrets
from contextlib import closing

from vfsd.model.commit import StoreFormat, encode
from vfsd.repo.repository import FORMAT_KEY, now_ns
from vfsd.store.open import open_store


def make_store(url: str) -> None:
    """Make a store that nodes may share, in a folder or in a bucket that the environment leads to."""
    with closing(open_store(url)) as store:
        store.put(FORMAT_KEY, encode(StoreFormat(id=secrets.token_hex(16), created=now_ns())))
