"""A reader of vfsd stores in local directories, written from docs/format.md alone: it imports nothing of vfsd.

It checks all that a reader can: ids, digests, sizes, counts, order, and where nodes end. AssertionError names what is
not as the page says.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import zstandard
from blake3 import blake3
from msgspec import msgpack

FILE, DIR, SYMLINK = 0, 1, 2
CHUNK, NODE = 0, 1


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def level_of(data: bytes) -> int:
    """The level of a name's hash or of a chunk's id."""
    number = int.from_bytes(data[-8:], "big")
    zeros = 64 if number == 0 else len(bin(number)) - len(bin(number).rstrip("0"))
    return zeros // 7


class Found(NamedTuple):
    """An entry as stored, and a file's bytes."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: bytes
    rdev: int
    link: int
    xattrs: dict[bytes, bytes]
    origin: bytes
    names: int
    data: bytes


class Below(NamedTuple):
    """What a node has below it: items, count, size, digest, its own level, hard-linked names, directories in it."""

    items: list[Any]
    count: int
    size: int
    digest: bytes
    level: int
    linked: int = 0
    directories: int = 0


class Reader:
    """One store, by its directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.format = json.loads(self.object("format"))
        assert self.format["vfsd"] == 1, "another format"
        self.kinds: set[str] = set()  # node letters and codecs met

    # Objects

    def object(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def small(self, key: str) -> dict[str, Any]:
        """A JSON object."""
        found: dict[str, Any] = json.loads(self.object(key))
        assert found["format"] == 1
        return found

    def labels(self, folder: str) -> Iterator[tuple[str, ...]]:
        """The labels in the keys below a folder."""
        for path in sorted((self.root / folder).rglob("*")):
            if path.is_file():
                yield tuple(unquote(part) for part in path.relative_to(self.root / folder).parts)

    # Blobs

    def decode(self, stored: bytes) -> bytes:
        codec, payload = stored[0], stored[1:]
        self.kinds.add(f"codec {codec}")
        if codec == 0:
            return payload
        assert codec == 1
        assert zstandard.frame_content_size(payload) >= 0, "the frame states its size"
        return zstandard.ZstdDecompressor().decompress(payload)

    def blob(self, place: list[Any]) -> bytes:
        container, offset, length = place[:3]
        name = container.hex()
        key = f"packs/{name[:2]}/{name}" if len(container) == 16 else f"commits/{name}"
        self.kinds.add(key.split("/", maxsplit=1)[0])
        if not (self.root / key).exists():
            self.kinds.add("moved")
            return self.blob(self.moved(container)[offset, length])
        stored = self.object(key)[offset : offset + length]
        assert len(stored) == length
        return self.decode(stored)

    def moved(self, container: bytes) -> dict[tuple[int, int], list[Any]]:
        """(offset, length) → place of what lay in a container that was rewritten."""
        lines = msgpack.decode(self.decode(self.object(f"moved/{container.hex()}")))
        assert [line[2] for line in lines] == sorted(line[2] for line in lines)
        return {(offset, length): [there, now, length] for _, _, offset, length, there, now in lines}

    def pack(self, name: str) -> list[list[Any]]:
        """The directory of a pack, each blob of which is checked."""
        data = self.object(f"packs/{name[:2]}/{name}")
        assert data[:8] == b"VFSDPACK"
        assert data[-8:] == b"VFSDPEND"
        (length,) = struct.unpack("<I", data[-12:-8])
        lines = msgpack.decode(self.decode(data[-12 - length : -12]))
        end = 8
        for kind, blob, offset, size in lines:
            assert offset == end
            end += size
            self.check_blob(kind, blob, self.decode(data[offset:end]))
        assert end == len(data) - 12 - length
        return lines

    def check_blob(self, kind: int, name: bytes, plain: bytes) -> None:
        assert kind in {CHUNK, NODE}
        assert digest(plain if kind == CHUNK else self.identity(plain)) == name

    # Nodes

    def identity(self, plain: bytes) -> bytes:
        letter, content = plain[:1], msgpack.decode(plain[1:])
        match letter:
            case b"L":
                body: Any = [
                    [*e[:7], [chunk[:2] for chunk in e[8]], e[9] and e[9][0], e[10]] for e in content[0]
                ]
            case b"I":
                body = [content[0], [[last, ref[0]] for last, ref in content[1]]]
            case b"C":
                body = [chunk[:2] for chunk in content[0]]
            case b"D":
                body = [content[0], [[ref[0], ref[3]] for ref in content[1]]]
            case _:
                raise AssertionError(f"an unknown letter {letter!r}")
        return letter + msgpack.encode(body)

    def node(self, ref: list[Any]) -> tuple[bytes, Any]:
        """(letter, content) of the node that a ref points to."""
        name, *_, place = ref
        plain = self.blob(place)
        assert digest(self.identity(plain)) == name, "the node's id"
        self.kinds.add(plain[:1].decode())
        return plain[:1], msgpack.decode(plain[1:])

    def check_cut(self, levels: list[int], at: int, *, last: bool) -> None:
        """No item but the last exceeds the node's level; the last one does unless the node is the last."""
        assert levels, "no node is empty"
        assert all(level <= at for level in levels[:-1]), "a node goes on behind its end"
        assert last or levels[-1] > at, "a node ends too early"

    def names(self, ref: list[Any], *, last: bool = True, root: bool = True) -> Below:
        """The entries below a directory's node."""
        letter, content = self.node(ref)
        if letter == b"L":
            items = content[0]
            self.check_cut([level_of(digest(entry[0])) for entry in items], 0, last=last)
            count = sum(self.count(entry) for entry in items)
            own = [[e[0], e[1], e[1] == FILE and bool(e[2] & 0o111), e[7]] for e in items]
            linked = sum(self.linked(entry) for entry in items)
            size = sum(entry[6] for entry in items)
            directories = sum(entry[1] == DIR for entry in items)
            below = Below(items, count, size, digest(b"d" + msgpack.encode(own)), 0, linked, directories)
        else:
            assert letter == b"I"
            level, children = content
            assert len(children) > 1 or not root, "a root that adds nothing"
            self.check_cut([level_of(digest(name)) for name, _ in children], level, last=last)
            found = []
            for at, (name, child) in enumerate(children, 1):
                part = self.names(child, last=last and at == len(children), root=False)
                assert part.level == level - 1
                assert part.items[-1][0] == name
                found.append(part)
            below = Below(
                [item for part in found for item in part.items],
                sum(part.count for part in found),
                sum(part.size for part in found),
                digest(b"e" + msgpack.encode([part.digest for part in found])),
                level,
                sum(part.linked for part in found),
                sum(part.directories for part in found),
            )
        assert [below.digest, below.count, below.size, below.linked, below.directories] == ref[1:6]
        return below

    def chunks(self, ref: list[Any], *, last: bool = True, root: bool = True) -> Below:
        """The chunks below a chunk list's node."""
        letter, content = self.node(ref)
        if letter == b"C":
            items = content[0]
            assert len(items) > 16 or not root, "a list that belongs into the entry"
            self.check_cut([level_of(chunk[0]) for chunk in items], 0, last=last)
            below = Below(items, len(items), sum(chunk[1] for chunk in items), ref[0], 0)
        else:
            assert letter == b"D"
            level, children = content
            assert len(children) > 1 or not root
            found = [
                self.chunks(child, last=last and at == len(children), root=False)
                for at, child in enumerate(children, 1)
            ]
            assert all(part.level == level - 1 for part in found)
            self.check_cut([level_of(part.items[-1][0]) for part in found], level, last=last)
            items = [chunk for part in found for chunk in part.items]
            below = Below(items, len(items), sum(part.size for part in found), ref[0], level)
        assert [below.digest, below.count, below.size, 0, 0] == ref[1:6]
        return below

    # Entries

    def count(self, entry: list[Any]) -> int:
        if entry[1] != DIR:
            return 1
        return entry[9][2] if entry[9] else 0

    def linked(self, entry: list[Any]) -> int:
        if entry[1] != DIR:
            return int(bool(entry[10] and entry[10][2]))
        return entry[9][4] if entry[9] else 0

    def read(self, entry: list[Any]) -> Found:
        """An entry, its bytes and its digest checked. Directories are checked by `walk`."""
        name, kind, mode, uid, gid, mtime, size, content, chunks, node, extra = entry
        assert 1 <= len(name) <= 255
        assert b"/" not in name
        target, rdev, link, xattrs, origin, names = extra or [b"", 0, 0, {}, b"", 0]
        assert extra is None or any(extra), "extra is nil when it says nothing"
        assert list(xattrs) == sorted(xattrs)
        data = b""
        if kind == FILE:
            if node is None:
                assert len(chunks) <= 16
                assert digest(b"f" + msgpack.encode([chunk[:2] for chunk in chunks])) == content
            else:
                assert not chunks
                assert node[0] == content
                chunks = self.chunks(node).items
            data = b"".join(self.chunk(chunk) for chunk in chunks)
            assert len(data) == size
        elif kind == SYMLINK:
            assert digest(b"l" + target) == content
            assert len(target) == size
        elif kind != DIR:
            assert digest(b"s" + msgpack.encode([kind, rdev])) == content
            assert size == 0
        return Found(kind, mode, uid, gid, mtime, size, target, rdev, link, xattrs, origin, names, data)

    def chunk(self, chunk: list[Any]) -> bytes:
        name, size, place = chunk
        data = self.blob(place)
        assert digest(data) == name
        assert len(data) == size <= self.format["chunk_max"]
        return data

    def walk(self, ref: list[Any] | None, content: bytes) -> dict[tuple[bytes, ...], Found]:
        """path → entry of everything below a directory whose digest is `content`."""
        if ref is None:
            assert content == digest(b"d")
            return {}
        below = self.names(ref)
        assert below.digest == content
        order = [entry[0] for entry in below.items]
        assert order == sorted(set(order))
        found = {}
        for entry in below.items:
            found[entry[0],] = self.read(entry)
            if entry[1] == DIR:
                for path, inner in self.walk(entry[9], entry[7]).items():
                    found[entry[0], *path] = inner
        return found

    # Commits

    def commit(self, name: str) -> tuple[dict[str, Any], list[Any]]:
        """(header, hints) of a commit, all its blobs checked."""
        data = self.object(f"commits/{name}")
        magic, header_length, hints_length = struct.unpack("<8sII", data[:16])
        assert magic == b"VFSDCMT1"
        header = data[16 : 16 + header_length]
        assert digest(header).hex() == name
        hints = msgpack.decode(data[len(data) - hints_length :])
        end = 16 + header_length
        for kind, blob, offset, size in hints[2]:
            assert offset == end
            end += size
            self.check_blob(kind, blob, self.decode(data[offset:end]))
        assert end == len(data) - hints_length
        return json.loads(header), hints

    def dropped(self) -> dict[str, dict[str, Any]]:
        """commit → header of those that were dropped."""
        found = {}
        for (name,) in self.labels("dropped"):
            record = json.loads(self.decode(self.object(f"dropped/{name}")))
            assert record["format"] == 1
            found.update({digest(header.encode()).hex(): json.loads(header) for header in record["commits"]})
        return found

    def condemned(self) -> list[tuple[str, str, set[tuple[str, int]], set[tuple[str, int]]]]:
        """(kind, phase, what is condemned, what of it is pardoned) of each list; blobs as container and offset, 0 for
        all of it."""
        state = self.small("gc/state")
        assert [one["number"] for one in state["lists"]] == sorted(one["number"] for one in state["lists"])
        return [
            (
                one["kind"], one["phase"], self.listed(one["parts"]),
                {(name, offset) for name, offset in one["pardoned"]} | self.listed(one["pardon_parts"]),
            )
            for one in state["lists"]
        ]  # fmt: skip

    def listed(self, parts: list[str]) -> set[tuple[str, int]]:
        lines = [line for part in parts for line in msgpack.decode(self.decode(self.object(part)))]
        return {(container.hex(), offset) for container, offsets in lines for offset in offsets or [0]}

    def lineage(self, commit: str, name: str) -> list[Any]:
        """The jobs of a lineage object."""
        key = f"lineage/{commit}/{name}"
        data = self.decode(self.object(key if (self.root / key).exists() else f"lineage/{name}"))
        assert digest(data).hex() == name
        (jobs,) = msgpack.decode(data)
        for _, _, sources, writers in jobs:
            for folders in (*(source[4] for source in sources), *(writer[1] for writer in writers)):
                assert [folder[0] for folder in folders] == sorted(folder[0] for folder in folders)
                assert all(names == sorted(names) for _, names in folders)
        return list(jobs)

    def tree(self, name: str) -> dict[tuple[bytes, ...], Found]:
        """path → entry of a commit, the root excepted."""
        header, hints = self.commit(name)
        content = bytes.fromhex(header["digest"])
        if not header["tree"]:
            assert hints[0] is None
            return self.walk(None, content)
        counts = [header[name] for name in ("files", "size", "linked", "directories")]
        root = [bytes.fromhex(header["tree"]), content, *counts, hints[0]]
        return self.walk(root, content)
