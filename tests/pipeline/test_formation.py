from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.workshop import Workshop, spec, tree
from vfsd.model.datum import Datum
from vfsd.model.entry import Entry, Extra, Kind, symlink_digest
from vfsd.model.ids import CommitId
from vfsd.pipeline import formation
from vfsd.pipeline.formation import NOTHING_DONE, Done, Formation, same_datums
from vfsd.repo.repository import empty_root
from vfsd.repo.tree import apply, change_set

COMMIT = CommitId("c" * 64)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One store for all: trees are only added to it."""
    made = Workshop(tmp_path_factory.mktemp("store"))
    yield made
    made.close()


def form(
    room: Workshop, root: Entry, glob: str = "/*", done: Done = NOTHING_DONE
) -> tuple[list[Datum], int, Formation]:
    """(datums to run, how many were done, the formation)."""
    forming = Formation(room.repository.nodes, spec(glob=glob), (COMMIT,), (root,), done)
    found: list[Datum] = []
    skipped = 0
    more = True
    while more:
        batch = forming.batch()
        found += [work.datum for work in batch.work]
        skipped += batch.skipped
        more = batch.more
    return found, skipped, forming


def ids(datums: list[Datum]) -> set[bytes]:
    return {datum.id.encode() for datum in datums}


def test_a_datum_says_what_it_reads(room: Workshop) -> None:
    datums, _, _ = form(room, tree(room, {"d/b.txt": "bb", "d/e/c.txt": "ccc"}), "/d")
    (one,) = datums[0].inputs
    assert (one.name, one.repo, one.branch, one.commit) == ("texts", "texts", "main", COMMIT)
    assert (one.path, one.is_dir, one.size) == (b"/d", True, 5)


def test_the_empty_tree_has_no_files_to_work_on(room: Workshop) -> None:
    assert form(room, empty_root())[0] == []
    assert len(form(room, empty_root(), "/")[0]) == 1


def test_a_symbolic_link_comes_with_its_target(room: Workshop) -> None:
    link = Entry(b"l", Kind.SYMLINK, 0o777, 0, 0, 1, 5, symlink_digest(b"a.txt"), extra=Extra(target=b"a.txt"))
    writer = room.repository.writer()
    root = apply(room.repository.nodes, writer, tree(room, {"a.txt": "a"}), change_set([((b"l",), link)]))
    writer.flush()
    writer.close()
    forming = Formation(room.repository.nodes, spec(), (COMMIT,), (root,), NOTHING_DONE)
    assert [work.targets for work in forming.batch().work] == [(b"",), (b"a.txt",)]


def test_times_are_no_part_of_a_datum(room: Workshop) -> None:
    files = {"a": "1", "d/b": "2"}
    first, _, _ = form(room, tree(room, files, mtime=1))
    again, _, _ = form(room, tree(room, files, mtime=2))
    assert [datum.id for datum in first] == [datum.id for datum in again]


def test_a_rename_within_a_directory_makes_another_datum(room: Workshop) -> None:
    first, _, _ = form(room, tree(room, {"d/b": "2"}))
    other, _, _ = form(room, tree(room, {"d/c": "2"}))
    assert ids(first).isdisjoint(ids(other))


def test_datums_come_in_batches_of_bounded_size(room: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formation, "BATCH", 3)
    forming = Formation(
        room.repository.nodes, spec(), (COMMIT,), (tree(room, {f"f{n}": "" for n in range(8)}),), NOTHING_DONE
    )
    sizes = []
    while (batch := forming.batch()).more:
        sizes.append(len(batch.work))
    assert [*sizes, len(batch.work)] == [3, 3, 2]


def test_datums_in_the_ledger_are_skipped_and_the_rest_of_it_is_removed(room: Workshop) -> None:
    before, _, _ = form(room, tree(room, {"a": "1", "b": "2", "c": "3"}))
    done = Done(ids(before), None, 3, {}, frozenset())
    datums, skipped, forming = form(room, tree(room, {"a": "1", "b": "changed", "d": "new"}), done=done)
    assert [datum.inputs[0].path for datum in datums] == [b"/b", b"/d"]
    assert skipped == 1
    assert forming.removed == sorted(one.id.encode() for one in before[1:])


def test_what_other_jobs_did_is_carried_over_and_what_this_one_did_is_counted(room: Workshop) -> None:
    root = tree(room, {"a": "1", "b": "2", "c": "3"})
    (first, second, third), _, _ = form(room, root)
    done = Done(set(), None, 0, {first.id.encode(): root}, {second.id})
    datums, skipped, forming = form(room, root, done=done)
    assert datums == [third]
    assert skipped == 2
    assert (list(forming.carried), forming.finished) == ([first.id.encode()], 1)


def test_specs_that_differ_in_what_does_not_matter_cut_the_same_datums() -> None:
    assert same_datums(spec(), spec(datum_tries=9, description="other", parallelism_spec={"constant": 4}))
    assert not same_datums(spec(), spec(glob="/"))
    assert not same_datums(spec(), spec(cmd="false"))
    assert not same_datums(spec(), spec(salt="1"))


NAMES = st.sampled_from(["a", "b", "c", "ab", "a.txt", "d.txt"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATHS, st.sampled_from(["", "1", "2"]), max_size=12)
GLOBS = st.sampled_from(["/", "/*", "/**", "/*/*", "/a*", "/**.txt", "/{a,b}/**", "/*/a", "/!(a)", "/a/**"])


def is_tree(files: dict[str, str]) -> bool:
    return not any(other.startswith(path + "/") for path in files for other in files)


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(FILES.filter(is_tree), FILES.filter(is_tree), GLOBS)
def test_looking_at_what_differs_finds_what_looking_at_everything_finds(
    room: Workshop, old: dict[str, str], new: dict[str, str], glob: str
) -> None:
    old_root, new_root = tree(room, old, 1), tree(room, new, 2)
    before, _, _ = form(room, old_root, glob)
    by_names = form(room, new_root, glob, Done(ids(before), None, len(before), {}, frozenset()))
    by_change = form(room, new_root, glob, Done(set(), (old_root,), len(before), {}, frozenset()))
    assert by_change[0] == by_names[0]
    assert by_change[1] == by_names[1]
    assert by_change[2].removed == by_names[2].removed
    everything, _, _ = form(room, new_root, glob)
    assert ids(by_names[0]) == ids(everything) - ids(before)


def test_unchanged_directories_are_not_even_read(tmp_path: Path) -> None:
    room = Workshop(tmp_path)
    try:
        files = {f"{part}/{name}": "x" for part in "abcdefgh" for name in range(100)}
        old, new = tree(room, files), tree(room, files | {"c/17": "changed"})
        read = []

        class Nodes:
            def get(self, ref):  # type: ignore[no-untyped-def]
                read.append(ref.id)
                return room.repository.nodes.get(ref)

        done = Done(set(), (old,), 800, {}, frozenset())
        batch = Formation(Nodes(), spec(glob="/*/*"), (COMMIT,), (new,), done).batch()
        assert [work.datum.inputs[0].path for work in batch.work] == [b"/c/17"]
        assert batch.skipped == 799
        assert len(read) < 10
    finally:
        room.close()
