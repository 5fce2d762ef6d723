"""Inputs held against a slow plain reference: what there is, what came and went, what stayed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.pipeline.workshop import Workshop, tree
from vfsd.model.entry import Entry, Kind
from vfsd.model.glob import Glob
from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_input import Input, PfsInput
from vfsd.model.spec_reader import parse_specs
from vfsd.pipeline import combine, keyed
from vfsd.pipeline.combine import source
from vfsd.pipeline.pieces import Combo, Piece
from vfsd.repo.repository import empty_root
from vfsd.repo.tree import walk

Files = dict[str, str]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One store for all: trees are only added to it."""
    made = Workshop(tmp_path_factory.mktemp("store"))
    yield made
    made.close()


def reading(given: dict[str, Any]) -> PipelineSpec:
    """A spec with this input."""
    text = json.dumps({"pipeline": {"name": "p"}, "transform": {"cmd": ["true"]}, "input": given})
    return parse_specs(text, "p.json").specs[0]


def shown(combo: Combo) -> tuple[str, ...]:
    return tuple(piece.path.decode() + "/" * (piece.is_dir and piece.path != b"/") for piece in combo)


def datums(room: Workshop, given: dict[str, Any], **repos: Files | None) -> list[tuple[str, ...]]:
    """Paths of the datums of an input over repos with these files; None for a repo without commits."""
    spec = reading(given)
    leaves = spec.pfs_inputs()
    roots = {name: None if files is None else tree(room, files) for name, files in repos.items()}
    trees = [(None, roots[pfs.repo]) for pfs in leaves]
    return [shown(combo) for combo in source(room.repository.nodes, spec.input, leaves, trees).all(True)]


def pfs(repo: str, glob: str = "/*", **more: Any) -> dict[str, Any]:
    return {"pfs": {"repo": repo, "glob": glob, **more}}


AB = {"a": {"1": "", "2": ""}, "b": {"x": "", "y": ""}}


@pytest.mark.parametrize(
    ("given", "repos", "wanted"),
    [
        ({"cross": [pfs("a"), pfs("b")]}, AB, [("/1", "/x"), ("/1", "/y"), ("/2", "/x"), ("/2", "/y")]),
        ({"cross": [pfs("a"), pfs("b")]}, {"a": AB["a"], "b": {}}, []),
        ({"cross": [pfs("a"), pfs("b")]}, {"a": AB["a"], "b": None}, []),
        ({"cross": [pfs("a", "/"), pfs("b")]}, AB, [("/", "/x"), ("/", "/y")]),
        ({"union": [pfs("a"), pfs("b")]}, AB, [("/1",), ("/2",), ("/x",), ("/y",)]),
        ({"union": [pfs("a"), pfs("b", "/z")]}, AB, [("/1",), ("/2",)]),
        ({"union": [pfs("a"), pfs("b")]}, {"a": AB["a"], "b": None}, [("/1",), ("/2",)]),
        ({"cross": [{"union": [pfs("a", "/1"), pfs("b", "/x")]}, pfs("c")]}, AB | {"c": {"k": ""}},
         [("/1", "/k"), ("/x", "/k")]),
        ({"union": [{"cross": [pfs("a"), pfs("b", "/x")]}, pfs("c")]}, AB | {"c": {"k": ""}},
         [("/1", "/x"), ("/2", "/x"), ("/k",)]),
    ],
)  # fmt: skip
def test_a_cross_pairs_and_a_union_adds(
    room: Workshop, given: dict[str, Any], repos: dict[str, Files | None], wanted: list[tuple[str, ...]]
) -> None:
    assert datums(room, given, **repos) == wanted


READINGS = {"r/1-a": "", "r/1-b": "", "r/2-c": "", "r/9-d": ""}
PARAMS = {"p-1": "", "p-2": "", "p-3": ""}


@pytest.mark.parametrize(
    ("outer", "wanted"),
    [
        ((False, False), [("/r/1-a", "/p-1"), ("/r/1-b", "/p-1"), ("/r/2-c", "/p-2")]),
        ((True, False), [("/r/1-a", "/p-1"), ("/r/1-b", "/p-1"), ("/r/2-c", "/p-2"), ("/r/9-d",)]),
        ((False, True), [("/p-3",), ("/r/1-a", "/p-1"), ("/r/1-b", "/p-1"), ("/r/2-c", "/p-2")]),
        ((True, True), [("/p-3",), ("/r/1-a", "/p-1"), ("/r/1-b", "/p-1"), ("/r/2-c", "/p-2"), ("/r/9-d",)]),
    ],
)
def test_a_join_crosses_within_a_key_and_outer_inputs_stay_alone(
    room: Workshop, outer: tuple[bool, bool], wanted: list[tuple[str, ...]]
) -> None:
    given = {
        "join": [
            pfs("readings", "/r/(*)-*", join_on="$1", outer_join=outer[0]),
            pfs("params", "/p-(*)", join_on="$1", outer_join=outer[1]),
        ]
    }
    assert sorted(datums(room, given, readings=READINGS, params=PARAMS)) == wanted


def test_of_three_joined_inputs_the_outer_ones_that_have_a_key_are_crossed(room: Workshop) -> None:
    given = {
        "join": [
            pfs("a", "/(*)", join_on="$1", outer_join=True),
            pfs("b", "/(*)", join_on="$1", outer_join=True),
            pfs("c", "/(*)", join_on="$1"),
        ]
    }
    found = datums(room, given, a={"1": "", "2": ""}, b={"1": "", "3": ""}, c={"4": "", "2": ""})
    assert sorted(found) == [("/1", "/1"), ("/2",), ("/3",)]


def test_a_group_is_one_datum_a_key_over_all_inputs(room: Workshop) -> None:
    given = {"group": [pfs("a", "/*-(*)", group_by="$1"), pfs("b", "/(*)-*", group_by="${1}")]}
    found = datums(room, given, a={"x-1": "", "y-1": "", "z-2": ""}, b={"1-u": "", "3-v": ""})
    assert sorted(found) == [("/3-v",), ("/x-1", "/y-1", "/1-u"), ("/z-2",)]


def test_a_group_without_keys_is_one_datum(room: Workshop) -> None:
    assert datums(room, {"group": [pfs("a"), pfs("b")]}, **AB) == [("/1", "/2", "/x", "/y")]
    assert datums(room, {"group": [pfs("a"), pfs("b")]}, a={}, b={}) == []


@pytest.mark.parametrize(
    ("template", "keys"),
    [("$1", [b"1", b"2"]), ("${2}-$1", [b"a-1", b"b-2"]), ("$$", [b"$"]), ("$0", [b"/1a", b"/2b"]), ("x$7", [b"x"])],
)
def test_a_template_makes_the_key_from_captures(room: Workshop, template: str, keys: list[bytes]) -> None:
    spec = reading({"group": [pfs("a", "/(?)(*)", group_by=template)]})
    trees = [(None, tree(room, {"1a": "", "2b": ""}))]
    found = source(room.repository.nodes, spec.input, spec.pfs_inputs(), trees).all(True)
    assert sorted({piece.group_by for combo in found for piece in combo}) == keys


# Against a slow plain reference

NAMES = st.sampled_from(["a-1", "a-2", "b-1", "b-2", "c", "d-1"])
PATHS = st.lists(NAMES, min_size=1, max_size=2).map("/".join)
FILES = st.dictionaries(PATHS, st.sampled_from(["", "1"]), max_size=8).filter(
    lambda files: not any(other.startswith(path + "/") for path in files for other in files)
)
GLOBS = st.sampled_from(["/*", "/(*)-(*)", "/**", "/*/(?)-(?)", "/", "/(a|b)-*", "/a-(*)", "/(*)-*/*"])
TEMPLATES = st.sampled_from(["$1", "$2", "", "$1$2"])
LEAVES = st.builds(
    lambda glob, join_on, group_by, outer: pfs("r", glob, join_on=join_on, group_by=group_by, outer_join=outer),
    GLOBS, TEMPLATES, TEMPLATES, st.booleans(),
)  # fmt: skip
INPUTS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda kind, parts: {kind: parts},
        st.sampled_from(["cross", "union", "join", "group"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


def named(given: dict[str, Any], numbers: Iterator[int]) -> dict[str, Any]:
    """The input with a repo of its own for each leaf, so that each has its own trees."""
    ((kind, inner),) = given.items()
    if kind == "pfs":
        return {"pfs": {**inner, "repo": f"r{next(numbers)}"}}
    return {kind: [named(part, numbers) for part in inner]}


class Reference:
    """All datums, by lists."""

    def __init__(self, room: Workshop, spec: PipelineSpec, roots: list[Entry | None]) -> None:
        self._room = room
        self._leaves = spec.pfs_inputs()
        self._roots = roots
        self._numbers = iter(range(len(roots)))
        self.found = self.datums(spec.input)[0]

    def datums(self, one: Input) -> tuple[list[Combo], bool]:
        if one.pfs is not None:
            number = next(self._numbers)
            return self.leaf(number, one.pfs), one.pfs.outer_join
        parts = [self.datums(part) for part in one.parts]
        outer = any(out for _, out in parts)
        lists = [found for found, _ in parts]
        if one.kind == "union":
            return [combo for found in lists for combo in found], outer
        if one.kind == "cross":
            return crossed(lists), outer
        if one.kind == "join":
            return self.join(lists, [out for _, out in parts]), outer
        return self.group(lists), outer

    def leaf(self, number: int, pfs: PfsInput) -> list[Combo]:
        root = self._roots[number]
        glob = Glob(pfs.glob)
        if root is None:
            return []
        found: list[Combo] = []
        below = ((b"/" + b"/".join(path), entry) for path, entry in walk(self._room.repository.nodes, root))
        for path, entry in ((b"/", root), *below):
            match = glob.matches(path)
            if match is not None:
                keys = [match.replace(template) if template else b"" for template in (pfs.join_on, pfs.group_by)]
                found.append((Piece(number, path, entry.kind == Kind.DIR, entry.digest, entry.size, b"", *keys),))
        return found

    def join(self, lists: list[list[Combo]], outer: list[bool]) -> list[Combo]:
        keys = {key(combo, "join_on") for found in lists for combo in found}
        joined: list[Combo] = []
        for one in keys:
            parts = [[combo for combo in found if key(combo, "join_on") == one] for found in lists]
            if not all(parts):
                parts = [part for part, out in zip(parts, outer, strict=True) if part and out]
            joined += crossed(parts) if parts else []
        return joined

    def group(self, lists: list[list[Combo]]) -> list[Combo]:
        groups: dict[tuple[bytes, ...], set[Piece]] = {}
        for found in lists:
            for combo in found:
                groups.setdefault(key(combo, "group_by"), set()).update(combo)
        return [tuple(sorted(pieces, key=lambda piece: (piece.leaf, piece.path))) for pieces in groups.values()]


def crossed(lists: list[list[Combo]]) -> list[Combo]:
    return [tuple(piece for combo in combos for piece in combo) for combos in product(*lists)]


def key(combo: Combo, field: str) -> tuple[bytes, ...]:
    return tuple(dict.fromkeys(value for piece in combo if (value := getattr(piece, field))))


@pytest.mark.parametrize(("kept", "memory"), [(10_000, 50_000), (2, 3)])
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_inputs_give_what_a_plain_reference_gives(
    room: Workshop, kept: int, memory: int, data: st.DataObject
) -> None:
    spec = reading(named(data.draw(INPUTS), iter(range(99))))
    trees: list[tuple[Entry | None, Entry | None]] = []
    for _ in spec.pfs_inputs():
        old = data.draw(FILES)
        edits: Files = data.draw(FILES.map(lambda files: dict(list(files.items())[:2])))
        new = old if data.draw(st.booleans()) else edits | {
            path: content for path, content in old.items()
            if not any(path.startswith(other + "/") or other.startswith(path + "/") for other in edits)
        }  # fmt: skip
        trees.append((tree(room, old) if old else empty_root(), tree(room, new)))
    if data.draw(st.booleans()):
        trees[0] = (None, trees[0][1])
    before, now = (Reference(room, spec, [pair[side] for pair in trees]).found for side in (0, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combine, "KEPT", kept)
        patch.setattr(keyed, "MEMORY", memory)
        inputs = source(room.repository.nodes, spec.input, spec.pfs_inputs(), trees)
        assert sorted(inputs.all(True), key=repr) == sorted(now, key=repr)
        assert sorted(inputs.all(False), key=repr) == sorted(before, key=repr)
        changes = list(inputs.changes())
        assert len(changes) == len(set(changes))
        assert {combo for combo, new in changes if new} == set(now) - set(before)
        assert {combo for combo, new in changes if not new} == set(before) - set(now)
        assert sorted(inputs.common(), key=repr) == sorted(set(now) & set(before), key=repr)


def test_what_did_not_change_is_not_read_again(room: Workshop) -> None:
    """A cross and a union look at the changed side alone."""
    big = tree(room, {f"{one}/{two}": "" for one in "abcdefgh" for two in range(60)})
    old, new = tree(room, {"x": "1"}), tree(room, {"x": "2"})
    read: list[bytes] = []

    class Nodes:
        def get(self, ref: Any) -> Any:
            read.append(ref.id)
            return room.repository.nodes.get(ref)

    for kind in ("cross", "union"):
        spec = reading({kind: [pfs("a", "/a/1"), pfs("b")]})
        read.clear()
        changes = list(source(Nodes(), spec.input, spec.pfs_inputs(), [(big, big), (old, new)]).changes())
        assert len(changes) == 2
        assert len(read) < 10
