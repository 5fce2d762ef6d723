"""Many writers on one branch of a store in a directory: nobody's commit is lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from tests.repo.parts import commit, make_branch, open_repository, read_files
from vfsd.model.location import parse_location
from vfsd.repo.repository import Committed, Repository
from vfsd.store.local import LocalStore

COMMITS = 6

WRITER = """
import sys
from pathlib import Path
from tests.repo.parts import commit, open_repository
from vfsd.store.local import LocalStore
root, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
repository = open_repository(LocalStore(str(root / "store")), root / f"index-{name}")
sys.stdin.readline()
for number in range(count):
    made = commit(repository, {(b"d", name.encode(), b"%d" % number): b"%d" % number, (b"last",): name.encode()})
    print(made.commit.id if made else "none", flush=True)
repository.close()
"""


def check(repository: Repository, writers: list[str], acknowledged: set[str]) -> None:
    found = read_files(repository, repository.root(parse_location("r/main")))
    expected = {
        (b"d", name.encode(), b"%d" % number): b"%d" % number for name in writers for number in range(COMMITS)
    }
    assert {path: data for path, data in found.items() if path[0] == b"d"} == expected
    assert found[b"last",].decode() in writers
    head = repository.refs.head("r", "main").commit
    assert head is not None
    log = [one.id for one in repository.commits.log(head)]
    assert set(log) == acknowledged
    assert len(log) == len(writers) * COMMITS
    times = [repository.commits.get(one).header.time for one in log]
    assert times == sorted(set(times), reverse=True)


def test_threads_that_share_a_repository_all_get_their_commits(tmp_path: Path) -> None:
    with closing(open_repository(LocalStore(str(tmp_path / "store")), tmp_path / "index")) as repository:
        make_branch(repository)
        made: list[Committed | None] = []

        def work(name: str) -> None:
            made.extend(
                commit(repository, {(b"d", name.encode(), b"%d" % n): b"%d" % n, (b"last",): name.encode()})
                for n in range(COMMITS)
            )

        writers = [f"w{number}" for number in range(4)]
        threads = [threading.Thread(target=work, args=(name,)) for name in writers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4 * COMMITS
        check(repository, writers, {one.commit.id for one in made if one is not None})


def test_processes_that_share_only_the_store_all_get_their_commits(tmp_path: Path) -> None:
    with closing(open_repository(LocalStore(str(tmp_path / "store")), tmp_path / "index")) as repository:
        make_branch(repository)
        writers = ["one", "two", "three"]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), name, str(COMMITS)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            )
            for name in writers
        ]  # fmt: skip
        try:
            for process in running:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            said = [process.communicate(timeout=300)[0].split() for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
        assert [process.returncode for process in running] == [0, 0, 0]
        check(repository, writers, {one for lines in said for one in lines})


def test_branches_that_are_made_at_once_are_made_once(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "store"))
    with closing(open_repository(store, tmp_path / "index")) as repository:
        repository.refs.create_repo("r", 1)
        won = []

        def work() -> None:
            try:
                won.append(repository.refs.create_branch("r", "main", None, 1))
            except Exception as error:
                assert "exists already" in str(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert repository.refs.head("r", "main") == won[0]
