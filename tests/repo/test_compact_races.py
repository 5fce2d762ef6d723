"""Compaction beside writers, runs that slept, and refs that are made again: nothing that was not condemned is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from tests.repo.collecting import HOUR, age, check, compact, content, drop, gc, much, node_on
from tests.repo.parts import Path_, commit, make_branch
from vfsd.model.errors import Conflict, Unavailable, VfsdError
from vfsd.repo import compact as compact_module
from vfsd.repo.condemned import STATE
from vfsd.repo.repository import Repository, now_ns
from vfsd.store.faulty import WRITES, FaultyStore, Request, no_faults
from vfsd.store.memory import MemoryStore
from vfsd.store.pack import CHUNK, NODE

Files = dict[Path_, bytes]


def test_a_branch_made_at_a_commit_whose_object_was_to_be_rewritten_keeps_it(
    repository: Repository, store: MemoryStore, tmp_path: Path
) -> None:
    commit(repository, {(b"a",): b"1" * 3000})
    first = repository.refs.head("r", "main").commit
    assert first is not None
    repository.create_branch("r", "try", first, now_ns())
    made = commit(repository, {(b"b",): b"2" * 3000}, branch="try")
    assert made is not None
    commit(repository, {(b"b",): b"2" * 3000, (b"c",): b"3"})  # shares the chunk in try's commit
    repository.refs.delete_branch("r", "try")
    age(store, 2 * HOUR)
    assert compact(repository, grace=HOUR).sparse.commits == 1
    repository.create_branch("r", "try", made.commit.id, now_ns())
    age(store, 2 * HOUR)
    compact(repository, grace=HOUR)
    with closing(node_on(store, tmp_path / "fresh")) as fresh:
        check(fresh)
        assert content(fresh, "r/try") == {(b"a",): b"1" * 3000, (b"b",): b"2" * 3000}


def test_what_was_not_condemned_may_be_shared_while_its_pack_is_rewritten(tmp_path: Path) -> None:
    """Needed when the list was made, not when it is carried out, and then again: at each moment of that run."""
    at, done, outcomes = 0, False, []
    while not done:
        memory = MemoryStore()
        writer = node_on(memory, tmp_path / f"writer{at}")
        faulty = FaultyStore(memory)
        keeper = node_on(faulty, tmp_path / f"keeper{at}")
        with closing(writer.index), closing(keeper.index):
            few = needed_once(writer)
            age(memory, 2 * HOUR)
            assert compact(keeper, grace=HOUR).sparse.packs >= 1
            writer.refs.delete_branch("r", "try")
            age(memory, 2 * HOUR)
            written: list[bool] = []
            faulty.requests.clear()
            faulty.plan = partial(meanwhile, at, written, lambda writer=writer, few=few: commit(writer, few))
            compact(keeper, grace=HOUR)
            faulty.plan = no_faults
            done = not written
            is_whole(memory, tmp_path / f"fresh{at}", few if written == [True] else {})
            outcomes += written
            at += 3
    assert at > 10 and outcomes[0]


def needed_once(writer: Repository) -> Files:
    """A branch `try` alone has some files of a pack of which all else was dropped; these. `main` is about to need them
    again."""
    make_branch(writer)
    commit(writer, {(b"only",): b"1"})
    head = writer.refs.head("r", "main").commit
    assert head is not None
    writer.create_branch("r", "try", head, now_ns())
    first = commit(writer, much(1), branch="try")
    assert first is not None
    few = {path: data for path, data in much(1).items() if int(path[1][1:]) % 20 == 0}
    commit(writer, {path: None for path in much(1) if path not in few}, branch="try")
    drop(writer, first.commit.id)
    return few


def meanwhile(at: int, done: list[bool], act: Callable[[], object], request: Request) -> None:
    """Do something once, before request `at`; whether that was still possible."""
    if request.number >= at and not done:
        done.append(False)
        try:
            act()
            done[0] = True
        except VfsdError as error:
            assert "try again" in str(error)


@pytest.mark.parametrize("kind", ["compacted", "collected"])
def test_what_was_moved_and_given_up_is_not_shared_by_where_it_lay_before(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack is rewritten. Of what was copied little is still needed later on, and the rest goes, while a writer knows
    all of it by its old places."""
    store = MemoryStore()
    if kind == "collected":
        monkeypatch.setattr(compact_module, "PACK_SIZE", {CHUNK: 3000, NODE: 3000})  # the rest has packs of its own
    writer, keeper = node_on(store, tmp_path / "writer"), node_on(store, tmp_path / "keeper")
    with closing(writer.index), closing(keeper.index):
        few = needed_once(writer)
        age(store, 10)
        assert compact(keeper).rewritten.packs >= 1
        writer.refs.delete_branch("r", "try")
        commit(writer, dict([*few.items()][:1]))
        age(store, 10)
        gone = compact(keeper, below=0.9).rewritten if kind == "compacted" else gc(keeper).deleted
        assert gone.packs >= 1
        gc(keeper)
        with pytest.raises(Unavailable, match="try again"):  # it had asked a moment ago, before all this
            commit(writer, few)
        commit(writer, few)
        is_whole(store, tmp_path / "fresh", few)


def test_a_rewriting_that_sleeps_while_garbage_is_collected_twice_loses_nothing(tmp_path: Path) -> None:
    """Before each write what it copies comes to be garbage, is condemned, and is needed again at the last moment
    at which it can be."""
    at, done, outcomes = 0, False, []
    while not done:
        memory = MemoryStore()
        writer, other = (node_on(memory, tmp_path / f"{name}{at}") for name in ("writer", "other"))
        collector, sleeper = FaultyStore(memory), FaultyStore(memory)
        gc_node, keeper = node_on(collector, tmp_path / f"gc{at}"), node_on(sleeper, tmp_path / f"keeper{at}")
        with closing(writer.index), closing(other.index), closing(gc_node.index), closing(keeper.index):
            few = needed_once(writer)
            age(memory, 2 * HOUR)
            compact(keeper, grace=HOUR)
            age(memory, 2 * HOUR)
            written: list[bool] = []

            def meet(
                request: Request, writer: Repository = writer, few: Files = few, written: list[bool] = written
            ) -> None:
                if request.kind == "put_if_match" and request.key == STATE and not written:
                    meanwhile(0, written, lambda: commit(writer, few), request)

            def sleep(
                writer: Repository = writer, memory: MemoryStore = memory, node: Repository = gc_node,
                collector: FaultyStore = collector, meet: Callable[[Request], None] = meet,
            ) -> None:
                writer.refs.delete_branch("r", "try")
                for _ in range(2):
                    age(memory, 2 * HOUR)
                    gc(node, grace=HOUR)
                    collector.plan = meet

            slept: list[bool] = []
            sleeper.plan = partial(before, WRITES, count(), at, slept, sleep)
            try:
                compact(keeper, grace=HOUR)
            except (Unavailable, Conflict):  # of what it had found and not yet read, some is gone
                pass
            done = not slept
            is_whole(memory, tmp_path / f"fresh{at}", few if written == [True] else {})
            outcomes += written
            at += 1
    assert at > 5 and any(outcomes)


def test_whenever_in_a_rewriting_another_one_does_it_all_it_has_nothing_left_to_do(tmp_path: Path) -> None:
    """Before each of its reads of a pack."""
    at, done = 0, False
    while not done:
        memory = MemoryStore()
        faulty = FaultyStore(memory)
        names = ("writer", "other", "keeper")
        writer, other, keeper = (
            node_on(faulty if name == "keeper" else memory, tmp_path / f"{name}{at}") for name in names
        )
        with closing(writer.index), closing(other.index), closing(keeper.index):
            few = needed_once(writer)
            age(memory, HOUR)
            met: list[bool] = []
            faulty.plan = partial(before, {"get_range"}, count(), at, met, partial(compact, other))
            try:
                compact(keeper)
            except Conflict as error:
                assert "another run" in str(error)
            faulty.plan = no_faults
            done = not met
            fresh = node_on(memory, tmp_path / f"fresh{at}")
            with closing(fresh.index):
                check(fresh)
                assert content(fresh, "r/try") == {(b"only",): b"1", **few}
            at += 1
    assert at > 5


def before(
    kinds: Collection[str], numbers: Iterator[int], at: int, done: list[bool], act: Callable[[], object],
    request: Request,
) -> None:
    """Do something before request number `at` of these kinds."""
    if request.kind in kinds and next(numbers) == at:
        meanwhile(0, done, act, request)


def is_whole(store: MemoryStore, index: Path, files: Files) -> None:
    """A node that knows nothing reads these files."""
    fresh = node_on(store, index)
    with closing(fresh.index):
        check(fresh)
        found = content(fresh)
        assert {path: found[path] for path in files} == files
