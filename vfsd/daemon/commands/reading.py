"""`vfsd ls`, `vfsd cat`, `vfsd stat` and `vfsd get`."""

from __future__ import annotations

import base64
import errno
import os
import stat as st
import sys
from contextlib import AbstractContextManager

import click

from vfsd.cache.stream import streamed
from vfsd.daemon.invocation import FactsCommand, Invocation, StoreCommand
from vfsd.daemon.observing import has_read
from vfsd.daemon.output import (
    Facts,
    entry_facts,
    entry_row,
    joined,
    name_facts,
    print_fields,
    print_json,
    print_json_list,
    print_line,
    print_table,
    progress,
    shown_size,
)
from vfsd.daemon.session import session
from vfsd.daemon.specs import SPEC, Spec, entry_at
from vfsd.model.entry import Entry, Kind, count_below
from vfsd.model.errors import InvalidArgument, NotFound, Refused
from vfsd.model.location import parse_location
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_name
from vfsd.repo.chunklist import content_of, iter_chunks
from vfsd.repo.directory import entries
from vfsd.repo.ingest import Export, ReadChunk, local_errors
from vfsd.repo.repository import Repository
from vfsd.repo.tree import chunks_below


@click.command(cls=FactsCommand)
@click.argument("spec", metavar="[SPEC]", default="/")
@click.option("-l", "--long", is_flag=True, help="With mode, owner, size and time.")
@click.pass_obj
def ls(invocation: Invocation, spec: str, long: bool) -> None:
    """List a directory.

    In order of names; directories end in a slash. Without a SPEC the repos are listed, for a repo its branches.

    \b
    Examples:
      vfsd ls
      vfsd ls -l texts/main@~1/licences
    """
    with session(invocation) as opened:
        parts = [part for part in spec.split("/") if part]
        if len(parts) < 2:
            _list_names(invocation, _top(opened.repository, parts))
            return
        entry = entry_at(opened.repository, parse_location(spec))
        found = entries(opened.repository.nodes, entry.node) if entry.kind == Kind.DIR else iter([entry])
        if invocation.json:
            print_json_list({**name_facts("name", one.name), **entry_facts(one)} for one in found)
        elif long:
            rows = (entry_row(one, _shown(one)) for one in found)
            print_table(("mode", "owner", ">size", "time", "name"), rows)
        else:
            for one in found:
                print_line(_shown(one))


def _top(repository: Repository, parts: list[str]) -> list[str]:
    """The names that the mount has at its top, or in a repo."""
    if not parts:
        return list(repository.refs.repos())
    repository.refs.repo(parts[0])
    return [branch for _, branch, _ in repository.refs.branches(parts[0])]


def _list_names(invocation: Invocation, names: list[str]) -> None:
    if invocation.json:
        print_json_list({"name": name, "kind": "dir"} for name in names)
    else:
        for name in names:
            print_line(f"{name}/")


def _shown(entry: Entry) -> str:
    return shown_name(entry.name) + ("/" if entry.kind == Kind.DIR else "")


@click.command(cls=StoreCommand)
@click.argument("specs", type=SPEC, metavar="SPEC...", nargs=-1, required=True)
@click.pass_obj
def cat(invocation: Invocation, specs: tuple[Spec, ...]) -> None:
    """Write files to standard output.

    Every byte is checked against the ids that the commit has before it is written.

    \b
    Example:
      vfsd cat texts/main@v1/licences/GPL-3
    """
    with session(invocation) as opened:
        files = [_file_at(opened.repository, spec) for spec in specs]
        for spec in specs:
            has_read(opened, spec.where, Kind.FILE)
        sys.stdout.flush()
        for entry in files:
            _write_out(opened.repository, entry)


def _file_at(repository: Repository, spec: Spec) -> Entry:
    entry = entry_at(repository, spec.where)
    if entry.kind == Kind.DIR or spec.inside:
        kind = "is a directory" if entry.kind == Kind.DIR else "is not a directory"
        raise Refused(errno.EISDIR if entry.kind == Kind.DIR else errno.ENOTDIR, f"{spec.text}: {kind}")
    if entry.kind == Kind.SYMLINK:
        target = shown_name(entry.more.target)
        raise InvalidArgument(f"{spec.text} is a symbolic link to {target}: name the file itself")
    if entry.kind != Kind.FILE:
        raise InvalidArgument(f"{spec.text} is a {Kind(entry.kind).name.lower()}, which has no bytes")
    return entry


def _write_out(repository: Repository, entry: Entry) -> None:
    with _reader(repository, entry) as read:
        for _, chunk in iter_chunks(repository.nodes, content_of(entry)):
            sys.stdout.buffer.write(read(chunk))
    sys.stdout.buffer.flush()


def _reader(repository: Repository, entry: Entry) -> AbstractContextManager[ReadChunk]:
    """Reads what is below `entry`, in order, as the mount does: verified, and found again where bytes have moved."""
    return streamed(repository.store, repository.index, chunks_below(repository.nodes, entry))


@click.command(cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.pass_obj
def stat(invocation: Invocation, spec: Spec) -> None:
    """Show all that is known of a file or directory.

    \b
    Example:
      vfsd stat texts/main/licences/GPL-3
    """
    with session(invocation) as opened:
        where = spec.where
        entry = entry_at(opened.repository, where)
        commit = opened.repository.resolve(where)
        if invocation.json:
            print_json({
                "repo": where.repo, "branch": where.branch, "commit": None if commit is None else commit.id,
                **name_facts("path", b"/".join(where.path)), **entry_facts(entry), **_more_facts(entry),
            })  # fmt: skip
            return
        print_fields([
            ("path", shown_name(joined(where.path))),
            ("commit", commit.id if commit else "none yet"),
            ("kind", Kind(entry.kind).name.lower()),
            ("target", shown_name(entry.more.target)),
            ("size", f"{shown_size(entry.size)} ({entry.size} bytes)"),
            ("files", str(count_below(entry)) if entry.kind == Kind.DIR else ""),
            ("mode", f"{st.filemode(entry.st_mode)} ({entry.mode:04o})"),
            ("owner", f"{entry.uid}:{entry.gid}"),
            ("mtime", rfc3339(entry.mtime)),
            ("content", entry.digest.hex()),
            ("chunks", str(_chunk_count(entry)) if entry.kind == Kind.FILE else ""),
            ("datum", entry.more.origin.hex()),
            *(("xattr", shown_name(name)) for name in entry.more.xattrs),
        ])


def _more_facts(entry: Entry) -> Facts:
    facts: Facts = {"datum": entry.more.origin.hex() or None, "xattrs": {}}
    if entry.kind == Kind.FILE:
        facts["chunks"] = _chunk_count(entry)
    for name, value in entry.more.xattrs.items():
        facts["xattrs"][shown_name(name)] = base64.b64encode(value).decode()
    return facts


def _chunk_count(entry: Entry) -> int:
    return len(entry.chunks) if entry.node is None else entry.node.count


@click.command(cls=StoreCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.argument("local", metavar="LOCAL")
@click.pass_obj
def get(invocation: Invocation, spec: Spec, local: str) -> None:
    """Copy a file or directory out of the store.

    LOCAL names the result. A directory that is there already is filled: with a directory's contents, files of the
    same names being replaced and others left, or with a file under its own name. A / behind LOCAL puts a directory
    into it under its own name as well. - writes a file to standard output.

    Bytes are checked on their way. Modes and times are kept, and owners when root does it.

    \b
    Examples:
      vfsd get texts/main@v1/licences ./licences-v1
      vfsd get texts/main/licences/GPL-3 /tmp/
    """
    with session(invocation) as opened:
        repository = opened.repository
        if local == "-":
            file = _file_at(repository, spec)
            has_read(opened, spec.where, Kind.FILE)
            sys.stdout.flush()
            _write_out(repository, file)
            return
        entry = entry_at(repository, spec.where)
        target = _target(entry, spec, local)
        has_read(opened, spec.where, entry.kind)
        with (
            progress("get", lambda: max(entry.size, count_below(entry))) as report,
            _reader(repository, entry) as read,
        ):
            export = Export(repository.nodes, read, progress=report)
            if entry.kind == Kind.DIR and os.path.isdir(target):
                for child in entries(repository.nodes, entry.node):
                    export.path(child, os.path.join(target, child.name))
            else:
                export.path(entry, target)


def _target(entry: Entry, spec: Spec, local: str) -> bytes:
    """The local path that `entry` becomes; Refused and NotFound where it cannot."""
    if not local:
        raise InvalidArgument("LOCAL is empty: name a file or directory, or - for standard output")
    path = os.fsencode(local)
    is_dir = os.path.isdir(path)
    if local.endswith("/") and not is_dir:
        raise NotFound(f"{local} is not a directory that is there")
    if local.endswith("/") or (is_dir and entry.kind != Kind.DIR):
        if not spec.where.path:
            raise InvalidArgument(f"{spec.text} has no name of its own: name the result, without a / at its end")
        path = os.path.join(path, entry.name)
    folder = os.path.dirname(path)
    with local_errors(path):
        if not os.path.isdir(folder or b"."):
            raise NotFound(f"{os.fsdecode(folder)} is not a directory that is there")
        if os.path.lexists(path) and os.path.isdir(path) != (entry.kind == Kind.DIR):
            here, there = ("directory", "file") if os.path.isdir(path) else ("file", "directory")
            number = errno.EISDIR if here == "directory" else errno.ENOTDIR
            raise Refused(number, f"{os.fsdecode(path)} is a {here}, and {spec.text} is a {there}: remove it first")
    return path
