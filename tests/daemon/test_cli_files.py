"""Files and directories in and out of the store."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.daemon.program import Program
from vfsd.repo.refs import Refs
from vfsd.store import open_store

BIG = os.urandom(3 << 20) * 2  # some chunks, some of them twice


def tree(folder: Path) -> dict[str, tuple[int, object]]:
    """Path → (mode, content or target) of all below a folder."""
    found: dict[str, tuple[int, object]] = {}
    for path in sorted(folder.rglob("*")):
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(folder))] = (path.lstat().st_mode, content)
    return found


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A directory with one of everything."""
    folder = tmp_path / "local"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "none").touch()
    (folder / "sub" / "big").write_bytes(BIG)
    (folder / "sub" / "deep" / "run").write_text("#!/bin/sh\n")
    (folder / "sub" / "deep" / "run").chmod(0o751)
    (folder / "link").symlink_to("sub/deep/run")
    (folder / "Grüße 漢字").write_text("unicode")
    (folder / os.fsdecode(b"caf\xe9")).write_text("latin")
    return folder


def test_a_directory_comes_back_as_it_went(vfsd: Program, local: Path, tmp_path: Path) -> None:
    vfsd.ok("put", str(local), "texts/main/x")
    vfsd.ok("get", "texts/main/x", str(tmp_path / "back"))
    assert tree(tmp_path / "back") == tree(local)
    assert (tmp_path / "back" / "a.txt").stat().st_mtime_ns == (local / "a.txt").stat().st_mtime_ns


def test_a_put_is_one_commit_and_nothing_is_none(vfsd: Program, local: Path) -> None:
    first = vfsd.ok("put", str(local), "texts/main/x", "-m", "all of it", "--json").json
    assert first["changed"] and first["message"] == "all of it" and first["author"] == "tester@here"
    assert first["files"] == 7
    again = vfsd.ok("put", str(local), "texts/main/x", "--json").json
    assert not again["changed"]
    assert again["id"] == first["id"]
    assert vfsd.ok("put", str(local), "texts/main/x").lines == ["nothing changed"]
    assert len(vfsd.ok("log", "texts/main").lines) == 1


def test_putting_nothing_into_an_empty_branch_is_no_commit(vfsd: Program, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    done = vfsd.ok("put", str(tmp_path / "nothing"), "texts/main", "--json").json
    assert done == {"id": None, "changed": False}


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("texts/main/f", "f"),
        ("texts/main/new/dir/f", "new/dir/f"),
        ("texts/main", "a.txt"),
        ("texts/main/", "a.txt"),
        ("texts/main/there", "there/a.txt"),
        ("texts/main/there/", "there/a.txt"),
        ("texts/main/new/", "new/a.txt"),
    ],
)
def test_a_file_gets_the_name_that_spec_says_or_its_own_in_a_directory(vfsd: Program, spec: str, name: str) -> None:
    vfsd.put("texts/main/there/old", "old")
    vfsd.ok("put", vfsd.file("a.txt", "new"), spec)
    assert vfsd.ok("cat", f"texts/main/{name}").out == b"new"
    assert vfsd.ok("cat", "texts/main/there/old").out == b"old"


@pytest.mark.parametrize(
    ("spec", "below"),
    [("texts/main", ""), ("texts/main/", "local/"), ("texts/main/x", "x/"), ("texts/main/x/", "x/local/")],
)
def test_a_directory_fills_the_one_that_is_there(vfsd: Program, local: Path, spec: str, below: str) -> None:
    vfsd.put(f"texts/main/{below}a.txt", "before")
    vfsd.put(f"texts/main/{below}sub/kept", "kept")
    vfsd.ok("put", str(local), spec)
    assert vfsd.ok("cat", f"texts/main/{below}a.txt").out == b"a"
    assert vfsd.ok("cat", f"texts/main/{below}sub/kept").out == b"kept"
    assert vfsd.ok("cat", f"texts/main/{below}sub/big").out == BIG


def test_many_files_fill_a_directory_that_is_there(vfsd: Program, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04}").write_bytes(os.urandom(200))
    vfsd.put("texts/main/x/kept", "kept")
    vfsd.ok("put", str(folder), "texts/main/x")
    names = vfsd.ok("ls", "texts/main/x").lines
    assert names == [*(f"{number:04}" for number in range(3000)), "kept"]
    vfsd.ok("get", "texts/main/x", str(tmp_path / "back"))
    (tmp_path / "back" / "kept").unlink()
    assert tree(tmp_path / "back") == tree(folder)


def test_new_directories_above_belong_to_now(vfsd: Program) -> None:
    vfsd.put("texts/main/new/f", "f")
    facts = vfsd.ok("stat", "texts/main/new", "--json").json
    assert (facts["kind"], facts["mode"], facts["files"], facts["uid"]) == ("dir", "0755", 1, os.geteuid())
    assert not facts["mtime"].startswith("1970")


@pytest.mark.parametrize(
    ("what", "spec", "said"),
    [
        ("a.txt", "texts/main/file/x", "file is not a directory"),
        ("a.txt", "texts/main/file/", "file is not a directory"),
        ("sub", "texts/main/file", "file is a file, which a directory may not replace"),
        ("sub", "texts/main/clash", "clash/deep is a file, which a directory may not replace"),
        ("", "texts/main/other", "other/a.txt is a directory, which a file may not replace"),
    ],
)
def test_files_and_directories_do_not_replace_each_other(
    vfsd: Program, local: Path, what: str, spec: str, said: str
) -> None:
    vfsd.put("texts/main/file", "file")
    vfsd.put("texts/main/clash/deep", "file")
    vfsd.put("texts/main/other/a.txt/x", "file")
    before = vfsd.ok("show", "texts/main", "--json").json["id"]
    done = vfsd("put", str(local / what), spec)
    assert done.code == 1
    assert said in done.error
    assert vfsd.ok("show", "texts/main", "--json").json["id"] == before


def test_standard_input_becomes_a_file(vfsd: Program) -> None:
    done = vfsd.spawn("put", "-", "texts/main/big", stdin=BIG)
    assert done.code == 0
    assert vfsd.spawn("cat", "texts/main/big").out == BIG
    assert vfsd.ok("stat", "texts/main/big", "--json").json["size"] == len(BIG)
    done = vfsd("put", "-", "texts/main", stdin=b"x")
    assert "name the file that is to be in it" in done.error


def test_names_of_any_bytes_go_through(vfsd: Program) -> None:
    name = b"caf\xe9 \n\\"
    assert vfsd.spawn("put", "-", b"texts/main/" + name, stdin=b"x").code == 0
    assert vfsd.spawn("ls", "texts/main").lines == ["caf\\xe9 \\n\\\\"]
    assert vfsd.spawn("cat", b"texts/main/" + name).out == b"x"
    facts = vfsd.spawn("ls", "texts/main", "--json").json
    assert facts[0]["name"] == "caf\ufffd \n\\"
    assert facts[0]["name_b64"] == "Y2Fm6SAKXA=="
    assert "put standard input" in vfsd.spawn("log", "texts/main").text
    assert vfsd.spawn("rm", b"texts/main/" + name).code == 0
    assert vfsd.spawn("log", "texts/main").code == 0
    missing = vfsd.spawn("cat", b"texts/main/\xff")
    assert missing.error == "texts/main: there is no \\xff"


@pytest.mark.parametrize("command", [["put", "FILE"], ["cp", "texts/main/a"], ["rm"]])
def test_snapshots_are_never_written(vfsd: Program, command: list[str]) -> None:
    vfsd.put("texts/main/a", "a")
    file = vfsd.file("a.txt")
    done = vfsd(*(file if word == "FILE" else word for word in command), "texts/main@~0/a")
    assert done.code == 1
    assert done.error == "texts/main@~0 is a snapshot, which never changes: leave out the @"


@pytest.mark.parametrize(
    "command", [["put", "FILE", "count/main/x"], ["cp", "texts/main/a", "count/main/a"], ["rm", "count/main/a"]]
)
def test_the_output_of_a_pipeline_is_not_for_users_to_write(vfsd: Program, command: list[str]) -> None:
    vfsd.put("texts/main/a", "a")
    vfsd.ok("repo", "create", "count")
    vfsd.ok("branch", "delete", "count/main")
    with closing(open_store(str(vfsd.store))) as store:
        Refs(store).create_branch("count", "main", None, 1, pipeline="count")
    file = vfsd.file("a.txt")
    refusal = "count/main is the output of pipeline count: only the pipeline writes to it"
    assert vfsd(*(file if word == "FILE" else word for word in command)).error == refusal
    assert vfsd("branch", "delete", "count/main").error == refusal
    assert vfsd.ok("branch", "inspect", "count/main", "--json").json["pipeline"] == "count"


def test_a_failed_put_changes_nothing(vfsd: Program, tmp_path: Path) -> None:
    done = vfsd("put", str(tmp_path / "gone"), "texts/main/x")
    assert done.error == f"{tmp_path}/gone: No such file or directory"
    assert vfsd.ok("log", "texts/main").text == ""


# get and cat


def test_what_cannot_be_written_is_named_as_it_was_asked_for(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    assert vfsd("get", "texts/main/a", "/proc/x").error == "/proc/x: No such file or directory"
    assert vfsd("get", "texts/main/a", "").error == "LOCAL is empty: name a file or directory, or - for standard output"


def test_a_file_is_written_where_it_is_told(vfsd: Program, tmp_path: Path) -> None:
    vfsd.put("texts/main/d/a.txt", "a")
    (tmp_path / "there").mkdir()
    for target in ("new", "there", "there/", "there/b"):
        vfsd.ok("get", "texts/main/d/a.txt", f"{tmp_path}/{target}")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["a.txt", "b"]
    assert (tmp_path / "new").read_text() == "a"
    assert vfsd.ok("get", "texts/main/d/a.txt", "-").out == b"a"
    vfsd.ok("get", "texts/main/d", f"{tmp_path}/there/")
    assert (tmp_path / "there" / "d" / "a.txt").read_text() == "a"


def test_a_local_directory_is_filled_and_keeps_what_it_has(vfsd: Program, tmp_path: Path) -> None:
    vfsd.put("texts/main/a", "new")
    target = tmp_path / "there"
    target.mkdir(mode=0o700)
    (target / "a").write_text("old")
    (target / "mine").write_text("mine")
    vfsd.ok("get", "texts/main", str(target))
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "new", "mine": "mine"}
    assert target.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("spec", "local", "said"),
    [
        ("texts/main/d/a", "nowhere/x", "nowhere is not a directory that is there"),
        ("texts/main/d/a", "nowhere/", "nowhere/ is not a directory that is there"),
        ("texts/main/d", "file", "is a file, and texts/main/d is a directory: remove it first"),
        ("texts/main/d/a", "dir", "dir/a is a directory, and texts/main/d/a is a file: remove it first"),
        ("texts/main", "dir/", "has no name of its own"),
        ("texts/main/gone", "x", "texts/main: there is no gone"),
    ],
)
def test_what_cannot_be_written_locally_says_why(
    vfsd: Program, tmp_path: Path, spec: str, local: str, said: str
) -> None:
    vfsd.put("texts/main/d/a", "a")
    (tmp_path / "file").touch()
    (tmp_path / "dir" / "a").mkdir(parents=True)
    assert said in vfsd("get", spec, f"{tmp_path}/{local}").error


def test_cat_joins_files_of_several_commits(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "old ")
    vfsd.put("texts/main/a", "new")
    assert vfsd.spawn("cat", "texts/main@~1/a", "/texts/main/a").out == b"old new"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "texts/main: is a directory"),
        ("/sub", "texts/main/sub: is a directory"),
        ("/a.txt/", "texts/main/a.txt/: is not a directory"),
        ("/a.txt/x", "texts/main: a.txt is not a directory"),
        ("/link", "is a symbolic link to sub/deep/run"),
        ("/gone", "texts/main: there is no gone"),
        ("/sub/gone/x", "texts/main: there is no sub/gone"),
        ("/a/../b", "cannot be a file name"),
    ],
)
def test_what_is_no_file_cannot_be_written_out(vfsd: Program, local: Path, path: str, said: str) -> None:
    vfsd.ok("put", str(local), "texts/main")
    assert said in vfsd("cat", f"texts/main{path}").error


def test_nothing_is_written_when_one_of_several_files_is_missing(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    assert vfsd("cat", "texts/main/a", "texts/main/gone").error == "texts/main: there is no gone"


def test_changed_bytes_in_the_store_are_noticed_and_named(vfsd: Program, tmp_path: Path) -> None:
    vfsd.put("texts/main/good", b"good")
    vfsd.put("texts/main/bad", BIG)
    for pack in (vfsd.store / "packs").rglob("*"):
        if pack.is_file() and pack.stat().st_size > len(BIG) // 2:
            with pack.open("r+b") as file:
                file.seek(100_000)
                file.write(b"rot")
    done = vfsd("get", "texts/main/bad", str(tmp_path / "out"))
    assert done.code == 1
    assert "is damaged at offset" in done.error
    assert not list(tmp_path.glob("*out*"))
    assert vfsd.ok("cat", "texts/main/good").out == b"good"


# ls and stat


def test_a_listing_shows_names_kinds_and_more_when_asked(vfsd: Program, local: Path) -> None:
    assert vfsd.ok("ls").lines == ["texts/"]
    assert vfsd.ok("ls", "texts").lines == ["main/"]
    vfsd.ok("put", str(local), "texts/main")
    names = ["Grüße 漢字", "a.txt", "caf\\xe9", "empty/", "link", "none", "sub/"]
    assert vfsd.ok("ls", "texts/main").lines == names
    long = vfsd.ok("ls", "-l", "texts/main/sub").lines
    assert long[0].startswith("-rw-r--r--") and long[0].endswith("big") and "6.0 MiB" in long[0]
    assert vfsd.ok("ls", "-l", "texts/main/link").lines[0].endswith("link -> sub/deep/run")
    facts = {entry["name"]: entry for entry in vfsd.ok("ls", "texts/main", "--json").json}
    assert facts["a.txt"]["kind"] == "file" and facts["a.txt"]["size"] == 1
    assert facts["sub"]["kind"] == "dir" and facts["sub"]["files"] == 2 and facts["sub"]["size"] == len(BIG) + 10
    assert facts["link"]["target"] == "sub/deep/run"
    assert vfsd.ok("ls", "--json").json == [{"name": "texts", "kind": "dir"}]


def test_stat_tells_equal_contents_by_their_id(vfsd: Program) -> None:
    commit = vfsd.put("texts/main/a", "same")
    vfsd.ok("cp", "texts/main/a", "texts/main/b")
    facts = [vfsd.ok("stat", f"texts/main/{name}", "--json").json for name in "ab"]
    assert facts[0]["id"] == facts[1]["id"]
    assert (facts[0]["path"], facts[0]["size"], facts[0]["chunks"], facts[0]["repo"]) == ("a", 4, 1, "texts")
    assert facts[0]["commit"] != commit
    assert facts[0]["id"] in vfsd.ok("stat", "texts/main/a").text
    assert vfsd.ok("stat", "texts/main", "--json").json["files"] == 2


# cp and rm


def test_a_copy_shares_its_bytes(vfsd: Program, local: Path) -> None:
    vfsd.ok("put", str(local), "texts/main/x")
    vfsd.ok("repo", "create", "copies")
    size = sum(path.stat().st_size for path in vfsd.store.rglob("*") if path.is_file())
    vfsd.ok("cp", "texts/main/x", "copies/main")
    assert sum(path.stat().st_size for path in vfsd.store.rglob("*") if path.is_file()) - size < 20_000
    assert vfsd.ok("diff", "texts/main/x", "copies/main").text == ""  # chunk lists may be stored again, bytes are not
    assert vfsd.ok("cat", "copies/main/sub/big").out == BIG


def test_a_copy_from_a_snapshot_brings_an_old_version_back(vfsd: Program) -> None:
    old = vfsd.put("texts/main/d/a", "old")
    vfsd.put("texts/main/d/a", "new")
    made = vfsd.ok("cp", f"texts/main@{old[:8]}/d/a", "texts/main/d/a", "--json").json
    assert vfsd.ok("cat", "texts/main/d/a").out == b"old"
    assert [edge["commit"] for edge in made["provenance"]] == [old]
    vfsd.ok("cp", "texts/main@~1/d", "texts/main/copies/")
    assert vfsd.ok("cat", "texts/main/copies/d/a").out == b"new"


@pytest.mark.parametrize(
    ("source", "spec", "said"),
    [
        ("texts/main/gone", "texts/main/x", "there is no gone"),
        ("texts/main", "texts/main/", "name the file that is to be in it"),
        ("texts/main/d", "texts/main/f", "which a directory may not replace"),
        ("texts/empty", "texts/main", "texts/empty has no commits yet"),
        ("texts/main/f", "nowhere/main/f", "there is no repo nowhere"),
    ],
)
def test_a_copy_that_cannot_be_says_why(vfsd: Program, source: str, spec: str, said: str) -> None:
    vfsd.put("texts/main/d/a", "a")
    vfsd.put("texts/main/f", "f")
    vfsd.ok("branch", "create", "texts/empty")
    assert said in vfsd("cp", source, spec).error


def test_removed_files_stay_in_history(vfsd: Program) -> None:
    vfsd.put("texts/main/d/a", "a")
    vfsd.put("texts/main/d/b", "b")
    vfsd.ok("rm", "texts/main/d/a")
    assert vfsd.ok("ls", "texts/main/d").lines == ["b"]
    assert vfsd.ok("cat", "texts/main@~1/d/a").out == b"a"
    done = vfsd("rm", "texts/main/d")
    assert (done.code, done.error) == (2, "texts/main/d is a directory: -r removes it with everything in it")
    vfsd.ok("rm", "-r", "texts/main/d", "-m", "all gone")
    assert vfsd.ok("ls", "texts/main").text == ""
    assert vfsd.ok("show", "texts/main", "--json").json["message"] == "all gone"
    assert "there is no d" in vfsd("rm", "-r", "texts/main/d").error
    assert "is a whole branch" in vfsd("rm", "-r", "texts/main").error


def test_writers_at_the_same_time_all_get_in(vfsd: Program) -> None:
    files = [vfsd.file(f"f{number}", f"content {number}") for number in range(4)]
    running = [
        subprocess.Popen(vfsd.command("put", path, "texts/main/"), env=vfsd.environ, stdout=subprocess.DEVNULL)
        for path in files
    ]
    assert [process.wait(300) for process in running] == [0] * len(files)
    assert vfsd.ok("ls", "texts/main").lines == [f"f{number}" for number in range(4)]
    assert len(vfsd.ok("log", "texts/main").lines) == 4
