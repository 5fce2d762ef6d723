"""Says what is wrong with spouts and services: fields that are about datums, ports that are none."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import msgspec

from vfsd.model.pipeline_spec import PipelineSpec
from vfsd.model.spec_input import Input
from vfsd.model.spec_lasting import Service

ABOUT_DATUMS = ("datum_set_spec", "datum_tries", "datum_timeout", "job_timeout", "reprocess_spec", "every_commit",
                "reprocess", "egress")  # fmt: skip
ABOUT_TRIES = ("err_cmd", "accept_return_code", "datum_batching")

Fail = Callable[[str, str], object]


def check_lasting(spec: PipelineSpec, fail: Fail) -> None:
    """Call `fail(path, why)`, which raises, for what makes no sense where a command goes on for ever."""
    if spec.spout is not None and spec.service is not None:
        fail("service", "a spout that listens has it within: spout.service")
    if spec.spout is not None and spec.input != Input():
        fail("input", "a spout reads nothing: leave it out")
    if (port := spec.port) is not None:
        _port(port, "service" if spec.spout is None else "spout.service", fail)
    what = f"a {spec.kind}"
    defaults = {field.name: field.default for field in msgspec.structs.fields(PipelineSpec)}
    for name in ABOUT_DATUMS:
        if getattr(spec, name) != defaults[name]:
            fail(name, f"{what} is one command that goes on: leave it out")
    if spec.parallelism_spec.constant > 1 or spec.parallelism_spec.coefficient:
        fail("parallelism_spec", f"{what} is one command: leave it out")
    for name in ABOUT_TRIES:
        if getattr(spec.transform, name):
            fail(f"transform.{name}", f"{what} is begun again whenever it ends: leave it out")


def _port(service: Service, path: str, fail: Fail) -> None:
    for name in ("internal_port", "external_port"):
        number = getattr(service, name)
        least = 1 if name == "internal_port" else 0
        if not least <= number <= 65535:
            fail(f"{path}.{name}", f"{number} is no port")
    if service.ip:
        try:
            ipaddress.ip_address(service.ip)
        except ValueError:
            fail(f"{path}.ip", f"{service.ip!r} is no address of a machine: 127.0.0.1 and 0.0.0.0 are")
