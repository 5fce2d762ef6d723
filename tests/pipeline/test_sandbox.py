from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.rooms import COMMIT, Bench, Maker, account, both, needs_sandbox
from vfsd.pipeline.sandbox import Mounted, Sandbox, Unsandboxed, environment


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@both
async def test_a_command_reads_its_input_and_writes_its_output(maker: Maker, bench: Bench) -> None:
    one = bench.put(b"/d/a.txt", b"hello")
    script = 'cat "$texts" "$VFSD_PFS/texts/d/a.txt"; tr a-z A-Z < "$texts" > "$VFSD_OUT/a.txt"'
    outcome, log = await bench.outcome(maker, bench.run(script, one))
    assert outcome.ok, log
    assert log == "hellohello"
    assert (bench.out / "a.txt").read_text() == "HELLO"


@both
async def test_names_may_be_any_bytes(maker: Maker, bench: Bench) -> None:
    one = bench.put(b"/d \xff/\n'\"$x*", b"odd", name="t\u00e9xts")
    env = environment(bench.run("", one), b"/pfs", account(Sandbox))
    assert env["t\u00e9xts".encode()] == "/pfs/t\u00e9xts".encode() + b"/d \xff/\n'\"$x*"
    script = 'find "$VFSD_PFS"/t* -name "*x\\*" -exec cat {} +; find -L "$VFSD_PFS"/t* -type f | wc -c'
    outcome, log = await bench.outcome(maker, bench.run(script, one))
    assert outcome.ok, log
    assert log.startswith("odd")


@both
async def test_the_lines_of_stdin_are_fed_to_the_command(maker: Maker, bench: Bench) -> None:
    run = bench.run("cat", stdin=("one", "two"))
    assert (await bench.outcome(maker, run))[1] == "one\ntwo\n"


@both
async def test_an_environment_holds_what_is_documented_and_nothing_else(
    maker: Maker, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    one = bench.put(b"/a", b"")
    outcome, log = await bench.outcome(maker, bench.run("env", one, env={"MINE": "1", "LANG": "xx"}))
    assert outcome.ok
    found = dict(line.split("=", 1) for line in log.splitlines())
    twins = {"JOB_ID": "1" * 32, "DATUM_ID": "2" * 64, "OUTPUT_COMMIT_ID": "3" * 32}
    for name, value in twins.items():
        assert found["PACH_" + name] == found["VFSD_" + name] == value
    assert (found["MINE"], found["LANG"], found["texts_COMMIT"]) == ("1", "xx", COMMIT)
    assert found["texts"] == found["VFSD_PFS"] + "/texts/a"
    expected = {"PATH", "HOME", "LANG", "MINE", "texts", "texts_COMMIT", "VFSD_PFS", "VFSD_OUT"}
    expected |= {prefix + name for name in twins for prefix in ("PACH_", "VFSD_")}
    assert found.keys() - {"PWD", "OLDPWD", "SHLVL", "_", "TMPDIR"} == expected


@both
async def test_a_command_may_have_the_descriptors_that_it_is_to_have(maker: Maker, bench: Bench) -> None:
    outcome, log = await bench.outcome(maker, bench.run("ulimit -Sn; ulimit -Hn"), descriptors=77)
    assert outcome.ok, log
    assert log == f"77\n{resource.getrlimit(resource.RLIMIT_NOFILE)[1]}\n"


@both
async def test_a_whole_repo_or_a_directory_may_be_an_input(maker: Maker, bench: Bench) -> None:
    one = bench.put(b"/d/e/a.txt", b"hello")
    top = one.source.removesuffix(b"/d/e/a.txt")
    inputs = (Mounted("all", b"/", top, COMMIT), Mounted("some", b"/d", top + b"/d", COMMIT))
    inside = Mounted("some", b"/d/e/a.txt", one.source, COMMIT)  # shows in its directory anyway
    script = 'cat "$all/d/e/a.txt" "$VFSD_PFS/some/d/e/a.txt"'
    outcome, log = await bench.outcome(maker, bench.run(script, *inputs, inside))
    assert outcome.ok, log
    assert log == "hellohello"


@both
async def test_a_symbolic_link_stays_one(maker: Maker, bench: Bench) -> None:
    link = Mounted("links", b"/l", b"/nowhere", COMMIT, target=b"../else\xff where")
    outcome, log = await bench.outcome(maker, bench.run('readlink "$links"', link))
    assert outcome.ok, log
    assert os.fsencode(log) == b"../else\xff where\n"


@needs_sandbox
async def test_the_sandbox_cannot_change_anything_but_its_output(bench: Bench) -> None:
    one = bench.put(b"/a.txt", b"hello")
    script = """
    for path in /pfs/texts/a.txt /pfs/texts/new /pfs/new /new /etc/new /usr/new /var/new /root/new /home/new; do
        if (: > "$path") 2>/dev/null; then echo "wrote $path"; fi
    done
    mount -o remount,rw /pfs/texts/a.txt 2>/dev/null && echo remounted
    umount /pfs/texts/a.txt 2>/dev/null && echo unmounted
    : > /tmp/mine && : > /var/tmp/mine && : > /pfs/out/new && : > /dev/null
    """
    outcome, log = await bench.outcome(Sandbox, bench.run(script, one))
    assert outcome.ok, log
    assert log == ""
    assert os.listdir(bench.out) == ["new"]
    assert not os.path.lexists("/tmp/mine")
    assert not os.path.lexists("/var/tmp/mine")


@needs_sandbox
async def test_the_sandbox_sees_no_other_process_and_no_other_datum(bench: Bench) -> None:
    one = bench.put(b"/a.txt", b"hello")
    bench.put(b"/other.txt", b"secret")
    script = "find /pfs | sort; ls -A /tmp; ls -d /proc/[0-9]* | wc -l"
    outcome, log = await bench.outcome(Sandbox, bench.run(script, one))
    assert outcome.ok
    *seen, processes = log.splitlines()
    assert seen == ["/pfs", "/pfs/out", "/pfs/texts", "/pfs/texts/a.txt"]
    assert int(processes) < 8


@pytest.fixture
def beside_tmp() -> Iterator[Path]:
    """A directory that a sandbox would see, unlike those in /tmp."""
    if Path.home().resolve().is_relative_to("/tmp"):
        pytest.skip("no place that is not below /tmp")
    with tempfile.TemporaryDirectory(dir=Path.home()) as path:
        yield Path(path).resolve()


@needs_sandbox
async def test_hidden_directories_are_empty_in_the_sandbox(bench: Bench, beside_tmp: Path) -> None:
    state, shown = beside_tmp / "state", beside_tmp / "shown"
    for directory in (state, state / "store", shown):
        directory.mkdir()
        (directory / "file").write_text("x")
    bench.job = state / "job"  # where outputs go may lie in a hidden directory
    bench.out = bench.job / "out"
    bench.job.mkdir()
    bench.out.mkdir()
    bench.out.chmod(0o777)
    me = account(Unsandboxed)  # who may look into the directory
    script = f"ls -A {state}; ls -A {shown}; (: > {state}/new) 2>/dev/null && echo wrote; : > /pfs/out/done"
    outcome, log = await bench.outcome(Sandbox, bench.run(script), state / "store", state, account=me)
    assert outcome.ok, log
    assert log == "file\n"
    assert (bench.out / "done").exists()


@needs_sandbox
async def test_the_tools_of_the_machine_run_in_the_sandbox(bench: Bench) -> None:
    run = bench.run("echo 6 7 | awk '{print $1 * $2}'; test -e /bin/sh && ls -ld /bin")
    outcome, log = await bench.outcome(Sandbox, run)
    assert outcome.ok, log
    assert log.startswith("42\n")
    if os.path.islink("/bin"):
        assert f"/bin -> {os.readlink('/bin')}" in log


@needs_sandbox
async def test_an_input_that_is_gone_is_named(bench: Bench) -> None:
    one = bench.put(b"/a.txt", b"")
    os.unlink(one.source)
    outcome, _ = await bench.outcome(Sandbox, bench.run("true", one))
    assert outcome.reason == "the input texts/a.txt cannot be read: No such file or directory"


def test_why_there_is_no_sandbox_is_said_in_one_line(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: no permission' >&2\necho more >&2\nexit 1\n")
    fake.chmod(0o755)
    ask = "from vfsd.pipeline.sandbox import sandbox_works; print(sandbox_works())"

    def answer(path: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", ask], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
        ).stdout

    assert answer(str(tmp_path)) == (
        "no sandbox can be made here: it could not be started: the sandbox: bwrap: no permission\n"
    )
    assert answer("/nowhere") == "bubblewrap is not installed (its program is bwrap)\n"
