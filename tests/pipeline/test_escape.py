"""A datum that means harm: what it tries, and that nothing outside of its sandbox notices."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from tests.pipeline.rooms import LIMIT_S, Bench, needs_sandbox
from vfsd.pipeline.accounts import Account, Accounts
from vfsd.pipeline.executor import BoundedLog, run_datum
from vfsd.pipeline.sandbox import Sandbox

pytestmark = needs_sandbox
ROOT = os.geteuid() == 0
WHO = [
    "nobody",
    pytest.param("root", marks=pytest.mark.skipif(not ROOT, reason="only root can run datums as root")),
]
who = pytest.mark.parametrize("user", WHO)


def account(user: str) -> Account:
    return Accounts((user,)).of("")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@who
async def test_inputs_cannot_be_written_in_any_way(bench: Bench, user: str) -> None:
    one = bench.put(b"/d/a.txt", b"hello")
    script = """
    cd /pfs/texts/d; tries() { ("$@") >/dev/null 2>&1 && echo "did: $*"; }
    tries sh -c 'echo x >> a.txt'; tries truncate -s 0 a.txt; tries rm -f a.txt; tries mv a.txt b.txt; tries touch a.txt
    tries chmod 777 a.txt; tries ln a.txt /pfs/out/a; tries sh -c 'exec 3<>a.txt'; tries sh -c 'echo x > new'
    tries sh -c 'exec 3<a.txt; echo x > /proc/self/fd/3'; tries setfattr -n user.x -v y a.txt
    for how in remount,rw remount,rw,bind; do
        for at in / /pfs /pfs/texts/d/a.txt; do tries mount -o $how $at; done
    done
    tries umount a.txt; tries umount -l /pfs; tries mount --bind /tmp /pfs/texts; tries mount -t tmpfs x /pfs/texts
    tries unshare -m true; tries unshare -Urm mount -o remount,rw,bind /pfs/texts/d/a.txt
    tries unshare -Urm umount /pfs/texts/d/a.txt; [ "$(id -u)" = 0 ] || tries unshare -U true
    tries chroot / true; tries pivot_root / /tmp; tries nsenter -t 1 -m true
    cat a.txt
    """
    outcome, log = await bench.outcome(Sandbox, bench.run(script, one), account=account(user))
    assert (outcome.reason, log) == ("", "hello")
    assert Path(os.fsdecode(one.source)).read_bytes() == b"hello"
    assert os.listdir(bench.out) == []


@who
async def test_the_machine_cannot_be_changed_nor_other_processes_reached(bench: Bench, user: str) -> None:
    script = """
    tries() { ("$@") >/dev/null 2>&1 && echo "did: $*"; }
    kernel=/proc/sys/kernel
    for path in $kernel/core_pattern $kernel/hostname /proc/sysrq-trigger /sys/kernel/uevent_helper; do
        tries sh -c "cat $path > /tmp/was && cat /tmp/was > $path"
    done
    tries mknod /tmp/disk b 8 0; tries cat /dev/mem; tries hostname other; tries date -s 2001-01-01; tries reboot -f
    tries readlink /proc/1/fd/0; tries cat /proc/1/environ; tries cat /proc/1/mem; tries dmesg -C
    for file in /dev/sd* /dev/vd* /dev/fuse /dev/kmsg /dev/loop*; do test -e $file && echo "there is $file"; done
    ls -d /proc/[0-9]* | wc -l
    grep -E '^(CapPrm|CapEff|NoNewPrivs)' /proc/self/status
    """
    before = {path: Path(path).read_text() for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname")}
    outcome, log = await bench.outcome(Sandbox, bench.run(script), account=account(user))
    *did, processes, permitted, effective, no_new = log.splitlines()
    assert outcome.ok, log
    assert (did, no_new) == ([], "NoNewPrivs:\t1")
    assert int(processes) < 8
    harmless = 0b11111011  # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID
    for line in (permitted, effective):
        held = int(line.split()[1], 16)
        assert held & ~harmless == 0 if user == "root" else held == 0
    assert before == {path: Path(path).read_text() for path in before}


@who
async def test_a_datum_kills_only_itself(bench: Bench, user: str) -> None:
    mine = account(user)
    bystander = subprocess.Popen(["sleep", "600"], user=mine.uid if ROOT else None)
    try:
        script = f"kill -9 {bystander.pid} {os.getpid()} 2>/dev/null && echo killed; kill -9 -1"
        outcome, log = await bench.outcome(Sandbox, bench.run(script), account=mine)
        assert outcome.ran and "killed" not in log
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


async def test_two_datums_of_a_job_see_nothing_of_each_other(bench: Bench) -> None:
    bench.put(b"/other", b"needle", name="other")
    one = bench.put(b"/mine", b"mine")
    outs = []
    for name in ("first", "second"):
        out = bench.job / name
        out.mkdir()
        out.chmod(0o777)
        os.mkfifo(out / "go")
        (out / "go").chmod(0o666)
        outs.append(out)
    hide = """
    for at in /tmp /dev/shm /var/tmp /pfs/out; do echo needle > $at/needle; done
    export N=needle; read x < /pfs/out/go
    """
    seek = """
    read x < /pfs/out/go
    find / -xdev -name '*needle*' -o -path /proc -prune -o -path /sys -prune 2>/dev/null | grep needle
    find /tmp /dev/shm /var/tmp /pfs /dev/pts -name '*needle*'; cat /proc/[0-9]*/environ 2>/dev/null | grep -a N=needle
    ls /pfs
    """
    logs = [bench.root / "log1", bench.root / "log2"]
    async with bench.room(Sandbox, bench.mount, bench.job) as room, trio.open_nursery() as nursery:

        async def run(number: int, script: str) -> None:
            run = msgspec.structs.replace(bench.run(script, one), out=os.fsencode(outs[number]))
            with BoundedLog(os.fspath(logs[number])) as log:
                assert (await run_datum(room.prepare(run), log, timeout_s=LIMIT_S)).ok

        nursery.start_soon(run, 0, hide)
        nursery.start_soon(run, 1, seek)
        first = await trio.to_thread.run_sync(os.open, outs[0] / "go", os.O_WRONLY)  # it has hidden everything
        second = await trio.to_thread.run_sync(os.open, outs[1] / "go", os.O_WRONLY)
        os.write(second, b"\n")
        os.close(second)
        while not logs[1].exists() or "texts" not in logs[1].read_text():
            await trio.sleep(0.01)
        os.write(first, b"\n")
        os.close(first)
    assert logs[1].read_text() == "out\ntexts\n"


@who
async def test_a_full_tmp_is_the_datums_own_trouble(bench: Bench, user: str) -> None:
    script = """
    for at in /tmp /var/tmp /dev/shm; do
        for n in $(seq 100); do head -c 1000000 /dev/zero > $at/$n 2>/dev/null || break; done
        du -s --block-size=1000000 $at | cut -f1
    done
    """
    outcome, log = await bench.outcome(
        Sandbox, bench.run(script), account=account(user), files_in_memory=5_000_000
    )
    assert outcome.ok
    assert all(4 <= int(size) <= 6 for size in log.split())


async def test_a_fork_bomb_stays_below_its_limit_and_is_ended(bench: Bench) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb 2>/dev/null; SLEEP & sleep 2; ls -d /proc/[0-9]* | wc -l"
    limits = ((resource.RLIMIT_NPROC, 100),)
    async with bench.room(Sandbox, limits=limits) as room:
        with BoundedLog(os.fspath(bench.log)) as log:
            outcome = await run_datum(room.prepare(bench.run(bomb)), log, timeout_s=LIMIT_S)
        counts = [int(line) for line in bench.log.read_text().splitlines() if line.isdigit()]
        assert all(count <= 102 for count in counts)
        with BoundedLog(os.fspath(bench.log)) as log:
            assert (await run_datum(room.prepare(bench.run("echo fine")), log, timeout_s=LIMIT_S)).ok, outcome
    assert bench.left() == []


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of a server of the machine, which accepts nobody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="bash asks for the network")
@pytest.mark.parametrize("offline", [True, False])
async def test_without_network_there_is_a_loopback_and_nothing_else(bench: Bench, listener: int, offline: bool) -> None:
    reach = f"(exec 3<>/dev/tcp/127.0.0.1/{listener}) 2>/dev/null && echo reached"
    ask = f"{reach}; tail -n +3 /proc/net/dev | cut -d: -f1"
    outcome, log = await bench.outcome(Sandbox, bench.command("bash", "-c", ask), offline=offline)
    assert outcome.ok
    assert ("reached" in log) == (not offline)
    if offline:
        assert log.split() == ["lo"]
