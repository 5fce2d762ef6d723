"""How names, numbers and documents are printed."""

from __future__ import annotations

import base64
import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.daemon.output import name_facts, print_json_list, print_table, shown_size, shown_time
from vfsd.model.shown import shown_name

NAMES = st.binary(min_size=1, max_size=20) | st.text(min_size=1, max_size=20).map(
    lambda text: text.encode(errors="surrogatepass")
)


@given(NAMES, NAMES)
def test_shown_names_are_one_printable_line_and_differ_where_names_differ(one: bytes, other: bytes) -> None:
    assert shown_name(one).isprintable()
    assert (shown_name(one) == shown_name(other)) == (one == other)


@given(st.binary(max_size=20))
def test_a_name_in_json_can_be_read_back_exactly(raw: bytes) -> None:
    facts = json.loads(json.dumps(name_facts("name", raw)))
    exact = base64.b64decode(facts["name_b64"]) if "name_b64" in facts else facts["name"].encode()
    assert exact == raw


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("Grüße 漢字.txt".encode(), "Grüße 漢字.txt"),
        (b"caf\xe9", "caf\\xe9"),
        (b"two\nlines", "two\\nlines"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"back\\slash", "back\\\\slash"),
        ("\u202e".encode(), "\\u202e"),
    ],
)
def test_names_that_a_terminal_would_obey_are_escaped(raw: bytes, shown: str) -> None:
    assert shown_name(raw) == shown


def test_an_escaped_name_is_what_printf_understands() -> None:
    assert codecs.escape_decode(shown_name(b"a\\b\n\xff").encode())[0] == b"a\\b\n\xff"


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1024**2 - 1, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"), (1024**6 * 2000, "2000.0 EiB"),
    ],
)  # fmt: skip
def test_sizes_have_few_digits(size: int, shown: str) -> None:
    assert shown_size(size) == shown


def test_times_are_utc() -> None:
    assert shown_time(1_795_341_600_123_456_789) == "2026-11-22T10:00:00Z"


def test_tables_are_aligned_also_when_a_later_row_is_wider(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", ">size"), iter([("a", "1"), ("longer", "1000"), ("", "22")]))
    assert capsys.readouterr().out.splitlines() == ["a          1", "longer  1000", "          22"]


def test_a_list_without_anything_is_still_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_list([])
    assert json.loads(capsys.readouterr().out) == []
