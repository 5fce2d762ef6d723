"""Repos, branches and tags on the command line."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from tests.daemon.program import TIMEOUT, Program


def test_a_new_repo_has_an_empty_branch_main(vfsd: Program) -> None:
    vfsd.ok("repo", "create", "photos", "--description", "of the sea")
    facts = vfsd.ok("repo", "inspect", "photos", "--json").json
    assert facts["id"] == "photos"
    assert facts["description"] == "of the sea"
    assert facts["branches"] == [{"id": "photos/main", "name": "main", "commit": None}]
    assert vfsd.ok("log", "photos/main").text == ""
    assert vfsd.ok("ls", "photos/main").text == ""


def test_repos_are_listed_newest_first(vfsd: Program) -> None:
    for name in ("zebra", "ant"):
        vfsd.ok("repo", "create", name)
    assert [repo["id"] for repo in vfsd.ok("repo", "list", "--json").json] == ["ant", "zebra", "texts"]
    assert [line.split()[0] for line in vfsd.ok("repo", "list").lines] == ["ant", "zebra", "texts"]


def test_json_may_stand_before_the_command_too(vfsd: Program) -> None:
    assert vfsd.ok("--json", "repo", "list").json == vfsd.ok("repo", "list", "--json").json


def test_a_repo_that_is_there_is_not_made_again(vfsd: Program) -> None:
    done = vfsd("repo", "create", "texts")
    assert (done.code, done.error) == (1, "repo texts exists already")


@pytest.mark.parametrize("name", ["", "a/b", "a b", ".hidden", "@x", "x" * 200, "a\nb", "-"])
def test_names_that_cannot_be_are_wrong_usage(vfsd: Program, name: str) -> None:
    done = vfsd("repo", "create", "--", name)
    assert done.code == 2
    assert done.error
    assert [repo["id"] for repo in vfsd.ok("repo", "list", "--json").json] == ["texts"]


def test_a_deleted_repo_is_gone_with_its_branches_and_tags(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    vfsd.ok("branch", "create", "texts/try", "--from", "main")
    vfsd.ok("tag", "create", "texts/main", "v1")
    assert vfsd.ok("repo", "delete", "texts").text == ""
    assert vfsd.ok("repo", "list").text == ""
    assert vfsd("ls", "texts/main").error == f"there is no repo texts in file://{vfsd.store}"
    vfsd.ok("repo", "create", "texts")
    assert vfsd.ok("tag", "list", "texts").text == ""
    assert [branch["name"] for branch in vfsd.ok("branch", "list", "texts", "--json").json] == ["main"]


def test_a_repo_that_others_were_made_from_is_kept_unless_forced(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "a")
    vfsd.ok("repo", "create", "copies")
    made = vfsd.ok("cp", "texts/main/a", "copies/main/a", "--json").json["id"]
    done = vfsd("repo", "delete", "texts")
    assert done.code == 1
    assert done.error.startswith(f"repo texts is needed: copies/main@{made[:12]} was made from it")
    vfsd.ok("repo", "delete", "texts", "--force")
    assert vfsd.ok("cat", "copies/main/a").out == b"a"


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, ["texts"]), (b"y\n", 0, [])])
def test_on_a_terminal_a_deletion_is_asked_for(vfsd: Program, answer: bytes, code: int, left: list[str]) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        finished = subprocess.run(
            vfsd.command("repo", "delete", "texts"), stdin=theirs, stdout=theirs, stderr=theirs, env=vfsd.environ,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert finished.returncode == code
    assert "Delete the repo texts" in shown
    assert [repo["id"] for repo in vfsd.ok("repo", "list", "--json").json] == left


def test_yes_answers_beforehand(vfsd: Program) -> None:
    vfsd.ok("repo", "delete", "texts", "--yes")
    assert vfsd.ok("repo", "list", "--json").json == []


# Branches


def test_a_branch_begins_empty_or_where_it_is_told(vfsd: Program) -> None:
    first = vfsd.put("texts/main/a", "1")
    second = vfsd.put("texts/main/a", "2")
    vfsd.ok("tag", "create", "texts/main@~1", "v1")
    sources = {
        "main": second, "main@~1": first, "texts/main": second, "texts/main@v1": first, "v1": first, first[:10]: first,
        second: second, "v1~0": first, second + "~1": first,
    }  # fmt: skip
    for number, (source, commit) in enumerate(sources.items()):
        made = vfsd.ok("branch", "create", f"texts/b{number}", "--from", source, "--json").json
        assert (made["id"], made["commit"]) == (f"texts/b{number}", commit), source
    assert vfsd.ok("branch", "create", "texts/empty", "--json").json["commit"] is None
    assert vfsd.ok("cat", "texts/b1/a").out == b"1"


@pytest.mark.parametrize(
    ("where", "source", "code", "said"),
    [
        ("nowhere/try", "main", 1, "there is no repo nowhere"),
        ("texts/try", "nothing", 1, "repo texts has no branch and no tag nothing"),
        ("texts/try", "gone@~1", 1, "there is no branch gone in repo texts"),
        ("texts/try", "texts/gone", 1, "there is no branch gone in repo texts"),
        ("texts/try", "~1", 2, "of which branch? Say BRANCH@~1"),
        ("texts/try", "other/main", 2, "a branch of texts has commits of texts"),
        ("texts/try", "texts/main/a", 2, "a commit is meant here"),
        ("texts/try", "ffffff", 1, "no commit of repo texts begins with ffffff"),
        ("texts/try", "main@~99", 1, "has only 0 ancestors"),
        ("texts/try", "", 2, "nothing stands behind '@'"),
        ("texts", "main", 2, "name it as REPO/BRANCH"),
        ("texts/main/x", "main", 2, "a branch is meant here"),
        ("texts/main", "main", 1, "branch texts/main exists already"),
    ],
)
def test_a_branch_that_cannot_be_says_why(vfsd: Program, where: str, source: str, code: int, said: str) -> None:
    vfsd.put("texts/main/a", "1")
    done = vfsd("branch", "create", where, "--from", source)
    assert done.code == code
    assert said in done.error


def test_a_branch_is_moved_forth_and_back(vfsd: Program) -> None:
    first = vfsd.put("texts/main/a", "1")
    second = vfsd.put("texts/main/a", "2")
    vfsd.ok("branch", "create", "texts/live")
    assert vfsd.ok("branch", "move", "texts/live", "--to", "main").text == f"texts/live stands at {second[:12]}\n"
    assert vfsd.ok("branch", "move", "texts/live", "--to", "main@~1", "--json").json["commit"] == first
    assert vfsd.ok("cat", "texts/live/a").out == b"1"
    moved = vfsd.ok("branch", "inspect", "texts/live", "--json").json["moved"]
    vfsd.ok("branch", "move", "texts/live", "--to", "live")
    assert vfsd.ok("branch", "inspect", "texts/live", "--json").json["moved"] == moved


def test_a_branch_is_not_moved_away_from_what_nothing_else_leads_to(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    last = vfsd.put("texts/main/a", "2")
    done = vfsd("branch", "move", "texts/main", "--to", "main@~1")
    assert done.code == 1
    assert done.error == (
        f"texts/main stands at {last[:12]}, to which nothing else leads: `vfsd tag create` keeps that, --force gives"
        " it up"
    )
    vfsd.ok("tag", "create", "texts/main", "last")
    vfsd.ok("branch", "move", "texts/main", "--to", "main@~1")
    vfsd.ok("tag", "delete", "texts", "last")
    vfsd.ok("branch", "move", "texts/main", "--to", last)
    vfsd.ok("branch", "move", "texts/main", "--to", "main@~1", "--force")
    assert vfsd.ok("cat", "texts/main/a").out == b"1"
    said = vfsd("branch", "move", "texts/main", "--to", "other/main").error
    assert said == "--to 'other/main': a branch of texts has commits of texts; `vfsd cp` copies"


def test_a_branch_is_given_a_trigger_and_rid_of_it(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    done = vfsd.ok("branch", "trigger", "texts/slow", "--on", "main", "--size", "10M", "--commits", "5", "--all")
    assert done.text == "texts/slow follows main: 10M more and 5 commits\n"
    assert "trigger on main: 10M more and 5 commits" in vfsd.ok("branch", "list", "texts").text
    assert "written by  trigger on main: 10M more and 5 commits" in vfsd.ok("branch", "inspect", "texts/slow").lines
    facts = vfsd.ok("branch", "inspect", "texts/slow", "--json").json["trigger"]
    assert facts == {
        "branch": "main", "all": True, "size": "10M", "commits": 5, "rate_limit_spec": "", "cron_spec": "",
    }  # fmt: skip
    assert vfsd("put", "-", "texts/slow/a", stdin=b"x").error == (
        "texts/slow is moved by its trigger to where main is: write to that"
    )
    vfsd.ok("branch", "move", "texts/slow", "--to", "main")
    assert vfsd.ok("branch", "trigger", "texts/slow", "--off").text == "texts/slow has no trigger\n"
    vfsd.put("texts/slow/b", "2")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--on", "main"], 2, "the trigger of texts/t: give one of size, commits, rate_limit_spec and cron_spec"),
        (["--on", "main", "--size", "much"], 2, "the trigger of texts/t: size: 'much' is no size: write it as 512Mi"),
        (["--on", "main", "--commits", "-1"], 2, "commits: -1 is no number of commits to wait for"),
        (["--on", "main", "--cron", "* *"], 2, "cron_spec: '* *' is no schedule"),
        (["--on", "main", "--rate-limit", "1h"], 2, "rate_limit_spec: '1h' is no schedule"),
        (["--on", "t", "--commits", "1"], 2, "branch: branch t cannot wait for itself"),
        (["--on", "a/b", "--commits", "1"], 2, "branch: branch 'a/b': '/' may not stand in a name"),
        (["--on", "gone", "--commits", "1"], 1, "there is no branch gone in repo texts"),
        ([], 2, "give --on BRANCH and when, or --off alone"),
        (["--off", "--commits", "1"], 2, "give --on BRANCH and when, or --off alone"),
        (["--off"], 1, "there is no branch t in repo texts"),
    ],
)
def test_a_trigger_that_cannot_be_says_why_and_makes_nothing(
    vfsd: Program, words: list[str], code: int, said: str
) -> None:
    done = vfsd("branch", "trigger", "texts/t", *words)
    assert done.code == code
    assert said in done.err
    assert [branch["name"] for branch in vfsd.ok("branch", "list", "texts", "--json").json] == ["main"]


def test_branches_are_listed_with_the_last_moved_first(vfsd: Program) -> None:
    vfsd.ok("branch", "create", "texts/try")
    vfsd.ok("repo", "create", "photos")
    commit = vfsd.put("texts/main/a", "1")
    found = vfsd.ok("branch", "list", "--json").json
    assert [branch["id"] for branch in found] == ["texts/main", "photos/main", "texts/try"]
    assert found[0]["commit"] == commit
    assert [branch["id"] for branch in vfsd.ok("branch", "list", "photos", "--json").json] == ["photos/main"]
    assert "there is no repo nowhere" in vfsd("branch", "list", "nowhere").error


def test_a_branch_is_shown_with_its_commit(vfsd: Program) -> None:
    assert vfsd.ok("branch", "inspect", "texts/main", "--json").json["head"] is None
    commit = vfsd.put("texts/main/a", "1")
    facts = vfsd.ok("branch", "inspect", "texts/main", "--json").json
    assert facts["commit"] == facts["head"]["id"] == commit
    assert commit in vfsd.ok("branch", "inspect", "texts/main").text


def test_a_deleted_branch_leaves_the_others(vfsd: Program) -> None:
    commit = vfsd.put("texts/main/a", "1")
    vfsd.ok("branch", "create", "texts/try", "--from", "main")
    vfsd.ok("branch", "delete", "texts/main")
    assert vfsd("ls", "texts/main").error == "there is no branch main in repo texts"
    assert vfsd.ok("log", "texts/try", "--json").json[0]["id"] == commit
    assert vfsd("branch", "delete", "texts/main").code == 1


# Tags


def test_a_tag_names_a_commit_in_every_branch_of_its_repo(vfsd: Program) -> None:
    first = vfsd.put("texts/main/a", "1")
    vfsd.ok("tag", "create", "texts/main", "v1", "-m", "the first")
    vfsd.put("texts/main/a", "2")
    vfsd.ok("branch", "create", "texts/try")
    assert vfsd.ok("cat", "texts/main@v1/a").out == b"1"
    assert vfsd.ok("cat", "texts/try@v1/a").out == b"1"
    facts = vfsd.ok("tag", "list", "--json").json
    assert [(tag["id"], tag["repo"], tag["commit"], tag["message"]) for tag in facts] == [
        ("v1", "texts", first, "the first")
    ]


def test_tags_are_listed_newest_first_and_can_be_deleted(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    for name in ("v2", "v1"):
        vfsd.ok("tag", "create", "texts/main", name)
    assert [line.split()[1] for line in vfsd.ok("tag", "list", "texts").lines] == ["v1", "v2"]
    vfsd.ok("tag", "delete", "texts", "v1")
    assert [tag["id"] for tag in vfsd.ok("tag", "list", "texts", "--json").json] == ["v2"]
    assert vfsd("tag", "delete", "texts", "v1").error == "there is no tag v1 in repo texts"


@pytest.mark.parametrize(
    ("spec", "name", "code", "said"),
    [
        ("texts/main", "cafe", 2, "would read as the beginning of a commit id"),
        ("texts/main", "2026-11-22", 2, "would read as a time"),
        ("texts/main/a", "v1", 2, "a commit is meant here"),
        ("texts/empty", "v1", 1, "texts/empty has no commits yet"),
        ("texts/main@gone", "v1", 1, "there is no tag gone"),
        ("texts/main", "taken", 1, "tag taken exists already"),
    ],
)
def test_a_tag_that_cannot_be_says_why(vfsd: Program, spec: str, name: str, code: int, said: str) -> None:
    vfsd.put("texts/main/a", "1")
    vfsd.ok("tag", "create", "texts/main", "taken")
    vfsd.put("texts/main/a", "2")
    vfsd.ok("branch", "create", "texts/empty")
    done = vfsd("tag", "create", spec, name)
    assert done.code == code
    assert said in done.error
