"""Repairs a store of what is still there, as `vfsd fsck --repair` does: bytes of lost blobs from other places in the
store or from this node, the objects of commits, directories of packs, records, lists of gc; and branches, if asked.

Nothing is guessed: what is put in place has the id that names it. Nothing is destroyed: what is replaced is kept
(repo/aside.py). Safe beside writers, gc and compact: each object is replaced only as it was read. May be killed at any
moment, and run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from vfsd.model.commit import GlobalRecord, RepoObject, commit_id_of, encode
from vfsd.model.entry import Place
from vfsd.model.errors import Conflict, Damaged, NotFound, Unavailable
from vfsd.model.ids import SHORT, CommitId
from vfsd.model.names import key_part
from vfsd.model.node import Node
from vfsd.repo.aside import Aside
from vfsd.repo.commit_object import body_start, header_of, joined, parse
from vfsd.repo.condemned import STATE, GcState, Phase, change_state, read_list, read_pardons, read_state
from vfsd.repo.fsck import Findings
from vfsd.repo.guard import Pointers, pointers_of
from vfsd.repo.marking import COMMIT
from vfsd.repo.mend_commits import CommitMending
from vfsd.repo.mending import Mending, Step
from vfsd.repo.node_walk import decoded_node
from vfsd.repo.presence import Presence
from vfsd.repo.refs import global_key, nonce
from vfsd.repo.repository import Repository, now_ns
from vfsd.repo.rescue import UNKNOWN, Local, Rescue, place_of, scan
from vfsd.repo.rewind import Rewinding
from vfsd.repo.tree_check import BadBlob
from vfsd.repo.wellformed import chunks
from vfsd.store.blob import container_key, read_stored
from vfsd.store.moved import Moved, encode_map, moved_key, read_map_version, without_maps
from vfsd.store.pack import CHUNK, HEAD, NODE, Blob, PackBuilder, blobs_end, parse_directory, with_directory

JUMP = 1_000_000  # versions that a state which is begun anew skips: more than any node can have missed

class Repair:
    """One repair. dry_run: only say what would be done. rewind: move branches whose commit cannot be read back to the
    newest ancestor that is whole. local: what this node has of chunks. tell: called with each step."""

    def __init__(
        self, repository: Repository, findings: Findings, local: Local, tell: Callable[[Step], None], *,
        dry_run: bool, rewind: bool = False,
    ) -> None:
        self._repository = repository
        self._findings = findings
        self._mending = Mending(without_maps(repository.store), tell, dry_run=dry_run)
        self._presence = Presence(self._mending.store)
        self._rescue = Rescue(self._mending.store, repository.index, local)
        self._commits = CommitMending(repository, self._rescue, self._mending)
        self._rewinding = Rewinding(repository, self._mending, self._commits.mended, asked=rewind)
        self.lost: list[BadBlob] = []  # blobs that are nowhere

    def run(self) -> None:
        """Do what can be done. Unavailable and the like: what was not done is done by the next run."""
        found = self._findings
        if found.lists:
            self._lists()
        for repo in found.repos:
            self._repo(repo)
        for commit in found.commits:
            self._commits.mend(commit)
        blobs: dict[bytes, dict[int, BadBlob]] = {container: {} for container in found.directories}
        for blob in self._with_those_below(found.blobs):
            blobs.setdefault(blob.place.container, {})[blob.place.offset] = blob
        for container, bad in blobs.items():
            self._container(container, list(bad.values()))
        for header in found.records:
            commit = commit_id_of(encode(header))
            key = global_key(header.global_id, header.repo, header.branch)
            value = GlobalRecord(commit=commit, time=header.time)
            self._mending.put_new(key, encode(value), f"names commit {commit[:SHORT]}")
        for repo, branch in dict.fromkeys(found.branches):
            self._rewinding.branch(repo, branch)
        self._index()

    @property
    def aside(self) -> Aside:
        """What was replaced."""
        return self._mending.aside

    # Small objects

    def _repo(self, repo: str) -> None:
        value = RepoObject(created=now_ns(), nonce=nonce())
        what = "says that there is this repo, without a description"
        self._mending.put_new(f"repos/{key_part(repo)}", encode(value), what)

    def _lists(self) -> None:
        """What cannot be read is taken out: nothing that only it condemned is deleted by it. Of such as were being
        carried out nobody knows what is gone, so that all nodes forget what they know."""
        try:
            state = read_state(self._mending.store)
        except Damaged:
            version = self._repository.index.verdicts.standing().version + JUMP
            fresh = GcState(nonce=nonce(), version=version, number=version, forgotten=version)
            self._mending.replace(STATE, encode(fresh), "is begun anew: nothing is condemned")
            return
        for verdict in state.lists if state is not None else ():
            try:
                for _ in read_list(self._mending.store, verdict):
                    pass
                for _ in read_pardons(self._mending.store, verdict):
                    pass
            except (Damaged, NotFound):
                was_begun = verdict.phase in {Phase.SWEEPING, Phase.SWEPT}
                if not self._mending.dry_run:
                    change_state(self._mending.store, lambda old: _without(old, verdict.number, begun=was_begun))  # noqa: B023
                self._mending.did(STATE, f"does not name list {verdict.number} any more: nothing is deleted by it")

    # Containers

    def _with_those_below(self, blobs: Iterable[BadBlob]) -> Iterator[BadBlob]:
        """And what is lost below nodes that only this node has: the check could not look there."""
        waiting, met = list(blobs), set[tuple[bytes, int]]()
        while waiting:
            blob = waiting.pop()
            if (blob.place.container, blob.place.offset) in met:
                continue
            met.add((blob.place.container, blob.place.offset))
            yield blob
            stored = self._rescue.frame(blob) if blob.kind == NODE and blob.copy is None else None
            if stored is not None:
                waiting += self._lost_below(decoded_node(stored, blob.id))

    def _lost_below(self, node: Node) -> Iterator[BadBlob]:
        for _, chunk in chunks(node):
            if not self._presence.has(chunk.place):
                yield BadBlob(CHUNK, chunk.id, chunk.place, chunk.size)
        for ref in pointers_of(node)[1]:
            try:
                below = decoded_node(read_stored(self._repository.store, ref.place), ref.id)
            except Damaged:
                yield BadBlob(NODE, ref.id, ref.place, 0)
            else:
                yield from self._lost_below(below)

    def _container(self, container: bytes, bad: list[BadBlob]) -> None:
        """Put what can be had in its place, in an object that is there or, by a map, in a new one."""
        try:
            key = container_key(container)
        except Damaged:
            self.lost += bad
            return
        frames = {blob.place.offset: (blob, self._rescue.frame(blob)) for blob in bad}
        self.lost += [blob for blob, stored in frames.values() if stored is None]
        had = {at: (blob, stored) for at, (blob, stored) in frames.items() if stored is not None}
        lost = len(frames) - len(had)
        if lost:
            what = "1 blob" if lost == 1 else f"{lost} blobs"
            self._mending.cannot(key, f"lacks {what} that the store has nowhere else, nor this node")
        try:
            self._admit(had.values())
            data = self._mending.get(key)
            if data is None or moved_key(container) in self._maps(container):
                if had:
                    self._lead(container, had)
            elif lost and any(blob.place.offset + blob.place.length > len(data) for blob in bad):
                self._move(container, key, data, had)
            elif had or container in self._findings.directories:
                self._patch(container, key, data, had)
        except Conflict:
            self._mending.cannot(key, "was changed by somebody else just now: run this again")
        except Unavailable as error:
            self._mending.cannot(key, str(error))

    def _maps(self, container: bytes) -> set[str]:
        """The key of a container's map, if there is one and the container is not."""
        key, get = moved_key(container), self._mending.get
        return {key} if get(key) is not None and get(container_key(container)) is None else set()

    def _admit(self, frames: Iterable[tuple[BadBlob, bytes]]) -> None:
        """Nodes are written again, so nothing that they point to may be condemned."""
        pointers = Pointers()
        for blob, stored in frames:
            if blob.kind == NODE:
                pointers.note(decoded_node(stored, blob.id))
        guard = self._repository.guard
        if self._mending.dry_run or not (pointers.chunks or pointers.nodes):
            return
        guard.admit(guard.fetch(), pointers)

    def _lead(self, container: bytes, frames: dict[int, tuple[BadBlob, bytes]]) -> None:
        builder, lines = PackBuilder(), []
        for at, (blob, stored) in sorted(frames.items()):
            place = Place()
            builder.add(blob.kind, blob.id, stored, place)
            lines.append(Moved(blob.kind, blob.id, at, len(stored), place.container, place.offset))
        key = moved_key(container)
        if not self._mending.dry_run:
            self._mending.store.put(container_key(builder.id), builder.finish())
            try:
                old, etag = read_map_version(self._mending.store, container)
                self._mending.aside.keep(key)
                kept = [line for line in old.lines if line.offset not in frames]
                self._mending.store.put_if_match(key, encode_map([*kept, *lines]), etag)
            except Damaged:
                _, etag = self._mending.aside.keep(key)
                self._mending.store.put_if_match(key, encode_map(lines), etag)
            except NotFound:
                self._mending.store.put_if_absent(key, encode_map(lines))
        what = f"{len(lines)} blobs of it are stored anew, and old pointers lead there"
        self._mending.did(container_key(container), what)

    def _move(self, container: bytes, key: str, data: bytes, frames: dict[int, tuple[BadBlob, bytes]]) -> None:
        """Of an object that was cut off, and of which something is nowhere, take over what is there: zeros in it would
        look as if it were whole."""
        blobs = scan(data, len(data), self._known(container, ()))
        kept = {
            blob.offset: (BadBlob(blob.kind, blob.id, place_of(blob, container), 0), data[blob.offset :][: blob.length])
            for blob in blobs if blob.id != UNKNOWN
        }  # fmt: skip
        if len(container) == COMMIT:
            return  # it is made anew as a commit
        self._lead(container, kept | frames)
        if not self._mending.dry_run:
            self._mending.aside.keep(key)
            self._mending.store.delete(key)
        self._mending.did(key, f"is taken away; as it was, it is kept below {self._mending.aside.folder}/")

    def _known(self, container: bytes, rescued: Iterable[BadBlob]) -> list[Blob]:
        """What is said to lie in a container, by this node's index, which does not say of what kind it is."""
        rows = self._repository.index.places_in(container)
        known = [Blob(kind, row.id, row.offset, row.length) for row in rows for kind in (CHUNK, NODE)]
        return known + [Blob(blob.kind, blob.id, blob.place.offset, blob.place.length) for blob in rescued]

    def _patch(self, container: bytes, key: str, data: bytes, frames: dict[int, tuple[BadBlob, bytes]]) -> None:
        patched = bytearray(data)
        for at, (_, stored) in frames.items():
            patched += bytes(max(0, at + len(stored) - len(patched)))
            patched[at : at + len(stored)] = stored
        new = bytes(patched)
        what = f"{len(frames)} blobs in it are as they were" if frames else ""
        if len(container) != COMMIT:
            try:
                parse_directory(key, new)
            except Damaged:
                new = self._with_directory(container, new, [blob for blob, _ in frames.values()])
                what += f"{', and ' if what else ''}its directory is made anew"
        else:
            new = _with_known(new, CommitId(container.hex()), frames)
        self._mending.replace(key, new, what)

    def _with_directory(self, container: bytes, data: bytes, rescued: Iterable[BadBlob]) -> bytes:
        known = self._known(container, rescued)
        data = HEAD + data[len(HEAD) :]
        end = max([blobs_end(data), *(blob.offset + blob.length for blob in known)])
        body = data[:end].ljust(end, b"\0")
        return with_directory(body, scan(body, end, known))

    # This node

    def _index(self) -> None:
        """Blobs that are said to lie where nothing is must not be shared, nor nodes that point there."""
        index = self._repository.index
        mended = self._commits.mended
        gone = [one for one in index.place_containers() if one.hex() not in mended and not self._has(one)]
        if gone:
            if not self._mending.dry_run:
                index.forget_places()
            many = "1 object that is" if len(gone) == 1 else f"{len(gone)} objects that are"
            what = f"forgets where blobs lie, {many} gone among it: `vfsd index rebuild` finds again what is there"
            self._mending.did("this node's index", what)

    def _has(self, container: bytes) -> bool:
        try:
            return self._mending.is_there(container_key(container)) or self._mending.is_there(moved_key(container))
        except Damaged:
            return False


def _without(state: GcState, number: int, *, begun: bool) -> GcState:
    forgotten = max(state.forgotten, number) if begun else state.forgotten
    return msgspec.structs.replace(state.without(number), forgotten=forgotten)


def _with_known(data: bytes, commit: CommitId, frames: Mapping[int, tuple[BadBlob, bytes]]) -> bytes:
    """The object of a commit whose hints name again what was UNKNOWN and is there now."""
    try:
        hints = parse(data, commit)[0].hints
    except Damaged:
        return data
    blobs = [
        Blob(frames[blob.offset][0].kind, frames[blob.offset][0].id, blob.offset, blob.length)
        if blob.id == UNKNOWN and blob.offset in frames else blob
        for blob in hints.blobs
    ]  # fmt: skip
    header = header_of(data)
    end = max([body_start(header), *(blob.offset + blob.length for blob in blobs)])
    return joined(header, data[body_start(header) : end], msgspec.structs.replace(hints, blobs=blobs))
