"""Settings: what the command line, the environment and the configuration file say, in this order.

Reads the configuration file and nothing else. Whether the store is there, or can be reached, is left to its users.
"""

from __future__ import annotations

import math
import os
import pwd
import tomllib
from collections.abc import Mapping
from typing import Any

import msgspec

from vfsd.daemon import sizes
from vfsd.model.errors import AccessDenied, InvalidArgument
from vfsd.model.ids import hash_bytes
from vfsd.store.s3_options import S3Options


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of vfsd goes by.

    store: URL of the store. store_named: whether somebody named it; if not, it is the default one, which `mount` makes
    where it is missing. state_dir, cache_dir: absolute paths. author: of commits. quiet_s, max_wait_s: seconds without
    a close, and at most, until closed writes are committed. poll_s: seconds between two looks at the refs of a store
    that does not notify. cache_disk, cache_memory: bytes of chunks kept on disk and in memory. staging_disk: bytes
    that may wait for their commit. observe: whether commits say what the processes that wrote them had read. s3: how a
    bucket is spoken to. pipeline_users: as whom datums may run when vfsd is root, the first unless a spec names
    another. run_pipelines: whether the daemon runs any. lease_s: seconds of silence after which other nodes take over
    this one's pipelines. running_datums: how many run at a time, of all pipelines; 0 for four a core. secrets_dir:
    absolute path of what they can be given. egress_folders: absolute paths below which they may send files.
    openlineage: URL or absolute path that events of lineage are sent to, empty for none.
    """

    store: str
    store_named: bool
    state_dir: str
    cache_dir: str
    author: str
    quiet_s: float = 1.0
    max_wait_s: float = 30.0
    poll_s: float = 1.0
    cache_disk: int = 10 << 30
    cache_memory: int = 256 << 20
    staging_disk: int = 100 << 30
    observe: bool = True
    s3: S3Options = S3Options()
    pipeline_users: tuple[str, ...] = ("nobody",)
    run_pipelines: bool = True
    lease_s: float = 30.0
    running_datums: int = 0
    secrets_dir: str = "/etc/vfsd/secrets"
    egress_folders: tuple[str, ...] = ()
    openlineage: str = ""

    def node_dir(self, store_id: str) -> str:
        """This node's state of one store."""
        return os.path.join(self.state_dir, store_id)

    @property
    def node_name(self) -> str:
        """What this node is called where several meet: its host and state directory."""
        return f"{os.uname().nodename}:{self.state_dir}"

    def cache_folder(self, store_id: str) -> str:
        """The chunk cache of one store: each state directory has its own, as its index has the cache's table."""
        own = hash_bytes(os.fsencode(self.state_dir)).hex()[:12]
        return os.path.join(self.cache_dir, store_id, own)

    def index_path(self, store_id: str) -> str:
        """The index file of one store."""
        return os.path.join(self.node_dir(store_id), "index.sqlite")


class _File(msgspec.Struct, frozen=True):
    """The keys of the configuration file; None where it does not have one."""

    store: str | None = None
    author: str | None = None
    quiet_s: float | None = None
    max_wait_s: float | None = None
    poll_s: float | None = None
    cache_disk: int | str | None = None
    cache_memory: int | str | None = None
    staging_disk: int | str | None = None
    observe: bool | None = None
    pipeline_users: tuple[str, ...] | None = None
    run_pipelines: bool | None = None
    lease_s: float | None = None
    running_datums: int | None = None
    secrets_dir: str | None = None
    egress_folders: tuple[str, ...] | None = None
    openlineage: str | None = None
    s3_endpoint: str | None = None
    s3_addressing: str | None = None
    s3_ca_bundle: str | None = None
    s3_anonymous: bool | None = None
    s3_requester_pays: bool | None = None
    s3_encryption: str | None = None
    s3_kms_key: str | None = None
    s3_checksum: str | None = None
    s3_connections: int | None = None
    s3_connect_timeout_s: float | None = None
    s3_read_timeout_s: float | None = None
    s3_retry_s: float | None = None
    s3_hedge: float | None = None
    s3_multipart: int | str | None = None


def load(environ: Mapping[str, str], store_option: str | None = None, *, is_root: bool | None = None) -> Settings:
    """The settings for a process with this environment; `store_option` is what `--store` said.

    The configuration file is VFSD_CONFIG, else /etc/vfsd/config.toml for root and $XDG_CONFIG_HOME/vfsd/config.toml
    for others; only one that VFSD_CONFIG names must be there. InvalidArgument names the file and the key.
    """
    root = os.geteuid() == 0 if is_root is None else is_root
    named_file = environ.get("VFSD_CONFIG")
    path = named_file or config_path(environ, is_root=root)
    file = _read(path, must_exist=bool(named_file))
    store = store_option if store_option is not None else environ.get("VFSD_STORE") or file.store
    default = "/var/lib/vfsd/store" if root else _xdg(environ, "XDG_DATA_HOME", ".local/share", "store")
    state_dir = "/var/lib/vfsd" if root else _xdg(environ, "XDG_STATE_HOME", ".local/state")
    cache_dir = "/var/cache/vfsd" if root else _xdg(environ, "XDG_CACHE_HOME", ".cache")
    settings = Settings(
        store=f"file://{default}" if store is None else store,
        store_named=store is not None,
        state_dir=os.path.abspath(environ.get("VFSD_STATE_DIR") or state_dir),
        cache_dir=os.path.abspath(environ.get("VFSD_CACHE_DIR") or cache_dir),
        author=file.author or _user_at_host(),
        s3=_s3_options(path, file, environ),
    )
    plain = (
        "quiet_s", "max_wait_s", "poll_s", "observe", "openlineage", "pipeline_users", "run_pipelines", "lease_s",
        "running_datums", "egress_folders",
    )  # fmt: skip
    given = {key: getattr(file, key) for key in plain if getattr(file, key) is not None}
    for key in ("cache_disk", "cache_memory", "staging_disk"):
        value = getattr(file, key)
        if value is not None:
            given[key] = _bytes(path, key, value)
    secrets_dir = file.secrets_dir or os.path.join(os.path.dirname(path), "secrets")
    settings = msgspec.structs.replace(settings, secrets_dir=os.path.abspath(secrets_dir), **given)
    _check(path, settings)
    return settings


def config_path(environ: Mapping[str, str], *, is_root: bool) -> str:
    """Where the configuration file is looked for."""
    return "/etc/vfsd/config.toml" if is_root else _xdg(environ, "XDG_CONFIG_HOME", ".config", "config.toml")


def _xdg(environ: Mapping[str, str], variable: str, default: str, *below: str) -> str:
    """A path under one of the folders of the XDG base directory specification, which ignores relative ones."""
    base = environ.get(variable, "")
    if not os.path.isabs(base):
        base = os.path.join(environ.get("HOME") or os.path.expanduser("~"), default)
    return os.path.join(base, "vfsd", *below)


def _read(path: str, *, must_exist: bool) -> _File:
    try:
        with open(path, "rb") as file:
            found: dict[str, Any] = tomllib.load(file)
    except (FileNotFoundError, NotADirectoryError):
        if must_exist:
            raise InvalidArgument(f"{path}: VFSD_CONFIG names this file, and it is not there") from None
        return _File()
    except OSError as error:
        raise AccessDenied(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: {error}") from None
    known = _File.__struct_fields__
    unknown = [key for key in found if key not in known]
    if unknown:
        raise InvalidArgument(f"{path}: {', '.join(unknown)}: not known; known are {', '.join(known)}")
    try:
        return msgspec.convert(found, _File)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{path}: {str(error).replace('`$.', '`')}") from None


def _s3_options(path: str, file: _File, environ: Mapping[str, str]) -> S3Options:
    """The options whose keys begin with `s3_`; VFSD_S3_ENDPOINT beats the one of the file."""
    fields = {name: getattr(file, f"s3_{name}") for name in S3Options.__struct_fields__}
    given = {name: value for name, value in fields.items() if value is not None}
    if "multipart" in given:
        given["multipart"] = _bytes(path, "s3_multipart", given["multipart"])
    try:
        options = S3Options(**given)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: s3_{error}") from None
    endpoint = environ.get("VFSD_S3_ENDPOINT")
    try:
        return msgspec.structs.replace(options, endpoint=endpoint) if endpoint else options
    except InvalidArgument as error:
        raise InvalidArgument(f"VFSD_S3_ENDPOINT: {error}") from None


def _bytes(path: str, key: str, value: int | str) -> int:
    """A size as people write it: `10GiB`, `512 MiB`, or a number of bytes."""
    try:
        return sizes.parse(value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}: {key}: {error}") from None


def _check(path: str, settings: Settings) -> None:
    for key in ("quiet_s", "max_wait_s", "poll_s", "lease_s"):
        value = getattr(settings, key)
        if not math.isfinite(value) or value < 0 or (key in {"poll_s", "lease_s"} and value == 0):
            raise InvalidArgument(f"{path}: {key}: {value} is no number of seconds")
    if settings.running_datums < 0:
        raise InvalidArgument(f"{path}: running_datums: {settings.running_datums} is no number of datums")
    if not all(settings.pipeline_users) or not settings.pipeline_users:
        raise InvalidArgument(f"{path}: pipeline_users: it lists one user or more")
    if not all(map(os.path.isabs, settings.egress_folders)):
        raise InvalidArgument(f"{path}: egress_folders: it lists absolute paths")
    if settings.openlineage and not settings.openlineage.startswith(("http://", "https://", "/")):
        raise InvalidArgument(f"{path}: openlineage: {settings.openlineage!r} is neither a URL nor an absolute path")
    if settings.max_wait_s < settings.quiet_s:
        raise InvalidArgument(f"{path}: max_wait_s ({settings.max_wait_s}) is below quiet_s ({settings.quiet_s})")


def _user_at_host() -> str:
    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return f"{user}@{os.uname().nodename}"
