"""A directory is followed: real files, real writers, a store that may fail."""

from __future__ import annotations

import logging
import mmap
import os
import random
import shutil
from pathlib import Path

import pytest
import trio

from tests.repo.following import following, writer
from vfsd.model.errors import NotFound, Unavailable
from vfsd.repo import follow, notices
from vfsd.repo.follow import Timing
from vfsd.repo.ingest import Ingest
from vfsd.store.faulty import Fault, Request, seeded

PATIENT = Timing(quiet_s=600.0, max_wait_s=600.0)


async def test_closed_writes_become_one_commit_when_it_is_quiet(tmp_path: Path) -> None:
    async with following(tmp_path, Timing(quiet_s=0.5, max_wait_s=30.0)) as scene:
        for name in ("a", "b", "c"):
            (scene.folder / name).write_text(name)
        await scene.until(lambda: scene.files() == {"a": b"a", "b": b"b", "c": b"c"})
        assert scene.commits() == 1


async def test_what_never_gets_quiet_is_committed_at_the_latest_after_the_longest_wait(tmp_path: Path) -> None:
    async with following(tmp_path, Timing(quiet_s=600.0, max_wait_s=0.3)) as scene:
        (scene.folder / "a").write_text("a")
        await scene.until(lambda: "a" in scene.names())


async def test_what_is_there_at_the_start_is_compared_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "a").write_text("a")
    async with following(tmp_path, PATIENT) as scene:
        await scene.until(lambda: scene.files() == {"sub/a": b"a"})


async def test_a_file_that_another_process_writes_is_waited_for_and_others_are_not(tmp_path: Path) -> None:
    async with following(tmp_path) as scene:
        with writer(scene.folder / "slow") as write:
            write("first half, ")
            (scene.folder / "quick").write_text("x")
            await scene.until(lambda: "quick" in scene.names())
            write("second half")
            (scene.folder / "quick").write_text("y")
            await scene.until(lambda: scene.files().get("quick") == b"y")
            assert "slow" not in scene.names()
        await scene.until(lambda: scene.files().get("slow") == b"first half, second half")


async def test_a_save_by_renaming_over_is_one_new_version(tmp_path: Path) -> None:
    async with following(tmp_path, Timing(quiet_s=0.3, max_wait_s=30.0)) as scene:
        (scene.folder / "note").write_text("old")
        await scene.until(lambda: scene.files() == {"note": b"old"})
        (scene.folder / ".note.swp").write_text("new")
        (scene.folder / ".note.swp").rename(scene.folder / "note")
        await scene.until(lambda: scene.files() == {"note": b"new"})
        assert scene.commits() == 2


async def test_removed_files_go_when_deletions_are_followed(tmp_path: Path) -> None:
    async with following(tmp_path, delete=True) as scene:
        (scene.folder / "sub").mkdir()
        (scene.folder / "sub" / "a").write_text("a")
        (scene.folder / "b").write_text("b")
        await scene.until(lambda: scene.names() == {"sub", "sub/a", "b"})
        shutil.rmtree(scene.folder / "sub")
        await scene.until(lambda: scene.names() == {"b"})


async def test_removed_files_stay_otherwise(tmp_path: Path) -> None:
    async with following(tmp_path) as scene:
        (scene.folder / "old").write_text("a")
        await scene.until(lambda: scene.names() == {"old"})
        (scene.folder / "old").unlink()
        (scene.folder / "new").write_text("b")
        await scene.until(lambda: scene.names() == {"old", "new"})


async def test_directories_that_are_moved_come_with_all_that_is_in_them(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep" / "er").mkdir(parents=True)
    (outside / "deep" / "er" / "a").write_text("a")
    async with following(tmp_path, delete=True) as scene:
        outside.rename(scene.folder / "inside")
        await scene.until(lambda: scene.files() == {"inside/deep/er/a": b"a"})
        (scene.folder / "inside").rename(scene.folder / "again")
        await scene.until(lambda: scene.files() == {"again/deep/er/a": b"a"})
        (scene.folder / "again" / "deep" / "er" / "b").write_text("b")
        await scene.until(lambda: "again/deep/er/b" in scene.names())


async def test_modes_times_links_and_names_that_are_no_text_come_along(tmp_path: Path) -> None:
    async with following(tmp_path) as scene:
        with open(os.fsencode(scene.folder) + b"/\xff", "wb") as file:
            file.write(b"x")
        (scene.folder / "link").symlink_to("nowhere")
        await scene.until(lambda: {"\udcff", "link"} <= scene.names())


async def test_writes_through_a_mapping_are_found_by_comparing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "COMPARE_SHARE", 1)
    monkeypatch.setattr(follow, "COMPARE_S", 0.3)
    async with following(tmp_path) as scene:
        (scene.folder / "a").write_bytes(bytes(4096))
        await scene.until(lambda: scene.files() == {"a": bytes(4096)})
        with (scene.folder / "a").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0] = 1
        await scene.until(lambda: scene.files() == {"a": b"\1" + bytes(4095)})


async def test_a_flood_of_notices_leads_to_a_comparison_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "OVERFLOW", 3)
    note = notices.Notices._note
    monkeypatch.setattr(notices.Notices, "_note", lambda self, changes: note(self, set(list(changes)[:1])))
    async with following(tmp_path) as scene:
        for number in range(20):
            (scene.folder / str(number)).write_text("x")
        await scene.until(lambda: len(scene.names()) == 20)


async def test_without_the_kernels_help_changes_are_found_by_comparing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def watch(*_: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("watchfiles.watch", watch)
    monkeypatch.setattr(notices, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(notices, "LAST_RETRY_S", 0.1)
    monkeypatch.setattr(notices, "DRAIN_S", 0.1)
    async with following(tmp_path) as scene:
        (scene.folder / "a").write_text("a")
        await scene.until(lambda: scene.files() == {"a": b"a"})
    said = [record.getMessage() for record in caplog.records if "the kernel does not tell" in record.getMessage()]
    assert len(said) == 1, "once, not at every try"


async def test_many_files_come_in_whole_and_one_change_looks_at_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(tmp_path) as scene:
        for number in range(2000):
            (scene.folder / str(number)).write_text(str(number))
        await scene.until(lambda: len(scene.names()) == 2000)
        assert scene.files() == {str(number): str(number).encode() for number in range(2000)}
        read = []
        one = Ingest.one

        def counted(self: Ingest, path: bytes, name: bytes, status: os.stat_result) -> object:
            read.append(name)
            return one(self, path, name, status)

        monkeypatch.setattr(Ingest, "one", counted)
        (scene.folder / "77").write_text("changed")
        await scene.until(lambda: scene.files()["77"] == b"changed")
        assert set(read) == {b"77"}


# Trouble


async def test_a_store_that_fails_is_asked_again_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    failures = [Fault.FAIL, Fault.FAIL, Fault.FAIL]

    def plan(request: Request) -> Fault | None:
        return failures.pop() if failures and request.key.startswith("commits/") else None

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "early").write_text("1")
    async with following(tmp_path, plan=plan) as scene:
        (scene.folder / "late").write_text("2")
        await scene.until(lambda: scene.files() == {"early": b"1", "late": b"2"})
    said = [record.getMessage()[:39] for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) >= 1 and set(said) == {"cannot commit, will try again: put comm"}
    assert "committing again" in caplog.text
    assert not failures


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_a_store_loses_nothing_of_the_directory_is_lost(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "LAST_RETRY_S", 0.05)
    faults = seeded(seed, 0.4, [Fault.FAIL, Fault.LOSE, Fault.REPEAT])
    async with following(tmp_path, Timing(quiet_s=0.02, max_wait_s=0.2), delete=True, plan=faults) as scene:
        dice = random.Random(seed)
        for number in range(40):
            path = scene.folder / str(dice.randrange(10))
            if number % 4 == 3 and path.exists():
                path.unlink()
            else:
                path.write_bytes(dice.randbytes(dice.randrange(3000)))
            await trio.lowlevel.checkpoint()
        there = {path.name: path.read_bytes() for path in scene.folder.iterdir()}
        await scene.until(lambda: scene.files() == there)


async def test_what_the_store_does_not_take_at_the_end_is_the_answer(tmp_path: Path) -> None:
    async with following(tmp_path, PATIENT, plan=lambda request: Fault.FAIL) as scene:
        (scene.folder / "a").write_text("a")
        await scene.stop()
        assert isinstance(scene.error, Unavailable)


async def test_stopping_commits_what_is_closed_without_waiting_and_leaves_out_the_rest(tmp_path: Path) -> None:
    async with following(tmp_path, PATIENT) as scene:
        await scene.until(lambda: any(kind == "get" and key.startswith("refs/") for kind, key in scene.store.requests))
        with writer(scene.folder / "open") as write:
            write("half")
            (scene.folder / "closed").write_text("a")
            await scene.stop()
        assert scene.error is None
        assert scene.files() == {"closed": b"a"}


async def test_what_stopping_had_no_time_for_is_an_answer_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "LAST_COMMIT_S", 0.0)
    async with following(tmp_path, PATIENT) as scene:
        (scene.folder / "a").write_text("a")
        await scene.stop()
        assert "the next run goes on" in str(scene.error)


async def test_a_directory_that_goes_ends_it_and_removes_nothing(tmp_path: Path) -> None:
    async with following(tmp_path, delete=True) as scene:
        (scene.folder / "a").write_text("a")
        await scene.until(lambda: scene.names() == {"a"})
        scene.folder.rename(tmp_path / "elsewhere")
        await scene.ended.wait()
        assert isinstance(scene.error, NotFound)
        assert "folder is gone" in str(scene.error)
        assert scene.names() == {"a"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_file_that_may_not_be_read_is_said_and_taken_when_it_may(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with following(tmp_path) as scene:
        (scene.folder / "secret").write_text("x")
        (scene.folder / "secret").chmod(0)
        (scene.folder / "other").write_text("y")
        await scene.until(lambda: scene.names() == {"other"})
        (scene.folder / "secret").chmod(0o600)
        await scene.until(lambda: "secret" in scene.names())
        assert "secret: left out until it can be read: Permission denied" in caplog.text
