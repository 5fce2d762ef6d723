from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.pipeline.workshop import Workshop
from vfsd.model.entry import Entry, Extra, Ref, directory
from vfsd.model.errors import AlreadyExists
from vfsd.model.ids import DatumId
from vfsd.model.node import Node
from vfsd.pipeline import keyed
from vfsd.pipeline import merge as merge_module
from vfsd.pipeline.merge import Merger, Output
from vfsd.repo.repository import empty_root
from vfsd.repo.tree import apply, change_set, walk

A, B, C = (DatumId(letter * 64) for letter in "abc")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One store for all: trees are only added to it."""
    made = Workshop(tmp_path_factory.mktemp("store"))
    yield made
    made.close()


def wrote(room: Workshop, datum: DatumId, files: dict[str, str]) -> Output:
    """What a datum wrote; a path with a `/` behind is an empty directory."""
    writer = room.repository.writer()
    changes: list[tuple[tuple[bytes, ...], Entry | None]] = []
    for path, content in files.items():
        parts = tuple(path.rstrip("/").encode().split(b"/"))
        if path.endswith("/"):
            changes.append((parts, directory(parts[-1], None)))
        else:
            entry = room.entry(path, content, writer)
            assert entry is not None
            changes.append((parts, msgspec.structs.replace(entry, extra=Extra(origin=bytes.fromhex(datum)))))
    out = apply(room.repository.nodes, writer, empty_root(), change_set(changes))
    writer.flush()
    writer.close()
    return Output(datum, out)


def merge(room: Workshop, root: Entry, removed: list[Output], added: list[Output]) -> Entry:
    writer = room.repository.writer()
    merger = Merger(room.repository.nodes, writer, lambda datum: f"<{datum[0]}>", writer.flush)
    merged = merger.merge(root, removed, added)
    writer.flush()
    writer.close()
    return merged


def clash(room: Workshop, root: Entry, removed: list[Output], added: list[Output]) -> str:
    with pytest.raises(AlreadyExists) as caught:
        merge(room, root, removed, added)
    return str(caught.value)


def test_outputs_are_put_together(room: Workshop) -> None:
    outputs = [wrote(room, A, {"a": "1", "d/x": "2"}), wrote(room, B, {"b": "3", "d/y": "4", "d/e/z": "5"})]
    merged = merge(room, empty_root(), [], outputs)
    assert room.tree(merged) == {"a": b"1", "b": b"3", "d/x": b"2", "d/y": b"4", "d/e/z": b"5"}


def test_every_file_says_which_datum_wrote_it(room: Workshop) -> None:
    merged = merge(room, empty_root(), [], [wrote(room, A, {"d/x": "2"}), wrote(room, B, {"d/y": "4"})])
    origins = {path[-1]: entry.more.origin.hex() for path, entry in walk(room.repository.nodes, merged)}
    assert origins == {b"d": "", b"x": A, b"y": B}


def test_what_a_removed_datum_wrote_goes_with_the_directories_that_it_leaves_empty(room: Workshop) -> None:
    one, other = wrote(room, A, {"only/mine/x": "1", "shared/x": "1"}), wrote(room, B, {"shared/y": "2"})
    merged = merge(room, empty_root(), [], [one, other])
    assert room.tree(merge(room, merged, [one], [])) == {"shared/y": b"2"}
    assert room.tree(merge(room, merged, [one, other], [])) == {}


def test_a_datum_may_take_the_place_of_another(room: Workshop) -> None:
    one, other = wrote(room, A, {"x": "1", "d/y": "1"}), wrote(room, B, {"x/now/deeper": "2", "d": "2"})
    merged = merge(room, empty_root(), [], [one])
    assert room.tree(merge(room, merged, [one], [other])) == {"x/now/deeper": b"2", "d": b"2"}


def test_empty_directories_are_kept_as_they_were_made(room: Workshop) -> None:
    one, other = wrote(room, A, {"empty/": "", "both/": ""}), wrote(room, B, {"both/": ""})
    assert room.tree(merge(room, empty_root(), [], [one, other])) == {"empty/": b"", "both/": b""}


@pytest.mark.parametrize("content", ["1", "other"])
def test_a_path_that_two_datums_write_names_both(room: Workshop, content: str) -> None:
    outputs = [wrote(room, A, {"d/x": "1"}), wrote(room, B, {"d/x": content})]
    assert clash(room, empty_root(), [], outputs) == "two datums write d/x: <a> and <b>; only one may"


def test_a_path_of_a_datum_that_stays_is_taken(room: Workshop) -> None:
    merged = merge(room, empty_root(), [], [wrote(room, A, {"d/x": "1"})])
    assert clash(room, merged, [], [wrote(room, B, {"d/x": "2"})]) == "two datums write d/x: <a> and <b>; only one may"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_file_against_a_directory_names_both(room: Workshop, order: tuple[int, int]) -> None:
    outputs = [wrote(room, A, {"d": "1"}), wrote(room, B, {"d/x": "2"})]
    wanted = "two datums write d: <a> as a file, <b> as a directory; only one may"
    assert clash(room, empty_root(), [], [outputs[at] for at in order]) == wanted
    first = merge(room, empty_root(), [], [outputs[order[0]]])
    assert clash(room, first, [], [outputs[order[1]]]) == wanted


def test_a_directory_of_one_datum_is_neither_read_to_be_added_nor_to_be_removed(room: Workshop) -> None:
    one = wrote(room, A, {f"d/{number}": "x" for number in range(500)})
    other = wrote(room, B, {"e/y": "y"})
    read: list[Ref] = []

    class Nodes:
        def get(self, ref: Ref) -> Node:
            read.append(ref)
            return room.repository.nodes.get(ref)

    writer = room.repository.writer()
    merger = Merger(Nodes(), writer, str, writer.flush)
    merged = merger.merge(empty_root(), [], [one, other])
    assert room.tree(merger.merge(merged, [one], [])) == {"e/y": b"y"}
    writer.close()
    assert max(ref.count for ref in read if ref.id != merged.node.id) < 501  # type: ignore[union-attr]
    assert len(read) < 12


NAMES = st.sampled_from("xyz")
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OUTPUTS = st.lists(st.dictionaries(PATHS, st.sampled_from("12"), max_size=4), max_size=6)


def is_tree(files: dict[str, str]) -> bool:
    return not any(other.startswith(path + "/") for path in files for other in files)


def plain_merge(outputs: list[dict[str, str]]) -> dict[str, bytes] | None:
    """The union, or None where two have a path or one has a file where another has a directory."""
    union: dict[str, str] = {}
    for output in outputs:
        if union.keys() & output.keys():
            return None
        union |= output
    return {path: content.encode() for path, content in union.items()} if is_tree(union) else None


@pytest.mark.parametrize(("memory", "at_once"), [(50_000, 5_000), (2, 2)])
@settings(max_examples=100, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(OUTPUTS, st.lists(st.booleans(), min_size=6, max_size=6), st.integers(0, 6))
def test_a_merge_by_change_gives_the_plain_union(
    room: Workshop, memory: int, at_once: int, files: list[dict[str, str]], stays: list[bool], first: int
) -> None:
    assume(all(is_tree(one) for one in files))
    old, added = files[:first], files[first:]
    assume(plain_merge(old) is not None)
    outputs = [wrote(room, DatumId(f"{number:064x}"), one) for number, one in enumerate(files, 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keyed, "MEMORY", memory)
        patch.setattr(merge_module, "EDIT", at_once)
        root = merge(room, empty_root(), [], outputs[:first])
        assert room.tree(root) == plain_merge(old)
        removed = [output for output, stay in zip(outputs[:first], stays, strict=False) if not stay]
        wanted = plain_merge([one for one, stay in zip(old, stays, strict=False) if stay] + added)
        if wanted is None:
            clash(room, root, removed, outputs[first:])
        else:
            assert room.tree(merge(room, root, removed, outputs[first:])) == wanted
