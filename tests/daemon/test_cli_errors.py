"""Exit codes, the one line that a user reads, help, and how quickly a command starts."""

from __future__ import annotations

import importlib
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from tests.daemon.program import TIMEOUT, Program
from vfsd.daemon.cli import SECTIONS, cli

ELSEWHERE = {"mount"}  # nonsense may be a mountpoint: tests/mount has its bad input


def commands(group: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Words → command, for every command and group below `group`."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


ALL = dict(commands(cli))
LEAVES = [
    words for words, command in ALL.items() if not isinstance(command, click.Group) and words[0] not in ELSEWHERE
]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example(bare: Program, words: tuple[str, ...]) -> None:
    text = bare.ok(*words, "--help").text
    assert "Example" in text
    assert f"vfsd {' '.join(words)}" in text.partition("Example")[2] or "now" in words
    for param in ALL[words].params:
        if isinstance(param, click.Option):
            assert param.help, f"{words} {param.opts} says nothing"


LISTED = {one.name: one for part in SECTIONS.values() for one in part}


@pytest.mark.parametrize("name", LISTED)
def test_the_list_of_commands_says_what_the_commands_say(name: str) -> None:
    listed = LISTED[name]
    command = getattr(importlib.import_module(listed.module), listed.attribute)
    assert command.help.startswith(listed.help)


NONSENSE = [
    "", "@", "a", "a/", "a/b@", "a/b@~", "a/b/..", "texts/main/x", "texts/main@zz zz", "texts/main@0001-01-01", "-",
    "texts/main@99999999999999999999~99999999999999999999", "\udcff/\udcff", "--x", "x" * 5000, "{}", "%s", "🙂/🙂",
    "texts/main/" + "x/" * 60_000, "texts/main/" + "y" * 300,
]  # fmt: skip


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_no_arguments_at_all_show_a_traceback(
    vfsd: Program, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (vfsd.folder / "empty").mkdir()
    monkeypatch.chdir(vfsd.folder / "empty")  # what `get` makes of nonsense is made here
    for one in NONSENSE if words[0] in {"put", "get"} else [*NONSENSE, "/", "//"]:
        for args in ([], [one], [one, one], [one, "texts/main"], ["texts/main", one], ["--from", one, "texts/x"]):
            done = vfsd(*words, *args)
            assert "Traceback" not in done.err
            if done.code:
                assert done.error
            assert done.code in {0, 1, 2}, (args, done)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nonsense"], "No such command 'nonsense' (see vfsd --help)"),
        (["cat"], "Missing argument 'SPEC...' (see vfsd cat --help)"),
        (["log", "texts/main", "-n", "0"], "'-n' / '--number': 0 is not in the range x>=1 (see vfsd log --help)"),
        (["repo", "list", "--nope"], "No such option '--nope'"),
        (["cat", "texts/main/x", "--json"], "No such option '--json'"),
        (["--json", "cat", "texts/main/x"], "it prints no facts, so there is no --json (see vfsd cat --help)"),
        (["ls", "texts/main/x", "y"], "Got unexpected extra argument (y) (see vfsd ls --help)"),
        (["put", "-", "texts/main/x", "-m", os.fsdecode(b"\xff")], r"'\xff' is not valid UTF-8"),
        (["commit", "texts/main", "-m", os.fsdecode(b"\xff")], r"'\xff' is not valid UTF-8"),
        (["commit", "start", "texts/main", "-m", os.fsdecode(b"\xff")], r"'\xff' is not valid UTF-8"),
        (["put", "-", "texts/\x1b[31m/x"], r"'\x1b' may not stand in a name"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(vfsd: Program, args: list[str], said: str) -> None:
    done = vfsd.spawn(*args)
    assert done.code == 2
    assert said in done.error


def test_without_a_command_the_help_is_shown(bare: Program) -> None:
    done = bare.spawn()
    assert done.code == 2
    assert "Usage: vfsd" in done.err and "Files:" in done.err
    assert bare.spawn("--version").text.startswith("vfsd ")


def test_a_state_that_cannot_be_written_is_one_line(vfsd: Program) -> None:
    done = vfsd.spawn("ls", VFSD_STATE_DIR=vfsd.file("file"))
    assert done.code == 1
    assert str(vfsd.folder / "file") in done.error


def test_an_error_nobody_thought_of_is_one_line_too_and_the_rest_when_asked(vfsd: Program) -> None:
    broken = (
        "import sys, vfsd.repo.refs\n"
        "vfsd.repo.refs.Refs.repos = lambda self: {}['oops']\n"
        "sys.argv[0] = 'vfsd'\n"
        "from vfsd.__main__ import main\n"
        "main()\n"
    )
    for debug, traceback in (("0", False), ("1", True)):
        done = subprocess.run(
            [sys.executable, "-c", broken, "ls"], env=vfsd.environ | {"VFSD_DEBUG": debug}, capture_output=True,
            timeout=TIMEOUT, check=False,
        )  # fmt: skip
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 1
        assert lines[-1] == "vfsd: unexpected KeyError: 'oops' (VFSD_DEBUG=1 shows where)"
        assert (len(lines) > 1) == traceback


def test_a_reader_that_goes_away_ends_the_command_quietly(vfsd: Program) -> None:
    vfsd.put("texts/main/big", os.urandom(1 << 20) * 4)
    for args in (["cat", "texts/main/big"], ["log", "texts/main"]):
        with subprocess.Popen(
            vfsd.command(*args), env=vfsd.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as running:
            assert running.stdout is not None and running.stderr is not None
            if args[0] == "cat":
                running.stdout.read(1)
            running.stdout.close()
            assert running.stderr.read() == b""
            assert running.wait(TIMEOUT) == 1


def test_an_interrupted_put_is_no_commit_and_leaves_nothing(vfsd: Program) -> None:
    temporary = vfsd.folder / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        # A shell starts what it has in the background with SIGINT ignored, and so then the tests.
        ["env", "--default-signal=INT", *vfsd.command("put", "-", "texts/main/x")],
        env=vfsd.environ | {"TMPDIR": str(temporary)}, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdin is not None and running.stderr is not None
        running.stdin.write(bytes(4 << 20))  # more than a pipe holds: it is being read now
        running.stdin.flush()
        running.send_signal(signal.SIGINT)
        assert (running.wait(TIMEOUT), running.stderr.read().strip()) == (130, b"")
        running.stdin.close()
    assert vfsd.ok("log", "texts/main").text == ""
    assert list(temporary.iterdir()) == []


def test_progress_is_shown_on_a_terminal_only(vfsd: Program) -> None:
    path = vfsd.file("big", os.urandom(2 << 20))
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            vfsd.command("put", path, "texts/main/a"), env=vfsd.environ, stderr=theirs, stdout=subprocess.DEVNULL,
            timeout=TIMEOUT, check=True,
        )  # fmt: skip
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "put" in shown and "100%" in shown
    assert vfsd.spawn("put", path, "texts/main/b").err == ""


def test_titles_are_shown_on_a_terminal_only(vfsd: Program) -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run(vfsd.command("repo", "list"), env=vfsd.environ, stdout=theirs, timeout=TIMEOUT, check=True)
        shown = os.read(ours, 65536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(theirs)
    assert shown[0].split() == ["repo", "created", "description"]
    assert len(vfsd.spawn("repo", "list").lines) == 1


HEAVY = ("boto3", "botocore", "trio", "yaml", "asyncio")


@pytest.mark.parametrize(
    ("args", "unwanted"),
    [(["--help"], (*HEAVY, "sqlite_utils", "sqlite3", "vfsd.repo.repository")), (["ls", "texts/main"], HEAVY)],
    ids=["help", "ls"],
)
def test_what_a_command_does_not_need_is_not_imported(
    vfsd: Program, args: list[str], unwanted: tuple[str, ...]
) -> None:
    vfsd.ok("ls")  # makes the index, which takes more
    look = (
        "import sys\n"
        "from vfsd.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"import json; sys.stderr.write(json.dumps([name for name in {unwanted!r} if name in sys.modules]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", look, *args], env=vfsd.environ, capture_output=True, timeout=TIMEOUT, check=True
    )
    assert json.loads(done.stderr) == []


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(bare: Program, shell: str) -> None:
    assert "_VFSD_COMPLETE" in bare.ok("completion", shell).text


def completed(program: Program, *words: str) -> list[str]:
    """What bash would be told for the last of `words`."""
    done = program.spawn(
        _VFSD_COMPLETE="bash_complete", COMP_WORDS=" ".join(["vfsd", *words]), COMP_CWORD=str(len(words))
    )
    assert done.err == ""
    return [line.partition(",")[2] for line in done.lines if line]


def test_names_in_the_store_are_completed(vfsd: Program) -> None:
    vfsd.ok("repo", "create", "textile")
    for name in ("d/one", "d/other", "e/f/lonely"):
        vfsd.put(f"texts/main/{name}", "x")
    for strange in ("\udcff", "a\nb"):  # what a shell cannot be told
        vfsd.put(f"texts/main/d/{strange}", "x")
    assert completed(vfsd, "cat") == ["cat"]
    assert completed(vfsd, "cat", "tex") == ["textile/", "texts/"]
    assert completed(vfsd, "cat", "texts/") == ["texts/main/d/", "texts/main/e/"]
    assert completed(vfsd, "cat", "texts/main/d/") == ["texts/main/d/one", "texts/main/d/other"]
    assert completed(vfsd, "cat", "texts/main/d/o") == ["texts/main/d/one", "texts/main/d/other"]
    assert completed(vfsd, "cat", "texts/main/e") == ["texts/main/e/f/", "texts/main/e/f/lonely"]
    assert completed(vfsd, "cat", "texts/main@~1/d/o") == ["texts/main@~1/d/one", "texts/main@~1/d/other"]
    assert completed(vfsd, "branch", "inspect", "texts/m") == ["texts/main"]
    assert completed(vfsd, "cat", "nothing/main/x") == []


def test_completion_is_silent_where_there_is_no_store(bare: Program) -> None:
    assert completed(bare, "cat", "tex") == []
