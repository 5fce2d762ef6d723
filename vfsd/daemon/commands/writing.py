"""`vfsd put`, `vfsd cp` and `vfsd rm`: each makes one commit."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager

import click

from vfsd.daemon.invocation import FactsCommand, Invocation
from vfsd.daemon.observing import had_read
from vfsd.daemon.output import commit_facts, print_json, print_line, progress, short
from vfsd.daemon.placing import Target, final_path, place
from vfsd.daemon.session import Session, session
from vfsd.daemon.specs import SPEC, TEXT, Spec, commit_at, entry_at, head_commit, writable_head
from vfsd.model.commit import Provenance
from vfsd.model.entry import KIND_OF, Entry, Kind
from vfsd.model.errors import InvalidArgument, ReadOnly
from vfsd.model.location import Location
from vfsd.model.observation import Folder, Observation, ObservedJob, Source, Writer, encode_observation, folders_of
from vfsd.model.shown import shown_text
from vfsd.repo.ingest import Ingest, local_errors
from vfsd.repo.links import relink
from vfsd.repo.repository import Build
from vfsd.repo.tree import Path, apply, change_set, find
from vfsd.repo.writer import BlobWriter

_COPY = 1 << 20
_CP = "vfsd cp"

_message = click.option("-m", "--message", type=TEXT, help="The commit's message.  [default: what was done]")


@click.command(cls=FactsCommand)
@click.argument("local", metavar="LOCAL")
@click.argument("spec", type=SPEC, metavar="SPEC")
@_message
@click.pass_obj
def put(invocation: Invocation, local: str, spec: Spec, message: str | None) -> None:
    """Copy a local file or directory into a branch.

    SPEC names the result. A directory that is there already is filled: with a directory's contents, files of the
    same names being replaced and others left, or with a file under its own name. A / behind SPEC puts a directory
    into it under its own name as well. Directories that are missing above SPEC are made. - reads standard input.

    One commit is made of it, unless nothing changes. Symbolic links are kept as links.

    \b
    Examples:
      vfsd put ./licences texts/main/licences
      vfsd put GPL-3 texts/main/licences/ -m "add the GPL"
      date | vfsd put - texts/main/date.txt
    """
    where = spec.where
    with session(invocation) as opened, _local_source(local, spec) as path:
        repository = opened.repository
        own_name = b"" if local == "-" else os.path.basename(os.path.abspath(path))
        target = Target(where, where.path, spec.inside, own_name)
        with local_errors(path):
            kind = KIND_OF[stat.S_IFMT(os.lstat(path).st_mode)]
        writable_head(repository, where)
        final = final_path(repository.nodes, repository.root(where), target, kind)  # before the work, not after it
        with closing(repository.writer()) as writer:
            with progress("put", lambda: _measure(path)) as report:
                ingest = Ingest(repository.chunker, writer, repository.nodes, progress=report)
                entry = ingest.path(path, own_name)
            writer.embeddable()  # what is too much for a commit object is stored now: merging reads it
            default = f"put {'standard input' if local == '-' else os.fsdecode(own_name)}"
            seen = had_read(opened, where, final, kind)
            change = _placing(opened, target, entry)
            _commit(invocation, opened, writer, where, change, message, default, seen.provenance, seen.data)


@click.command(cls=FactsCommand)
@click.argument("source", type=SPEC, metavar="SPEC")
@click.argument("spec", type=SPEC, metavar="SPEC")
@_message
@click.pass_obj
def cp(invocation: Invocation, source: Spec, spec: Spec, message: str | None) -> None:
    """Copy within the store.

    From a branch or a snapshot to a branch, in the same repo or another. The copy shares its bytes with the original,
    so it costs nothing. The second SPEC is read as `vfsd put` reads it. The commit's lineage names where it came from.

    \b
    Examples:
      vfsd cp texts/main@v1/licences/GPL-3 texts/main/licences/GPL-3
      vfsd cp texts/main/licences archive/main/
    """
    where = spec.where
    with session(invocation) as opened:
        repository = opened.repository
        from_commit = commit_at(repository, source.where)
        entry = entry_at(repository, source.where)
        own_name = source.where.path[-1] if source.where.path else b""
        target = Target(where, where.path, spec.inside, own_name)
        writable_head(repository, where)
        edge = Provenance(from_commit.header.repo, from_commit.header.branch, from_commit.id)
        final = final_path(repository.nodes, repository.root(where), target, entry.kind)
        lineage = _copied(edge, source.where.path, final, is_dir=entry.kind == Kind.DIR)
        with closing(repository.writer()) as writer:
            copy = relink(repository.nodes, writer, entry, os.fsencode(f"{source.text} {spec.text}"))
            change = _placing(opened, target, copy)
            _commit(invocation, opened, writer, where, change, message, f"copy {source.text}", (edge,), lineage)


@click.command(cls=FactsCommand)
@click.argument("spec", type=SPEC, metavar="SPEC")
@click.option("-r", "--recursive", is_flag=True, help="Also a directory, with everything in it.")
@_message
@click.pass_obj
def rm(invocation: Invocation, spec: Spec, recursive: bool, message: str | None) -> None:
    """Remove a file or directory from a branch.

    Earlier commits keep it.

    \b
    Examples:
      vfsd rm texts/main/licences/GPL-1
      vfsd rm -r texts/main/licences
    """
    where = spec.where
    with session(invocation) as opened:
        repository = opened.repository
        writable_head(repository, where)
        if not where.path:
            raise InvalidArgument(f"{spec.text} is a whole branch: `vfsd branch delete` removes one")
        entry = entry_at(repository, where)
        if entry.kind == Kind.DIR and not recursive:
            raise InvalidArgument(f"{spec.text} is a directory: -r removes it with everything in it")

        def change(root: Entry, writer: BlobWriter) -> Entry:
            find(repository.nodes, root, where.path)
            return apply(repository.nodes, writer, root, change_set([(where.path, None)]))

        with closing(repository.writer()) as writer:
            name = os.fsdecode(b"/".join(where.path))
            _commit(invocation, opened, writer, where, change, message, f"remove {name}")


def _placing(opened: Session, target: Target, entry: Entry) -> Build:
    nodes = opened.repository.nodes
    return lambda root, writer: place(nodes, writer, root, target, entry)


def _copied(edge: Provenance, path: Path, final: Path, *, is_dir: bool) -> bytes:
    """The lineage object of a copy."""
    read, wrote = ((Folder(one),) if is_dir else folders_of([one]) for one in (path, final))
    source = Source(edge.repo, edge.branch, edge.commit, changed=False, folders=read)
    return encode_observation(Observation((ObservedJob(_CP, False, (source,), (Writer(_CP, wrote),)),)))


def _commit(
    invocation: Invocation, opened: Session, writer: BlobWriter, where: Location, change: Build, message: str | None,
    default: str, provenance: tuple[Provenance, ...] = (), lineage: bytes = b"",
) -> None:
    """Make the commit and print it, or the head when nothing changes."""
    repository = opened.repository
    made = repository.commit(
        where.repo,
        where.branch,
        change,
        writer=writer,
        message=shown_text(default) if message is None else message,
        author=opened.settings.author,
        provenance=provenance,
        lineage=lineage,
    )
    commit = made.commit if made else head_commit(repository, repository.refs.head(where.repo, where.branch).commit)
    if invocation.json:
        print_json({**(commit_facts(commit) if commit else {"id": None}), "changed": made is not None})
    elif made is None:
        print_line("nothing changed")
    else:
        print_line(f"{where.repo}/{where.branch}@{short(made.commit.id)}")


@contextmanager
def _local_source(local: str, spec: Spec) -> Iterator[bytes]:
    """The path of what is put: LOCAL itself, or a temporary file with what standard input gives."""
    if local != "-":
        if not local:
            raise InvalidArgument("LOCAL is empty: name a file or directory, or - for standard input")
        yield os.fsencode(local)
        return
    if spec.where.rev is not None:
        raise ReadOnly(f"{spec.text} is a snapshot, which never changes: leave out the @")
    with local_errors(os.fsencode(tempfile.gettempdir())), tempfile.NamedTemporaryFile(prefix="vfsd-put-") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, _COPY)
        file.flush()
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(file.fileno(), 0o666 & ~mask)
        yield os.fsencode(file.name)


def _measure(path: bytes) -> int:
    """Bytes to do, at least 1 a file, as `progress` counts them. What cannot be read is the ingest's to say."""
    total = 0
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return max(status.st_size, 1)
        with os.scandir(path) as found:
            for one in found:
                inner = one.is_dir(follow_symlinks=False)
                total += _measure(one.path) if inner else max(one.stat(follow_symlinks=False).st_size, 1)
    except OSError:
        pass
    return total
