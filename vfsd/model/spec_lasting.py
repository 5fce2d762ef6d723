"""Pipelines whose command has no end of its own, as their specs say it: spouts and services."""

from __future__ import annotations

import msgspec

LOOPBACK = "127.0.0.1"


class Service(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A command that is reached at a port. internal_port: where it listens itself. external_port: of the machine, the
    same when not given; ip: of the machine's addresses, its loopback when not given."""

    internal_port: int
    external_port: int = 0
    ip: str = ""

    @property
    def place(self) -> tuple[str, int]:
        """Where others reach it."""
        return self.ip or LOOPBACK, self.external_port or self.internal_port


class Spout(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A command without input that goes on writing. service: where it is reached, if it listens."""

    service: Service | None = None
