"""Commit objects are read back as they were built; whatever is wrong with one is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.repo.parts import file_entry
from vfsd.model.commit import Commit, RootAttributes, commit_id_of, encode
from vfsd.model.entry import EMPTY_DIR, Chunk, Place
from vfsd.model.errors import Damaged
from vfsd.model.ids import ChunkId, CommitId, GlobalId, PackId, hash_bytes
from vfsd.model.node import ChunkLeaf, Leaf, decode_node
from vfsd.repo.commit_object import build, parse, parse_head
from vfsd.repo.writer import Pending
from vfsd.store.blob import decode_blob, encode_blob
from vfsd.store.pack import CHUNK, NODE

texts = st.text(max_size=40)
commits = st.binary(min_size=32, max_size=32).map(lambda raw: CommitId(raw.hex()))
places = st.builds(Place, st.binary(min_size=16, max_size=16), st.integers(0, 1 << 40), st.integers(0, 1 << 30))


def header(**changes: object) -> Commit:
    values = {
        "repo": "r", "branch": "main", "tree": "", "digest": EMPTY_DIR.hex(), "files": 0, "size": 0, "parents": (),
        "author": "a", "time": 1, "message": "m", "global_id": GlobalId("0" * 32), **changes,
    }  # fmt: skip
    return Commit(**values)  # type: ignore[arg-type]


@settings(max_examples=80)
@given(
    message=texts, author=texts, root=st.none() | places, ancestors=st.lists(commits, max_size=64),
    blobs=st.lists(st.binary(max_size=300), max_size=5),
)  # fmt: skip
def test_a_commit_object_is_read_back_as_it_was_built(
    message: str, author: str, root: Place | None, ancestors: list[CommitId], blobs: list[bytes]
) -> None:
    value = header(message=message, author=author, tree="ab" * 32 if root else "")
    encoded = encode(value)
    commit = commit_id_of(encoded)
    pending = [Pending(CHUNK, hash_bytes(data), Place(), encode_blob(data)) for data in blobs]
    data, head, frames = build(encoded, root, ancestors, pending)
    found, found_head = parse(data, commit)
    assert found_head == head
    assert parse_head(head, commit) == found
    assert (found.id, found.header, found.ancestors, found.hints.root) == (commit, value, ancestors, root)
    assert [blob.id for blob in found.hints.blobs] == [blob.id for blob in pending]
    for blob, frame, plain in zip(pending, frames, blobs, strict=True):
        assert blob.place.container == bytes.fromhex(commit)
        assert data[blob.place.offset :][: blob.place.length] == frame
        assert decode_blob(frame, 300) == plain


def test_a_node_that_is_taken_in_points_into_the_commit() -> None:
    place = Place()
    chunk = Chunk(ChunkId(hash_bytes(b"data")), 4, place)
    node = ChunkLeaf([chunk])
    pending = [Pending(CHUNK, chunk.id, place, encode_blob(b"data")), Pending(NODE, b"n" * 32, Place(), None, node)]
    encoded = encode(header())
    data, _, frames = build(encoded, None, [], pending)
    stored = decode_node(decode_blob(frames[1], 1000))
    assert isinstance(stored, ChunkLeaf)
    where = stored.items[0].place
    assert data[where.offset : where.offset + where.length] == encode_blob(b"data")


def test_taking_blobs_in_again_moves_them() -> None:
    """After a lost race the commit is built anew, under another id."""
    pending = [Pending(CHUNK, hash_bytes(b"x"), Place(), encode_blob(b"x"))]
    for message in ("first", "second"):
        encoded = encode(header(message=message))
        build(encoded, None, [], pending)
        assert pending[0].place.container == bytes.fromhex(commit_id_of(encoded))


def test_the_root_is_a_directory_entry_with_the_commits_attributes() -> None:
    leaf = Leaf([file_entry(b"f", b"12345")])
    assert leaf.items
    value = header(tree="ab" * 32, digest="cd" * 32, files=3, size=5, root=RootAttributes(0o700, 1, 2, 3))
    encoded = encode(value)
    place = Place(PackId(b"p" * 16), 1, 2)
    found, _ = parse(build(encoded, place, [], [])[0], commit_id_of(encoded))
    root = found.root
    assert (root.mode, root.uid, root.gid, root.mtime, root.size) == (0o700, 1, 2, 3, 5)
    assert root.node is not None
    assert (root.node.id.hex(), root.digest.hex(), root.node.count) == ("ab" * 32, "cd" * 32, 3)
    assert root.node.place == place


def test_a_commit_without_files_has_an_empty_root() -> None:
    encoded = encode(header())
    found, _ = parse(build(encoded, None, [], [])[0], commit_id_of(encoded))
    assert (found.root.node, found.root.digest) == (None, EMPTY_DIR)


@given(data=st.data())
def test_a_commit_object_that_was_cut_or_changed_is_damaged_or_still_itself(data: st.DataObject) -> None:
    encoded = encode(header())
    commit = commit_id_of(encoded)
    whole, _, _ = build(encoded, None, [commit], [Pending(CHUNK, hash_bytes(b"x"), Place(), encode_blob(b"x"))])
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        broken = whole[:at]
    else:
        broken = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    try:
        found, _ = parse(broken, commit)
    except Damaged as error:
        assert f"commits/{commit}" in str(error)
    else:
        assert found.header == header(), "what is not part of the id may differ"


def test_another_commits_object_is_damaged() -> None:
    data, _, _ = build(encode(header()), None, [], [])
    with pytest.raises(Damaged, match="another commit"):
        parse(data, CommitId("00" * 32))
