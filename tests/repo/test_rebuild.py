"""Rebuilding the index: the store alone brings back what the index knew; what is damaged is named."""

from __future__ import annotations

import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from vfsd.index.blocks import BlockRow, SegmentRow
from vfsd.index.index import Index, PlaceRow, set_aside
from vfsd.model.commit import Provenance
from vfsd.model.entry import Entry, Place
from vfsd.model.errors import Damaged
from vfsd.model.location import parse_location
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.commits import commit_key
from vfsd.repo.ingest import Ingest
from vfsd.repo.rebuild import RebuildResult, rebuild
from vfsd.repo.repository import Repository, init_store, now_ns, read_format
from vfsd.repo.tree import apply, change_set
from vfsd.repo.writer import BlobWriter
from vfsd.store.blob import container_key
from vfsd.store.local import LocalStore
from vfsd.store.pack import CHUNK, PackBuilder

TABLES = ("places", "commits", "provenance", "refs")


def open_repository(root: Path, name: str) -> Repository:
    """The store below `root`, with an index of its own."""
    store = LocalStore(str(root / "store"))
    if not (root / "store" / "format").exists():
        init_store(store)
    return Repository(store, Index(str(root / name)), read_format(store))


def commit_folder(
    repository: Repository, repo: str, folder: Path, provenance: tuple[CommitObject, ...] = (), branch: str = "main"
) -> CommitObject:
    """Commit the files of a local folder."""
    with closing(repository.writer()) as writer:

        def change(root: Entry, writer: BlobWriter) -> Entry:
            ingest = Ingest(repository.chunker, writer, repository.nodes)
            paths = [(os.fsencode(name),) for name in sorted(os.listdir(folder))]
            entries = [(path, ingest.path(os.fsencode(folder / os.fsdecode(path[0])), path[0])) for path in paths]
            return apply(repository.nodes, writer, root, change_set(entries))

        edges = [Provenance(repo=one.header.repo, branch=one.header.branch, commit=one.id) for one in provenance]
        made = repository.commit(
            repo, branch, change, writer=writer, message="", author="", provenance=edges
        )
    assert made is not None
    return made.commit


def dump(repository: Repository) -> dict[str, list[tuple[object, ...]]]:
    """table → rows, of all that the index knows of the store."""
    with closing(sqlite3.connect(repository.index.file.path)) as db:
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


@pytest.fixture
def used(tmp_path: Path, folder: Path) -> Iterator[Repository]:
    """A repository with packs, small commits, two branches, a tag, and one commit made from another."""
    with closing(open_repository(tmp_path, "index.db")) as repository:
        dice = random.Random(1)
        for repo in ("raw", "out"):
            repository.refs.create_repo(repo, now_ns())
            repository.refs.create_branch(repo, "main", None, now_ns())
        for number in range(30):
            (folder / f"large-{number}").write_bytes(dice.randbytes(40_000))
        commit_folder(repository, "raw", folder)
        for number in range(5):
            (folder / "small").write_text(f"version {number}")
            raw = commit_folder(repository, "raw", folder)
        out = commit_folder(repository, "out", folder, (raw,))
        repository.refs.create_branch("raw", "dev", raw.id, now_ns())
        repository.refs.create_tag("out", "v1", out.id, now_ns())
        yield repository


def head(repository: Repository, branch: str) -> CommitObject:
    commit = repository.resolve(parse_location(branch))
    assert commit is not None
    return commit


def packs(repository: Repository) -> list[str]:
    return [stat.key for stat in repository.store.list("packs/")]


def test_a_lost_index_comes_back_from_the_store(tmp_path: Path, used: Repository) -> None:
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        result = rebuild(fresh)
        new, old = dump(fresh), dump(used)
    assert [row[0] for row in new.pop("refs")] == ["refs/out/main", "refs/raw/dev", "refs/raw/main"]
    del old["refs"]  # only a watcher fills it otherwise
    found, known = ({row[0]: row for row in one.pop("places")} for one in (new, old))
    assert new == old
    assert found == {blob: row for blob, row in known.items() if blob in found}
    assert result == RebuildResult(len(packs(used)), 7, result.blobs, 4, ())
    assert result.packs >= 1
    assert 30 <= len(found) < len(known) <= result.blobs, "chunks, and no nodes"


def test_nodes_are_not_shared_after_rebuilding(tmp_path: Path, used: Repository) -> None:
    """One to which nothing leads any more may point to what was deleted."""
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        result = rebuild(fresh)
        known = {row[0] for row in dump(fresh)["places"]}
    node = head(used, "raw/main").root.node
    assert node is not None and node.id not in known
    assert 30 <= len(known) < result.blobs


def test_after_rebuilding_nothing_is_read_or_stored_twice(tmp_path: Path, used: Repository, folder: Path) -> None:
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        rebuild(fresh)
        newest = head(used, "raw/main")
        assert fresh.commits.sync([newest.id]) == 0
        assert fresh.index.downstream(newest.id) == [head(used, "out/main").id]
        before = packs(fresh)
        (folder / "one-more").write_text("new")
        commit_folder(fresh, "raw", folder)
        assert packs(fresh) == before


def test_rebuilding_again_changes_nothing(used: Repository) -> None:
    first = rebuild(used)
    found = dump(used)
    assert rebuild(used) == first
    assert dump(used) == found


def test_rebuilding_forgets_what_the_store_does_not_have(used: Repository) -> None:
    rebuild(used)
    found = dump(used)
    used.index.add_places([PlaceRow(b"\1" * 32, b"\2" * 16, 8, 100)])
    used.index.update_refs([("refs/gone/main", "x", b"")], [])
    rebuild(used)
    assert dump(used) == found


def test_rebuilding_keeps_what_is_the_node_s_own(used: Repository) -> None:
    used.index.put_job("j", "p", 1, 0, b"record")
    used.index.blocks.add_segment(SegmentRow(5, 10, 0, 0))
    row = BlockRow(b"\1" * 32, 5, 0, 10, 7)
    used.index.blocks.add([row])
    rebuild(used)
    assert used.index.job("j") == b"record"
    assert used.index.blocks.find(row.id) == row


def test_a_commit_that_no_branch_reaches_is_found(tmp_path: Path, used: Repository) -> None:
    lost = head(used, "out/main")
    source = head(used, "raw/main")
    used.refs.delete_tag("out", "v1")
    used.refs.delete_branch("out", "main")
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        rebuild(fresh)
        assert fresh.index.downstream(source.id) == [lost.id]
        assert fresh.index.is_complete(lost.id)


@pytest.mark.parametrize("cut", [0, 5, 17, 100])
def test_a_damaged_pack_is_named_and_the_rest_goes_on(tmp_path: Path, used: Repository, cut: int) -> None:
    key = packs(used)[0]
    data, _ = used.store.get(key)
    used.store.delete(key)
    used.store.put(key, data[: len(data) - cut] if cut else b"")
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        result = rebuild(fresh)
        assert result.packs == len(packs(used)) - 1
        assert result.commits == 7
        (problem,) = result.problems
        assert key in problem
        assert fresh.index.is_complete(head(used, "raw/main").id)


@pytest.mark.parametrize(
    ("which", "field", "by"),
    [(0, "offset", 1), (1, "offset", 1), (2, "offset", -8), (0, "length", -1), (1, "length", 1), (2, "length", 9000)],
)
def test_a_pack_whose_directory_lies_gives_no_places(used: Repository, which: int, field: str, by: int) -> None:
    """A wrong place would make a new commit point to bytes that are not there."""
    pack = PackBuilder()
    for number in range(3):
        pack.add(CHUNK, bytes([number]) * 32, b"\0some bytes", Place())
    honest = pack.blobs[which]
    pack.blobs[which] = msgspec.structs.replace(honest, **{field: getattr(honest, field) + by})
    used.store.put(container_key(pack.id), pack.finish())
    result = rebuild(used)
    (problem,) = result.problems
    assert container_key(pack.id) in problem
    assert all(used.index.place(blob.id) is None for blob in pack.blobs)
    assert result.commits == 7


def test_a_damaged_commit_is_named_and_the_rest_goes_on(tmp_path: Path, used: Repository) -> None:
    newest = head(used, "raw/main")
    (parent,) = newest.header.parents
    data, _ = used.store.get(commit_key(parent))
    used.store.put(commit_key(parent), data[:20] + b"x" + data[21:])
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        result = rebuild(fresh)
        assert result.commits == 6
        assert sorted(result.problems) == sorted(
            [
                f"commits/{parent}: its header belongs to another commit",
                f"commits/{newest.id}: its parent {parent} cannot be read",
            ]
        )
        assert not fresh.index.is_complete(newest.id)
        assert fresh.index.is_complete(head(used, "out/main").id)
        assert fresh.index.commit(newest.id) is not None


def test_refs_that_cannot_be_used_are_named(tmp_path: Path, used: Repository) -> None:
    gone = head(used, "out/main")
    used.store.delete(commit_key(gone.id))
    used.store.put("refs/raw/broken", b"{")
    used.store.put("commits/stray", b"")
    used.store.put("packs/zz/stray", b"")
    with closing(open_repository(tmp_path, "new.db")) as fresh:
        problems = rebuild(fresh).problems
    named = ["commits/stray", "packs/zz/stray", "refs/out/main", "refs/raw/broken", "tags/out/v1"]
    assert sorted(problem.partition(" ")[0].rstrip(":") for problem in problems) == named
    assert sum(gone.id in problem for problem in problems) == 2


def test_progress_adds_up(used: Repository) -> None:
    counts: Counter[str] = Counter()
    result = rebuild(used, lambda kind, count: counts.update({kind: count}))
    assert counts == {"packs": result.packs, "commits": result.commits, "refs": result.refs}


def test_an_unreadable_index_is_set_aside(tmp_path: Path, used: Repository) -> None:
    path = tmp_path / "broken.db"
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").write_bytes(b"no database at all" * 100)
    with pytest.raises(Damaged, match="vfsd index rebuild"):
        Index(str(path))
    aside = set_aside(str(path))
    assert aside is not None
    assert Path(aside).read_bytes().startswith(b"no database")
    assert not list(tmp_path.glob("broken.db-*"))
    with closing(open_repository(tmp_path, "broken.db")) as fresh:
        assert rebuild(fresh).commits == 7


def test_there_may_be_nothing_to_set_aside(tmp_path: Path) -> None:
    assert set_aside(str(tmp_path / "index.db")) is None
