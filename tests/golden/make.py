"""Writes `tests/golden/store` and `tests/golden/expected.json` anew: `python -m tests.golden.make`.

Only for a new number of the format: what is there is how earlier versions wrote it, and has to stay readable. Commit
and node ids come out the same each time; pack ids and nonces do not.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from tests.golden.contents import FORMAT, fill, make_store
from vfsd.index.index import Index
from vfsd.repo.repository import Repository
from vfsd.store.local import LocalStore

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


if __name__ == "__main__":
    main()
