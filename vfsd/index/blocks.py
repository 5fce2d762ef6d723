"""What the index knows of the chunk cache on disk: which chunk lies where in which segment, and of what use it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter

import msgspec
from msgspec.structs import astuple

from vfsd.index.connection import SqliteFile

BATCH = 500  # rows a transaction, so that nobody waits long for the write lock
TOLD = 2048  # the same of new blocks: their ids are random, so that each of a few rows changes a page of its own
CACHE_DAYS = 7  # for which it is known of what use the cache was
_ID = attrgetter("id")


class BlockRow(msgspec.Struct, frozen=True, gc=False):
    """Where a chunk lies in this node's cache: see index.schema, table blocks."""

    id: bytes
    segment: int
    offset: int
    length: int
    check64: int


class SegmentRow(msgspec.Struct, frozen=True, gc=False):
    """A file of the chunk cache: see index.schema, table segments."""

    id: int
    size: int
    born: int
    used: int
    kept: bool = False


class Blocks:
    """The tables blocks, segments and cache_reads of an index file. Safe from any thread and process."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    # Chunks

    def find(self, chunk: bytes) -> BlockRow | None:
        """Where the cache has a chunk."""
        row = self._file.one("SELECT id, segment, offset, length, check64 FROM blocks WHERE id = ?", (chunk,))
        return BlockRow(*row) if row else None

    def find_many(self, chunks: Sequence[bytes]) -> dict[bytes, BlockRow]:
        """Where the cache has chunks, by their ids; those that it does not have are not in it."""
        found = {}
        for start in range(0, len(chunks), BATCH):
            part = chunks[start : start + BATCH]
            marks = ", ".join("?" * len(part))
            statement = f"SELECT id, segment, offset, length, check64 FROM blocks WHERE id IN ({marks})"
            found.update({row[0]: BlockRow(*row) for row in self._file.rows(statement, part)})
        return found

    def all(self) -> Iterator[BlockRow]:
        """All chunks that the cache has, as they lie."""
        for row in self._file.rows("SELECT id, segment, offset, length, check64 FROM blocks ORDER BY segment, offset"):
            yield BlockRow(*row)

    def count(self) -> int:
        """How many chunks the cache has."""
        row = self._file.one("SELECT count(*) FROM blocks")
        return row[0] if row else 0

    def add(self, rows: Sequence[BlockRow]) -> None:
        """Remember chunks in the cache. Those in a segment that was dropped are left out."""
        by_id = sorted(rows, key=_ID)  # each transaction then changes a part of the table, and each page of it once
        for start in range(0, len(by_id), TOLD):
            with self._file.write() as db:
                there = {segment for (segment,) in db.execute("SELECT id FROM segments")}
                db.executemany(
                    "INSERT OR REPLACE INTO blocks (id, segment, offset, length, check64) VALUES (?, ?, ?, ?, ?)",
                    [astuple(row) for row in by_id[start : start + TOLD] if row.segment in there],
                )

    def drop(self, row: BlockRow) -> None:
        """Forget a chunk, unless it lies elsewhere by now."""
        with self._file.write() as db:
            db.execute(
                "DELETE FROM blocks WHERE id = ? AND segment = ? AND offset = ?", (row.id, row.segment, row.offset)
            )

    # Segments

    def segments(self) -> list[SegmentRow]:
        """All segments, the oldest first."""
        rows = self._file.rows("SELECT id, size, born, used, kept FROM segments ORDER BY born, id")
        return [SegmentRow(id_, size, born, used, bool(kept)) for id_, size, born, used, kept in rows]

    def has_segment(self, segment: int) -> bool:
        """Whether a segment has a row."""
        return self._file.one("SELECT 1 FROM segments WHERE id = ?", (segment,)) is not None

    def segment_end(self, segment: int) -> int:
        """Where the last block that is known of a segment ends; 0 when none is."""
        row = self._file.one("SELECT max(offset + length) FROM blocks WHERE segment = ?", (segment,))
        return (row[0] or 0) if row else 0

    def add_segment(self, row: SegmentRow) -> None:
        """Remember a segment that is begun, or begun once more."""
        with self._file.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO segments (id, size, born, used, kept) VALUES (?, ?, ?, ?, ?)",
                (row.id, row.size, row.born, row.used, row.kept),
            )

    def resize_segment(self, segment: int, size: int) -> None:
        """Remember what size a segment has, or may come to have."""
        with self._file.write() as db:
            db.execute("UPDATE segments SET size = ? WHERE id = ?", (size, segment))

    def note_segments(self, rows: Sequence[SegmentRow]) -> None:
        """Remember which segments are kept and when they were used; neither is taken back."""
        with self._file.write() as db:
            db.executemany(
                "UPDATE segments SET used = max(used, ?), kept = max(kept, ?) WHERE id = ?",
                ((row.used, row.kept, row.id) for row in rows),
            )

    def drop_segment(self, segment: int) -> list[bytes]:
        """Forget a segment and the chunks in it; their ids. Its row goes last."""
        gone: list[bytes] = []
        while True:
            with self._file.write() as db:
                part = db.execute("SELECT id FROM blocks WHERE segment = ? LIMIT ?", (segment, BATCH)).fetchall()
                db.executemany("DELETE FROM blocks WHERE id = ?", part)
                if len(part) < BATCH:
                    db.execute("DELETE FROM segments WHERE id = ?", (segment,))
            gone.extend(id_ for (id_,) in part)
            if len(part) < BATCH:
                return gone

    def clear(self) -> None:
        """Forget all segments and what is in them."""
        with self._file.write() as db:
            db.execute("DELETE FROM blocks")
            db.execute("DELETE FROM segments")

    # Of what use it is

    def note_reads(self, day: int, wanted: int, store: int) -> None:
        """Add to the bytes that were wanted on a day and to those that the store gave; see the table cache_reads."""
        if wanted or store:
            with self._file.write() as db:
                db.execute(
                    "INSERT INTO cache_reads (day, wanted, store) VALUES (?, ?, ?) ON CONFLICT (day)"
                    " DO UPDATE SET wanted = wanted + excluded.wanted, store = store + excluded.store",
                    (day, wanted, store),
                )
                db.execute("DELETE FROM cache_reads WHERE day <= ?", (day - CACHE_DAYS,))

    def reads(self) -> tuple[int, int]:
        """(bytes wanted, bytes that the store gave) in the last CACHE_DAYS days of use."""
        row = self._file.one("SELECT coalesce(sum(wanted), 0), coalesce(sum(store), 0) FROM cache_reads")
        return (row[0], row[1]) if row else (0, 0)
