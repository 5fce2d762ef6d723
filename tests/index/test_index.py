"""What the index remembers, and that it may forget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from vfsd.index import index as index_module
from vfsd.index.blocks import SegmentRow
from vfsd.index.index import CommitRow, Index, PlaceRow
from vfsd.index.verdicts import WHOLE, ListRow, Standing
from vfsd.model.ids import CommitId

ONE, TWO, THREE = (CommitId(digit * 64) for digit in "123")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with closing(Index(str(tmp_path / "index.sqlite"))) as found:
        yield found


def test_nodes_are_remembered_and_the_oldest_forgotten(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "MAX_NODES", 100)
    for number in range(0, 300, 10):
        index.add_nodes([(b"%d" % n, b"stored %d" % n) for n in range(number, number + 10)])
    assert index.node(b"0") is None
    assert index.node(b"299") == b"stored 299"
    assert 100 <= sum(index.node(b"%d" % number) is not None for number in range(300)) <= 111
    index.add_nodes([(b"299", b"again")])
    assert index.node(b"299") == b"stored 299", "a node never changes"


def test_a_later_place_of_a_blob_replaces_the_earlier(index: Index) -> None:
    assert not index.has_places()
    index.add_places([PlaceRow(b"%d" % number, b"c", number, 1) for number in range(1200)])
    index.add_places([PlaceRow(b"7", b"moved", 5, 1)])
    assert index.has_places()
    assert index.place(b"7") == PlaceRow(b"7", b"moved", 5, 1)
    assert index.place(b"1199") == PlaceRow(b"1199", b"c", 1199, 1)
    assert index.place(b"none") is None


def test_a_commit_once_complete_stays_so(index: Index) -> None:
    index.add_commits([CommitRow(ONE, (), b"head")])
    assert index.commit(ONE) == b"head"
    assert index.commit(TWO) is None
    assert not index.is_complete(ONE)
    index.mark_complete([ONE])
    index.add_commits([CommitRow(ONE, (), b"head")], complete=False)
    assert index.is_complete(ONE)
    index.add_commits([CommitRow(TWO, (), b"")], complete=True)
    assert index.is_complete(TWO)
    assert not index.is_complete(THREE)


def test_provenance_is_asked_downwards(index: Index) -> None:
    index.add_commits([CommitRow(TWO, (ONE,), b""), CommitRow(THREE, (ONE, TWO), b"")])
    index.add_commits([CommitRow(THREE, (ONE, TWO), b"")])
    assert index.downstream(ONE) == [TWO, THREE]
    assert index.downstream(TWO) == [THREE]
    assert index.downstream(THREE) == []


def test_refs_are_remembered_by_prefix(index: Index) -> None:
    index.update_refs([("refs/a/1", "e1", b"1"), ("refs/b/1", "e2", b"2"), ("tags/a/1", "e3", b"3")], [])
    assert index.refs("refs/") == {"refs/a/1": ("e1", b"1"), "refs/b/1": ("e2", b"2")}
    index.update_refs([("refs/a/1", "e4", b"4")], ["refs/b/1", "refs/none"])
    assert index.refs("refs/") == {"refs/a/1": ("e4", b"4")}


def test_clearing_forgets_the_store_but_not_what_is_this_nodes_own(index: Index) -> None:
    index.add_nodes([(b"n", b"s")])
    index.add_places([PlaceRow(b"p", b"c", 1, 1)])
    index.add_commits([CommitRow(TWO, (ONE,), b"")], complete=True)
    index.update_refs([("refs/a/1", "e", b"")], [])
    index.put_job("j", "p", 1, 0, b"job")
    index.blocks.add_segment(SegmentRow(1, 10, 5, 5))
    index.clear()
    assert (index.node(b"n"), index.place(b"p"), index.commit(TWO), index.downstream(ONE), index.refs("")) == (
        None, None, None, [], {},
    )  # fmt: skip
    assert index.job("j") == b"job"
    assert index.blocks.has_segment(1)


def test_jobs_are_listed_newest_first_and_found_by_prefix(index: Index) -> None:
    index.put_job("aa1", "p", 1, 5, b"first")
    index.put_job("aa2", "p", 2, 0, b"second")
    index.put_job("bb1", "q", 3, 0, b"third")
    assert index.jobs() == [b"third", b"second", b"first"]
    assert index.jobs("p") == [b"second", b"first"]
    assert index.jobs("p", in_flight=True) == [b"second"]
    assert index.jobs_with_prefix("aa") == [b"first", b"second"]
    assert index.last_job("p") == b"first", "the one that has ended"
    assert index.last_job("q") is None
    index.forget_job("aa1")
    assert index.jobs() == [b"third", b"second"]


def test_datum_results_go_when_their_job_has_ended(index: Index) -> None:
    index.put_job("j", "p", 1, 0, b"")
    index.add_datum_results("j", [("d2", b"2"), ("d1", b"1")])
    index.add_datum_results("j", [("d1", b"again")])
    assert list(index.datum_results("j")) == [("d1", b"again"), ("d2", b"2")]
    index.put_job("j", "p", 1, 9, b"ended")
    assert list(index.datum_results("j")) == []


def test_a_job_that_has_ended_is_not_taken_for_one_in_flight_by_who_read_it_before(index: Index) -> None:
    index.put_job("j", "p", 1, 9, b"ended")
    index.put_job("j", "p", 1, 0, b"in flight")
    assert index.job("j") == b"ended"
    assert index.jobs("p", in_flight=True) == []


def test_a_list_that_is_forgotten_takes_its_places_along_without_keeping_others_from_writing(index: Index) -> None:
    places = [PlaceRow(b"%032d" % n, b"gone" if n % 2 else b"here", n, 1) for n in range(4000)]
    index.add_places(places)
    gone = ListRow(1, "parts", "", [(b"gone", WHOLE)], [])
    index.verdicts.follow(Standing(), 1, "n", number=1, forgotten=0, lists=[gone])
    statements: list[str] = []
    index.file.connection.set_trace_callback(statements.append)
    assert index.verdicts.follow(index.verdicts.standing(), 2, "o", number=1, forgotten=1, lists=[]) == (True, False)
    index.file.connection.set_trace_callback(None)
    assert statements.count("BEGIN IMMEDIATE") >= 4, "a few rows each"
    assert [row.id for row in places if index.place(row.id)] == [row.id for row in places if row.container == b"here"]
    assert not index.verdicts.any()


def test_results_of_a_job_that_has_ended_are_not_kept_by_who_read_them_before(index: Index) -> None:
    index.put_job("j", "p", 1, 9, b"ended")
    index.add_datum_results("j", [("d1", b"1")])
    assert list(index.datum_results("j")) == []
