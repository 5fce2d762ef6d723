"""Brings a head back from its journal after the process that held it ended, however it ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from vfsd.model.entry import Kind
from vfsd.model.errors import NotFound, Refused
from vfsd.worktree.links import need_names
from vfsd.worktree.node import WorkNode
from vfsd.worktree.records import (
    Attributes,
    AttributesRecord,
    FileRecord,
    LinkRecord,
    MakeRecord,
    MoveRecord,
    Path,
    RebaseRecord,
    Record,
    RemoveRecord,
    RunRecord,
    TryRecord,
    decode_record,
)
from vfsd.worktree.runs import Restored
from vfsd.worktree.staged import StagedFile
from vfsd.worktree.worktree import Worktree

log = logging.getLogger(__name__)


def replay(tree: Worktree, follow: Callable[[str], None] | None = None) -> int:
    """Apply the journal's records to the head, which stands at their base; how many. `follow` brings it to another
    commit, as it did when the record of that was written. Blocks: it may ask the store."""
    records = tree.journal.records(tree.row.id)
    restored = Restored()
    inline, tree.nodes = tree.nodes, tree.blocking
    tree.replaying = True
    try:
        for seq, data in records:
            tree.last_record = seq
            record = decode_record(data)
            tree.replayed_time = getattr(record, "time", 0)
            try:
                if isinstance(record, RebaseRecord):
                    if follow is not None:
                        follow(record.commit)
                elif isinstance(record, RunRecord):
                    restored.take_in(record)
                elif not isinstance(record, TryRecord):
                    _apply(tree, record, seq, restored)
            except (Refused, NotFound) as error:
                log.warning("%s/%s: journal record %d does not apply: %s", tree.row.repo, tree.row.branch, seq, error)
    finally:
        tree.replaying = False
        tree.replayed_time = 0
        tree.nodes = inline
    return len(records)


def staged_names(records: list[tuple[int, bytes]]) -> set[str]:
    """Staging files that journal records name."""
    found = (decode_record(data) for _, data in records)
    return {record.stored.name for record in found if isinstance(record, FileRecord) and record.stored is not None}


def _apply(tree: Worktree, record: Record, seq: int, restored: Restored) -> None:
    match record:
        case FileRecord():
            _file(tree, record, seq, restored)
        case MakeRecord(path, kind, at, target, rdev):
            parent = _make_way(tree, path[:-1])
            _clear(tree, parent, path[-1], unless=kind if kind == Kind.DIR else None)
            node = tree.make(parent, path[-1], kind, at.mode, at.uid, at.gid, target=target, rdev=rdev)
            _set(tree, node, at)
        case RemoveRecord(path):
            parent = _walk(tree, path[:-1])
            node = _existing(tree, path)
            if node.kind == Kind.DIR:
                tree.rmdir(parent, path[-1])
            else:
                tree.unlink(parent, path[-1])
        case MoveRecord(old, new, exchange):
            node, to = _existing(tree, old), _make_way(tree, new[:-1])
            exchange = exchange and tree.lookup(to, new[-1]) is not None
            if not exchange and old != new[: len(old)] and new != old[: len(new)]:
                _clear(tree, to, new[-1], unless=Kind.FILE if node.kind == Kind.FILE else None)
            tree.rename(_walk(tree, old[:-1]), old[-1], to, new[-1], 2 if exchange else 0)
        case LinkRecord(old, new):
            node, to = _existing(tree, old), _make_way(tree, new[:-1])
            _clear(tree, to, new[-1])
            tree.link(node, to, new[-1])
        case AttributesRecord(path, at):
            _set(tree, _existing(tree, path), at)


def _set(tree: Worktree, node: WorkNode, attributes: Attributes) -> None:
    need_names(tree, node)
    node.set_attributes(attributes)
    node.ctime = node.mtime
    tree.attributes_changed(node)


def _file(tree: Worktree, record: FileRecord, seq: int, restored: Restored) -> None:
    if record.stored is not None and not tree.staging.has(record.stored):
        # A power cut may leave the record and not the bytes. All else can be brought back.
        log.error(
            "%s/%s: %r: the bytes that were written last are gone from %s", tree.row.repo, tree.row.branch,
            os.fsdecode(b"/".join(record.path)), tree.staging.path(record.stored.name),
        )  # fmt: skip
        return
    parent = _make_way(tree, record.path[:-1])
    _clear(tree, parent, record.path[-1], unless=Kind.FILE)
    node = tree.lookup(parent, record.path[-1])
    file = StagedFile.restore(
        tree.staging, record.size, record.base, record.base_limit, record.stored, tree.row.id
    )  # fmt: skip
    if node is None:
        at = record.attributes
        node = tree.make(parent, record.path[-1], Kind.FILE, at.mode, at.uid, at.gid)
    need_names(tree, node)
    old, node.file = node.file, file
    node.runs = restored.runs(record.runs)
    if old is not None:
        old.superseded_by(file)
    file.recorded, file.is_journalled, file.closed_version = seq, True, file.version
    _set(tree, node, record.attributes)


def _walk(tree: Worktree, path: Path) -> WorkNode:
    node = tree.root
    for depth in range(len(path)):
        node = _existing(tree, path[: depth + 1], node)
    return node


def _make_way(tree: Worktree, path: Path) -> WorkNode:
    """The directory at `path`. What of it is gone is made anew, and what is a file now gives way: bytes that were
    acknowledged need a place more than what somebody else did to the directories above them."""
    node = tree.root
    for name in path:
        _clear(tree, node, name, unless=Kind.DIR)
        node = tree.lookup(node, name) or tree.make(node, name, Kind.DIR, 0o755, os.geteuid(), os.getegid())
    return node


def _clear(tree: Worktree, parent: WorkNode, name: bytes, *, unless: int | None = None) -> None:
    """Have nothing under a name, with all below it, unless it is of a kind. There was room when the record was written:
    what is in the way came from elsewhere since, with the commit that the head is over now, and is in that commit."""
    node = tree.lookup(parent, name)
    if node is None or node.kind == unless:
        return
    if node.kind == Kind.DIR:
        for below, _ in list(tree.listing(node, None)):
            _clear(tree, node, below)
        tree.rmdir(parent, name)
    else:
        tree.unlink(parent, name)


def _existing(tree: Worktree, path: Path, parent: WorkNode | None = None) -> WorkNode:
    if not path:
        return tree.root
    found = tree.lookup(parent or _walk(tree, path[:-1]), path[-1])
    if found is None:
        raise NotFound(f"there is no {b'/'.join(path)!r}")
    return found
