"""The index: what this node knows of the store, in SQL. Everything here can be read from the store again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from vfsd.index.blocks import Blocks
from vfsd.index.connection import SqliteFile
from vfsd.index.schema import INDEX_VERSION
from vfsd.index.verdicts import Drops, Verdicts
from vfsd.model.errors import AccessDenied
from vfsd.model.ids import CommitId

MAX_NODES = 50_000  # cached tree nodes; about 10 KiB each
T = TypeVar("T")
BATCH = 500  # rows a transaction, so that nobody waits long for the write lock


class PlaceRow(msgspec.Struct, frozen=True, gc=False):
    """Where a blob lies: see model.entry.Place."""

    id: bytes
    container: bytes
    offset: int
    length: int


class CommitRow(msgspec.Struct, frozen=True):
    """A commit to keep: its id, the commit ids it was made from, and the head of its object."""

    id: CommitId
    upstream: tuple[CommitId, ...]
    head: bytes


def set_aside(path: str) -> str | None:
    """Move an index file that cannot be used out of the way, its journal files too; where it is now, None when there
    is none. No process may have it open. AccessDenied."""
    aside = f"{path}.aside-{time.time_ns()}"
    try:
        for suffix in ("-wal", "-shm", ""):  # the main file last: without its log nobody takes it for whole
            try:
                os.rename(path + suffix, aside + suffix)
            except FileNotFoundError:
                if not suffix:
                    return None
    except OSError as error:
        raise AccessDenied(f"{path} cannot be moved aside: {error.strerror}") from error
    return aside


class Index:
    """The index file at `path`, made when it is not there. Safe from any thread and process."""

    def __init__(self, path: str) -> None:
        self.file = SqliteFile(path, "index", INDEX_VERSION)
        self.blocks = Blocks(self.file)
        self.verdicts = Verdicts(self.file)
        self.drops = Drops(self.file)

    def close(self) -> None:
        """Close every connection."""
        self.file.close()

    def clear(self) -> None:
        """Forget what the store told. What is this node's own stays: jobs and the chunk cache."""
        with self.file.write() as db:
            for table in (
                "nodes", "places", "commits", "provenance", "refs", "verdicts", "condemned", "pardons", "gc_state",
                "drops", "skips",
            ):  # fmt: skip
                db.execute(f"DELETE FROM {table}")

    # Tree nodes

    def node(self, node_id: bytes) -> bytes | None:
        """The stored blob of a node, or None."""
        row = self.file.one("SELECT stored FROM nodes WHERE id = ?", (node_id,))
        return row[0] if row else None

    def add_nodes(self, nodes: Sequence[tuple[bytes, bytes]]) -> None:
        """Keep (id, stored blob) pairs; the oldest go when there are too many."""
        for part in _batches(nodes):
            with self.file.write() as db:
                db.executemany("INSERT OR IGNORE INTO nodes (id, stored) VALUES (?, ?)", part)
                low, high = db.execute("SELECT min(rowid), max(rowid) FROM nodes").fetchone()
                if high is not None and high - low > MAX_NODES:
                    db.execute("DELETE FROM nodes WHERE rowid < ?", (high - MAX_NODES,))

    def forget_nodes(self) -> None:
        """Forget all nodes."""
        with self.file.write() as db:
            db.execute("DELETE FROM nodes")

    # Places

    def place(self, blob_id: bytes) -> PlaceRow | None:
        """Where a blob lies, as far as this node knows."""
        row = self.file.one(
            "SELECT id, container, offset, length FROM places WHERE id = ?", (blob_id,)
        )
        return PlaceRow(*row) if row else None

    def usable_places(self, blobs: Sequence[bytes]) -> list[PlaceRow]:
        """Where those of the blobs lie that new pointers may lead to: nothing of them is condemned."""
        found: list[PlaceRow] = []
        for part in _batches(blobs):
            rows = self.file.rows(
                f"SELECT id, container, offset, length FROM places WHERE id IN ({', '.join('?' * len(part))})"
                " AND NOT EXISTS (SELECT 1 FROM condemned AS c"
                " WHERE c.container = places.container AND c.offset IN (0, places.offset))",
                part,
            )
            found += (PlaceRow(*row) for row in rows)
        return found

    def place_containers(self) -> list[bytes]:
        """The containers in which blobs are said to lie."""
        return [row[0] for row in self.file.rows("SELECT DISTINCT container FROM places")]

    def places_in(self, container: bytes) -> list[PlaceRow]:
        """The blobs that are said to lie in a container, by offset. Reads all places."""
        rows = self.file.rows(
            "SELECT id, container, offset, length FROM places WHERE container = ? ORDER BY offset", (container,)
        )
        return [PlaceRow(*row) for row in rows]

    def forget_places(self) -> None:
        """Forget where blobs lie."""
        with self.file.write() as db:
            db.execute("DELETE FROM places")

    def add_places(self, rows: Iterable[PlaceRow]) -> None:
        """Remember where blobs lie; a later place replaces an earlier one."""
        for part in _batches(rows):
            with self.file.write() as db:
                db.executemany(
                    "INSERT OR REPLACE INTO places (id, container, offset, length) VALUES (?, ?, ?, ?)",
                    ((row.id, row.container, row.offset, row.length) for row in part),
                )

    def has_places(self) -> bool:
        """Whether any blob is known; a fresh index knows none."""
        return self.file.one("SELECT 1 FROM places LIMIT 1") is not None

    # Commits

    def commit(self, commit: CommitId) -> bytes | None:
        """The head of a commit object, or None."""
        row = self.file.one("SELECT head FROM commits WHERE id = ?", (commit,))
        return row[0] if row else None

    def is_complete(self, commit: CommitId) -> bool:
        """Whether the commit and all its ancestors are here."""
        row = self.file.one("SELECT complete FROM commits WHERE id = ?", (commit,))
        return bool(row and row[0])

    def add_commits(self, rows: Sequence[CommitRow], *, complete: bool = False) -> None:
        """Keep commits with their provenance edges. `complete`: together with what is here, `rows` has every ancestor
        of each of them; all are marked in one transaction."""
        with self.file.write() as db:
            db.executemany(
                "INSERT INTO commits (id, head, complete) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET complete = max(complete, excluded.complete)",
                [(row.id, row.head, complete) for row in rows],
            )
            db.executemany(
                "INSERT OR IGNORE INTO provenance (upstream, downstream) VALUES (?, ?)",
                [(upstream, row.id) for row in rows for upstream in row.upstream],
            )

    def forget_commit(self, commit: CommitId) -> None:
        """Forget a commit whose object was written anew, with other hints."""
        with self.file.write() as db:
            db.execute("DELETE FROM commits WHERE id = ?", (commit,))

    def mark_complete(self, commits: Iterable[CommitId]) -> None:
        """Say of commits that are here that all their ancestors are too."""
        for part in _batches(commits):
            with self.file.write() as db:
                db.executemany("UPDATE commits SET complete = 1 WHERE id = ?", ((commit,) for commit in part))

    def downstream(self, commit: CommitId) -> list[CommitId]:
        """Commits that were made from `commit` directly, of those met here."""
        rows = self.file.rows(
            "SELECT downstream FROM provenance WHERE upstream = ? ORDER BY downstream", (commit,)
        )
        return [CommitId(row[0]) for row in rows]

    # Refs and other small mutable objects

    def refs(self, prefix: str) -> dict[str, tuple[str, bytes]]:
        """key → (etag, data) of the objects under `prefix` as last read."""
        with self.file.errors():
            rows = self.file.rows(
                "SELECT key, etag, data FROM refs WHERE key >= ? AND key < ?", (prefix, prefix + "\U0010ffff")
            )
            return {key: (etag, data) for key, etag, data in rows}

    def ref_keys(self, prefix: str) -> set[str]:
        """The keys alone."""
        rows = self.file.rows("SELECT key FROM refs WHERE key >= ? AND key < ?", (prefix, prefix + "\U0010ffff"))
        return {key for (key,) in rows}

    def update_refs(self, changed: Iterable[tuple[str, str, bytes]], gone: Iterable[str]) -> None:
        """Remember (key, etag, data) as read, forget the keys that are gone."""
        with self.file.write() as db:
            db.executemany("INSERT OR REPLACE INTO refs (key, etag, data) VALUES (?, ?, ?)", changed)
            db.executemany("DELETE FROM refs WHERE key = ?", ((key,) for key in gone))

    # Jobs

    def put_job(self, job: str, pipeline: str, created: int, finished: int, record: bytes) -> None:
        """Write a job's record; its datum results go once it has `finished`. One that has ended stays so: who writes
        that it is in flight had read it before."""
        with self.file.write() as db:
            db.execute(
                "INSERT INTO jobs (id, pipeline, created, finished, record) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET pipeline = excluded.pipeline, created = excluded.created,"
                " finished = excluded.finished, record = excluded.record"
                " WHERE excluded.finished > 0 OR jobs.finished = 0",
                (job, pipeline, created, finished, record),
            )
            if finished:
                db.execute("DELETE FROM job_datums WHERE job = ?", (job,))

    def job(self, job: str) -> bytes | None:
        """A job's record."""
        row = self.file.one("SELECT record FROM jobs WHERE id = ?", (job,))
        return row[0] if row else None

    def jobs(self, pipeline: str | None = None, *, in_flight: bool = False) -> list[bytes]:
        """Job records, newest first."""
        where, values = ["1"], []
        if pipeline is not None:
            where.append("pipeline = ?")
            values.append(pipeline)
        if in_flight:
            where.append("finished = 0")
        rows = self.file.rows(
            f"SELECT record FROM jobs WHERE {' AND '.join(where)} ORDER BY created DESC, id", values
        )
        return [row[0] for row in rows]

    def ended_jobs(self, pipeline: str | None = None) -> list[str]:
        """Ids of the jobs that have ended, of one pipeline or of all."""
        if pipeline is None:
            rows = self.file.rows("SELECT id FROM jobs WHERE finished > 0")
        else:
            rows = self.file.rows("SELECT id FROM jobs WHERE finished > 0 AND pipeline = ?", (pipeline,))
        return [row[0] for row in rows]

    def jobs_with_prefix(self, prefix: str) -> list[bytes]:
        """Records of the jobs whose id begins with `prefix`."""
        rows = self.file.rows(
            "SELECT record FROM jobs WHERE id >= ? AND id < ? ORDER BY id", (prefix, prefix + "\U0010ffff")
        )
        return [row[0] for row in rows]

    def last_job(self, pipeline: str) -> bytes | None:
        """The record of the newest job of a pipeline that has ended."""
        row = self.file.one(
            "SELECT record FROM jobs WHERE pipeline = ? AND finished > 0 ORDER BY created DESC LIMIT 1", (pipeline,)
        )
        return row[0] if row else None

    def data_version(self) -> int:
        """A number that changes whenever another process, or another thread of this one, has written; for this thread
        alone."""
        row = self.file.one("PRAGMA data_version")
        found: int = row[0] if row else 0
        return found

    def forget_job(self, job: str) -> None:
        """Remove a job and its datum results."""
        with self.file.write() as db:
            db.execute("DELETE FROM job_datums WHERE job = ?", (job,))
            db.execute("DELETE FROM jobs WHERE id = ?", (job,))

    def add_datum_results(self, job: str, results: Sequence[tuple[str, bytes]]) -> None:
        """Remember (datum id, result) of datums that ended, while their job is in flight."""
        for part in _batches(results):
            with self.file.write() as db:
                if db.execute("SELECT 1 FROM jobs WHERE id = ? AND finished > 0", (job,)).fetchone():
                    return
                db.executemany(
                    "INSERT OR REPLACE INTO job_datums (job, datum, result) VALUES (?, ?, ?)",
                    ((job, datum, result) for datum, result in part),
                )

    def forget_datum_results(self, job: str, datums: Iterable[str]) -> None:
        """Forget that datums of a job ended."""
        with self.file.write() as db:
            db.executemany(
                "DELETE FROM job_datums WHERE job = ? AND datum = ?", [(job, datum) for datum in datums]
            )

    def datum_results(self, job: str) -> Iterator[tuple[str, bytes]]:
        """(datum id, result) of a job in flight, in order of ids, streamed."""
        yield from self.file.rows(
            "SELECT datum, result FROM job_datums WHERE job = ? ORDER BY datum", (job,)
        )


def _batches(rows: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(rows)
    while part := list(islice(rest, BATCH)):
        yield part
