"""Staged bytes against a bytearray: in memory, in segments, in files of their own, over committed bytes."""

from __future__ import annotations

import errno
import gc
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfsd.model.entry import EMPTY_FILE
from vfsd.model.errors import NotCached, Refused
from vfsd.repo.chunklist import Content
from vfsd.worktree import staged as staged_module
from vfsd.worktree import staging as staging_module
from vfsd.worktree.staged import StagedFile
from vfsd.worktree.staging import Staging

BASE = bytes(range(1, 201))
CONTENT = Content(len(BASE), EMPTY_FILE)


def read_base(content: Content, offset: int, size: int) -> bytes:
    assert content is CONTENT or content == CONTENT
    assert offset + size <= len(BASE)
    return BASE[offset : offset + size]


def whole(file: StagedFile) -> bytes:
    return file.read(0, 1 << 20, read_base)


@contextmanager
def small_limits() -> Iterator[str]:
    """A folder, with files spilled at 64 bytes and segments full at 300."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(staged_module, "SMALL", 64)
        patch.setattr(staging_module, "SEGMENT", 300)
        yield folder


class Restarted:
    """A staging folder and one file in it that can be left by one process and found by the next."""

    def __init__(self, folder: str, *, over_base: bool) -> None:
        self.folder = folder
        self.staging = Staging(folder)
        self.file = StagedFile(self.staging, CONTENT if over_base else None)
        self.reference = bytearray(BASE if over_base else b"")
        self.left: list[tuple[StagedFile, bytes]] = []  # files that commits read, and what they must go on to say
        self.number = 0

    def record(self) -> None:
        """As the journal does: bring it to disk and name it."""
        self.file.store()
        self.number += 1
        self.file.recorded = self.number

    def restart(self) -> None:
        file = self.file
        stored = file.store()
        self.staging.close()
        for left, _ in self.left:
            left.frozen = 0
        self.left.clear()
        self.staging = Staging(self.folder)
        self.file = StagedFile.restore(self.staging, file.size, file.base, file.base_limit, stored)

    def freeze(self) -> None:
        """A commit reads the file from now on; who writes takes a copy."""
        self.file.store()
        self.file.frozen += 1
        self.left.append((self.file, bytes(self.reference)))
        try:
            copy = self.file.successor()
        except NotCached as miss:
            miss.load()
            copy = self.file.successor()
        self.file = copy

    def check(self) -> None:
        assert self.file.size == len(self.reference)
        assert whole(self.file) == self.reference
        for file, data in self.left:
            assert whole(file) == data


offsets = st.integers(0, 300)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), offsets, st.binary(min_size=1, max_size=90)),
        st.tuples(st.just("truncate"), offsets, st.just(b"")),
        st.tuples(st.just("zero"), offsets, st.binary(max_size=90)),
        st.tuples(st.just("read"), offsets, st.binary(max_size=100)),
        st.tuples(st.sampled_from(["record", "restart", "freeze"]), st.just(0), st.just(b"")),
    ),
    max_size=15,
)


@settings(max_examples=200)
@given(steps=steps, over_base=st.booleans())
def test_a_staged_file_is_a_bytearray(steps: list[tuple[str, int, bytes]], over_base: bool) -> None:
    with small_limits() as folder:
        it = Restarted(folder, over_base=over_base)
        for kind, at, data in steps:
            match kind:
                case "write":
                    it.file.write(at, data)
                    it.reference.extend(bytes(max(0, at - len(it.reference))))
                    it.reference[at : at + len(data)] = data
                case "truncate":
                    it.file.truncate(at)
                    it.reference.extend(bytes(max(0, at - len(it.reference))))
                    del it.reference[at:]
                case "zero":
                    end = min(at + len(data), len(it.reference))
                    it.file.zero(at, end)
                    it.reference[at:end] = bytes(max(0, end - at))
                case "read":
                    assert it.file.read(at, len(data), read_base) == it.reference[at : at + len(data)]
                case "record":
                    it.record()
                case "restart":
                    it.restart()
                case "freeze":
                    it.freeze()
            it.check()
        it.staging.close()


def test_a_small_new_file_touches_no_disk_until_it_is_stored() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        files = []
        for number in range(3):
            file = StagedFile(staging)
            file.write(0, b"small %d" % number)
            files.append(file)
        assert os.listdir(folder) == []
        places = [file.store() for file in files]
        assert len(os.listdir(folder)) == 1, "they share a segment"
        assert {place.name for place in places if place} == set(os.listdir(folder))
        assert [whole(file) for file in files] == [b"small 0", b"small 1", b"small 2"]
        staging.close()


def test_an_empty_file_needs_no_bytes_on_disk() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        assert StagedFile(staging).store() is None
        assert os.listdir(folder) == []
        staging.close()


@pytest.mark.parametrize("size", [10, 100])
def test_what_is_synced_has_a_durable_name_and_durable_bytes(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the file is given up, and its descriptor closed, before a thread comes to it."""
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, bytes(size))
        stored = file.store()
        assert stored is not None
        sync = file.syncing()
        if size > staged_module.SMALL:
            file.discard()
        synced: list[str] = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
        sync()
        assert [name.removesuffix(" (deleted)") for name in synced] == [f"{folder}/{stored.name}", folder]
        staging.close()


def test_a_full_segment_is_followed_by_another_and_goes_with_its_last_user() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        files = []
        for _ in range(12):
            file = StagedFile(staging)
            file.write(0, bytes(60))
            file.store()
            files.append(file)
        assert len(os.listdir(folder)) == 3
        for file in files:
            file.discard()
        assert len(os.listdir(folder)) == 1, "the one that is being filled"
        staging.close()


def test_bytes_stay_on_disk_while_a_journal_record_names_them() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, bytes(100))
        file.store()
        file.recorded = 7
        file.discard()
        staging.settled(0, 7)
        staging.committed(6)
        assert len(os.listdir(folder)) == 1
        staging.committed(7)
        assert os.listdir(folder) == []
        staging.close()


def test_a_commit_of_one_branch_leaves_the_bytes_that_records_of_another_name() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging, branch=1)
        file.write(0, bytes(100))
        file.store()
        file.recorded = 5
        file.discard()
        staging.settled(2, 10)
        staging.committed(10)
        assert len(os.listdir(folder)) == 1
        staging.settled(1, 11)
        staging.committed(11)
        assert os.listdir(folder) == []
        staging.close()


def test_a_segment_stays_until_every_branch_whose_records_name_it_is_open_again() -> None:
    """Also when the first that is open has committed what it has there before the second is."""
    with small_limits() as folder:
        staging = Staging(folder)
        places = []
        for branch in (1, 2):
            file = StagedFile(staging, branch=branch)
            file.write(0, b"branch %d" % branch)
            places.append(file.store())
        staging.close()
        again = Staging(folder)
        again.clean({1: {"s1"}, 2: {"s1"}, 3: {"s1"}})
        first = StagedFile.restore(again, 8, None, 0, places[0], 1)
        again.opened(1)
        first.discard()
        second = StagedFile.restore(again, 8, None, 0, places[1], 2)
        again.opened(2)
        assert whole(second) == b"branch 2"
        second.discard()
        assert os.listdir(folder) == ["s1"]
        again.opened(3)
        assert os.listdir(folder) == []
        again.close()


def test_bytes_that_the_journal_names_stay_while_the_file_is_written_anew() -> None:
    """Cutting an open file short touches nothing that a record of its last close needs."""
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, b"x" * 200)
        stored = file.store()
        file.truncate(10)
        file.truncate(50)
        assert whole(file) == b"x" * 10 + bytes(40)
        staging.close()
        after = StagedFile.restore(Staging(folder), 200, None, 0, stored)
        assert whole(after) == b"x" * 200


def test_a_copy_that_a_writer_never_took_is_not_taken_for_a_later_version() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, bytes(100))
        with pytest.raises(NotCached) as miss:
            file.successor()
        miss.value.load()
        file.write(0, b"later")  # the commit failed, so the file may be written itself
        with pytest.raises(NotCached) as miss:
            file.successor()
        miss.value.load()
        assert whole(file.successor()) == b"later" + bytes(95)
        file.discard()
        assert len(os.listdir(folder)) == 1, "the copy in use"
        staging.close()


def test_copying_a_file_that_is_discarded_meanwhile_harms_nothing() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, bytes(100))
        with pytest.raises(NotCached) as miss:
            file.successor()
        file.discard()
        miss.value.load()
        assert os.listdir(folder) == []
        staging.close()


def test_what_no_record_names_is_cleaned_up_after_a_crash() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        kept, lost = StagedFile(staging), StagedFile(staging)
        for file in (kept, lost):
            file.write(0, bytes(100))
        place = kept.store()
        assert place is not None
        staging.close()
        staging = Staging(folder)
        staging.clean({1: {place.name}})
        assert os.listdir(folder) == [place.name]
        assert staging.new_file()[0] != place.name, "names are not used twice"
        os.close(staging.new_file()[1])
        staging.close()


def test_while_a_large_file_is_copied_for_a_writer_nobody_gets_the_half_copy() -> None:
    """Two writers meet a file that a commit reads: the second must wait for the copy as the first does."""
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, bytes(1000))
        file.frozen += 1
        with pytest.raises(NotCached) as first:
            file.successor()
        with pytest.raises(NotCached) as second:
            file.successor()
        assert first.value.key == second.value.key
        first.value.load()
        copy = file.successor()
        assert whole(copy) == bytes(1000)
        staging.close()


def test_a_staging_file_that_was_cut_short_is_an_error_not_zeros() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, b"x" * 100)
        place = file.store()
        assert place is not None
        os.truncate(os.path.join(folder, place.name), 50)
        with pytest.raises(Refused, match="cut short"):
            whole(file)
        staging.close()


def test_nothing_is_written_to_a_file_whose_segment_was_cut_short() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, b"x" * 50)
        place = file.store()
        assert place is not None
        os.truncate(os.path.join(folder, place.name), 20)
        with pytest.raises(Refused, match="cut short"):
            file.write(30, b"y")
        staging.close()


def test_bytes_that_the_disk_refuses_are_kept_until_it_takes_them() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, b"x" * 1000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            file.write_behind(1000, b"y" * 500)()  # whoever wrote has been answered
            for act in (lambda: file.write(1500, b"z"), lambda: file.read(0, 1500, read_base), file.store):
                with pytest.raises(OSError) as caught:
                    act()
                assert caught.value.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert whole(file) == b"x" * 1000 + b"y" * 500
        staging.close()


def test_a_file_that_the_disk_refuses_from_its_first_byte_on_leaves_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, b"a" * 1000)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        descriptors = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            for _ in range(3):
                with pytest.raises(OSError, match="large"):
                    file.write(1000, b"b" * staged_module.SMALL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert os.listdir(folder) == [] and len(os.listdir("/proc/self/fd")) <= descriptors
        file.write(1000, b"b" * staged_module.SMALL)
        assert whole(file) == b"a" * 1000 + b"b" * staged_module.SMALL
        staging.close()


def test_files_for_which_there_is_no_descriptor_are_not_counted() -> None:
    with tempfile.TemporaryDirectory() as folder:
        staging = Staging(folder, files=3)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        gc.collect()  # what it closes would leave descriptors free below the last one
        with open("/dev/null", "rb") as last:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), before[1]))
            try:
                for _ in range(4):
                    with pytest.raises(OSError, match="open files"):
                        staging.new_file()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert staging.has_room(1)
        staging.close()


def test_a_copy_has_the_bytes_that_the_disk_refused_at_first() -> None:
    """Else neither it nor a commit of it could be read any more."""
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.write(0, b"x" * 1000)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            file.write_behind(1000, b"y" * 500)()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with pytest.raises(NotCached) as missing:
            file.successor()
        missing.value.load()
        assert whole(file.successor()) == b"x" * 1000 + b"y" * 500
        staging.close()


def test_what_is_written_over_zeros_counts_against_the_limit() -> None:
    with small_limits() as folder:
        staging = Staging(folder)
        file = StagedFile(staging)
        file.truncate(1 << 20)
        before = staging.used
        file.zero(0, 1 << 20)
        file.write(0, bytes(1 << 20))
        assert staging.used >= before + (1 << 20)
        staging.close()
