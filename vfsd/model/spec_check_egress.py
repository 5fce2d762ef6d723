"""Says what is wrong with where a pipeline's output is to go."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from vfsd.model.spec_egress import Egress, SqlDatabaseEgress

_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9](/.*)?")
_DIALECT = re.compile(r"[a-z][a-z0-9_+]*")

Fail = Callable[[str, str], object]


def check_egress(egress: Egress, fail: Fail) -> None:
    """Call `fail(path, why)`, which raises, for what makes no sense."""
    given = [name for name in egress.__struct_fields__ if getattr(egress, name)]
    if len(given) != 1:
        had = f", not {' and '.join(given)}" if given else ""
        fail("egress", f"give just one of URL, object_storage and sql_database{had}")
    if egress.sql_database is not None:
        _database(egress.sql_database, fail)
        return
    path = "egress.URL" if egress.URL else "egress.object_storage.url"
    url = egress.files_to
    if "\0" in url or ".." in url.split("/"):
        fail(path, "neither a NUL nor '..' may stand in it")
    if _BUCKET.fullmatch(url) is None and not (url.startswith("file:///") and url.strip("/") != "file:"):
        fail(path, f"{url!r} is neither s3://bucket/prefix nor file:///folder")


def _database(database: SqlDatabaseEgress, fail: Fail) -> None:
    path = "egress.sql_database"
    try:
        found = urlsplit(database.url)
        password, _ = found.password, found.port
    except ValueError as error:
        fail(f"{path}.url", f"it cannot be read: {error}")
        return
    if _DIALECT.fullmatch(found.scheme) is None or "://" not in database.url:
        fail(f"{path}.url", f"{database.url!r} is no URL of a database: postgresql://user@host/database is one")
    if password is not None:
        fail(f"{path}.url", "a password stands in it: put it into a secret, and name that by secret")
    if len(set(database.file_format.columns)) < len(database.file_format.columns):
        fail(f"{path}.file_format.columns", "a column stands there twice")
    if database.secret is not None:
        for field in ("name", "key"):
            text = getattr(database.secret, field)
            if "/" in text or "\0" in text or text in {"", ".", ".."}:
                fail(f"{path}.secret.{field}", f"{text!r} names no file")
