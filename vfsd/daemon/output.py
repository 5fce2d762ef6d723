"""How facts are printed: JSON documents, aligned tables, names of any bytes, progress.

Names are bytes. In tables they stand as `vfsd.model.shown` has them. In JSON, bytes that are not UTF-8 are replaced by
U+FFFD, and a second field with `_b64` behind its name has the exact bytes in base64.
"""

from __future__ import annotations

import base64
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import click
import msgspec

from vfsd.model.commit import Provenance
from vfsd.model.entry import Entry, Kind, count_below
from vfsd.model.ids import SHORT
from vfsd.model.observation import READ_CHANGED
from vfsd.model.rev import rfc3339
from vfsd.model.shown import shown_name, shown_text
from vfsd.repo.commit_object import CommitObject
from vfsd.repo.ingest import Progress

Facts = dict[str, Any]
_BATCH = 500  # rows that are aligned together; what is longer goes out while it is being read


# JSON


def print_json(value: Facts) -> None:
    """One document: indented on a terminal, else on one line."""
    sys.stdout.write(_encoded(value) + "\n")


def print_json_list(values: Iterable[Facts]) -> None:
    """One document, an array, written as it is read."""
    first = True
    for value in values:
        sys.stdout.write("[" if first else ",\n")
        sys.stdout.write(_encoded(value))
        first = False
    sys.stdout.write("[]\n" if first else "]\n")


def _encoded(value: Facts) -> str:
    data = msgspec.json.encode(value)
    return (msgspec.json.format(data, indent=2) if sys.stdout.isatty() else data).decode()


def name_facts(field: str, raw: bytes) -> Facts:
    """A name or path as JSON has it; see above."""
    try:
        return {field: raw.decode()}
    except UnicodeDecodeError:
        return {field: raw.decode(errors="replace"), f"{field}_b64": base64.b64encode(raw).decode()}


# Text


def print_line(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, numbers to the right where a title begins with `>`. Titles are shown on a terminal only."""
    table = Table(titles, [""] * len(titles))
    rest = iter(rows)
    while batch := list(islice(rest, _BATCH)):
        table.print(batch)


class Table:
    """The same as its rows come to be. widest: cells that those to come are not wider than, as far as one can tell."""

    def __init__(self, titles: Sequence[str], widest: Sequence[str]) -> None:
        self._right = [title.startswith(">") for title in titles]
        self._head = [title.removeprefix(">") for title in titles]
        self._widths = [len(cell) for cell in widest]
        self._begun = not sys.stdout.isatty()

    def print(self, rows: list[Sequence[str]]) -> None:
        """Some rows more, aligned with those before."""
        if rows and not self._begun:
            self._begun = True
            rows = [self._head, *rows]
        for row in rows:
            self._widths = [max(width, len(cell)) for width, cell in zip(self._widths, row, strict=True)]
        for row in rows:
            cells = (
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, self._widths, self._right, strict=True)
            )
            print_line("  ".join(cells).rstrip())


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Names and values of one thing, aligned; empty values are left out."""
    shown = [(name, value) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        print_line(f"{name.ljust(width)}  {value}")


def shown_time(time_ns: int) -> str:
    """A time to the second, in UTC."""
    return rfc3339(time_ns)[:19] + "Z"


def shown_size(size: int) -> str:
    """Bytes in three or four digits: `512 B`, `1.5 MiB`."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        value /= 1024
        if value < 999.95 or unit == "EiB":
            break
    return f"{value:.1f} {unit}"


def counted(number: int, name: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def joined(path: Iterable[bytes]) -> bytes:
    """The components of a path in one piece; `.` for the root."""
    return b"/".join(path) or b"."


# What is printed of the model


def commit_facts(commit: CommitObject) -> Facts:
    """A commit in JSON."""
    header = commit.header
    return {
        "id": commit.id,
        "global_id": header.global_id,
        "repo": header.repo,
        "branch": header.branch,
        "parents": list(header.parents),
        "author": header.author,
        "time": rfc3339(header.time),
        "message": header.message,
        "files": header.files,
        "size": header.size,
        "provenance": [_provenance_facts(edge) for edge in header.provenance],
        "pipeline": header.pipeline or None,
        "job": header.job,
        "gave_way": [name_facts("path", path) for path in commit.hints.gave_way],
    }


def _provenance_facts(edge: Provenance) -> Facts:
    return {
        "repo": edge.repo, "branch": edge.branch, "commit": edge.commit, "name": edge.name,
        "kind": edge.kind or "input",
    }  # fmt: skip


def commit_fields(commit: CommitObject) -> list[tuple[str, str]]:
    """A commit's fields in text, but for the message."""
    header = commit.header
    return [
        ("commit", commit.id),
        ("branch", f"{header.repo}/{header.branch}"),
        ("global id", header.global_id),
        *(("parent", parent) for parent in header.parents),
        ("author", shown_text(header.author)),
        ("time", rfc3339(header.time)),
        ("files", str(header.files)),
        ("size", f"{shown_size(header.size)} ({header.size} bytes)"),
        ("pipeline", header.pipeline),
        ("job", header.job or ""),
        *(("read" if edge.kind else "made from", _shown_edge(edge)) for edge in header.provenance),
        *(("gave way", shown_name(path)) for path in commit.hints.gave_way),
    ]


def _shown_edge(edge: Provenance) -> str:
    more = f" as {edge.name}" if edge.name else " and uncommitted changes" if edge.kind == READ_CHANGED else ""
    return f"{edge.repo}/{edge.branch}@{edge.commit}{more}"


def entry_facts(entry: Entry) -> Facts:
    """A directory entry in JSON. id: digest of the content; files: how many a directory has below it."""
    facts: Facts = {
        "kind": Kind(entry.kind).name.lower(),
        "id": entry.digest.hex(),
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": rfc3339(entry.mtime),
    }
    if entry.kind == Kind.DIR:
        facts["files"] = count_below(entry)
    if entry.kind == Kind.SYMLINK:
        facts |= name_facts("target", entry.more.target)
    return facts


def entry_row(entry: Entry, name: str) -> tuple[str, ...]:
    """A directory entry in a long listing: mode, owner, size, time, name."""
    arrow = f" -> {shown_name(entry.more.target)}" if entry.kind == Kind.SYMLINK else ""
    owner = f"{entry.uid}:{entry.gid}"
    return (stat.filemode(entry.st_mode), owner, shown_size(entry.size), shown_time(entry.mtime), name + arrow)


def short(commit: str | None) -> str:
    """The beginning of a commit id, `-` for none."""
    return commit[:SHORT] if commit else "-"


# Progress


@contextmanager
def counter() -> Iterator[Callable[[str, int], None]]:
    """Numbers that grow, on a line of standard error while it is a terminal. The block reports (what, how many since
    the last call)."""
    if not sys.stderr.isatty():
        yield lambda what, count: None
        return
    counts: dict[str, int] = {}

    def report(what: str, count: int) -> None:
        counts[what] = counts.get(what, 0) + count
        click.echo("\r" + ", ".join(f"{number} {name}" for name, number in counts.items()), nl=False, err=True)

    try:
        yield report
    finally:
        if counts:
            click.echo(err=True)


@contextmanager
def progress(label: str, total: Callable[[], int]) -> Iterator[Progress]:
    """A bar on standard error while it is a terminal, else nothing. `total` counts the bytes (at least 1 a file) to
    do, and is asked only when there is a bar; the block reports (files, bytes) that are done since the last call."""
    if not sys.stderr.isatty():
        yield lambda files, size: None
        return
    with click.progressbar(length=max(total(), 1), label=label, file=sys.stderr) as bar:
        yield lambda files, size: bar.update(max(files, size))
