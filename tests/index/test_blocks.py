"""Which chunk lies where in the cache, which segments there are, and of what use they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlite_utils

from vfsd.index.blocks import CACHE_DAYS, BlockRow, Blocks, SegmentRow
from vfsd.index.index import Index
from vfsd.index.migrations import index_migrations
from vfsd.index.schema import INDEX_VERSION


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[Blocks]:
    with closing(Index(str(tmp_path / "index.sqlite"))) as index:
        yield index.blocks


def test_blocks_of_a_segment_that_is_gone_are_not_remembered(blocks: Blocks) -> None:
    blocks.add_segment(SegmentRow(1, 0, 5, 5))
    rows = [BlockRow(b"a", 1, 0, 3, -1), BlockRow(b"b", 2, 0, 3, 1 << 62)]
    blocks.add(rows)
    assert blocks.find(b"a") == rows[0]
    assert blocks.find(b"b") is None
    blocks.drop(BlockRow(b"a", 7, 0, 3, -1))
    assert blocks.find(b"a") is not None, "it lies elsewhere"
    assert blocks.drop_segment(1) == [b"a"]
    assert (blocks.segments(), blocks.find(b"a"), blocks.segment_end(1)) == ([], None, 0)


def test_many_blocks_are_added_found_and_dropped_in_parts(blocks: Blocks) -> None:
    for number in (1, 2):
        blocks.add_segment(SegmentRow(number, 100, 0, 0))
    rows = [BlockRow(b"%d" % number, 1 + number % 2, number, 1, number) for number in range(2600)]
    blocks.add(rows)
    assert blocks.count() == 2600
    assert blocks.find_many([row.id for row in rows[:1300]] + [b"none"]) == {row.id: row for row in rows[:1300]}
    assert blocks.segment_end(2) == 2600
    assert sorted(blocks.drop_segment(2)) == sorted(row.id for row in rows[1::2])
    assert blocks.count() == 1300
    blocks.clear()
    assert (blocks.count(), blocks.segments()) == (0, [])


def test_segments_are_listed_oldest_first_and_keep_what_was_noted(blocks: Blocks) -> None:
    for number, born in ((1, 30), (2, 10), (3, 20)):
        blocks.add_segment(SegmentRow(number, 100, born, born))
    blocks.note_segments([SegmentRow(2, 0, 0, 70, True), SegmentRow(3, 0, 0, 5, False), SegmentRow(9, 0, 0, 9, True)])
    blocks.note_segments([SegmentRow(2, 0, 0, 60, False)])
    blocks.resize_segment(1, 40)
    assert blocks.segments() == [
        SegmentRow(2, 100, 10, 70, True), SegmentRow(3, 100, 20, 20), SegmentRow(1, 40, 30, 30),
    ]  # fmt: skip


def test_reads_are_counted_for_some_days(blocks: Blocks) -> None:
    assert blocks.reads() == (0, 0)
    blocks.note_reads(100, 10, 1)
    blocks.note_reads(100, 10, 2)
    blocks.note_reads(101, 5, 0)
    assert blocks.reads() == (25, 3)
    blocks.note_reads(100 + CACHE_DAYS, 1, 1)
    assert blocks.reads() == (6, 1)


def test_an_index_from_before_segments_were_kept_forgets_its_cache_and_nothing_else(tmp_path: Path) -> None:
    path = str(tmp_path / "index.sqlite")
    db = sqlite_utils.Database(path)
    index_migrations.apply(db, stop_before="0003_kept_segments")
    db.execute("INSERT INTO segments (id, size, used) VALUES (1, 5, 9)")
    db.execute("INSERT INTO blocks (id, segment, offset, length, check64) VALUES (x'00', 1, 0, 5, 7)")
    db.execute("INSERT INTO refs (key, etag, data) VALUES ('k', 'e', x'01')")
    db.conn.commit()
    db.close()
    with closing(Index(path)) as index:
        assert (index.blocks.segments(), index.blocks.count()) == ([], 0)
        assert index.refs("k") == {"k": ("e", b"\x01")}
        assert index.file.one("PRAGMA user_version") == (INDEX_VERSION,)
