"""Upstream and downstream, over real commits in a store in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from vfsd.index.index import Index
from vfsd.lineage.downstream import Downstream, dependents
from vfsd.lineage.graph import DatumSource, Point, Step, Visit, walk
from vfsd.lineage.sources import files_in, point_of
from vfsd.lineage.upstream import Upstream, check
from vfsd.model.commit import Provenance
from vfsd.model.entry import Entry, Extra, Kind
from vfsd.model.errors import NotFound
from vfsd.model.ids import CommitId
from vfsd.model.observation import (
    READ,
    READ_CHANGED,
    Folder,
    Observation,
    ObservedJob,
    Source,
    Writer,
    encode_observation,
    folders_of,
)
from vfsd.repo.chunker import Chunker
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.repository import Repository, init_store
from vfsd.repo.tree import apply, change_set
from vfsd.repo.writer import BlobWriter
from vfsd.store.memory import MemoryStore


class World:
    """A repository and a short way to make commits in it."""

    def __init__(self, index: Path) -> None:
        store = MemoryStore()
        store_format = init_store(store)
        self.repository = Repository(store, Index(str(index)), store_format)
        self._chunker = Chunker(store_format)

    def commit(
        self, where: str, files: dict[str, bytes], *sources: CommitObject, kind: str = "", lineage: bytes = b""
    ) -> CommitObject:
        """Commit `files`, path → id of the datum that wrote it (empty: a user did), made from `sources`."""
        repo, branch = where.split("/")
        refs = self.repository.refs
        if repo not in set(refs.repos()):
            refs.create_repo(repo, 1)
        if branch not in {name for _, name, _ in refs.branches(repo)}:
            refs.create_branch(repo, branch, None, 1)

        def change(root: Entry, writer: BlobWriter) -> Entry:
            changes = []
            for path, origin in files.items():
                parts = tuple(path.encode().split(b"/"))
                content = self._chunker.cut_bytes(path.encode() + origin, writer, self.repository.nodes)
                extra = Extra(origin=origin) if origin else None
                entry = Entry(
                    parts[-1], Kind.FILE, 0o644, 0, 0, 0, content.size, content.digest, content.chunks, None, extra
                )
                changes.append((parts, entry))
            return apply(self.repository.nodes, writer, root, change_set(changes))

        with closing(self.repository.writer()) as writer:
            made = self.repository.commit(
                repo, branch, change, writer=writer, message="", author="", allow_same=True, lineage=lineage,
                pipeline=repo if any(files.values()) else "",
                provenance=[Provenance(one.header.repo, one.header.branch, one.id, kind=kind) for one in sources],
            )  # fmt: skip
        assert made is not None
        return made.commit


class Ledger:
    """A DatumSource that knows what it was told."""

    def __init__(self, reads: dict[tuple[CommitId, bytes], list[Point]], repository: Repository | None = None) -> None:
        self._reads = reads
        self._repository = repository

    def outputs(self, commit: CommitObject, read: Point) -> Iterator[tuple[bytes, ...]] | None:
        if self._repository is None:
            return None
        files = files_in(self._repository, commit, ())
        return (
            path
            for path, entry in files
            if any(overlap(one, read) for one in self._reads.get((commit.id, entry.more.origin), ()))
        )

    def inputs(self, repo: str, branch: str, commit: CommitId, origin: bytes) -> Sequence[Point]:
        return self._reads.get((commit, origin), ())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "index.sqlite")
    yield made
    made.repository.close()


def overlap(one: Point, other: Point) -> bool:
    depth = min(len(one.path), len(other.path))
    return one.commit == other.commit and one.path[:depth] == other.path[:depth]


class Tree:
    """Visits put together again: a point and the trees below it."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.point = visit.point
        self.next: list[Tree] = []


def tree_of(visits: Iterator[Visit]) -> Tree:
    above: list[Tree] = []
    for visit in visits:
        tree = Tree(visit)
        del above[visit.level :]
        if above:
            above[-1].next.append(tree)
        above.append(tree)
    return above[0]


def upstream(
    repository: Repository, commit: CommitObject, path: tuple[bytes, ...] = (), datums: DatumSource | None = None,
    depth: int | None = None,
) -> Tree:
    check(repository, commit, path)
    return tree_of(walk(point_of(commit, path), Upstream(repository, datums, to_files=bool(path)), depth))


def downstream(
    repository: Repository, commit: CommitObject, path: tuple[bytes, ...] = (), datums: DatumSource | None = None,
    depth: int | None = None,
) -> Tree:
    check(repository, commit, path)
    return tree_of(walk(point_of(commit, path), Downstream(repository, datums), depth))


def names(tree: Tree) -> object:
    """A tree as repo names and paths: `name` or (name, [steps])."""
    point = tree.point
    name = "/".join([point.repo, *(part.decode() for part in point.path)]) + ("..." if tree.visit.repeated else "")
    return (name, [names(step) for step in tree.next]) if tree.next else name


def point(commit: CommitObject, *path: bytes) -> Point:
    return Point(commit.header.repo, commit.header.branch, commit.id, path)


def test_a_commit_leads_to_what_it_was_made_from_any_number_of_steps_away(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    counts = world.commit("counts/main", {"a": b"1"}, texts)
    total = world.commit("total/main", {"t": b"2"}, counts)
    assert names(upstream(world.repository, total)) == ("total", [("counts", ["texts"])])
    assert upstream(world.repository, total).next[0].next[0].point == point(texts)
    assert names(downstream(world.repository, texts)) == ("texts", [("counts", ["total"])])
    assert names(downstream(world.repository, total)) == "total"


def test_each_commit_has_only_its_own_line(world: World) -> None:
    first = world.commit("texts/main", {"a": b""})
    world.commit("counts/main", {"a": b"1"}, first)
    second = world.commit("texts/main", {"b": b""})
    later = world.commit("counts/main", {"b": b"2"}, second)
    assert upstream(world.repository, later).next[0].point == point(second)
    assert downstream(world.repository, second).next[0].point == point(later)


def test_what_two_ways_lead_to_is_followed_once(world: World) -> None:
    source = world.commit("source/main", {"a": b""})
    texts = world.commit("texts/main", {"a": b"1"}, source)
    left = world.commit("left/main", {"a": b"1"}, texts)
    right = world.commit("right/main", {"a": b"1"}, texts)
    joined = world.commit("joined/main", {"a": b"1"}, left, right)
    assert names(upstream(world.repository, joined)) == (
        "joined", [("left", [("texts", ["source"])]), ("right", ["texts..."])],
    )  # fmt: skip
    assert names(downstream(world.repository, texts)) == ("texts", [("left", ["joined"]), ("right", ["joined"])])


def test_many_ways_do_not_make_a_tree_of_many_ways_each(world: World) -> None:
    below = [world.commit("r0/main", {"a": b""}), world.commit("s0/main", {"a": b""})]
    for level in range(1, 40):
        below = [world.commit(f"{name}{level}/main", {"a": b"1"}, *below) for name in "rs"]

    def size(tree: Tree) -> int:
        return 1 + sum(map(size, tree.next))

    assert size(upstream(world.repository, below[0])) < 200


def test_a_long_line_is_followed_to_its_end(world: World) -> None:
    commit = world.commit("texts/main", {"a": b""})
    for _ in range(300):
        commit = world.commit("texts/main", {}, commit)
    tree, depth = upstream(world.repository, commit), 0
    while tree.next:
        tree, depth = tree.next[0], depth + 1
    assert depth == 300


def test_files_lead_to_the_files_that_their_datums_read(world: World) -> None:
    texts = world.commit("texts/main", {"a": b"", "d/b": b""})
    counts = world.commit("counts/main", {"a": b"1", "b": b"2", "both": b"3"}, texts)
    total = world.commit("total/main", {"sum/t": b"4"}, counts)
    ledger = Ledger({
        (counts.id, b"1"): [point(texts, b"a")],
        (counts.id, b"2"): [point(texts, b"d", b"b")],
        (counts.id, b"3"): [point(texts, b"a"), point(texts, b"d")],
        (total.id, b"4"): [point(counts, b"a"), point(counts, b"both")],
    }, world.repository)  # fmt: skip
    assert names(upstream(world.repository, counts, (b"b",), ledger)) == ("counts/b", ["texts/d/b"])
    steps = [("counts/a", ["texts/a"]), ("counts/both", ["texts/a", "texts/d"])]
    assert names(upstream(world.repository, total, (b"sum", b"t"), ledger)) == ("total/sum/t", steps)
    assert names(upstream(world.repository, total, (b"sum",), ledger)) == ("total/sum", steps)
    assert names(downstream(world.repository, texts, (b"d", b"b"), ledger)) == (
        "texts/d/b", ["counts/b", ("counts/both", ["total/sum/t"])],
    )  # fmt: skip
    assert names(downstream(world.repository, texts, (b"d",), ledger)) == (
        "texts/d", ["counts/b", ("counts/both", ["total/sum/t"])],
    )  # fmt: skip


def test_without_datums_a_file_leads_to_whole_commits(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    counts = world.commit("counts/main", {"a": b"1"}, texts)
    for datums in (None, Ledger({})):
        assert names(upstream(world.repository, counts, (b"a",), datums)) == ("counts/a", ["texts"])
        assert names(downstream(world.repository, texts, (b"a",), datums)) == ("texts/a", ["counts"])


def test_a_file_that_nothing_read_leads_nowhere_down(world: World) -> None:
    texts = world.commit("texts/main", {"a": b"", "unused": b""})
    counts = world.commit("counts/main", {"a": b"1"}, texts)
    ledger = Ledger({(counts.id, b"1"): [point(texts, b"a")]}, world.repository)
    assert names(downstream(world.repository, texts, (b"unused",), ledger)) == "texts/unused"


def test_a_path_that_is_not_there_is_an_error(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    for ask in (upstream, downstream):
        with pytest.raises(NotFound, match="there is no gone"):
            ask(world.repository, texts, (b"gone",))


def test_branches_that_are_gone_are_not_downstream(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    world.commit("counts/main", {"a": b"1"}, texts)
    world.commit("counts/try", {"a": b"1"}, texts)
    world.repository.refs.delete_branch("counts", "try")
    assert [step.point.branch for step in downstream(world.repository, texts).next] == ["main"]


def test_downstream_is_the_same_for_a_node_that_knows_nothing_yet(world: World, tmp_path: Path) -> None:
    texts = world.commit("texts/main", {"a": b""})
    counts = world.commit("counts/main", {"a": b"1"}, texts)
    world.commit("counts/main", {"b": b""})
    with closing(Index(str(tmp_path / "fresh.sqlite"))) as fresh:
        other = Repository(world.repository.store, fresh, world.repository.format)
        assert [step.point for step in downstream(other, other.commits.get(texts.id)).next] == [point(counts)]


def test_a_lost_commit_ends_its_way(world: World, tmp_path: Path) -> None:
    texts = world.commit("texts/main", {"a": b""})
    counts = world.commit("counts/main", {"a": b"1"}, texts)
    world.repository.store.delete(f"commits/{texts.id}")
    with closing(Index(str(tmp_path / "fresh.sqlite"))) as fresh:
        other = Repository(world.repository.store, fresh, world.repository.format)
        assert names(upstream(other, other.commits.get(counts.id))) == ("counts", ["texts"])


def test_a_limit_of_steps_is_kept_and_what_it_cut_short_is_shown_where_there_is_room(world: World) -> None:
    far = world.commit("far/main", {"a": b""})
    near = world.commit("near/main", {"a": b"1"}, far)
    long = world.commit("long/main", {"a": b"1"}, near)
    both = world.commit("z/main", {"a": b"1"}, long, near)
    assert names(upstream(world.repository, both, depth=1)) == ("z", ["long", "near"])
    assert names(upstream(world.repository, both, depth=2)) == ("z", [("long", ["near"]), ("near", ["far"])])
    assert names(upstream(world.repository, both, depth=4)) == ("z", [("long", [("near", ["far"])]), ("near", ["far"])])


def test_a_walk_over_many_files_remembers_little(world: World) -> None:
    number = 30_000
    texts = world.commit("texts/main", {"a": b""})

    def steps(point: Point) -> Iterator[Step]:
        if not point.path:
            yield from (Step(Point("texts", "main", texts.id, (b"%d" % one,))) for one in range(number))

    tracemalloc.start()
    assert sum(1 for _ in walk(point_of(texts), steps)) == number + 1
    assert tracemalloc.get_traced_memory()[1] < 200 * number
    tracemalloc.stop()


def observation(*jobs: ObservedJob) -> bytes:
    return encode_observation(Observation(jobs))


def seen(command: str, sources: list[Source], *wrote: str) -> ObservedJob:
    paths = [tuple(path.encode().split(b"/")) for path in wrote]
    return ObservedJob("sh run.sh", False, tuple(sources), (Writer(command, folders_of(paths)),))


def source_of(commit: CommitObject, *folders: Folder, changed: bool = False) -> Source:
    return Source(commit.header.repo, commit.header.branch, commit.id, changed, folders)


def test_what_processes_were_seen_to_read_leads_from_file_to_file(world: World) -> None:
    texts = world.commit("texts/main", {"a": b"", "d/b": b"", "d/c": b""})
    lineage = observation(
        seen("train.py", [source_of(texts, Folder((b"d",), (b"b",)))], "model"),
        seen("cp", [source_of(texts, Folder((), (b"a",)))], "x/notes"),
    )
    models = world.commit("models/main", {"model": b"", "x/notes": b""}, texts, kind=READ, lineage=lineage)
    later = world.commit("models/main", {"other": b""})
    for commit in (models, later):
        assert names(upstream(world.repository, commit, (b"model",))) == ("models/model", ["texts/d/b"])
        assert names(upstream(world.repository, commit, (b"x",))) == ("models/x", ["texts/a"])
    assert names(upstream(world.repository, later, (b"other",))) == "models/other"
    (step,) = upstream(world.repository, models, (b"model",)).next
    assert (step.visit.step.kind, step.visit.step.by) == (READ, "train.py")
    assert names(downstream(world.repository, texts, (b"d", b"b"))) == ("texts/d/b", ["models/model"])
    assert names(downstream(world.repository, texts, (b"d",))) == ("texts/d", ["models/model"])
    assert names(downstream(world.repository, texts, (b"d", b"c"))) == "texts/d/c"
    assert names(downstream(world.repository, texts)) == ("texts", ["models"])


def test_a_directory_that_stands_for_its_files_leads_to_all_of_them(world: World) -> None:
    texts = world.commit("texts/main", {"d/b": b"", "d/e/c": b""})
    lineage = observation(seen("train.py", [source_of(texts, Folder((b"d",)))], "model"))
    models = world.commit("models/main", {"model": b""}, texts, kind=READ, lineage=lineage)
    assert names(upstream(world.repository, models, (b"model",))) == ("models/model", ["texts/d"])
    assert names(downstream(world.repository, texts, (b"d", b"e", b"c"))) == ("texts/d/e/c", ["models/model"])


def test_a_file_is_followed_in_every_commit_that_has_it_unchanged(world: World) -> None:
    first = world.commit("texts/main", {"a": b""})
    second = world.commit("texts/main", {"b": b""})
    lineage = observation(seen("train.py", [source_of(second, Folder((), (b"a", b"b")))], "model"))
    world.commit("models/main", {"model": b""}, second, kind=READ, lineage=lineage)
    assert names(downstream(world.repository, first, (b"a",))) == ("texts/a", ["models/model"])
    assert names(downstream(world.repository, first)) == "texts"
    third = world.commit("texts/main", {"a": b"", "c": b""})
    assert names(downstream(world.repository, third, (b"a",))) == ("texts/a", ["models/model"])


def test_what_was_read_before_its_commit_is_found_from_the_commit_that_has_it(world: World) -> None:
    first = world.commit("texts/main", {"a": b""})
    second = world.commit("texts/main", {"b": b""})
    lineage = observation(seen("train.py", [source_of(first, Folder((), (b"b",)), changed=True)], "model"))
    models = world.commit("models/main", {"model": b""}, first, kind=READ_CHANGED, lineage=lineage)
    assert names(downstream(world.repository, second, (b"b",))) == ("texts/b", ["models/model"])
    (step,) = upstream(world.repository, models, (b"model",)).next
    assert (step.point, step.visit.step.is_uncommitted) == (point(first, b"b"), True)


def test_a_lineage_object_that_is_gone_leaves_the_commits(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    lineage = observation(seen("train.py", [source_of(texts, Folder((), (b"a",)))], "model"))
    models = world.commit("models/main", {"model": b""}, texts, kind=READ, lineage=lineage)
    world.repository.store.delete(f"lineage/{models.id}/{models.header.lineage}")
    assert names(upstream(world.repository, models, (b"model",))) == ("models/model", ["texts"])


def test_what_was_only_seen_makes_no_repo_depend_on_another(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    world.commit("models/main", {"model": b""}, texts, kind=READ)
    assert list(dependents(world.repository, "texts")) == []


def test_dependents_are_the_commits_of_other_repos(world: World) -> None:
    texts = world.commit("texts/main", {"a": b""})
    world.commit("texts/main", {"b": b""}, texts)
    assert list(dependents(world.repository, "texts")) == []
    counts = world.commit("counts/main", {"a": b"1"}, texts)
    world.commit("counts/main", {"b": b""})
    assert [commit.id for commit in dependents(world.repository, "texts")] == [counts.id]
