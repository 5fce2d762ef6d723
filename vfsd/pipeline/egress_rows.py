"""Rows out of files: CSV as RFC 4180 has it, and JSON objects one after the other. Streams: one row is held at a time.

In CSV a field without anything is null, one of two quotes is empty text: Python's csv module cannot tell them apart.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from vfsd.model.errors import InvalidArgument

MOST = 16 << 20  # characters of a row
_READ = 64 << 10
_PIECE = 1 << 20
_FIELD = re.compile(r'"((?:[^"]++|"")*+)"|([^",]*+)')
_SPACE = re.compile(r"\s*+")


def csv_rows(text: io.TextIOBase) -> Iterator[list[str | None]]:
    """Rows of a CSV file; lines of nothing are none. InvalidArgument with the row's number."""
    for number, record in enumerate(_records(text), 1):
        yield _fields(record, number)


def _records(text: io.TextIOBase) -> Iterator[str]:
    while line := text.readline(MOST):
        parts, size, quotes = [line], len(line), line.count('"')
        while quotes % 2 or not parts[-1].endswith("\n"):  # a line end within quotes, or the file's end
            more = text.readline(MOST) if size < MOST else ""
            if not more:
                break
            parts.append(more)
            size += len(more)
            quotes += more.count('"')
        if size >= MOST or quotes % 2:
            raise InvalidArgument(f"a quote has no end, or a row more than {MOST} characters")
        record = "".join(parts).removesuffix("\n").removesuffix("\r")
        if record:
            yield record


def _fields(record: str, number: int) -> list[str | None]:
    found: list[str | None] = []
    at = 0
    while match := _FIELD.match(record, at):
        quoted, plain = match.groups()
        found.append(plain or None if quoted is None else quoted.replace('""', '"'))
        at = match.end()
        if at == len(record):
            break
        if record[at] != ",":
            raise InvalidArgument(f"row {number}: a quote stands within a field that is not quoted as a whole")
        at += 1
    return found


def json_rows(text: io.TextIOBase) -> Iterator[dict[str, Any]]:
    """Objects of a JSON file, whatever white space is between them. InvalidArgument with the row's number."""
    decoder = json.JSONDecoder()
    held, at, number = "", 0, 0
    while True:
        piece = text.read(_READ)
        held, at = held[at:] + piece, 0
        while (at := _SPACE.match(held, at).end()) < len(held):  # type: ignore[union-attr]
            try:
                value, end = decoder.raw_decode(held, at)
            except json.JSONDecodeError as error:
                if piece and len(held) - at < MOST:
                    break  # the rest of it is not read yet
                raise InvalidArgument(f"row {number + 1}: {error.msg}") from None
            except RecursionError:
                raise InvalidArgument(f"row {number + 1}: it is nested too deeply") from None
            number += 1
            if not isinstance(value, dict):
                raise InvalidArgument(f"row {number}: it is no JSON object")
            yield value
            at = end
        if not piece:
            return


def text_of(size: int, read: Callable[[int, int], bytes]) -> io.TextIOWrapper:
    """The text of a file, UTF-8, with or without a byte order mark. read: (offset, size) → bytes."""
    return io.TextIOWrapper(io.BufferedReader(_Bytes(size, read), _PIECE), encoding="utf-8-sig", newline="\n")


class _Bytes(io.RawIOBase):
    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._read = read
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(self._at, min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
