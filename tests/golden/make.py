"""Writes `tests/golden/store`, `tests/golden/collected` and `tests/golden/expected.json` anew: `python -m
tests.golden.make`.

Only for a new number of the format: what is there is how earlier versions wrote it, and has to stay readable. Commit
and node ids come out the same each time; pack ids and nonces do not.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from tests.golden.contents import FORMAT, collect, fill, make_store
from vfsd.index.index import Index
from vfsd.repo.repository import Repository
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore

HERE = Path(__file__).parent


def main() -> None:
    """Replace what is there."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        store = LocalStore(str(folder / "store"))
        make_store(store)
        with closing(Repository(store, Index(str(folder / "index")), FORMAT)) as repository:
            commits = [
                {
                    "commit": made.commit.id,
                    "repo": made.commit.header.repo,
                    "tree": made.commit.header.tree,
                    "digest": made.commit.header.digest,
                }
                for made in fill(repository)
            ]
        for part in ("tmp", "locks"):
            shutil.rmtree(folder / "store" / part)
        shutil.rmtree(HERE / "store", ignore_errors=True)
        shutil.copytree(folder / "store", HERE / "store")
    (HERE / "expected.json").write_text(json.dumps(commits, indent=1) + "\n")
    make_collected()


def make_collected() -> None:
    """The store in which things were dropped, moved and condemned."""
    memory = MemoryStore()
    make_store(memory)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Repository(MovedStore(memory), Index(f"{scratch}/index"), FORMAT)
        with closing(repository.index):
            collect(memory, repository)
    shutil.rmtree(HERE / "collected", ignore_errors=True)
    for stat in memory.list():
        path = HERE / "collected" / stat.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(memory.get(stat.key)[0])


if __name__ == "__main__":
    main()
