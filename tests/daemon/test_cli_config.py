"""Where settings come from, and what is said about wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfsd.daemon.config import config_path, load
from vfsd.model.errors import InvalidArgument
from vfsd.store.s3_options import S3Options

HOME = {"HOME": "/home/ada"}


def written(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return {**HOME, "VFSD_CONFIG": str(path)}


def test_a_user_gets_the_xdg_folders() -> None:
    settings = load(HOME, is_root=False)
    assert settings.store == "file:///home/ada/.local/share/vfsd/store"
    assert not settings.store_named
    assert settings.state_dir == "/home/ada/.local/state/vfsd"
    assert settings.cache_dir == "/home/ada/.cache/vfsd"
    assert settings.index_path("ab") == "/home/ada/.local/state/vfsd/ab/index.sqlite"
    assert config_path(HOME, is_root=False) == "/home/ada/.config/vfsd/config.toml"


def test_root_gets_the_folders_of_the_system(tmp_path: Path) -> None:
    settings = load(written(tmp_path, ""), is_root=True)
    assert (settings.store, settings.state_dir, settings.cache_dir) == (
        "file:///var/lib/vfsd/store", "/var/lib/vfsd", "/var/cache/vfsd",
    )  # fmt: skip
    assert config_path(HOME, is_root=True) == "/etc/vfsd/config.toml"


def test_xdg_variables_move_the_folders_unless_they_are_relative() -> None:
    environ = {**HOME, "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "r", "XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "/c"}
    settings = load(environ, is_root=False)
    assert settings.state_dir == "/s/vfsd"
    assert settings.cache_dir == "/home/ada/.cache/vfsd"
    assert settings.store == "file:///d/vfsd/store"
    assert config_path(environ, is_root=False) == "/c/vfsd/config.toml"


@pytest.mark.parametrize("is_root", [True, False])
def test_variables_of_vfsd_move_state_and_cache(tmp_path: Path, is_root: bool) -> None:
    environ = {**written(tmp_path, ""), "VFSD_STATE_DIR": "/node1/state", "VFSD_CACHE_DIR": "/node1/cache"}
    settings = load(environ, is_root=is_root)
    assert (settings.state_dir, settings.cache_dir) == ("/node1/state", "/node1/cache")


def test_the_option_beats_the_variable_and_the_variable_the_file(tmp_path: Path) -> None:
    environ = written(tmp_path, 'store = "s3://from/file"')
    assert load(environ).store == "s3://from/file"
    environ["VFSD_STORE"] = "s3://from/variable"
    assert load(environ).store == "s3://from/variable"
    assert load(environ, "s3://from/option").store == "s3://from/option"
    assert load(environ).store_named


def test_the_file_of_a_user_is_found(tmp_path: Path) -> None:
    (tmp_path / "vfsd").mkdir()
    (tmp_path / "vfsd" / "config.toml").write_text("quiet_s = 2")
    assert load({**HOME, "XDG_CONFIG_HOME": str(tmp_path)}, is_root=False).quiet_s == 2.0


def test_every_key_of_the_file_is_taken(tmp_path: Path) -> None:
    text = 'author = "ada@lab"\nquiet_s = 0.5\nmax_wait_s = 10\npoll_s = 3\ncache_disk = "1.5 GiB"\ncache_memory = 1024'
    settings = load(written(tmp_path, text))
    assert (settings.author, settings.quiet_s, settings.max_wait_s, settings.poll_s) == ("ada@lab", 0.5, 10.0, 3.0)
    assert (settings.cache_disk, settings.cache_memory) == (3 << 29, 1024)


def test_keys_of_s3_are_taken_together(tmp_path: Path) -> None:
    assert load(written(tmp_path, "")).s3 == S3Options()
    text = """
s3_endpoint = "https://s3.lab:9000"
s3_addressing = "virtual"
s3_ca_bundle = "/etc/ssl/lab.pem"
s3_anonymous = true
s3_requester_pays = true
s3_encryption = "aws:kms"
s3_kms_key = "key-7"
s3_checksum = "md5"
s3_connections = 16
s3_connect_timeout_s = 2
s3_read_timeout_s = 7.5
s3_retry_s = 60
s3_hedge = 0
s3_multipart = "64 MiB"
"""
    settings = load(written(tmp_path, text))
    assert settings.s3 == S3Options(
        endpoint="https://s3.lab:9000", addressing="virtual", ca_bundle="/etc/ssl/lab.pem", anonymous=True,
        requester_pays=True, encryption="aws:kms", kms_key="key-7", checksum="md5", connections=16,
        connect_timeout_s=2.0, read_timeout_s=7.5, retry_s=60.0, hedge=0.0, multipart=64 << 20,
    )  # fmt: skip


def test_the_endpoint_of_the_variable_beats_that_of_the_file(tmp_path: Path) -> None:
    environ = {**written(tmp_path, 's3_endpoint = "http://file:1"'), "VFSD_S3_ENDPOINT": "http://variable:1"}
    assert load(environ).s3.endpoint == "http://variable:1"
    environ["VFSD_S3_ENDPOINT"] = "variable:1"
    with pytest.raises(InvalidArgument, match=r"VFSD_S3_ENDPOINT: endpoint: 'variable:1' is no URL of a server"):
        load(environ)


def test_the_author_is_the_user_at_this_host() -> None:
    user, at, host = load(HOME, is_root=False).author.partition("@")
    assert user and at and host


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("qiet_s = 1", "qiet_s: not known"),
        ("[store]\nurl = 1", "Expected `str | null`, got `object` - at `store`"),
        ("quiet_s = 'soon'", "got `str` - at `quiet_s`"),
        ("quiet_s = -1", "quiet_s: -1.0"),
        ("quiet_s = nan", "quiet_s: nan"),
        ("poll_s = 0", "poll_s: 0.0"),
        ("quiet_s = 60", "max_wait_s (30.0) is below quiet_s (60.0)"),
        ("cache_disk = '10 apples'", "cache_disk: '10 apples' is no size"),
        ("cache_disk = -5", "cache_disk: -5 is no size"),
        ("s3_addressing = 'dns'", "s3_addressing: 'dns' is not known: auto, path, virtual are"),
        ("s3_encryption = 'SSE-C'", "s3_encryption: SSE-C is not done"),
        ("s3_multipart = '1 MiB'", "s3_multipart: 1048576 bytes are less than a part"),
        ("s3_multipart = 'large'", "s3_multipart: 'large' is no size"),
        ("s3_connections = 0", "s3_connections: 0 is none"),
        ("s3_anonymous = 'yes'", "got `str` - at `s3_anonymous`"),
        ("store = ", "Invalid value"),
    ],
)
def test_a_wrong_file_is_refused_by_its_path_and_the_key(tmp_path: Path, text: str, named: str) -> None:
    environ = written(tmp_path, text)
    with pytest.raises(InvalidArgument) as caught:
        load(environ)
    assert str(caught.value).startswith(environ["VFSD_CONFIG"])
    assert named in str(caught.value)


def test_a_file_that_is_named_has_to_be_there() -> None:
    with pytest.raises(InvalidArgument, match="VFSD_CONFIG names this file"):
        load({**HOME, "VFSD_CONFIG": "/nowhere/config.toml"})
