"""`vfsd pipeline draw`."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.daemon.program import Program

SVG = "{http://www.w3.org/2000/svg}"


def pfs(repo: str, glob: str = "/*") -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": glob}}


@pytest.fixture
def shop(vfsd: Program) -> Program:
    """texts → count → total, which reads labels too; <größe文> reads texts twice."""
    vfsd.ok("repo", "create", "labels")
    inputs = {
        "count": pfs("texts"),
        "total": {"cross": [pfs("count", "/"), pfs("labels", "/")]},
        "größe文": {"cross": [{"pfs": {"repo": "texts", "glob": "/a", "name": "a"}}, pfs("texts", "/b<&>")]},
    }
    for name, given in inputs.items():
        spec = {"pipeline": {"name": name}, "transform": {"cmd": ["true"]}, "input": given}
        vfsd.ok("pipeline", "create", "-f", vfsd.file("spec.json", json.dumps(spec)))
    vfsd.ok("pipeline", "stop", "count")
    return vfsd


DRAWN = """\
┌─────────────┐
│ labels/main │
└─────────────┘
┌────────────┐
│ texts/main │
└┬───────────┘
 │  ╭───────────────────────╮
 ├─▶│ count/main  (stopped) │ /*
 │  ╰┬──────────────────────╯
 │   │  ╭────────────╮
 │   └─▶│ total/main │ /  and labels/main /
 │      ╰────────────╯
 │  ╭──────────────╮
 └─▶│ größe文/main │ /a /b<&>
    ╰──────────────╯
"""
PLAIN = """\
+--------------------------------+
| nightly_tick/main  (0 3 * * *) |
++-------------------------------+
 |  +--------------+
 `->| nightly/main | /*
    +--------------+
"""


def test_pipelines_stand_in_boxes_below_what_they_read(shop: Program) -> None:
    assert shop.ok("pipeline", "draw").text == DRAWN


def test_the_picture_is_svg_with_a_box_for_each_and_an_arrow_for_each_branch_read(shop: Program) -> None:
    path = shop.folder / "p.svg"
    shop.ok("pipeline", "draw", "--svg", str(path))
    root = ElementTree.parse(path).getroot()
    boxes = {}
    for group in root.findall(f"{SVG}g"):
        rect, text = group.find(f"{SVG}rect"), group.find(f"{SVG}text")
        assert rect is not None
        assert text is not None
        boxes[text.text] = [int(rect.attrib[name]) for name in ("x", "y", "width", "height")]
    assert set(boxes) == {"labels/main", "texts/main", "count/main", "total/main", "größe文/main"}
    assert boxes["texts/main"][0] < boxes["count/main"][0] < boxes["total/main"][0]
    assert all(
        one == other or a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
        for one, a in boxes.items()
        for other, b in boxes.items()
    ), "no box lies over another"
    assert all(x + width <= int(root.attrib["width"]) for x, _, width, _ in boxes.values())
    assert all(y + height <= int(root.attrib["height"]) for _, y, _, height in boxes.values())
    assert len(root.findall(f"{SVG}path")) == 4


def test_the_graph_as_facts_and_for_graphviz(shop: Program) -> None:
    facts = shop.ok("pipeline", "draw", "--json").json
    assert {(node["id"], node["state"], node["layer"]) for node in facts["nodes"]} == {
        ("labels/main", None, 0), ("texts/main", None, 0), ("count/main", "stopped", 1),
        ("größe文/main", "running", 1), ("total/main", "running", 2),
    }  # fmt: skip
    edge = {"source": "texts/main", "target": "größe文/main", "glob": "/a /b<&>", "trigger": None}
    assert edge in facts["edges"]
    assert '  "count/main" -> "total/main" [label="/"];' in shop.ok("pipeline", "draw", "--dot").lines


def test_a_store_without_pipelines_draws_nothing(vfsd: Program) -> None:
    assert vfsd.ok("pipeline", "draw").lines == []
    assert vfsd("pipeline", "draw", "--dot", "--json").code == 2
    assert "--svg" in vfsd("pipeline", "draw", "--dot", "--svg", "x").error


def test_a_picture_that_cannot_be_written_is_one_line(shop: Program) -> None:
    assert "nowhere" in shop("pipeline", "draw", "--svg", "/nowhere/p.svg").error


def test_a_clock_stands_with_its_schedule(vfsd: Program) -> None:
    spec = {
        "pipeline": {"name": "nightly"}, "transform": {"cmd": ["true"]},
        "input": {"cron": {"name": "tick", "spec": "0 3 * * *"}},
    }  # fmt: skip
    vfsd.ok("pipeline", "create", "-f", vfsd.file("spec.json", json.dumps(spec)))
    assert vfsd.spawn("pipeline", "draw", PYTHONIOENCODING="latin-1").text == PLAIN
    assert vfsd.ok("pipeline", "draw", "--json").json["nodes"][0]["schedule"] == "0 3 * * *"
    assert 'label="nightly_tick/main  (0 3 * * *)"' in vfsd.ok("pipeline", "draw", "--dot").text


def test_what_a_trigger_moves_stands_below_what_it_waits_for(vfsd: Program) -> None:
    vfsd.ok("branch", "trigger", "texts/daily", "--on", "main", "--cron", "@daily")
    spec = {
        "pipeline": {"name": "report"}, "transform": {"cmd": ["true"]},
        "input": {"pfs": {"repo": "texts", "glob": "/", "trigger": {"branch": "daily", "size": "1M", "commits": 3}}},
    }  # fmt: skip
    done = vfsd.ok("pipeline", "create", "-f", vfsd.file("spec.json", json.dumps(spec)))
    assert "texts/report-trigger-1:/ on daily: 1M more or 3 commits -> report/main" in done.text
    assert vfsd.ok("pipeline", "draw").lines[1::3] == [
        "│ texts/main │",
        " └─▶│ texts/daily │ @daily",
        "     └─▶│ texts/report-trigger-1 │ 1M more or 3 commits",
        "         └─▶│ report/main │ /",
    ]
    assert vfsd.ok("pipeline", "draw", "--json").json["edges"][0] == {
        "source": "texts/report-trigger-1", "target": "report/main", "glob": "/", "trigger": None,
    }  # fmt: skip
