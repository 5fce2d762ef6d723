"""What the golden store holds: fixed inputs, from which `make.py` wrote it and by which tests know what to find."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import closing
from unittest import mock

from tests.repo.collecting import HOUR, age, compact, drop, gc
from vfsd.model.commit import Provenance, StoreFormat, encode
from vfsd.model.entry import Entry, Extra, Kind, directory, special_digest, symlink_digest
from vfsd.model.ids import GlobalId, JobId
from vfsd.model.observation import READ, Folder, Observation, ObservedJob, Source, Writer, encode_observation
from vfsd.repo import repository as repository_module
from vfsd.repo.holds import Hold
from vfsd.repo.repository import Committed, Repository
from vfsd.repo.retention import KeepRules, Rules
from vfsd.repo.tree import Path, Sub, apply, change_set
from vfsd.repo.writer import BlobWriter
from vfsd.store.api import ObjectStore
from vfsd.store.memory import MemoryStore

FORMAT = StoreFormat(
    id="00112233445566778899aabbccddeeff", created=1_700_000_000_000_000_000,
    chunk_min=64, chunk_avg=256, chunk_max=1024,
)  # fmt: skip
START = 1_700_000_100_000_000_000  # time of the first commit; each later one is a second later
GIDS = [GlobalId(f"{number:032x}") for number in range(1, 5)]
JOB = JobId("abcdef" + "0" * 26)
ORIGIN = bytes(range(32))
MTIME = 1_600_000_000_123_456_789

HELLO = b"hello, world\n"
TEXT = b"All happy families are alike. " * 20  # shrinks
LARGE = random.Random("golden").randbytes(7_000)  # some 30 chunks, which do not shrink
MANY = [b"entry-%04d" % number for number in range(600)]  # enough names for inner nodes

FIRST: dict[Path, bytes] = {
    (b"hello.txt",): HELLO,
    (b"docs", b"text.txt"): TEXT,
    (b"docs", b"run.sh"): b"#!/bin/sh\n",
    (b"docs", "größe 文.txt".encode()): b"named in Unicode",
    (b"docs", b"bytes-\xff\xfe\n"): b"not named in UTF-8",
    (b"docs", b"linked-1"): b"one file, two names",
    (b"docs", b"linked-2"): b"one file, two names",
    (b"docs", b"derived"): b"written by a datum",
}
MOST: dict[Path, bytes] = {(b"docs", b"%d" % number): bytes([number]) + LARGE[number:] for number in range(5)}
LEFT: dict[Path, bytes] = {(b"docs", b"left"): TEXT + HELLO}
AGAIN: dict[Path, bytes] = {(b"docs", b"again"): random.Random("again").randbytes(3_000)}
LATER: dict[Path, bytes] = {(b"later",): b"later"}
COLLECTED = {"main": LEFT | LATER, "again": LEFT | AGAIN}
HOLDER = "example:4711"
COUNTS: dict[Path, bytes] = {(b"counts", b"hello"): b"1\n"}


def lineage(commit: str) -> bytes:
    """What was seen of those who wrote the last commit."""
    folders = (Folder((), (b"hello.txt",)), Folder((b"docs",)))
    source = Source("texts", "main", commit, changed=False, folders=folders)
    writer = Writer("python train.py", (Folder((), (b"large.bin",)),))
    return encode_observation(Observation((ObservedJob("sh run.sh", False, (source,), (writer,)),)))


def _file(repository: Repository, writer: BlobWriter, name: bytes, data: bytes) -> Entry:
    content = repository.chunker.cut_bytes(data, writer, repository.nodes)
    extra = None
    if name.startswith(b"linked-"):
        extra = Extra(link=4711, names=2, xattrs={b"user.colour": b"blue", b"user.empty": b""})
    elif name == b"derived":
        extra = Extra(origin=ORIGIN)
    mode = 0o755 if name.endswith(b".sh") else 0o640
    return Entry(
        name, Kind.FILE, mode, 1000, 100, MTIME, content.size, content.digest, content.chunks, content.node, extra
    )


def _special(name: bytes, kind: Kind, *, target: bytes = b"", rdev: int = 0) -> Entry:
    digest = symlink_digest(target) if kind == Kind.SYMLINK else special_digest(kind, rdev)
    extra = Extra(target, rdev) if target or rdev else None
    return Entry(name, kind, 0o600, 0, 0, -1, len(target), digest, (), None, extra)


def _first(repository: Repository) -> repository_module.Build:
    def change(root: Entry, writer: BlobWriter) -> Entry:
        changes = [(path, _file(repository, writer, path[-1], data)) for path, data in FIRST.items()]
        specials = [
            _special(b"link", Kind.SYMLINK, target=b"docs/text.txt"),
            _special(b"fifo", Kind.FIFO),
            _special(b"null", Kind.CHAR, rdev=0x103),
            _special(b"disk", Kind.BLOCK, rdev=0x800),
            _special(b"socket", Kind.SOCKET),
            directory(b"empty", None, mode=0o1777, uid=5, gid=6, mtime=MTIME, extra=Extra(xattrs={b"user.a": b"b"})),
        ]
        sub = change_set([*changes, *(((b"special", entry.name), entry) for entry in specials)])
        sub.attributes = directory(b"", None, mode=0o750, uid=1000, gid=100, mtime=MTIME)
        return apply(repository.nodes, writer, root, sub)

    return change


def _second(repository: Repository) -> repository_module.Build:
    def change(root: Entry, writer: BlobWriter) -> Entry:
        many: list[tuple[Path, Entry | None]] = [
            ((b"many", name), _file(repository, writer, name, b"")) for name in MANY
        ]
        return apply(repository.nodes, writer, root, change_set(many))

    return change


def _third(repository: Repository) -> repository_module.Build:
    """Goes into packs, as a large commit does."""

    def change(root: Entry, writer: BlobWriter) -> Entry:
        large = _file(repository, writer, b"large.bin", LARGE)
        writer.flush()
        return apply(repository.nodes, writer, root, Sub({b"large.bin": large, b"hello.txt": None}))

    return change


def _commit(
    repository: Repository, repo: str, branch: str, number: int, change: repository_module.Build,
    provenance: tuple[Provenance, ...] = (), pipeline: str = "", job: JobId | None = None, gid: int | None = None,
    lineage: bytes = b"",
) -> Committed:
    with (
        mock.patch.object(repository_module, "now_ns", lambda: START + number * 1_000_000_000),
        closing(repository.writer()) as writer,
    ):
        made = repository.commit(
            repo, branch, change, writer=writer, message=f"commit {number}: größer", author="a@example.org",
            global_id=GIDS[number if gid is None else gid], provenance=provenance, pipeline=pipeline, job=job,
            lineage=lineage,
        )
    assert made is not None
    return made


def fill(repository: Repository) -> Iterator[Committed]:
    """Make the golden store's commits; their ids follow from what is in this module."""
    refs = repository.refs
    refs.create_repo("texts", START, "what was written")
    refs.create_branch("texts", "main", None, START)
    refs.create_repo("zählung", START)
    refs.create_branch("zählung", "main", None, START, pipeline="zählung")
    refs.create_branch("zählung", "leer", None, START)
    first = _commit(repository, "texts", "main", 0, _first(repository))
    yield first
    source = Provenance(repo="texts", branch="main", commit=first.commit.id, name="in")

    def counts(root: Entry, writer: BlobWriter) -> Entry:
        sub = change_set([(path, _file(repository, writer, path[-1], data)) for path, data in COUNTS.items()])
        sub.attributes = directory(b"", None, uid=1000, gid=100)
        return apply(repository.nodes, writer, root, sub)

    yield _commit(repository, "zählung", "main", 1, counts, (source,), "zählung", JOB, gid=0)
    yield _commit(repository, "texts", "main", 2, _second(repository))
    refs.create_tag("texts", "v1", first.commit.id, START, "the first")
    seen = Provenance(repo="texts", branch="main", commit=first.commit.id, kind=READ)
    yield _commit(repository, "texts", "main", 3, _third(repository), (seen,), lineage=lineage(first.commit.id))


def collect(store: MemoryStore, repository: Repository) -> None:
    """What dropping, compacting and collecting leave behind, in another store than `fill`."""
    repository.refs.create_repo("texts", START)
    repository.refs.create_branch("texts", "main", None, START)
    first = _commit(repository, "texts", "main", 0, _written(repository, LEFT | MOST))
    second = _commit(repository, "texts", "main", 1, _written(repository, dict.fromkeys(MOST)))
    repository.create_branch("texts", "gone", second.commit.id, START)
    third = _commit(repository, "texts", "gone", 2, _written(repository, AGAIN))
    repository.refs.delete_branch("texts", "gone")
    drop(repository, first.commit.id)
    age(store, 2 * HOUR)
    compact(repository)
    gc(repository, grace=HOUR)
    repository.create_branch("texts", "again", third.commit.id, START)  # of what is condemned
    _commit(repository, "texts", "main", 3, _written(repository, LATER), lineage=lineage(second.commit.id))
    store.put("gc/holds/" + "0" * 32, encode(Hold(nonce="0" * 32, age_s=4000.0, by=HOLDER)))
    Rules(store).set("texts", "main", KeepRules(last=7), now=START, author="a@example.org")


def _written(repository: Repository, files: Mapping[Path, bytes | None]) -> repository_module.Build:
    """Goes into packs."""

    def change(root: Entry, writer: BlobWriter) -> Entry:
        changes = [
            (path, None if data is None else _file(repository, writer, path[-1], data)) for path, data in files.items()
        ]
        changed = apply(repository.nodes, writer, root, change_set(changes))
        writer.flush()
        return changed

    return change


def make_store(store: ObjectStore) -> None:
    """The `format` object with fixed values, instead of what `init_store` makes."""
    store.put_if_absent(repository_module.FORMAT_KEY, encode(FORMAT))
