"""The golden store, read by today's code and by a reader written from docs/format.md alone: both find what was put in.

`expected.json` has the ids that were given when the store was written.
"""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.golden import contents, reader
from tests.repo.collecting import check
from tests.repo.parts import read_files
from vfsd.index.index import Index
from vfsd.model.commit import RootAttributes, commit_id_of
from vfsd.model.entry import Kind
from vfsd.model.ids import CommitId
from vfsd.model.location import parse_location
from vfsd.repo.global_view import as_of_global
from vfsd.repo.rebuild import rebuild
from vfsd.repo.repository import Repository, read_format
from vfsd.repo.tree import walk
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.moved import MovedStore

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "expected.json").read_text())
COMMITS = [CommitId(each["commit"]) for each in EXPECTED]
FIRST, COUNTED, SECOND, THIRD = COMMITS
LATER = {
    **{path: data for path, data in contents.FIRST.items() if path != (b"hello.txt",)},
    **{(b"many", name): b"" for name in contents.MANY},
    (b"large.bin",): contents.LARGE,
}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy, because opening a store may clean it up."""
    return Path(shutil.copytree(HERE / "store", tmp_path / "store"))


@pytest.fixture
def repository(golden: Path, tmp_path: Path) -> Iterator[Repository]:
    store = LocalStore(str(golden))
    with closing(Repository(store, Index(str(tmp_path / "index")), read_format(store))) as found:
        yield found


def read(repository: Repository, where: str) -> dict[tuple[bytes, ...], bytes]:
    return read_files(repository, repository.root(parse_location(where)))


# Today's code


def test_every_file_of_every_commit_has_its_bytes(repository: Repository) -> None:
    assert repository.format == contents.FORMAT
    assert read(repository, f"texts/main@{FIRST}") == contents.FIRST
    assert read(repository, f"texts/main@{SECOND}") == contents.FIRST | {(b"many", name): b"" for name in contents.MANY}
    assert read(repository, "texts/main") == LATER
    assert read(repository, "zählung/main") == contents.COUNTS


def test_names_refs_tags_and_global_ids_are_found(repository: Repository) -> None:
    refs = repository.refs
    assert list(refs.repos()) == ["texts", "zählung"]
    assert [(repo, branch) for repo, branch, _ in refs.branches()] == [
        ("texts", "main"), ("zählung", "leer"), ("zählung", "main"),
    ]  # fmt: skip
    assert refs.repo("texts").description == "what was written"
    assert refs.head("texts", "main").commit == THIRD
    assert refs.head("zählung", "leer").commit is None
    assert refs.head("zählung", "main").head.pipeline == "zählung"
    assert [(name, tag.commit, tag.message) for name, tag in refs.tags("texts")] == [("v1", FIRST, "the first")]
    assert read(repository, "texts/main@v1~0") == contents.FIRST
    assert list(refs.global_ids()) == [contents.GIDS[0], contents.GIDS[2], contents.GIDS[3]]
    counted = as_of_global(repository, contents.GIDS[0], "zählung")
    assert counted is not None and counted.id == COUNTED


def test_headers_say_what_was_committed(repository: Repository) -> None:
    log = list(repository.commits.log(THIRD))
    assert [commit.id for commit in log] == [THIRD, SECOND, FIRST]
    assert log[0].ancestors == [SECOND, FIRST]
    first, counted = log[-1].header, repository.commits.get(COUNTED).header
    assert (first.author, first.message, first.time) == ("a@example.org", "commit 0: größer", contents.START)
    assert first.root == RootAttributes(0o750, 1000, 100, contents.MTIME)
    assert first.files == len(contents.FIRST) + 5
    assert [edge.commit for edge in counted.provenance] == [FIRST]
    assert (counted.pipeline, counted.job, counted.global_id) == ("zählung", contents.JOB, first.global_id)
    assert [
        {"commit": c.id, "repo": c.header.repo, "tree": c.header.tree, "digest": c.header.digest}
        for c in map(repository.commits.get, COMMITS)
    ] == EXPECTED


def test_attributes_and_special_files_are_as_they_were(repository: Repository) -> None:
    tree = dict(walk(repository.nodes, repository.root(parse_location(f"texts/main@{FIRST}"))))
    script = tree[b"docs", b"run.sh"]
    assert (script.mode, script.uid, script.gid, script.mtime) == (0o755, 1000, 100, contents.MTIME)
    linked = [tree[b"docs", b"linked-1"].more, tree[b"docs", b"linked-2"].more]
    assert {(more.link, more.names) for more in linked} == {(4711, 2)}
    assert linked[0].xattrs == {b"user.colour": b"blue", b"user.empty": b""}
    assert tree[b"docs", b"derived"].more.origin == contents.ORIGIN
    special = {path[-1]: entry for path, entry in tree.items() if path[:-1] == (b"special",)}
    assert {name: entry.kind for name, entry in special.items()} == {
        b"disk": Kind.BLOCK, b"empty": Kind.DIR, b"fifo": Kind.FIFO, b"link": Kind.SYMLINK, b"null": Kind.CHAR,
        b"socket": Kind.SOCKET,
    }  # fmt: skip
    assert special[b"link"].more.target == b"docs/text.txt"
    assert (special[b"null"].more.rdev, special[b"disk"].more.rdev) == (0x103, 0x800)
    assert (special[b"empty"].mode, special[b"empty"].node) == (0o1777, None)


def test_an_index_is_rebuilt_from_it_without_complaint(repository: Repository) -> None:
    result = rebuild(repository)
    assert (result.packs, result.commits, result.refs, result.problems) == (3, 4, 4, ())


def test_the_same_contents_get_the_same_ids_today(tmp_path: Path) -> None:
    store = MemoryStore()
    contents.make_store(store)
    with closing(Repository(store, Index(str(tmp_path / "index")), contents.FORMAT)) as repository:
        assert [made.commit.id for made in contents.fill(repository)] == COMMITS


# The reader of docs/format.md


def test_the_reader_knows_nothing_of_vfsd() -> None:
    tree = ast.parse((HERE / "reader.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module.split(".")[0] in {"vfsd", "tests", ""} for module in modules)


def test_the_page_suffices_to_read_every_file() -> None:
    store = reader.Reader(HERE / "store")
    trees = {name: store.tree(name) for name in COMMITS}
    files = {
        name: {path: found.data for path, found in tree.items() if found.kind == reader.FILE}
        for name, tree in trees.items()
    }
    assert files[FIRST] == contents.FIRST
    assert files[COUNTED] == contents.COUNTS
    assert files[THIRD] == LATER
    assert trees[FIRST][b"special", b"link"].target == b"docs/text.txt"
    assert trees[FIRST][b"docs", b"linked-1"].link == 4711
    assert trees[FIRST][b"docs", b"derived"].origin == contents.ORIGIN
    assert trees[FIRST][b"special", b"empty"].xattrs == {b"user.a": b"b"}
    assert store.kinds == {"L", "I", "C", "D", "codec 0", "codec 1", "packs", "commits"}


def test_the_page_suffices_to_check_every_object() -> None:
    store = reader.Reader(HERE / "store")
    assert store.format["id"] == contents.FORMAT.id
    kinds = [kind for (_, name) in store.labels("packs") for kind, *_ in store.pack(name)]
    assert set(kinds) == {reader.CHUNK, reader.NODE}
    assert sorted(name for (name,) in store.labels("commits")) == sorted(COMMITS)
    header, hints = store.commit(THIRD)
    assert [raw.hex() for raw in hints[1]] == [SECOND, FIRST] == [*header["parents"], FIRST]
    assert list(store.labels("refs")) == [("texts", "main"), ("zählung", "leer"), ("zählung", "main")]
    assert header["provenance"] == [
        {"repo": "texts", "branch": "main", "commit": FIRST, "name": "", "kind": "observed"},
    ]  # fmt: skip
    assert [name for (name,) in store.labels("lineage")] == [header["lineage"]]
    ((command, partial, ((_, _, commit, _, folders),), ((program, wrote),)),) = store.lineage(THIRD, header["lineage"])
    assert (command, partial, commit, program) == ("sh run.sh", False, FIRST, "python train.py")
    assert folders == [[[], [b"hello.txt"]], [[b"docs"], []]]
    assert wrote == [[[], [b"large.bin"]]]
    assert store.small("refs/texts/main")["commit"] == THIRD
    assert store.small("refs/z%C3%A4hlung/leer")["commit"] is None
    assert store.small("tags/texts/v1")["commit"] == FIRST
    assert store.small("repos/texts")["description"] == "what was written"
    assert store.small(f"globals/{contents.GIDS[0]}/z%C3%A4hlung/main")["commit"] == COUNTED


def test_the_page_names_every_key_of_a_store() -> None:
    page = (HERE.parents[1] / "docs" / "format.md").read_text()
    for path in (*(HERE / "store").iterdir(), *(HERE / "collected").iterdir()):
        assert f"`{path.name}" in page


# What collections leave


def test_the_page_suffices_to_read_what_was_collected() -> None:
    store = reader.Reader(HERE / "collected")
    heads = {branch: store.small(f"refs/texts/{branch}")["commit"] for branch in contents.COLLECTED}
    for branch, files in contents.COLLECTED.items():
        tree = store.tree(heads[branch])
        assert {path: found.data for path, found in tree.items() if found.kind == reader.FILE} == files
    assert "moved" in store.kinds
    head = heads["main"]
    header, hints = store.commit(head)
    assert store.dropped()[hints[1][-1].hex()]["message"] == "commit 0: größer"
    assert store.lineage(head, header["lineage"])[0][0] == "sh run.sh"
    (rewritten, deleted) = store.condemned()
    assert rewritten[:2] == ("rewrite", "swept")
    assert {name for name, offset in rewritten[2] if offset == 1} == {name for (name,) in store.labels("moved")}
    assert deleted[:2] == ("delete", "condemned")
    assert (heads["again"], 0) in deleted[2]
    assert (heads["again"], 1) in deleted[3], "its header is pardoned"
    assert {(name, 0) for name, _ in deleted[3]} <= deleted[2]
    assert {len(name) for name, _ in deleted[3]} == {32, 64}, "what was in its packs, too"
    (hold,) = store.labels("gc/holds")
    assert store.small(f"gc/holds/{hold[0]}")["by"] == contents.HOLDER
    assert store.small("retention/branches/texts/main")["keep"]["last"] == 7


def test_what_was_collected_is_whole(tmp_path: Path) -> None:
    store = MovedStore(LocalStore(str(shutil.copytree(HERE / "collected", tmp_path / "store"))))
    with closing(Repository(store, Index(str(tmp_path / "index")), read_format(store))) as repository:
        check(repository)
        assert {branch: read(repository, f"texts/{branch}") for branch in contents.COLLECTED} == contents.COLLECTED


@pytest.mark.parametrize("name", COMMITS)
def test_the_reader_notices_a_changed_header(golden: Path, name: str) -> None:
    path = golden / "commits" / name
    path.write_bytes(path.read_bytes().replace(b'"author":"a@', b'"author":"b@'))
    with pytest.raises(AssertionError):
        reader.Reader(golden).commit(name)


def test_the_reader_notices_a_changed_chunk(golden: Path) -> None:
    found = 0
    for (_, name) in reader.Reader(golden).labels("packs"):
        path = golden / "packs" / name[:2] / name
        data = bytearray(path.read_bytes())
        kind, _, offset, length = reader.Reader(golden).pack(name)[-1]
        if kind == reader.CHUNK:
            data[offset + length // 2] ^= 1
            path.write_bytes(data)
            with pytest.raises(AssertionError):
                reader.Reader(golden).pack(name)
            found += 1
    assert found


def test_a_commits_id_is_the_hash_of_its_stored_header() -> None:
    for name in COMMITS:
        data = (HERE / "store" / "commits" / name).read_bytes()
        length = int.from_bytes(data[8:12], "little")
        assert commit_id_of(data[16 : 16 + length]) == name
