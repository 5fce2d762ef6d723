"""`vfsd gc`, `drop`, `squash` and `retention` as users run them."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.daemon.program import Program
from tests.stores import make_store

BIG = random.Random(1).randbytes(900_000)
OTHER = random.Random(2).randbytes(900_000)


@pytest.fixture
def filled(vfsd: Program) -> Program:
    """A branch with two commits, and garbage: what a branch that was deleted had."""
    vfsd.put("texts/main/a/big", BIG)
    vfsd.put("texts/main/b", "b")
    vfsd.ok("branch", "create", "texts/try", "--from", "main")
    vfsd.put("texts/try/other", OTHER)
    vfsd.ok("branch", "delete", "texts/try")
    return vfsd


def objects(program: Program) -> set[str]:
    """Keys of the objects that hold blobs."""
    paths = (path for prefix in ("packs", "commits") for path in (program.store / prefix).rglob("*"))
    return {str(path.relative_to(program.store)) for path in paths if path.is_file()}


def let_time_pass(program: Program, seconds: float) -> None:
    for path in program.store.rglob("*"):
        if path.is_file() and "locks" not in path.parts:
            os.utime(path, (path.stat().st_mtime - seconds,) * 2)


# Collecting


def test_a_look_says_what_there_is_and_changes_nothing(filled: Program) -> None:
    before = objects(filled)
    done = filled.ok("gc")
    assert re.fullmatch(
        r"reachable  1 pack, 2 commits, \S+ KiB\n"
        r"too young  1 pack, 1 commit, \S+ KiB: less than 12 h old, or needed by what is\n",
        done.text,
    )
    let_time_pass(filled, 86400)
    assert "unreachable  1 pack, 1 commit" in filled.ok("gc").text
    assert objects(filled) == before and not (filled.store / "gc").exists()


def test_deleting_takes_two_runs_a_grace_period_apart(filled: Program) -> None:
    before = objects(filled)
    let_time_pass(filled, 86400)
    done = filled.ok("gc", "--delete")
    assert "unreachable  1 pack, 1 commit" in done.text
    assert "condemned: deleted by `vfsd gc --delete` in 12 h" in done.text
    assert objects(filled) == before
    assert "condemned  1 pack, 1 commit" in filled.ok("gc").text
    let_time_pass(filled, 46800)
    assert "due        1 pack, 1 commit" in filled.ok("gc").text
    assert re.search(r"^due +1 pack, 1 commit, \S+ KiB: deleted$", filled.ok("gc", "--delete").text, re.MULTILINE)
    assert len(before) - len(objects(filled)) == 2
    assert filled.ok("fsck", "--read-data").code == 0
    assert filled.ok("cat", "texts/main/a/big").out == BIG
    assert filled.ok("gc").lines == [filled.ok("gc").text.strip()], "one line: what is reachable"


def test_a_branch_comes_back_until_it_is_deleted_for_good(filled: Program) -> None:
    commit = next(key for key in objects(filled) if key.startswith("commits/") and _message(filled, key) == "put other")
    let_time_pass(filled, 86400)
    filled.ok("gc", "--delete")
    filled.ok("branch", "create", "texts/back", "--from", commit.removeprefix("commits/"))
    let_time_pass(filled, 86400)
    facts = filled.ok("gc", "--delete", "--json").json
    assert facts["due"]["packs"] == 0 and facts["kept"] > 0
    assert filled.ok("cat", "texts/back/other").out == OTHER
    assert filled.ok("fsck", "--read-data").code == 0
    filled.ok("branch", "delete", "texts/back")
    filled.ok("gc", "--delete", "--grace", "0")
    done = filled("branch", "create", "texts/back", "--from", commit.removeprefix("commits/"))
    assert done.code == 1 and re.match(r"(there is no commit|commit \w+ is being deleted)", done.error)
    assert filled.ok("branch", "list", "texts", "--json").json[0]["id"] == "texts/main"


def _message(program: Program, key: str) -> str:
    data = (program.store / key).read_bytes()
    found = re.search(rb'"message":"([^"]*)"', data)
    assert found is not None
    return "put other" if b'"branch":"try"' in data else found[1].decode()


def test_the_facts_are_amounts(filled: Program) -> None:
    facts = filled.ok("gc", "--grace", "0", "--json").json
    assert facts["reachable"]["packs"] == 1 and facts["unreachable"]["commits"] == 1
    assert (facts["delete"], facts["next_s"], facts["held"], facts["lost"]) == (False, None, [], 0)
    facts = filled.ok("gc", "--delete", "--grace", "1h", "--json").json
    assert facts["young"]["bytes"] > 900_000 and facts["unreachable"]["bytes"] == 0


def test_what_is_no_span_of_time_is_one_line(filled: Program) -> None:
    for text in ("", "abc", "-1h", "1", "1h2", "1e99h", "9" * 30 + "d"):
        done = filled("gc", f"--grace={text}")
        assert done.code == 2 and "is no span of time: write it as 90s" in done.error


def test_when_it_cannot_be_said_what_is_needed_nothing_is_deleted(filled: Program) -> None:
    let_time_pass(filled, 86400)
    commits = [key for key in objects(filled) if key.startswith("commits/") and _message(filled, key) != "put other"]
    trees = max(commits, key=lambda key: (filled.store / key).stat().st_size)
    kept = objects(filled)
    damaged = filled.store / trees
    good = damaged.read_bytes()
    damaged.write_bytes(good[:60] + b"\xff" * 20 + good[80:])
    done = filled("gc", "--delete", "--grace", "0")
    if done.code:
        assert "nothing is deleted" in done.error
    damaged.write_bytes(good)
    (filled.store / "refs/texts/main").write_text("rot")
    done = filled("gc", "--delete", "--grace", "0")
    assert done.code == 1 and "refs/texts/main" in done.error
    assert len(kept - objects(filled)) in {0, 2}


def test_a_state_that_cannot_be_read_is_named_and_stops_writers_too(filled: Program) -> None:
    filled.file("store/gc/state", "rot")
    assert "gc/state cannot be read" in filled("gc").error
    assert "gc/state cannot be read" in filled("put", filled.file("x", "x"), "texts/main/x").error


def test_how_far_it_is_is_shown_on_a_terminal_only(filled: Program) -> None:
    terminal, end = pty.openpty()
    try:
        done = subprocess.run(
            filled.command("gc", "--delete", "--grace", "0"), env=filled.environ, stdout=subprocess.PIPE, stderr=end,
            check=True, timeout=300,
        )  # fmt: skip
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert "2 commits" in shown and "deleted" in shown
    assert b"\r" not in done.stdout
    assert filled.spawn("gc").err == ""


def test_a_run_that_is_killed_is_gone_on_with_by_the_next(filled: Program) -> None:
    for number in range(30):
        filled.ok("branch", "create", f"texts/b{number}")
        filled.put(f"texts/b{number}/x", str(number) * 1000)
        filled.ok("branch", "delete", f"texts/b{number}")
    before = objects(filled)
    for step in ("gc/lists", "gone"):
        running = subprocess.Popen(filled.command("gc", "--delete", "--grace", "0"), env=filled.environ)
        deadline = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < deadline:
            started = any((filled.store / step).glob("*")) if step != "gone" else len(objects(filled)) < len(before)
            if started:
                break
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert filled.ok("fsck", "--read-data").code == 0
    filled.ok("gc", "--delete", "--grace", "0")
    filled.ok("gc", "--delete", "--grace", "0")
    assert len(objects(filled)) == 3
    assert filled.ok("cat", "texts/main/a/big").out == BIG


def test_a_bucket_is_collected_in_the_same_way(s3_url: str, tmp_path: Path) -> None:
    program = Program(tmp_path)
    program.environ["VFSD_STORE"] = s3_url
    make_store(s3_url)
    program.ok("repo", "create", "texts")
    program.put("texts/main/a/big", BIG)
    program.ok("branch", "create", "texts/try", "--from", "main")
    program.put("texts/try/other", OTHER)
    program.ok("branch", "delete", "texts/try")
    assert program.ok("gc", "--json").json["young"]["packs"] == 1
    packs = commits = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # a bucket tells whole seconds; what was written in that of a run is young to it
        due = program.ok("gc", "--delete", "--grace", "0", "--json").json["due"]
        packs, commits = packs + due["packs"], commits + due["commits"]
        if packs and commits:
            break
    assert (packs, commits) == (1, 1)
    assert program.ok("fsck", "--read-data").code == 0
    assert program.ok("cat", "texts/main/a/big").out == BIG


# Dropping


@pytest.fixture
def history(vfsd: Program) -> list[str]:
    """Five commits on texts/main, the oldest first."""
    return [vfsd.put("texts/main/file", str(number) * 300_000) for number in range(5)]


def test_a_dropped_commit_stays_in_the_log_and_says_why_it_cannot_be_read(vfsd: Program, history: list[str]) -> None:
    done = vfsd.ok("drop", "texts/main@~2", "-m", "held names")
    assert done.text == "dropped the contents of 1 commit; `vfsd gc --delete` gives their room back\n"
    log = vfsd.ok("log", "texts/main").lines
    assert len(log) == 5 and "(dropped) put" in log[2]
    facts = vfsd.ok("log", "texts/main", "--json").json
    assert [one["dropped"] and one["dropped"]["reason"] for one in facts] == [None, None, "held names", None, None]
    assert re.search(r"dropped +\S+Z by tester@here: held names", vfsd.ok("show", f"texts/main@{history[2]}").text)
    for command in ("cat", "ls", "get"):
        more = (str(vfsd.folder / "out"),) if command == "get" else ()
        error = vfsd(command, f"texts/main@{history[2]}/file", *more).error
        assert re.fullmatch(rf"the contents of commit {history[2][:12]} were dropped at \S+Z by tester@here: .*", error)
    assert len(vfsd.ok("log", "texts/main/file").lines) == 4
    vfsd.ok("gc", "--delete", "--grace", "0")
    assert vfsd.ok("fsck", "--read-data").code == 0
    assert [one["id"] for one in vfsd.ok("log", "texts/main", "--json").json] == history[::-1]
    vfsd.ok("index", "rebuild")
    assert [one["id"] for one in vfsd.ok("log", "texts/main", "--json").json] == history[::-1]
    assert "were dropped" in vfsd("cat", "texts/main@~2/file").error
    assert vfsd.ok("lineage", f"texts/main@{history[2]}").code == 0


def test_what_is_named_is_not_dropped(vfsd: Program, history: list[str]) -> None:
    vfsd.ok("tag", "create", "texts/main@~3", "v1")
    assert "texts/main stands at it" in vfsd("drop", f"texts/main@{history[4]}").error
    assert "tag v1 of texts names it" in vfsd("drop", "texts/main@~1", "texts/main@~3").error
    assert "(dropped)" not in vfsd.ok("log", "texts/main").text, "all or nothing"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("drop", "texts/main"), "is a branch: name a commit of it"),
        (("drop", "texts/main@~1/file"), "a commit is meant here"),
        (("drop", "texts/main@~9"), "has only 4 ancestors"),
        (("drop",), "Missing argument"),
        (("squash", "texts/main"), "name two commits of a branch as REPO/BRANCH@REV..REV"),
        (("squash", "texts/main@~3"), "name two commits"),
        (("squash", "texts/main@~1..~3"), "is no ancestor of"),
        (("squash", "texts/main@~1..~2..~3"), "name two commits"),
        (("squash", "texts/main/file@~1..~2"), "a branch is meant here"),
        (("squash", "texts/main@none..~2"), "there is no tag none"),
        (("retention", "set", "texts"), "no rule says what to keep"),
        (("retention", "set", "texts", "--keep-last", "-1"), "--keep-last"),
        (("retention", "set", "texts/none", "--keep-last", "1"), "there is no branch none"),
        (("retention", "set", "a b", "--keep-last", "1"), "may not stand in a name"),
        (("retention", "set", "texts", "--keep-within", "soon"), "is no span of time"),
        (("retention", "delete", "texts"), "texts has no rules of its own"),
        (("retention", "apply", "texts"), "texts has no rules: `vfsd retention set` makes some"),
    ],
)
def test_nonsense_is_one_line(vfsd: Program, history: list[str], words: tuple[str, ...], error: str) -> None:
    done = vfsd(*words)
    assert done.code in {1, 2} and error in done.error
    assert len(vfsd.ok("log", "texts/main").lines) == len(history)


def test_squashing_drops_what_lies_between(vfsd: Program, history: list[str]) -> None:
    assert vfsd.ok("squash", "texts/main@~4..~1", "--json").json["dropped"] == [history[2], history[1]]
    assert vfsd.ok("squash", "texts/main@~4..").text.startswith("dropped the contents of 1 commit;")
    assert vfsd.ok("squash", "texts/main@~4..").text == "nothing to drop\n"
    assert vfsd.ok("squash", "texts/main@..~4").text == "nothing to drop\n"
    facts = vfsd.ok("log", "texts/main", "--json").json
    assert [one["dropped"] is None for one in facts] == [True, False, False, False, True]
    assert vfsd.ok("cat", "texts/main@~4/file").out == b"0" * 300_000


def test_a_question_is_asked_on_a_terminal_only(vfsd: Program, history: list[str]) -> None:
    terminal, end = pty.openpty()
    try:
        running = subprocess.Popen(
            vfsd.command("squash", "texts/main@~4.."), env=vfsd.environ, stdin=end, stderr=end, stdout=subprocess.PIPE
        )
        os.write(terminal, b"n\n")
        out, _ = running.communicate(timeout=300)
        shown = os.read(terminal, 65536).decode()
    finally:
        os.close(terminal)
        os.close(end)
    assert running.returncode == 1 and out == b""
    assert "Drop the contents of 3 commits (" in shown and "nothing was dropped" in shown


# Rules


def test_rules_are_made_listed_applied_and_deleted(vfsd: Program, history: list[str]) -> None:
    assert vfsd.ok("retention", "apply").text == "no branch has rules: `vfsd retention set` makes some\n"
    assert vfsd.ok("retention", "set", "texts", "--keep-last", "2").text == "texts: keep last 2\n"
    vfsd.ok("retention", "set", "texts/main", "--keep-last", "3", "--keep-within", "1d12h")
    facts = vfsd.ok("retention", "list", "--json").json
    assert [(one["id"], one["keep"]["last"], one["keep"]["within_s"]) for one in facts] == [
        ("texts", 2, 0.0), ("texts/main", 3, 129600.0),
    ]  # fmt: skip
    assert "keep last 3, within 1 d 12 h" in vfsd.ok("retention", "list").text
    vfsd.ok("retention", "delete", "texts/main")
    assert vfsd.ok("retention", "apply").lines == ["texts/main: 5 kept, 0 to drop: keep last 2"]
    done = vfsd.ok("retention", "apply", "--min-age", "0")
    assert done.lines == ["texts/main: 2 kept, 3 to drop: keep last 2", "nothing was dropped: --drop does it"]
    assert "(dropped)" not in vfsd.ok("log", "texts/main").text
    facts = vfsd.ok("retention", "apply", "--min-age", "0", "--json", "texts/main").json
    assert facts["branches"][0]["dropped"] == history[2::-1]
    assert [one["reasons"][0] for one in facts["branches"][0]["kept"]] == ["last", "last"]
    done = vfsd.ok("retention", "apply", "--min-age", "0", "--drop")
    assert done.lines[0] == "texts/main: 2 kept, 3 dropped: keep last 2"
    assert vfsd.ok("retention", "apply", "--min-age", "0", "--drop").lines == [
        "texts/main: 2 kept, 0 dropped: keep last 2"
    ]
    vfsd.ok("gc", "--delete", "--grace", "0")
    assert len([key for key in objects(vfsd) if key.startswith("commits/")]) == 2
    assert vfsd.ok("fsck", "--read-data").code == 0


def test_rules_go_with_their_repo(vfsd: Program, history: list[str]) -> None:
    vfsd.ok("retention", "set", "texts", "--keep-last", "2")
    vfsd.ok("retention", "set", "texts/main", "--keep-last", "2")
    vfsd.ok("repo", "delete", "texts")
    assert vfsd.ok("retention", "list", "--json").json == []
