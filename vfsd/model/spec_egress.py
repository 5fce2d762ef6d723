"""Where a pipeline's output goes besides its repo, as its spec says it: a bucket, a folder, or tables of a database."""

from __future__ import annotations

import enum

import msgspec


class FileType(enum.StrEnum):
    """What the files are that rows are read from."""

    CSV = "CSV"
    JSON = "JSON"


class FileFormat(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How rows stand in files. columns: of the table. Of CSV they say that the first row has their names; without them
    each row has all columns in the table's order. Of JSON they are the fields that are taken; without them all."""

    type: FileType
    columns: tuple[str, ...] = ()


class DatabaseSecret(msgspec.Struct, frozen=True):
    """The file `<name>/<key>` of the node's secrets, which holds a password."""

    name: str
    key: str


class ObjectStorageEgress(msgspec.Struct, frozen=True):
    """url: `s3://bucket/prefix` or `file:///folder`."""

    url: str


class SqlDatabaseEgress(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """url: of a database, as SQLAlchemy reads it, or as Pachyderm does, with a schema behind the database's name; no
    password in it."""

    url: str
    file_format: FileFormat
    secret: DatabaseSecret | None = None


class Egress(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Just one of these is given. URL: what object_storage.url says, in the older spelling."""

    URL: str = ""
    object_storage: ObjectStorageEgress | None = None
    sql_database: SqlDatabaseEgress | None = None

    @property
    def files_to(self) -> str:
        """The URL that files go to; empty when rows go to a database."""
        return self.URL if self.object_storage is None else self.object_storage.url

    @property
    def target(self) -> str:
        """The URL that something goes to."""
        return self.files_to if self.sql_database is None else self.sql_database.url
