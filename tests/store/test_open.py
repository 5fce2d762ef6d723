"""What a user types as a store, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vfsd.model.errors import InvalidArgument
from vfsd.store import open_store
from vfsd.store.local import LocalStore
from vfsd.store.memory import MemoryStore
from vfsd.store.s3 import S3Store


def test_a_url_or_a_path_names_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in (f"file://{tmp_path}/a%20b", f"{tmp_path}/a%20b/", "a%20b", "./x/../a%20b", "~/a%20b"):
        store = open_store(text)
        assert isinstance(store, LocalStore)
        assert store.url == f"file://{tmp_path}/a%20b"
        assert store.is_local
    assert list(tmp_path.iterdir()) == []


def test_an_s3_url_names_a_bucket_and_a_prefix() -> None:
    for text, url in (("s3://data", "s3://data"), ("S3://data/", "s3://data"), ("s3://data/a/b/", "s3://data/a/b")):
        store = open_store(text)
        assert isinstance(store, S3Store)
        assert store.url == url
        assert not store.is_local


def test_memory_is_a_new_store_each_time() -> None:
    one, other = open_store("memory:"), open_store("memory:")
    assert isinstance(one, MemoryStore)
    one.put("format", b"1")
    assert list(other.list()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("file://host/path", "absolute path"),
        ("file://", "absolute path"),
        ("gs://bucket/x", "gs:// is not known"),
        ("https://example.org/x", "https:// is not known"),
    ],
)
def test_anything_else_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as raised:
        open_store(text)
    assert "\n" not in str(raised.value)


def test_boto3_is_imported_only_for_s3(tmp_path: Path) -> None:
    program = f"""
import sys
from vfsd.store import open_store
open_store({str(tmp_path)!r}).put("format", b"1")
assert "boto3" not in sys.modules and "botocore" not in sys.modules
open_store("s3://bucket")
assert "boto3" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
