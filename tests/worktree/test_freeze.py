"""Commits of a head while it goes on: what goes in, what stays a change, what other nodes' commits do to it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.repo.parts import commit
from tests.worktree.parts import Bench, Path
from vfsd.model.entry import Kind
from vfsd.worktree import forgotten
from vfsd.worktree import staged as staged_module
from vfsd.worktree.freeze import thaw
from vfsd.worktree.node import WorkNode


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def data(bench: Bench) -> dict[Path, bytes]:
    """path → bytes of every file of the head."""
    return {path: seen.data for path, seen in bench.seen().items() if seen.kind == Kind.FILE}


def committed(bench: Bench) -> dict[Path, bytes]:
    """path → bytes of every file of the branch's commit."""
    return {path: seen.data for path, seen in bench.committed().items() if seen.kind == Kind.FILE}


def mkdir(bench: Bench, path: Path) -> None:
    bench.tree.make(bench.at(path[:-1]), path[-1], Kind.DIR, 0o755, 0, 0)


def rename(bench: Bench, old: Path, new: Path) -> None:
    bench.tree.rename(bench.at(old[:-1]), old[-1], bench.at(new[:-1]), new[-1], 0)


# What goes into a commit


def test_a_file_that_is_being_written_waits_until_it_is_closed(bench: Bench) -> None:
    bench.write((b"done",), b"1")
    node = bench.tree.make(bench.tree.root, b"half", Kind.FILE, 0o644, 0, 0)
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"half of")
    bench.commit()
    assert committed(bench) == {(b"done",): b"1"}
    bench.tree.write(node, 7, b" it")
    bench.close_file(node)
    bench.commit()
    assert committed(bench) == {(b"done",): b"1", (b"half",): b"half of it"}


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_what_was_closed_goes_in_while_it_is_cut_and_written_anew(bench: Bench, size: int) -> None:
    node = bench.write((b"f",), b"1" * size)
    bench.tree.opened(node, write=True, truncate=True)
    bench.tree.write(node, 0, b"half")
    bench.commit()
    assert committed(bench) == {(b"f",): b"1" * size}
    assert data(bench) == {(b"f",): b"half"}


def test_what_was_closed_survives_a_crash_while_it_is_written_again(bench: Bench) -> None:
    """Also when a commit of other files happens in between."""
    node = bench.write((b"f",), b"closed")
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"XX")
    bench.write((b"other",), b"1")
    bench.commit()
    assert committed(bench)[b"f",] == b"closed"
    bench.crash()
    assert data(bench) == {(b"f",): b"closed", (b"other",): b"1"}


def test_what_was_synced_survives_a_commit_of_others_and_a_crash(bench: Bench) -> None:
    node = bench.tree.make(bench.tree.root, b"f", Kind.FILE, 0o644, 0, 0)
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"synced")
    bench.tree.sync(node)()
    bench.tree.link(node, bench.tree.root, b"g")
    bench.tree.write(node, 6, b" and more")
    bench.write((b"other",), b"1")
    bench.commit()
    bench.crash()
    found = data(bench)
    assert found[b"f",].startswith(b"synced")
    assert found[b"g",] == found[b"f",]


def synced_and_cut(bench: Bench) -> WorkNode:
    """A new file that the journal has, under the name `f`, and that is being written from its beginning again."""
    node = bench.tree.make(bench.tree.root, b"beside", Kind.FILE, 0o644, 0, 0)
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"synced")
    bench.tree.sync(node)()
    rename(bench, (b"beside",), (b"f",))
    bench.tree.truncate(node, 0)
    return node


def test_what_was_synced_and_then_cut_to_nothing_survives_a_commit_of_others(bench: Bench) -> None:
    node = synced_and_cut(bench)
    bench.tree.write(node, 0, b"new")
    bench.write((b"other",), b"1")
    bench.commit()
    bench.crash()
    assert data(bench) == {(b"f",): b"new", (b"other",): b"1"}


def test_what_was_synced_and_then_cut_to_nothing_can_be_removed(bench: Bench) -> None:
    synced_and_cut(bench)
    bench.tree.unlink(bench.tree.root, b"f")
    bench.crash()
    assert data(bench) == {}


def test_the_mode_of_what_was_synced_and_then_cut_to_nothing_is_kept(bench: Bench) -> None:
    node = synced_and_cut(bench)
    bench.tree.set_attributes(node, mode=0o600)
    bench.crash()
    assert bench.at((b"f",)).mode == 0o600


@pytest.mark.parametrize("closed", [True, False])
def test_a_time_that_was_set_is_that_of_the_bytes_before_they_are_rewritten(bench: Bench, closed: bool) -> None:
    """closed: these bytes are in no commit yet."""
    node = bench.write((b"f",), b"closed")
    if not closed:
        bench.commit()
    bench.tree.set_attributes(node, mtime=1)
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"XX")
    bench.commit()
    assert (bench.committed()[b"f",].data, bench.entry((b"f",)).mtime) == (b"closed", 1)
    bench.crash()
    assert (data(bench), bench.at((b"f",)).mtime) == ({(b"f",): b"closed"}, 1)


def test_a_crash_while_a_closed_file_is_cut_short_leaves_it_whole(bench: Bench) -> None:
    node = bench.write((b"f",), b"x" * 500_000)
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.truncate(node, 10)
    bench.crash()
    bench.commit()
    assert committed(bench) == {(b"f",): b"x" * 500_000}


# What is as the commit before had it


def equal(bench: Bench, path: Path, data: bytes) -> None:
    """A closed file of this content and a fixed mtime."""
    bench.tree.set_attributes(bench.write(path, data), mtime=1)


def test_a_file_that_was_replaced_by_an_equal_one_keeps_its_bytes(bench: Bench) -> None:
    equal(bench, (b"f",), b"1")
    bench.commit()
    equal(bench, (b"beside",), b"1")
    rename(bench, (b"beside",), (b"f",))
    bench.commit()
    assert data(bench) == committed(bench) == {(b"f",): b"1"}
    node = bench.at((b"f",))
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 1, b"2")
    bench.close_file(node)
    bench.commit()
    assert data(bench) == committed(bench) == {(b"f",): b"12"}


def test_a_directory_that_was_replaced_by_an_equal_one_keeps_its_names(bench: Bench) -> None:
    for name in (b"d", b"e"):
        mkdir(bench, (name,))
        equal(bench, (name, b"f"), b"1")
        bench.tree.set_attributes(bench.at((name,)), mtime=1)
        if name == b"d":
            bench.commit()
    bench.tree.unlink(bench.at((b"d",)), b"f")
    rename(bench, (b"e",), (b"d",))
    bench.tree.set_attributes(bench.at(()), mtime=1)
    bench.commit()
    bench.forget_all()
    assert data(bench) == committed(bench) == {(b"d", b"f"): b"1"}


def test_a_crash_before_the_journal_knows_of_a_commit_changes_nothing(bench: Bench) -> None:
    """What the journal brings back is in the commit already, and the next commit changes nothing."""
    bench.write((b"f",), b"1")
    mkdir(bench, (b"d",))
    bench.write((b"d", b"f"), b"1")
    bench.commit()
    bench.write((b"f",), b"2")
    bench.write((b"beside",), b"2")
    rename(bench, (b"beside",), (b"d", b"f"))
    mkdir(bench, (b"new",))
    bench.write((b"new", b"f"), b"2")
    before = data(bench)
    frozen = bench.freeze()
    assert frozen is not None
    bench.store_commit(frozen)
    bench.crash()
    assert data(bench) == before
    bench.commit()
    assert data(bench) == committed(bench) == before
    bench.forget_all()
    assert data(bench) == before


# While a commit is made


def test_what_changes_during_a_commit_stays_a_change(bench: Bench) -> None:
    bench.write((b"a",), b"1")
    bench.write((b"b",), b"1")
    frozen = bench.freeze()
    assert frozen is not None
    bench.write((b"a",), b"2")
    bench.tree.unlink(bench.tree.root, b"b")
    bench.write((b"c",), b"1")
    bench.finish(frozen)
    assert committed(bench) == {(b"a",): b"1", (b"b",): b"1"}
    assert data(bench) == {(b"a",): b"2", (b"c",): b"1"}
    bench.commit()
    assert committed(bench) == {(b"a",): b"2", (b"c",): b"1"}


def test_a_new_directory_that_grows_during_its_commit_keeps_what_was_committed(bench: Bench) -> None:
    mkdir(bench, (b"d",))
    bench.write((b"d", b"one"), b"1")
    frozen = bench.freeze()
    assert frozen is not None
    bench.write((b"d", b"two"), b"2")
    bench.finish(frozen)
    bench.commit()
    assert committed(bench) == {(b"d", b"one"): b"1", (b"d", b"two"): b"2"} == data(bench)


def test_a_directory_that_is_moved_during_its_commit_takes_everything_along(bench: Bench) -> None:
    mkdir(bench, (b"d",))
    bench.write((b"d", b"one"), b"1")
    bench.commit()
    bench.write((b"d", b"two"), b"2")
    bench.tree.unlink(bench.at((b"d",)), b"one")
    frozen = bench.freeze()
    assert frozen is not None
    rename(bench, (b"d",), (b"e",))
    bench.finish(frozen)
    assert committed(bench) == {(b"d", b"two"): b"2"}
    bench.commit()
    assert committed(bench) == {(b"e", b"two"): b"2"} == data(bench)


def test_a_file_that_is_unlinked_during_its_commit_can_be_read_until_it_is_closed(bench: Bench) -> None:
    node = bench.write((b"f",), b"still here")
    bench.tree.opened(node, write=False, truncate=False)
    frozen = bench.freeze()
    assert frozen is not None
    bench.tree.unlink(bench.tree.root, b"f")
    bench.finish(frozen)
    assert bench.tree.read(node, 0, 100) == b"still here"
    bench.tree.released(node, write=False)
    bench.commit()
    assert committed(bench) == {}


def test_a_large_new_file_that_is_changed_while_its_commit_reads_it_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged_module, "SMALL", 64)
    node = bench.write((b"f",), b"x" * 1000)
    frozen = bench.freeze()
    assert frozen is not None
    bench.tree.opened(node, write=True, truncate=False)
    with pytest.raises(Exception, match="copy") as miss:
        bench.tree.write(node, 500, b"new")
    miss.value.load()  # type: ignore[attr-defined]
    bench.tree.write(node, 500, b"new")
    bench.close_file(node)
    bench.finish(frozen)
    assert committed(bench) == {(b"f",): b"x" * 1000}
    bench.commit()
    assert committed(bench) == {(b"f",): b"x" * 500 + b"new" + b"x" * 497}


def test_after_a_failed_commit_everything_is_still_a_change(bench: Bench) -> None:
    bench.write((b"f",), b"1")
    frozen = bench.freeze()
    assert frozen is not None
    bench.write((b"f",), b"2")
    thaw(bench.tree, frozen, committed=False)
    assert committed(bench) == {}
    bench.commit()
    assert committed(bench) == {(b"f",): b"2"}


def test_commits_give_the_disk_back(bench: Bench) -> None:
    folder = bench.staging.folder
    for number in range(5):
        bench.write((b"large",), b"%d" % number * 200_000)
        bench.write((b"small",), b"%d" % number)
        bench.commit()
    assert bench.commit() is None
    assert sum(os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)) < 100
    assert bench.journal.records(bench.row.id) == []


# Names, links and attributes


def test_hard_links_made_in_different_lives_of_the_daemon_stay_apart(bench: Bench) -> None:
    for first, second in ((b"a1", b"a2"), (b"b1", b"b2")):
        node = bench.write((first,), first)
        bench.tree.link(node, bench.tree.root, second)
        bench.commit()
        bench.crash()
    seen = bench.seen()
    assert seen[b"a1",].link == seen[b"a2",].link != seen[b"b1",].link == seen[b"b2",].link
    links = [found.link for found in bench.committed().values()]
    assert len(set(links)) == 2
    assert 0 not in links


def test_moving_one_name_of_a_linked_file_leaves_the_others(bench: Bench) -> None:
    node = bench.write((b"a",), b"1")
    bench.tree.link(node, bench.tree.root, b"b")
    rename(bench, (b"b",), (b"c",))
    assert node.nlink == 2
    bench.tree.unlink(bench.tree.root, b"c")
    bench.write((b"a",), b"2")
    bench.commit()
    bench.crash()
    assert data(bench) == {(b"a",): b"2"} == committed(bench)


def test_times_that_64_bits_cannot_hold_become_the_nearest_that_they_can(bench: Bench) -> None:
    node = bench.write((b"f",), b"1")
    bench.tree.set_attributes(node, mtime=1 << 80)
    bench.commit()
    bench.crash()
    assert bench.at((b"f",)).mtime == (1 << 63) - 1


def test_attributes_of_the_branchs_root_survive_crashes_and_commits(bench: Bench) -> None:
    bench.tree.set_attributes(bench.tree.root, mode=0o700, uid=5, mtime=77)
    bench.crash()
    bench.commit()
    bench.crash()
    root = bench.tree.root
    assert (root.mode, root.uid, root.mtime) == (0o700, 5, 77)


def test_times_of_files_are_the_same_after_a_crash(bench: Bench) -> None:
    bench.write((b"f",), b"1")
    bench.tree.set_attributes(bench.write((b"g",), b"1"), mtime=12345)
    before = {path: bench.at(path).mtime for path in bench.seen()}
    bench.crash()
    assert {path: bench.at(path).mtime for path in bench.seen()} == before
    bench.commit()
    assert {path: bench.at(path).mtime for path in bench.seen()} == before


# Other nodes' commits


def test_what_another_node_commits_appears_beside_the_changes_here(bench: Bench) -> None:
    bench.write((b"mine",), b"1")
    bench.commit()
    bench.write((b"mine",), b"2")
    commit(bench.repository, {(b"theirs",): b"1", (b"d", b"deep"): b"1"})
    stale = bench.follow()
    assert (bench.tree.root.ino, b"theirs") in stale.names
    assert data(bench) == {(b"mine",): b"2", (b"theirs",): b"1", (b"d", b"deep"): b"1"}
    bench.commit()
    assert committed(bench) == data(bench)


def test_both_change_one_file_and_the_last_close_wins(bench: Bench) -> None:
    bench.write((b"f",), b"0")
    bench.commit()
    commit(bench.repository, {(b"f",): b"theirs"})
    bench.write((b"f",), b"mine")
    bench.commit()
    assert committed(bench) == {(b"f",): b"mine"} == data(bench)
    head = bench.repository.refs.head("r", "main").commit
    assert head is not None
    assert len(list(bench.repository.commits.log(head))) == 3, "the other version is in history"


def test_a_file_that_nobody_changed_here_follows_the_branch(bench: Bench) -> None:
    node = bench.write((b"f",), b"0")
    bench.write((b"gone",), b"0")
    bench.commit()
    commit(bench.repository, {(b"f",): b"theirs", (b"gone",): None})
    stale = bench.follow()
    assert node.ino in stale.inodes
    assert (bench.tree.root.ino, b"gone") in stale.names
    assert data(bench) == {(b"f",): b"theirs"}


def test_a_file_that_is_changed_here_stays_though_another_node_removes_it(bench: Bench) -> None:
    bench.write((b"f",), b"0")
    bench.commit()
    bench.write((b"f",), b"mine")
    commit(bench.repository, {(b"f",): None, (b"other",): b"1"})
    bench.follow()
    assert data(bench) == {(b"f",): b"mine", (b"other",): b"1"}
    bench.commit()
    assert committed(bench) == data(bench)


def test_a_head_of_an_earlier_commit_is_brought_back_and_follows_the_branch(bench: Bench) -> None:
    bench.write((b"d",), b"0")
    bench.commit()
    bench.write((b"mine",), b"1")
    commit(bench.repository, {(b"theirs",): b"1"})
    bench.crash()
    assert data(bench) == {(b"d",): b"0", (b"mine",): b"1", (b"theirs",): b"1"}


def test_own_commits_are_not_announced_as_changes(bench: Bench) -> None:
    bench.write((b"f",), b"1")
    stale = bench.commit()
    assert stale is not None
    assert stale.inodes == []


# What the kernel forgets


def test_the_last_that_were_forgotten_get_their_numbers_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgotten, "MOST", 2)
    names = [b"a", b"b", b"c"]
    numbers = [bench.write((name,), b"1").ino for name in names]
    bench.commit()
    bench.forget_all()
    again = [bench.at((name,)).ino for name in names]
    assert again[1:] == numbers[1:]
    assert again[0] not in numbers


@pytest.mark.parametrize("truncate", [False, True])
def test_a_file_that_is_written_while_it_is_committed_is_a_changed_one_when_it_is_closed(
    bench: Bench, truncate: bool
) -> None:
    """The close brings it into the journal; its end, which makes it a version to commit, may come too late."""
    node = bench.write((b"f",), b"closed")
    frozen = bench.freeze()
    assert frozen is not None
    bench.tree.opened(node, write=True, truncate=truncate)
    bench.tree.write(node, 0, b"written")
    mtime = node.mtime
    bench.finish(frozen)
    assert node.mtime == mtime
    bench.tree.flushed(node)
    bench.crash()
    assert (data(bench), bench.at((b"f",)).mtime) == ({(b"f",): b"written"}, mtime)


def test_what_the_kernel_forgot_before_it_was_committed_is_forgotten_then(bench: Bench) -> None:
    mkdir(bench, (b"d",))
    mkdir(bench, (b"d", b"e"))
    bench.write((b"d", b"e", b"f"), b"1")
    bench.forget_all()
    bench.commit()
    assert bench.tree.root.children == {}
    assert data(bench) == {(b"d", b"e", b"f"): b"1"}


def test_nothing_is_remembered_of_a_link_that_has_one_name_left(bench: Bench) -> None:
    """git makes each of its objects so."""
    node = bench.write((b"beside",), b"1")
    bench.tree.link(node, bench.tree.root, b"object")
    bench.tree.unlink(bench.tree.root, b"beside")
    bench.commit()
    assert (bench.tree.linked, node.link) == ({}, 0)


def test_a_crash_gives_the_bytes_of_before_their_own_mtime(bench: Bench) -> None:
    node = bench.write((b"f",), b"closed")
    bench.commit()
    mtime = node.mtime
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"XX")
    bench.tree.set_attributes(node, mode=0o600)
    bench.crash()
    node = bench.at((b"f",))
    assert (data(bench), node.mode, node.mtime) == ({(b"f",): b"closed"}, 0o600, mtime)


@pytest.mark.parametrize("size", [10, 300_000])
@pytest.mark.parametrize("gone", [True, False])
def test_bytes_that_a_power_cut_took_are_missed_in_their_file_alone(
    bench: Bench, size: int, gone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Of what was closed and not synced the journal may be there, and the bytes not: at all, or not to their end."""
    bench.write((b"old",), b"before")
    bench.commit()
    before = set(os.listdir(bench.staging.folder))
    bench.write((b"here",), b"1" * 200_000)
    kept = set(os.listdir(bench.staging.folder)) - before
    for name in (b"old", b"new", b"beside"):
        bench.write((name,), b"2" * size)
    bench.tree.rename(bench.tree.root, b"beside", bench.tree.root, b"here too", 0)
    for name in set(os.listdir(bench.staging.folder)) - kept:
        path = bench.staging.path(name)
        if gone:
            os.unlink(path)
        else:
            os.truncate(path, 0)
    bench.crash()
    found = {(b"here",): b"1" * 200_000, (b"old",): b"before"}
    assert data(bench) == found
    assert "r/main: 'new': the bytes that were written last are gone" in caplog.text
    bench.commit()
    assert committed(bench) == found


def test_what_was_closed_moves_with_its_directory_while_it_is_committed_and_written_anew(bench: Bench) -> None:
    """The commit has it under the old name: the next one, which has the renaming, needs its bytes again."""
    mkdir(bench, (b"d",))
    node = bench.write((b"d", b"f"), b"closed")
    frozen = bench.freeze()
    assert frozen is not None
    rename(bench, (b"d",), (b"e",))
    bench.tree.opened(node, write=True, truncate=False)
    bench.tree.write(node, 0, b"XX")
    bench.finish(frozen)
    bench.commit()
    assert committed(bench) == {(b"e", b"f"): b"closed"}
    bench.crash()
    assert data(bench) == {(b"e", b"f"): b"closed"}
