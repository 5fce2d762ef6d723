"""Rows are what whoever wrote the file meant, however it is cut into pieces."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vfsd.pipeline.egress_rows import csv_rows, json_rows, text_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(['"', ",", "\r\n", '",\n"', ""])


def opened(text: str, piece: int) -> io.TextIOWrapper:
    data = text.encode()
    return text_of(len(data), lambda offset, size: data[offset : offset + min(size, piece)])


@given(st.lists(st.lists(TEXT | st.none(), min_size=2, max_size=2), max_size=4), st.integers(1, 9), st.booleans())
def test_csv_files_are_read_as_they_were_written(rows: list[list[str | None]], piece: int, crlf: bool) -> None:
    end = "\r\n" if crlf else "\n"
    text = end.join(
        ",".join("" if field is None else '"' + field.replace('"', '""') + '"' for field in row) for row in rows
    )
    assert list(csv_rows(opened(text, piece))) == rows


@given(st.lists(st.lists(TEXT.filter(bool), min_size=2, max_size=3), max_size=4), st.integers(1, 9))
def test_csv_files_of_python_are_read_as_they_were_written(rows: list[list[str]], piece: int) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    assert list(csv_rows(opened(file.getvalue(), piece))) == rows


@given(
    st.lists(st.dictionaries(TEXT, TEXT | st.integers() | st.none(), max_size=3), max_size=4),
    st.integers(1, 9), st.sampled_from(["", "\n", " \r\n\t"]), st.sampled_from([None, 1]),
)  # fmt: skip
def test_json_files_are_read_as_they_were_written(rows: Any, piece: int, between: str, indent: int | None) -> None:
    text = between.join(json.dumps(row, indent=indent) for row in rows)
    assert list(json_rows(opened(text, piece))) == rows
