"""Bytes by key in an object store, with compare-and-swap. `api` is the contract, `open_store` the way in."""

from __future__ import annotations

from vfsd.store.api import Buffer, ETag, ObjectStore, Stat
from vfsd.store.open import open_store

__all__ = ["Buffer", "ETag", "ObjectStore", "Stat", "open_store"]
