"""Opens what a command works on: settings, store, format, index, repository; closes it again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from vfsd.daemon import control
from vfsd.daemon.config import Settings, load
from vfsd.daemon.invocation import Invocation
from vfsd.index.index import Index
from vfsd.model.commit import StoreFormat
from vfsd.repo.repository import Repository, claim, read_format
from vfsd.store.api import ObjectStore
from vfsd.store.moved import MovedStore
from vfsd.store.open import open_store
from vfsd.store.own_conditions import OwnConditions


class Session(msgspec.Struct, frozen=True):
    """What a command works on."""

    settings: Settings
    repository: Repository


def settings_for(invocation: Invocation) -> Settings:
    """The settings of this run of the program."""
    return load(os.environ, invocation.store)


def open_made_store(settings: Settings) -> tuple[ObjectStore, StoreFormat]:
    """The store, to be closed, and its format; NotFound when it is not a vfsd store. Conditions hold in it, among the
    processes of this state directory at least."""
    store = open_store(settings.store, settings.s3)
    try:
        found = read_format(store)
    except BaseException:
        store.close()
        raise
    if not found.shared:
        store = OwnConditions(store, os.path.join(settings.node_dir(found.id), "conditions"))
    return MovedStore(store), found


@contextmanager
def opened_store(settings: Settings) -> Iterator[tuple[ObjectStore, StoreFormat]]:
    """The same, for the time of the block."""
    store, store_format = open_made_store(settings)
    try:
        yield store, store_format
    finally:
        store.close()


def daemon_facts(settings: Settings) -> dict[str, Any] | None:
    """What the daemon of this state directory says of itself; None when none serves the store. The store is not asked:
    it may be away."""
    store = open_store(settings.store, settings.s3)
    url = store.url
    store.close()
    try:
        folders = sorted(os.listdir(settings.state_dir))
    except (FileNotFoundError, NotADirectoryError):
        return None
    for name in folders:
        path = control.socket_path(settings.node_dir(name))
        facts: dict[str, Any] | None = control.ask(path, "status") if os.path.exists(path) else None
        if facts is not None and facts["store"] == url:
            return facts
    return None


@contextmanager
def session(invocation: Invocation) -> Iterator[Session]:
    """The store that this run of the program is about, for the time of the block.

    NotFound when it is not a vfsd store; whatever opening a store or the index raises.
    """
    settings = settings_for(invocation)
    with opened_store(settings) as (store, store_format):
        claim(store, store_format, settings.node_name)
        index = Index(settings.index_path(store_format.id))
        repository = Repository(store, index, store_format)
        try:
            yield Session(settings, repository)
            repository.nodes.save()
        finally:
            index.close()
