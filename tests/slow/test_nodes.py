"""Two nodes with state of their own on one bucket, writing to one branch at once, also while requests fail and daemons
are killed: nothing that was closed is lost, and both see the same in the end."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path

import msgspec
import pytest

from tests.mount.conftest import Mounted
from tests.proxy import Mishap, Options, Proxy, proxy_to
from tests.servers import S3Server
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
        assert one == other, (
            f"the nodes differ: {[path for path in {*one, *other} if one.get(path) != other.get(path)]}"
        )
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

    def fsck(self) -> str:
        """`vfsd fsck --read-data`, which has to find nothing; what it says."""
        return self.nodes[0].mounted.run("fsck", "--read-data").stdout.strip()


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
    killed = rig.run(SECONDS, kills=True)
    counts = rig.proxy.counts()
    rig.proxy.set(Options())
    print(f"{counts.requests()} requests, {dict(counts.mishaps)}; {killed} kills")
    for node in rig.nodes:
        print(f"node {node.number}: commits that were refused: {dict(node.refused)}")
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


def test_of_64_that_create_a_branch_one_does(s3_url: str, tmp_path: Path) -> None:
    start = _spawn.Barrier(PROCESSES * THREADS)
    paths = [tmp_path / str(number) for number in range(PROCESSES)]
    processes = [_spawn.Process(target=create_in_rounds, args=(s3_url, start, ROUNDS, str(path))) for path in paths]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    won = [number for path in paths for number in msgspec.json.decode(path.read_bytes(), type=list[int])]
    assert sorted(won) == list(range(ROUNDS))
