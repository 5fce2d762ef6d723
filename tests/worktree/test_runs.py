"""What a job has read, within its bounds, and how a journal is told of it."""

from __future__ import annotations

from vfsd.model.commit import Provenance
from vfsd.model.ids import CommitId, hash_bytes
from vfsd.model.observation import Folder, Path, decode_observation, paths_in
from vfsd.worktree.runs import NOTHING_SEEN, Noted, Reads, Restored, Run, SourceKey, observed

SOURCE = SourceKey("data", "main", "a" * 64, changed=False)


def read(reads: Reads, *paths: str, source: SourceKey = SOURCE) -> None:
    for path in paths:
        *above, name = path.encode().split(b"/")
        reads.add(reads.folder(source, tuple(above)), name)


def names(reads: Reads) -> list[str]:
    (source,) = reads.sources(frozenset())
    return [b"/".join(path).decode() + "/" * whole for path, whole in _paths(source.folders)]


def _paths(folders: tuple[Folder, ...]) -> list[tuple[Path, bool]]:
    return [(path, not folder.names) for folder in folders for path in paths_in([folder])]


def test_every_file_is_kept_once() -> None:
    reads = Reads()
    read(reads, "b", "a", "d/c", "a", "d/c")
    assert names(reads) == ["a", "b", "d/c"]
    assert len(reads.log) == 3


def test_directories_stand_for_files_where_too_many_were_read() -> None:
    reads = Reads(limit=10)
    read(reads, "few/a", "few/b", *(f"many/{number}" for number in range(9)))
    assert names(reads) == ["few/a", "few/b", "many/"]
    read(reads, "many/again", "many/below/deeper", "few/c")
    assert names(reads) == ["few/a", "few/b", "few/c", "many/"]
    assert len(reads.log) <= 10


def test_the_directories_above_stand_for_too_many_directories_and_the_commit_for_everything() -> None:
    reads = Reads(limit=10)
    read(reads, *(f"top/{number}/one" for number in range(11)))
    assert names(reads) == ["top/"]
    read(reads, *(f"{number}" for number in range(10)))
    assert names(reads) == ["/"]
    read(reads, *(f"x{number}/y/z" for number in range(30)))
    assert names(reads) == ["/"]
    assert len(reads.log) <= 10


def test_of_too_many_commits_the_latest_are_kept_and_that_is_said() -> None:
    reads = Reads()
    for number in range(300):
        read(reads, "a", source=SourceKey("data", "main", f"{number:064x}", changed=False))
    assert len(reads.sources(frozenset())) == 256
    assert reads.partial
    run = Run("train.py", "run.sh", reads)
    assert len(observed("models", "main", [(run, (b"m",))]).provenance) == 256


def test_a_journal_is_told_only_what_is_new_and_everything_once_its_records_go() -> None:
    reads = Reads()
    one, other = Run("train.py", "run.sh", reads), Run("save.py", "run.sh", reads)
    noted = Noted()
    told = []
    for run, path in ((one, "a"), (one, "b"), (other, "b"), (one, "b")):
        read(reads, path)
        news = noted.news(run)
        told.append(None if news is None else [part.names for part in news.parts])
    assert told == [[(b"a",)], [(b"b",)], [], None]
    noted.clear()
    news = noted.news(one)
    assert news is not None
    assert [part.names for part in news.parts] == [(b"a", b"b")]


def test_what_a_journal_was_told_comes_back() -> None:
    reads = Reads(limit=10)
    run, noted, restored = Run("train.py", "run.sh", reads), Noted(), Restored()
    for number in range(40):
        read(reads, f"d{number % 4}/f{number}", f"e/{number}")
        news = noted.news(run)
        if news is not None:
            restored.take_in(news)
    (back,) = restored.runs([run.number])
    assert (back.number, back.command, back.job) == (run.number, "train.py", "run.sh")
    before, after = reads.sources(frozenset()), back.reads.sources(frozenset())
    assert all(folder in after[0].folders or not folder.names for folder in before[0].folders)
    assert set(paths_in(before[0].folders)) <= set(paths_in(after[0].folders))


def test_a_commit_says_nothing_of_a_job_that_read_nothing() -> None:
    assert observed("models", "main", [(Run("cp", "cp", Reads()), (b"m",))]) is NOTHING_SEEN


def test_an_older_version_of_what_is_written_is_no_source() -> None:
    reads = Reads()
    read(reads, "m", "other", source=SourceKey("models", "main", "b" * 64, changed=False))
    seen = observed("models", "main", [(Run("vi", "vi", reads), (b"m",))])
    (job,) = decode_observation(seen.data, hash_bytes(seen.data).hex()).jobs
    assert list(paths_in(job.sources[0].folders)) == [(b"other",)]
    assert seen.provenance == (Provenance("models", "main", CommitId("b" * 64), kind="observed"),)


def test_what_another_job_had_read_comes_along_once_and_again_when_there_is_more() -> None:
    first, second = Reads(), Reads()
    read(first, "a")
    second.absorb(first)
    assert names(second) == ["a"]
    read(first, "b")
    second.absorb(first)
    second.absorb(second)
    assert names(second) == ["a", "b"]
