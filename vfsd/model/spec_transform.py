"""What a pipeline runs for each datum, how many at a time, and with what of the machine, as its spec says it."""

from __future__ import annotations

import msgspec


class Secret(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A secret that a command gets: the file `<name>/<key>`, or all files of `<name>`, of the node's secrets.

    env_var: the variable that holds it; mount_path: the directory where it lies as a file; one of them is given.
    """

    name: str
    key: str = ""
    mount_path: str = ""
    env_var: str = ""


class Transform(msgspec.Struct, frozen=True, omit_defaults=True):
    """What runs for each datum. cmd: program and arguments. stdin: lines that it reads. env: its own variables.

    err_cmd, err_stdin: the same, for when all tries have failed; with exit code 0 the datum is recovered.
    accept_return_code: exit codes other than 0 that are a success. user: of the machine, the node's choice when empty.
    working_dir: absolute; /tmp when empty. secrets: see there. datum_batching: one process works on many datums, and
    asks for each. memory_volume: /tmp is in memory, as it always is. network: whether it has any.
    """

    cmd: tuple[str, ...]
    stdin: tuple[str, ...] = ()
    env: dict[str, str] = {}
    err_cmd: tuple[str, ...] = ()
    err_stdin: tuple[str, ...] = ()
    accept_return_code: tuple[int, ...] = ()
    user: str = ""
    working_dir: str = ""
    secrets: tuple[Secret, ...] = ()
    datum_batching: bool = False
    network: bool = True


class ParallelismSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many datums run at a time: a number, or a share of the machine's cores; 0 for not given."""

    constant: int = 0
    coefficient: float = 0.0


class DatumSetSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many datums one process takes, where processes take many: number, or size_bytes of their inputs, whichever is
    reached first; 0 for no end."""

    number: int = 0
    size_bytes: int = 0


class Gpu(msgspec.Struct, frozen=True):
    """GPUs. type: Kubernetes' name for a kind of them; here all are of one kind."""

    number: int
    type: str = ""


class Resources(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What one datum needs, or may use at most. cpu: cores, perhaps a part of one. memory, disk: sizes as Kubernetes
    writes them, `512Mi`, `2G`; empty for not given."""

    cpu: float = 0.0
    memory: str = ""
    disk: str = ""
    gpu: Gpu | None = None
