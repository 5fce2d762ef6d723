"""Brings a head back from its journal after the process that held it ended, however it ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from vfsd.model.entry import Kind
from vfsd.model.errors import NotFound, Refused, VfsdError
from vfsd.worktree.links import need_names
from vfsd.worktree.node import WorkNode
from vfsd.worktree.records import (
    AttributesRecord,
    FileRecord,
    LinkRecord,
    MakeRecord,
    MoveRecord,
    Path,
    RebaseRecord,
    Record,
    RemoveRecord,
    Stored,
    TryRecord,
    decode_record,
)
from vfsd.worktree.staging import StagedFile
from vfsd.worktree.worktree import Worktree

log = logging.getLogger(__name__)


def replay(tree: Worktree, follow: Callable[[str], None] | None = None) -> int:
    """Apply the journal's records to the head, which stands at their base; how many. `follow` brings it to another
    commit, as it did when the record of that was written. Blocks: it may ask the store."""
    records = tree.journal.records(tree.row.id)
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
                elif not isinstance(record, TryRecord):
                    _apply(tree, record, seq)
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


def _apply(tree: Worktree, record: Record, seq: int) -> None:
    match record:
        case FileRecord():
            _file(tree, record, seq)
        case MakeRecord(path, kind, at, target, rdev):
            parent = _make_way(tree, path[:-1])
            node = tree.make(parent, path[-1], kind, at.mode, at.uid, at.gid, target=target, rdev=rdev)
            tree.new_attributes(node, at)
        case RemoveRecord(path):
            parent = _walk(tree, path[:-1])
            node = _existing(tree, path)
            if node.kind == Kind.DIR:
                tree.rmdir(parent, path[-1])
            else:
                tree.unlink(parent, path[-1])
        case MoveRecord(old, new, exchange):
            tree.rename(_walk(tree, old[:-1]), old[-1], _walk(tree, new[:-1]), new[-1], 2 if exchange else 0)
        case LinkRecord(old, new):
            tree.link(_existing(tree, old), _walk(tree, new[:-1]), new[-1])
        case AttributesRecord(path, at):
            tree.new_attributes(_existing(tree, path), at)


def _file(tree: Worktree, record: FileRecord, seq: int) -> None:
    parent = _make_way(tree, record.path[:-1])
    node = tree.lookup(parent, record.path[-1])
    file = _restore(tree, record)
    if node is None:
        at = record.attributes
        node = tree.make(parent, record.path[-1], Kind.FILE, at.mode, at.uid, at.gid)
    if node.kind != Kind.FILE:
        raise Refused(21, f"{record.path[-1]!r} is not a file any more")
    need_names(tree, node)
    old, node.file = node.file, file
    if old is not None:
        old.superseded_by(file)
    file.recorded, file.is_journalled, file.closed_version = seq, True, file.version
    tree.new_attributes(node, record.attributes)


def _restore(tree: Worktree, record: FileRecord) -> StagedFile:
    stored: Stored | None = record.stored
    try:
        return StagedFile.restore(
            tree.staging, record.size, record.base, record.base_limit, stored, tree.row.id
        )
    except OSError as error:
        raise VfsdError(f"{tree.row.repo}/{tree.row.branch}: staged bytes are gone: {error}") from None


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
        found = tree.lookup(node, name)
        if found is not None and found.kind != Kind.DIR:
            tree.unlink(node, name)
            found = None
        node = found or tree.make(node, name, Kind.DIR, 0o755, os.geteuid(), os.getegid())
    return node


def _existing(tree: Worktree, path: Path, parent: WorkNode | None = None) -> WorkNode:
    if not path:
        return tree.root
    found = tree.lookup(parent or _walk(tree, path[:-1]), path[-1])
    if found is None:
        raise NotFound(f"there is no {b'/'.join(path)!r}")
    return found
