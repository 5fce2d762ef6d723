"""log, show and diff."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import count

import msgspec
import pytest

from tests.daemon.program import Program
from vfsd.model.commit import commit_id_of, encode
from vfsd.model.ids import CommitId
from vfsd.repo.commit_object import build, parse


def test_a_log_is_newest_first_and_can_be_cut(vfsd: Program) -> None:
    made = [vfsd.put("texts/main/a", str(number)) for number in range(5)]
    assert [commit["id"] for commit in vfsd.ok("log", "texts/main", "--json").json] == made[::-1]
    assert [line.split()[0] for line in vfsd.ok("log", "texts/main", "-n", "2").lines] == [made[4][:12], made[3][:12]]
    assert [line.split()[0] for line in vfsd.ok("log", "texts/main@~3").lines] == [made[1][:12], made[0][:12]]


def test_a_log_of_a_path_has_the_commits_that_changed_it(vfsd: Program) -> None:
    first = vfsd.put("texts/main/d/a", "1")
    vfsd.put("texts/main/b", "1")
    second = vfsd.put("texts/main/d/a", "2")
    vfsd.put("texts/main/b", "2")
    gone = vfsd.ok("rm", "-r", "texts/main/d", "--json").json["id"]
    vfsd.put("texts/main/b", "3")

    def ids(spec: str) -> list[str]:
        return [commit["id"] for commit in vfsd.ok("log", spec, "--json").json]

    assert ids("texts/main/d/a") == [gone, second, first]
    assert ids("texts/main/d") == [gone, second, first]
    assert ids("texts/main@~2/d/a") == [second, first]
    assert vfsd.ok("log", "texts/main/d/a", "-n", "1", "--json").json[0]["id"] == gone
    assert vfsd("log", "texts/main/never").error == "texts/main: there is no never"


def test_a_commit_is_shown_with_all_that_it_is(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "one")
    parent = vfsd.ok("show", "texts/main", "--json").json
    vfsd.ok("put", vfsd.file("b", "three"), "texts/main/b", "-m", "a title\n\nand \x1b[31m more")
    facts = vfsd.ok("show", "texts/main", "--json").json
    assert facts["parents"] == [parent["id"]] and parent["parents"] == []
    assert (facts["repo"], facts["branch"], facts["author"]) == ("texts", "main", "tester@here")
    assert (facts["files"], facts["size"], facts["provenance"], facts["job"]) == (2, 8, [], None)
    assert len(facts["global_id"]) == 32 and facts["global_id"] != parent["global_id"]
    assert facts["time"] > parent["time"] and facts["time"].endswith("Z")
    text = vfsd.ok("show", "texts/main").text
    assert facts["id"] in text and parent["id"] in text and facts["global_id"] in text
    assert text.endswith("    a title\n    \n    and \\x1b[31m more\n")
    assert vfsd.ok("log", "texts/main").lines[0].endswith("a title")


@pytest.mark.parametrize("rev", ["~1", "^", "v1", "ID", "TIME"])
def test_every_kind_of_rev_names_the_commit(vfsd: Program, rev: str) -> None:
    first = vfsd.put("texts/main/a", "1")
    vfsd.ok("tag", "create", "texts/main", "v1")
    made = datetime.fromisoformat(vfsd.ok("show", "texts/main", "--json").json["time"])
    assert vfsd.put("texts/main/a", "2") != first
    behind = (made + timedelta(microseconds=1)).isoformat()
    text = {"ID": first[:9], "TIME": behind}.get(rev, rev)
    assert vfsd.ok("show", f"texts/main@{text}", "--json").json["id"] == first


@pytest.mark.parametrize(
    ("rev", "code", "said"),
    [
        ("abcd", 1, "no commit of repo texts begins with abcd"),
        ("f" * 64, 1, "no commit of repo texts begins with ffff"),
        ("abc", 1, "there is no tag abc in repo texts"),
        ("v9", 1, "there is no tag v9 in repo texts"),
        ("~7", 1, "has only 0 ancestors, not 7"),
        ("1999-01-01", 1, "texts/main had no commit yet at 1999-01-01T00:00:00.000000Z"),
        ("2026-13-01", 2, "month must be in 1..12"),
        ("", 2, "nothing stands behind '@'"),
        ("a:b", 2, "is no commit id, tag, ~N or time"),
    ],
)
def test_a_rev_that_names_nothing_says_so(vfsd: Program, rev: str, code: int, said: str) -> None:
    vfsd.put("texts/main/a", "1")
    for command in ("show", "ls", "log"):
        done = vfsd(command, f"texts/main@{rev}")
        assert done.code == code
        assert said in done.error


def test_an_ambiguous_prefix_names_the_commits_that_have_it(vfsd: Program) -> None:
    commit = CommitId(vfsd.put("texts/main/a", "1"))
    header = parse((vfsd.store / "commits" / commit).read_bytes(), commit)[0].header
    for number in count():
        twin = encode(msgspec.structs.replace(header, message=str(number)))
        if commit_id_of(twin)[:4] == commit[:4]:
            break
    other = commit_id_of(twin)
    (vfsd.store / "commits" / other).write_bytes(build(twin, None, [], [])[0])
    done = vfsd("show", f"texts/main@{commit[:4]}")
    assert done.code == 1
    names = ", ".join(sorted([commit[:12], other[:12]]))
    assert done.error == f"2 commits of repo texts begin with {commit[:4]}: {names}: give more digits"
    assert vfsd.ok("show", f"texts/main@{commit[:12]}", "--json").json["id"] == commit


def test_an_empty_branch_has_nothing_to_show(vfsd: Program) -> None:
    assert vfsd("show", "texts/main").error == "texts/main has no commits yet"
    assert vfsd.ok("log", "texts/main", "--json").json == []
    assert "a commit is meant here" in vfsd("show", "texts/main/a").error


# diff


def test_a_diff_has_a_letter_for_each_path(vfsd: Program) -> None:
    for name in ("keep", "gone", "changed", "kind", "d/inner"):
        vfsd.put(f"texts/main/{name}", "1")
    vfsd.ok("tag", "create", "texts/main", "before")
    vfsd.put("texts/main/changed", "2")
    vfsd.put("texts/main/d/new", "1")
    vfsd.put("texts/main/e/f", "1")
    vfsd.ok("rm", "texts/main/gone")
    vfsd.ok("rm", "texts/main/kind")
    vfsd.put("texts/main/kind/x", "1")
    expected = ["M  changed", "A  d/new", "A  e/", "A  e/f", "D  gone", "T  kind/", "A  kind/x"]
    assert vfsd.ok("diff", "texts/main@before", "texts/main").lines == expected
    assert vfsd.ok("diff", "texts/main", "texts/main@before").lines == [
        "M  changed", "D  d/new", "D  e/", "D  e/f", "A  gone", "T  kind", "D  kind/x",
    ]  # fmt: skip
    facts = vfsd.ok("diff", "texts/main@before", "texts/main", "--json").json
    assert [(one["state"], one["path"]) for one in facts] == [
        ("modified", "changed"), ("added", "d/new"), ("added", "e"), ("added", "e/f"), ("deleted", "gone"),
        ("retyped", "kind"), ("added", "kind/x"),
    ]  # fmt: skip
    assert facts[0]["old"]["size"] == facts[0]["new"]["size"] == 1
    assert facts[0]["old"]["id"] != facts[0]["new"]["id"]
    assert facts[1]["old"] is None and facts[4]["new"] is None


def test_equal_trees_have_no_difference(vfsd: Program) -> None:
    vfsd.put("texts/main/a", "1")
    vfsd.ok("branch", "create", "texts/try", "--from", "main")
    assert vfsd.ok("diff", "texts/main", "texts/try").text == ""
    assert vfsd.ok("diff", "texts/main", "texts/try", "--json").json == []
    assert vfsd.ok("diff", "texts/main/a", "texts/try/a").text == ""


def test_directories_and_files_within_can_be_compared(vfsd: Program) -> None:
    vfsd.put("texts/main/x/a", "1")
    vfsd.put("texts/main/y/a", "2")
    assert vfsd.ok("diff", "texts/main/x", "texts/main/y").lines == ["M  a"]
    assert vfsd.ok("diff", "texts/main/x/a", "texts/main/y/a").lines == ["M  ."]
    assert vfsd.ok("diff", "texts/main/x", "texts/main/y/a").lines == ["T  ."]
    assert "there is no z" in vfsd("diff", "texts/main/x", "texts/main/z").error
