"""Two nodes with state of their own on one bucket, writing to one branch at once, also while requests fail, daemons are
killed, and a third node makes garbage, collects and compacts: nothing that was closed is lost, both see the same in the
end, and what was garbage is gone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.mount.conftest import Mounted
from tests.proxy import Mishap, Options, Proxy, proxy_to
from tests.servers import BUCKET, S3Server
from tests.slow.branch_history import Span, Version, closed, due, versions
from tests.slow.racer import PATIENCE_S, Gate, Record, found_below, race
from tests.slow.trees import look
from vfsd.daemon.control import ask
from vfsd.model.errors import AlreadyExists, VfsdError
from vfsd.repo.refs import Refs
from vfsd.store.open import open_store

pytestmark = pytest.mark.slow
SECONDS = float(os.environ.get("VFSD_TEST_SECONDS", "600"))
WRITERS = 3  # of each node
TIMING = "quiet_s = 0.3\nmax_wait_s = 2\npoll_s = 0.5\n"
CONVERGED_WITHIN_S = 30.0
HURRY_S = 1200.0  # for commands that read all there is, on a machine that has other things to do
PROCESSES, THREADS, ROUNDS = 8, 8, 100
KILL_EVERY_S = (10.0, 30.0)
TROUBLE = {  # 5 % fail before the server acts, of 1 % the answer is cut after it did
    Mishap.DROP: 0.02,
    Mishap.SLOW_DOWN: 0.015,
    Mishap.INTERNAL_ERROR: 0.015,
    Mishap.LOSE: 0.005,
    Mishap.CUT: 0.005,
}
_spawn = multiprocessing.get_context("spawn")


@dataclass
class RacingNode:
    """A node and its writers. commits: when each `commit` was asked for and answered. refused: what others said."""

    number: int
    mounted: Mounted
    gate: Gate
    writers: list[BaseProcess] = field(default_factory=list)
    commits: list[Span] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def branch(self) -> Path:
        return self.mounted.path / "data/main"

    def record_path(self, number: int) -> Path:
        return self.mounted.folder / f"record-{number}"

    def records(self) -> list[Record]:
        return [msgspec.json.decode(self.record_path(number).read_bytes(), type=Record) for number in range(WRITERS)]

    def ask(self, question: str, **words: str) -> object:
        """Ask the daemon, as the commands do, without a process for each question."""
        (folder,) = (self.mounted.folder / "state").glob("*/")
        return ask(str(folder / "control"), question, **words)

    def commit(self) -> None:
        """`vfsd commit`, noted when it was answered."""
        begun = time.monotonic_ns()
        try:
            answer = self.ask("commit", branch="data/main", message="")
        except VfsdError as error:
            self.refused[str(error)] += 1
            return
        if answer is not None:
            self.commits.append((begun, time.monotonic_ns()))

    def commit_until(self, stop: threading.Event) -> None:
        """A commit now and then."""
        dice = random.Random(self.number)
        while not stop.wait(dice.uniform(0.2, 2.0)):
            self.commit()

    def head(self) -> tuple[str, str | None]:
        """State and commit of the branch here."""
        (facts,) = self.ask("status")["branches"]  # type: ignore[index]
        return facts["state"], facts["commit"]

    def kill_and_mount(self) -> None:
        """kill -9 while the writers work, and a mount that goes on."""
        self.mounted.kill()
        self.gate.stop()
        self.mounted.mount()
        self.gate.go_on()


@dataclass
class Rig:
    """Two racing nodes on one bucket behind a proxy."""

    folder: Path
    url: str
    proxy: Proxy
    nodes: list[RacingNode]

    def run(self, seconds: float, *, kills: bool = False) -> int:
        """Let all writers work for so long; how often a daemon was killed."""
        stop, stop_commits = _spawn.Event(), threading.Event()
        committers = [threading.Thread(target=node.commit_until, args=(stop_commits,)) for node in self.nodes]
        for node in self.nodes:
            for number in range(WRITERS):
                words = (str(node.branch), node.number, number, stop, node.gate, str(node.record_path(number)))
                node.writers.append(_spawn.Process(target=race, args=words))
        writers = [writer for node in self.nodes for writer in node.writers]
        for each in (*writers, *committers):
            each.start()
        killed = 0
        try:
            dice = random.Random()
            end = time.monotonic() + seconds
            while time.monotonic() < end and all(writer.is_alive() for writer in writers):
                _sleep_until(min(end, time.monotonic() + dice.uniform(*KILL_EVERY_S)), writers)
                if kills and time.monotonic() < end:
                    dice.choice(self.nodes).kill_and_mount()
                    killed += 1
        finally:
            stop.set()
            stop_commits.set()
            for each in (*writers, *committers):
                each.join()
        assert [writer.exitcode for writer in writers] == [0] * len(writers), "a writer met an error: see above"
        return killed

    def keep(self, stop: threading.Event) -> Counter[str]:
        """Until `stop`, on a node that has no mount: make branches with something in them and delete them, collect and
        compact; how often what was done. Only trouble with the store may keep a command from its work."""
        node, done = self._other_node("keeper"), Counter[str]()
        commands: list[tuple[str | Path, ...]] = [
            ("gc", "--delete", "--grace", "0s"), ("compact", "--rewrite", "--grace", "0s", "--below", "90"),
        ]  # fmt: skip
        for number in count():
            if stop.wait(5):
                return done
            branch = f"data/try-{number}"
            for words in (("branch", "create", branch, "--from", "main"), self._put(node, branch), *commands,
                          ("branch", "delete", branch)):
                result = node.run(*words, check=False, timeout=HURRY_S)
                done[f"{words[0]} {'done' if result.returncode == 0 else result.stderr.strip()[-60:]}"] += 1
                assert "Traceback" not in result.stderr, result.stderr
                assert result.returncode in {0, 1}, result.stderr
        raise AssertionError

    def _other_node(self, name: str) -> Mounted:
        node = Mounted(self.folder / name, self.url)
        node.environ["VFSD_S3_ENDPOINT"] = self.proxy.endpoint
        return node

    def _put(self, node: Mounted, branch: str, size: int = 3 << 20) -> tuple[str | Path, ...]:
        path = node.folder / "bytes"
        path.write_bytes(os.urandom(size))
        return "put", path, f"{branch}/bytes"

    def litter(self) -> set[str]:
        """Leave what nothing leads to: what a branch had that was deleted, and what a killed upload has stored; the
        keys of that."""
        before = self._objects()
        node = self._other_node("litterer")
        node.run("branch", "create", "data/gone", "--from", "main")
        node.run(*self._put(node, "data/gone"))
        node.run("branch", "delete", "data/gone")
        of_branch = self._objects() - before
        assert any(key.startswith("packs/") for key in of_branch)
        words = self._put(node, "data/main", 500 << 20)  # many packs more than go up at once
        self.proxy.set(Options(mb_per_s=40))
        with subprocess.Popen([sys.executable, "-m", "vfsd", *map(str, words)], env=node.environ) as running:
            while not self._objects() - before - of_branch:
                assert running.poll() is None, "it was stored before it could be killed"
                time.sleep(0.1)
            running.kill()
        assert running.returncode == -signal.SIGKILL, "it was done before it could be killed"
        self.proxy.set(Options())
        return self._objects() - before

    def _objects(self) -> set[str]:
        with closing(open_store(self.url)) as store:
            return {stat.key for prefix in ("packs/", "commits/", "moved/") for stat in store.list(prefix)}

    def converge(self) -> tuple[str, float]:
        """Have both commit all they have; the commit that both then stand at, and the seconds that it took."""
        begun = time.monotonic()
        while True:
            for node in self.nodes:
                node.commit()
            heads = {node.head() for node in self.nodes}
            took = time.monotonic() - begun
            states = {state for state, _ in heads}
            if len(heads) == 1 and states == {"clean"}:
                (head,) = heads
                assert head[1] is not None
                return head[1], took
            assert took < CONVERGED_WITHIN_S, f"after {took:.0f} s the nodes are at {heads}"

    def check(self) -> str:
        """All that was promised; a line about how much that was."""
        commit, took = self.converge()
        one, other = (look(os.fsencode(node.branch)) for node in self.nodes)
        snapshot = look(os.fsencode(self.nodes[0].mounted.path / f"data/main@{commit}"))
        differ = {
            path: [thing and (thing.kind, thing.size, thing.mtime) for thing in things]
            for path in sorted({*one, *other, *snapshot})
            if (things := [tree.get(path) for tree in (one, other, snapshot)])[0] != things[1]
            or (things[0] and things[0].content) != (things[2] and things[2].content)
        }
        assert not differ, f"at {commit} these differ on the two nodes, and in the snapshot: {differ}"
        records = {node.number: node.records() for node in self.nodes}
        for node in self.nodes:
            self._check_own_folders(node, records, commit)
        history = versions(self.url, self.folder / "index.sqlite", "data", "main")
        held = set[Version]().union(*history)
        wanted = set[Version]()
        for node in self.nodes:
            for record in records[node.number]:
                wanted |= set(due(record.changes, node.commits))
        missing = wanted - held
        assert not missing, f"{len(missing)} of {len(wanted)} closed versions are in no commit: {sorted(missing)[:5]}"
        every = [record for node in self.nodes for record in records[node.number]]
        attempted = {digest for record in every for change in record.changes for digest in change.made.values()}
        assert {digest for _, digest in held} <= attempted, "commits hold what nobody wrote"
        acknowledged = {version for record in every for version, _ in closed(record.changes)}
        return (
            f"{sum(len(record.changes) for record in every)} changes, {sum(record.raced for record in every)} came too "
            f"late; {len(history)} commits; {len(acknowledged)} versions closed, {len(acknowledged & held)} of them in "
            f"a commit, all of the {len(wanted)} that were there when `commit` was answered; the same tree of "
            f"{len(one)} names on both within {took:.1f} s"
        )

    def _check_own_folders(self, node: RacingNode, records: dict[int, list[Record]], commit: str) -> None:
        for top in (node.branch, node.mounted.path / f"data/main@{commit}"):
            for number, own in records.items():
                for writer, record in enumerate(own):
                    found = found_below(str(top), f"own/{number}-{writer}")
                    assert found == record.holds, f"{top}: own/{number}-{writer} is not as its writer left it"

    def collect(self, garbage: set[str]) -> str:
        """Collect garbage, of which these objects are part; what was removed."""
        there = self._objects()
        for _ in range(2):  # one condemns, the other deletes
            done = self._gc("--delete")
        left = self._gc()
        assert left["unreachable"]["packs"] == left["due"]["packs"] == 0, f"garbage is left: {left}"
        removed = there - self._objects()
        assert garbage <= removed, f"garbage is left: {garbage - removed}"
        return f"gc removed {len(removed)} objects, {len(garbage)} of them made to be garbage: {done['due']}"

    def _gc(self, *words: str) -> dict[str, Any]:
        node = self.nodes[0].mounted
        facts: dict[str, Any] = json.loads(node.run("--json", "gc", "--grace", "0s", *words, timeout=HURRY_S).stdout)
        return facts

    def fsck(self) -> str:
        """`vfsd fsck --read-data`, which has to find nothing; what it says."""
        return self.nodes[0].mounted.run("fsck", "--read-data", timeout=HURRY_S).stdout.strip()


def _sleep_until(end: float, writers: list[BaseProcess]) -> None:
    """Let time pass while all writers live."""
    while time.monotonic() < end and all(writer.is_alive() for writer in writers):
        time.sleep(0.1)


@pytest.fixture
def rig(seaweedfs: S3Server, s3_url: str, tmp_path: Path) -> Iterator[Rig]:
    """Both nodes mounted, the branch data/main there."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is not there: nothing can be mounted on this machine")
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(seaweedfs.endpoint))
        nodes = []
        for number in range(2):
            mounted = Mounted(tmp_path / f"node-{number}", s3_url)
            (mounted.folder / "config.toml").write_text(TIMING)
            mounted.environ["VFSD_S3_ENDPOINT"] = proxy.endpoint
            gate = Gate(_spawn.Barrier(WRITERS + 1), _spawn.Barrier(WRITERS + 1))
            nodes.append(RacingNode(number, mounted, gate))
        nodes[0].mounted.run("init")
        nodes[0].mounted.run("repo", "create", "data")
        for node in nodes:
            stack.callback(node.mounted.close)
            node.mounted.mount()
        yield Rig(tmp_path, s3_url, proxy, nodes)


def test_two_nodes_that_race_on_one_branch_lose_nothing_and_end_alike(rig: Rig) -> None:
    rig.run(SECONDS)
    print(rig.check())
    assert [dict(node.refused) for node in rig.nodes] == [{}, {}]
    print(rig.fsck())


def test_nothing_that_was_acknowledged_is_lost_when_requests_fail_and_daemons_are_killed(rig: Rig) -> None:
    rig.proxy.set(Options(mishaps=TROUBLE))
    rig.proxy.reset()
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        keeping = pool.submit(rig.keep, stop)
        try:
            killed = rig.run(SECONDS, kills=True)
        finally:
            stop.set()
    counts = rig.proxy.counts()
    rig.proxy.set(Options())
    print(f"{counts.requests()} requests, {dict(counts.mishaps)}; {killed} kills")
    print(f"garbage made and collected meanwhile: {dict(keeping.result())}")
    for node in rig.nodes:
        print(f"node {node.number}: commits that were refused: {dict(node.refused)}")
    print(rig.check())
    print(rig.fsck())
    print(rig.collect(rig.litter()))
    print(rig.check())
    print(rig.fsck())


def create_in_rounds(url: str, start: Barrier, rounds: int, won: str) -> None:
    """In THREADS threads with a client each: create the branch of each round with all others, and write down, in the
    file `won`, in which rounds that went well."""
    rounds_won: list[int] = []

    def create() -> None:
        with closing(open_store(url)) as store:
            refs = Refs(store)
            for number in range(rounds):
                start.wait(PATIENCE_S)
                try:
                    refs.create_branch("data", f"branch-{number}", None, 0)
                except AlreadyExists:
                    continue
                rounds_won.append(number)

    threads = [threading.Thread(target=create) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Path(won).write_bytes(msgspec.json.encode(rounds_won))


@pytest.mark.parametrize("server", ["moto", "seaweedfs"])
def test_of_64_that_create_a_branch_one_does(
    server: str, request: pytest.FixtureRequest, s3_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SeaweedFS takes some ten seconds for one round: see docs/decisions/0006."""
    running: S3Server = request.getfixturevalue(server)
    monkeypatch.setenv("VFSD_S3_ENDPOINT", running.endpoint)
    s3_url = f"s3://{BUCKET}/{tmp_path.name}-{server}"
    start = _spawn.Barrier(PROCESSES * THREADS)
    paths = [tmp_path / str(number) for number in range(PROCESSES)]
    processes = [_spawn.Process(target=create_in_rounds, args=(s3_url, start, ROUNDS, str(path))) for path in paths]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    won = [number for path in paths for number in msgspec.json.decode(path.read_bytes(), type=list[int])]
    assert sorted(won) == list(range(ROUNDS))
