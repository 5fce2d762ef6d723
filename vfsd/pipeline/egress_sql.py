"""Rows of an output commit, written into the tables of a database with SQLAlchemy, as Pachyderm does it.

The first part of a file's path names its table, which must be there; a table is emptied when its first file comes. All
of it is one transaction. A table that no file names any more is left as it is. Blocks.
"""

from __future__ import annotations

import base64
import datetime
import decimal
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sql
from sqlalchemy import exc

from vfsd.model.errors import InvalidArgument, Unavailable
from vfsd.model.spec_egress import FileFormat, FileType, SqlDatabaseEgress
from vfsd.pipeline.egress_files import Outgoing, allowed_place
from vfsd.pipeline.egress_rows import csv_rows, json_rows, text_of
from vfsd.repo.tree import show

ROWS = 1000  # that are inserted at once
VALUES = 1 << 20  # characters, about, that are inserted at once

Row = dict[str, Any]
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "F", "false", "False", "FALSE"), False),
}
_FROM_TEXT: dict[type, Callable[[str], Any]] = {
    bool: lambda text: _BOOLEANS[text],
    int: int,
    float: float,
    decimal.Decimal: decimal.Decimal,
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    bytes: lambda text: base64.b64decode(text, validate=True),
    dict: json.loads,
    list: json.loads,
}


def send_rows(
    files: Iterable[Outgoing], database: SqlDatabaseEgress, password: str | None, folders: tuple[str, ...]
) -> None:
    """Write the rows of all files. folders: where a database of this machine may lie. InvalidArgument when they cannot
    be written, Unavailable when the database cannot now."""
    url, schema = _place(database.url, folders)
    try:
        engine = sql.create_engine(url if password is None else url.set(password=password), poolclass=sql.NullPool)
    except (exc.NoSuchModuleError, ImportError) as error:
        raise InvalidArgument(f"{url}: {_line(error)}: this node has no driver for it") from None
    try:
        with engine.begin() as connection:
            _send(files, connection, schema, database.file_format)
    except exc.NoSuchTableError as error:
        raise InvalidArgument(f"{url}: there is no table {_line(error)}: the first part of a path names one") from None
    except exc.DBAPIError as error:
        text = _line(error.orig or error)
        text = text.replace(password, "***") if password else text
        passing = error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError)
        raise (Unavailable if passing else InvalidArgument)(f"{url}: {text}") from None
    except exc.SQLAlchemyError as error:
        raise InvalidArgument(f"{url}: {_line(error)}") from None
    finally:
        engine.dispose()


def _place(text: str, folders: tuple[str, ...]) -> tuple[sql.URL, str | None]:
    """Database and schema. InvalidArgument for what is not meant for pipelines: files and sockets of this machine."""
    try:
        url = sql.make_url(text)
    except (exc.ArgumentError, ValueError) as error:
        raise InvalidArgument(f"egress.sql_database.url: {_line(error)}") from None
    if url.drivername.split("+")[0] == "postgres":
        url = url.set(drivername=url.drivername.replace("postgres", "postgresql", 1))
    if any("/" in value for values in url.query.values() for value in values):
        raise InvalidArgument(f"{url}: a path of the node stands in it")
    if url.get_backend_name() == "sqlite":
        if url.query or not (url.database or "").startswith("/"):
            raise InvalidArgument(f"{url}: a file is named by its absolute path: sqlite:////srv/tables.sqlite")
        place = allowed_place(url.database or "", folders)
        if not os.path.isfile(place):  # SQLite would make it
            raise InvalidArgument(f"{url}: there is no such file")
        return url.set(database=place), None
    if not url.host:
        raise InvalidArgument(f"{url}: no host stands in it")
    name, _, schema = (url.database or "").partition("/")
    return url.set(database=name), schema or None


def _send(
    files: Iterable[Outgoing], connection: sql.Connection, schema: str | None, form: FileFormat
) -> None:
    tables: dict[str, sql.Table] = {}
    for file in files:
        try:
            name = file.path[0].decode()
        except UnicodeDecodeError:
            raise InvalidArgument(f"{show(file.path)}: the name of a table is UTF-8") from None
        if name not in tables:
            tables[name] = _table(name, schema, connection)
            connection.execute(sql.delete(tables[name]))
        insert = sql.insert(tables[name])
        for batch in _batches(_rows(file, tables[name], form)):
            connection.execute(insert, batch)


def _table(name: str, schema: str | None, connection: sql.Connection) -> sql.Table:
    """A table as the database describes it. exc.NoSuchTableError."""
    found = sql.Table(name, sql.MetaData(), schema=schema, autoload_with=connection)
    for column in found.columns:
        if isinstance(column.type, sql.JSON):
            column.type.none_as_null = True  # else it would be the JSON text `null`
    return found


def _is_made(column: sql.Column[Any]) -> bool:
    """Whether the database fills a column, and nobody else may."""
    return column.computed is not None or (column.identity is not None and bool(column.identity.always))


def _rows(file: Outgoing, table: sql.Table, form: FileFormat) -> Iterator[Row]:
    """The rows of a file, with a value for each column that it fills."""
    given = form.columns or tuple(column.name for column in table.columns if not _is_made(column))
    unknown = [name for name in given if name not in table.columns]
    if unknown:
        have = ", ".join(column.name for column in table.columns)
        raise InvalidArgument(f"file_format.columns: table {table.name} has no column {unknown[0]}, it has {have}")
    converters = {name: _converter(table.columns[name]) for name in given}
    has_head = form.type is FileType.CSV and bool(form.columns)
    number = 0
    try:
        with text_of(file.size, file.read) as text:
            found = _csv(csv_rows(text), form, given) if form.type is FileType.CSV else json_rows(text)
            for number, row in enumerate(found, 1 + has_head):  # noqa: B007  messages name it
                yield {name: convert(row.get(name)) for name, convert in converters.items()}
    except UnicodeDecodeError:
        raise InvalidArgument(f"{show(file.path)}: behind row {number}: it is not UTF-8") from None
    except InvalidArgument as error:
        raise InvalidArgument(f"{show(file.path)}: {error}") from None
    except _NotConverted as error:
        raise InvalidArgument(f"{show(file.path)}: row {number}: {error}") from None


def _csv(rows: Iterator[list[str | None]], form: FileFormat, given: tuple[str, ...]) -> Iterator[Row]:
    names = tuple(given)
    if form.columns:
        head = next(rows, None)
        if head is None:
            return
        if sorted(head, key=str) != sorted(names):
            raise InvalidArgument(f"its first row names {', '.join(map(str, head))}, the spec {', '.join(names)}")
        names = tuple(map(str, head))
    for number, row in enumerate(rows, 1 + bool(form.columns)):
        if len(row) != len(names):
            raise InvalidArgument(f"row {number} has {len(row)} fields, where {len(names)} are wanted")
        yield dict(zip(names, row, strict=True))


class _NotConverted(Exception):
    """A value is not of its column's type."""


def _converter(column: sql.Column[Any]) -> Callable[[Any], Any]:
    """What makes a value of a file one of the column."""
    try:
        kind = column.type.python_type
    except NotImplementedError:
        return lambda value: value
    from_text = _FROM_TEXT.get(kind)

    def convert(value: Any) -> Any:
        if value is None or (isinstance(value, dict | list) and kind in {dict, list}):
            return value
        try:
            if isinstance(value, str):
                return value if from_text is None else from_text(value)
            if kind is str:
                return json.dumps(value)
            if isinstance(value, bool) is not (kind is bool) or (kind is int and value != int(value)):
                raise ValueError
            return value if kind is bool or from_text is None else from_text(str(int(value) if kind is int else value))
        except (ValueError, KeyError, TypeError, ArithmeticError):
            shown = str(value)[:40]
            raise _NotConverted(f"{shown!r} is no value for column {column.name}, {column.type}") from None

    return convert


def _batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += sum(len(value) if isinstance(value, str | bytes) else 16 for value in row.values())
        if len(batch) >= ROWS or size >= VALUES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
