"""Pipelines over several inputs, run from commits to outputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.workshop import Workshop, spec
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.job import DatumCounts, JobState
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.pipeline.datum_lineage import DatumLineage
from vfsd.pipeline.ledger import job_datums
from vfsd.repo.repository import now_ns


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(tmp_path)
    made.repo("left")
    made.repo("right")
    yield made
    made.close()


def pfs(repo: str, glob: str = "/*", **more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": glob, **more}}


def reading(shop: Workshop, given: dict[str, Any], cmd: str, **more: Any) -> PipelineSpec:
    made = spec(cmd=cmd, input=given, **more)
    shop.registry.create(made, now_ns())
    return made


async def test_a_cross_runs_each_pair_and_only_the_pairs_of_what_changed_again(shop: Workshop) -> None:
    reading(shop, {"cross": [pfs("left"), pfs("right")]}, "cat $left $right >/pfs/out/${left##*/}-${right##*/}")
    shop.put({"a": "1", "b": "2"}, "left")
    async with shop.service() as running:
        first = await running.job()
        shop.put({"x": "7", "y": "8", "z": "9"}, "right")
        second = await running.job()
        shop.put({"y": "0"}, "right")
        third = await running.job()
    assert (first.state, first.datums.total) == (JobState.SUCCESS, 0)
    assert second.datums == DatumCounts(total=6, success=6)
    assert third.datums == DatumCounts(total=6, success=2, skipped=4)
    assert shop.files("count") == {
        "a-x": b"17", "a-y": b"10", "a-z": b"19", "b-x": b"27", "b-y": b"20", "b-z": b"29",
    }  # fmt: skip


async def test_a_commit_of_several_inputs_has_an_edge_to_each_and_takes_the_newest_global_id(shop: Workshop) -> None:
    reading(shop, {"cross": [pfs("left"), pfs("right")]}, "cat $left $right >/pfs/out/all")
    left = shop.put({"a": "1"}, "left")
    right = shop.put({"x": "2"}, "right")
    async with shop.service() as running:
        job = await running.job()
    made = shop.head("count")
    assert made is not None
    edges = {(edge.repo, edge.branch, edge.commit, edge.name) for edge in made.header.provenance}
    assert edges == {("left", "main", left.id, "left"), ("right", "main", right.id, "right")}
    assert made.header.global_id == right.header.global_id
    (datum,) = job_datums(shop.repository, job)
    points = DatumLineage(shop.repository).inputs("count", "main", made.id, bytes.fromhex(datum.id))
    assert [(point.repo, point.commit, point.path) for point in points] == [
        ("left", left.id, (b"a",)), ("right", right.id, (b"x",)),
    ]  # fmt: skip


async def test_a_join_tells_its_command_the_key_and_follows_a_file_that_goes(shop: Workshop) -> None:
    given = {"join": [pfs("left", "/(*)-*", join_on="$1"), pfs("right", "/(*)", join_on="$1")]}
    reading(shop, given, "echo $PACH_DATUM_left_JOIN_ON $VFSD_DATUM_right_JOIN_ON >/pfs/out/${left##*/}")
    shop.put({"k1-a": "", "k1-b": "", "k2-c": "", "k3-d": ""}, "left")
    shop.put({"k1": "", "k2": ""}, "right")
    async with shop.service() as running:
        first = await running.job()
        assert shop.files("count") == {"k1-a": b"k1 k1\n", "k1-b": b"k1 k1\n", "k2-c": b"k2 k2\n"}
        shop.put({"k1": None, "k3": ""}, "right")
        second = await running.job()
    assert first.datums == DatumCounts(total=3, success=3)
    assert second.datums == DatumCounts(total=2, success=1, skipped=1)
    assert shop.files("count") == {"k2-c": b"k2 k2\n", "k3-d": b"k3 k3\n"}


async def test_a_group_has_all_files_of_a_key_below_their_inputs(shop: Workshop) -> None:
    given = {"group": [pfs("left", "/*.(*)", group_by="$1"), pfs("right", "/(*)/*", group_by="$1")]}
    reading(shop, given, "cat $(find /pfs/left /pfs/right -type f | sort) >/pfs/out/$PACH_DATUM_left_GROUP_BY")
    shop.put({"a.x": "1", "b.x": "2", "c.y": "3"}, "left")
    shop.put({"x/p": "4", "y/q": "5"}, "right")
    async with shop.service() as running:
        await running.job()
        assert shop.files("count") == {"x": b"124", "y": b"35"}
        shop.put({"d.y": "6"}, "left")
        second = await running.job()
    assert second.datums == DatumCounts(total=2, success=1, skipped=1)
    assert shop.files("count") == {"x": b"124", "y": b"365"}


async def test_a_union_runs_the_files_of_both_and_equal_ones_of_one_name_once(shop: Workshop) -> None:
    given = {"union": [pfs("left", name="file"), pfs("right", name="file")]}
    reading(shop, given, 'echo run; cat $file >"/pfs/out/${file##*/}"')
    shop.put({"a": "1", "same": "s"}, "left")
    shop.put({"b": "2", "same": "s"}, "right")
    async with shop.service() as running:
        first = await running.job()
        assert shop.files("count") == {"a": b"1", "b": b"2", "same": b"s"}
        shop.put({"same": None}, "left")
        second = await running.job()
        assert shop.files("count") == {"a": b"1", "b": b"2", "same": b"s"}
        shop.put({"same": None}, "right")
        await running.job()
    assert first.datums == DatumCounts(total=3, success=3)
    assert second.datums == DatumCounts(total=3, skipped=3)
    assert shop.files("count") == {"a": b"1", "b": b"2"}


async def test_another_key_makes_another_datum_of_the_same_file(shop: Workshop) -> None:
    shop.put({"a-b": "1"}, "left")
    cmd = "echo $PACH_DATUM_left_GROUP_BY >/pfs/out/key"
    reading(shop, {"group": [pfs("left", "/(*)-(*)", group_by="$1")]}, cmd)
    async with shop.service() as running:
        await running.job()
        assert shop.files("count") == {"key": b"a\n"}
        shop.registry.update(spec(cmd=cmd, input={"group": [pfs("left", "/(*)-(*)", group_by="$2")]}), now_ns())
        await running.job()
    assert shop.files("count") == {"key": b"b\n"}


async def test_empty_files_are_names_without_bytes(shop: Workshop) -> None:
    shop.put({"d/e/a": "12345", "d/b": "6"}, "left")
    cmd = "cd /pfs/left/d; find . -type f -size +0 >/pfs/out/full; find . | sort >/pfs/out/all"
    reading(shop, {"pfs": {"repo": "left", "glob": "/*", "empty_files": True}}, cmd)
    async with shop.service() as running:
        first = await running.job()
        shop.registry.update(spec(cmd=cmd, input=pfs("left")), now_ns())
        assert shop.files("count") == {"full": b"", "all": b".\n./b\n./e\n./e/a\n"}
        second = await running.job()
    assert (first.datums.success, second.datums.success) == (1, 1), "what the command sees is part of a datum"
    assert shop.files("count")["full"] == b"./b\n./e/a\n" or shop.files("count")["full"] == b"./e/a\n./b\n"


def test_a_cycle_is_refused_through_any_input(shop: Workshop) -> None:
    reading(shop, {"cross": [pfs("left"), pfs("right")]}, "true")
    shop.registry.create(spec("second", input={"union": [pfs("texts"), pfs("count")]}), now_ns())
    with pytest.raises(InvalidArgument, match="count would read what it writes: count reads second reads count"):
        shop.registry.update(spec("count", input={"cross": [pfs("left"), pfs("second")]}), now_ns())
    with pytest.raises(Refused, match="pipeline second reads what it writes"):
        shop.registry.delete("count")


def test_every_input_has_to_be_there(shop: Workshop) -> None:
    with pytest.raises(NotFound, match="its input none/main"):
        reading(shop, {"union": [pfs("left"), pfs("none")]}, "true")
